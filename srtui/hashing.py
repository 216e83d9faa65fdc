"""Keys by which stored work is found again, and draws that depend on nothing but what they are for.

A key is the hash of one canonical text, which is a contract: rows written under it must be found by
every later version (tests/store/keys.json pins it).

The canonical text of ``key(kind, name=value, ...)`` is the JSON array ``["srtui", 2, kind, {...}]`` in
UTF-8, without spaces, keys sorted, and

- a value that is its default is left out: None here, and a dataclass's fields at their own defaults. So
  a setting that a later version adds leaves the keys of all earlier work as they are;
- numbers keep their type: 1 is an integer, 1.0 a float (shortest digits that read back the same, and
  0.0 for -0.0); true is neither. An integer in a field whose default is a float is that float;
- bytes are ``{"$bytes": "<hex>"}``; a sequence is an array; a dataclass is an object of its fields;
- what is none of these, or not a finite number, raises TypeError or ValueError.

A key is 17 bytes: the scheme's number, then 16 bytes of BLAKE2b. Keys of the first scheme, which hashed
repr() of whatever it was given, have 16: ``scheme_1`` makes them, so that what was stored before is found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

SCHEME = 2


def key(kind: str, /, **determinants: Any) -> bytes:
    """17-byte key of a piece of work of this kind, of all that determines it."""
    return bytes([SCHEME]) + blake2b(canonical(kind, determinants), digest_size=16).digest()


def canonical(kind: str, determinants: Mapping[str, Any]) -> bytes:
    """The bytes that ``key`` hashes."""
    plain = ["srtui", SCHEME, kind, {k: _plain(v) for k, v in determinants.items() if v is not None}]
    return _text(plain)


class Keys:
    """Keys of many pieces of work that differ in a few values alone: as :func:`key` makes them, but what they
    share is laid out once. ``varying`` are the names of those values, none of them ever a default."""

    def __init__(self, kind: str, varying: Sequence[str], /, **shared: Any) -> None:
        # A number that no other value has stands for each; canonical text is sorted, so they may change places.
        marks = {name: _MARK + n for n, name in enumerate(varying)}
        text = canonical(kind, shared | marks).decode("utf-8", "surrogatepass")
        places = sorted((text.index(f":{mark}"), name) for name, mark in marks.items())
        between: list[str] = []
        for _, name in places:
            before, text = text.split(f":{marks[name]}", 1)
            between.append(f"{before}:")
        # What stands in front of the first value is hashed once; then each value, and what stands behind it.
        first, *behind = [part.encode("utf-8", "surrogatepass") for part in (*between, text)]
        self._begun = blake2b(first, digest_size=16)
        order = [varying.index(name) for _, name in places]
        self._parts = list(zip(order, behind, strict=True))

    def key(self, *values: Any) -> bytes:
        """The key with these values, in the order of ``varying``."""
        h = self._begun.copy()
        for n, after in self._parts:
            h.update(_text_of(values[n]))
            h.update(after)
        return _SCHEME + h.digest()


_SCHEME = bytes([SCHEME])
_MARK = 8_111_222_333_444_555_666_777


def key_of_ids(kind: str, name: str, ids: Iterable[int]) -> bytes:
    """What ``key(kind, name=list(ids))`` is, of integers that are read as they are hashed."""
    before, after = canonical(kind, {name: []}).decode().rsplit("[]", 1)
    h = blake2b(digest_size=16)
    h.update(f"{before}[".encode())
    for part in joined(ids, ","):
        h.update(part)
    h.update(f"]{after}".encode())
    return bytes([SCHEME]) + h.digest()


def first_of_ids(ids: Callable[[], Iterable[int]]) -> bytes:
    """What ``scheme_1(repr(list(ids())))`` is; they are read twice, for the length comes first."""
    h = blake2b(digest_size=16)
    h.update((2 + sum(map(len, joined(ids(), ", ")))).to_bytes(8, "little"))
    h.update(b"[")
    for part in joined(ids(), ", "):
        h.update(part)
    h.update(b"]")
    return h.digest()


def joined(ids: Iterable[int], between: str) -> Iterator[bytes]:
    """``between.join(map(str, ids))`` in pieces."""
    remaining, begun = iter(ids), False
    while chunk := list(islice(remaining, 8192)):
        yield ((between if begun else "") + between.join(map(str, chunk))).encode()
        begun = True


def _text_of(value: Any) -> bytes:
    """A value as it stands in the canonical text; the two kinds that keys mostly have by themselves."""
    kind = type(value)
    if kind is bytes:
        return b'{"$bytes":"%b"}' % value.hex().encode()
    if kind is int:
        return b"%d" % value
    return _text(_plain(value))


def _text(plain: Any) -> bytes:
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a key")
        return float(value) + 0.0  # -0.0 becomes 0.0
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(v) for name, v in _changed(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) and not k.startswith("$") for k in value):
            raise TypeError("names in a key are texts that do not begin with $")
        return {k: _plain(v) for k, v in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _changed(value: Any) -> list[tuple[str, Any]]:
    """The fields of a dataclass that are not as they are by default."""
    changed = []
    for field in fields(value):
        now = getattr(value, field.name)
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if isinstance(default, float) and type(now) is int:
            now = float(now)
        if default is MISSING or type(now) is not type(default) or now != default:
            changed.append((field.name, now))
    return changed


def digest(*parts: str | bytes | int | float | None) -> bytes:
    """16-byte content address of a list of values, each with its type and length, so that no two lists
    are the same. Of texts alone it is what the first scheme made of them: texts' addresses never changed."""
    whole: list[bytes] = []
    for part in parts:
        tag = 0
        if isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
        elif isinstance(part, bytes):
            tag, data = 1, part
        else:
            # True is no number here, nor 1.0 the integer: json writes each in another way.
            tag, data = 2, json.dumps(_plain(part), allow_nan=False).encode()
        whole += ((tag << 56 | len(data)).to_bytes(8, "little"), data)
    return blake2b(b"".join(whole), digest_size=16).digest()


def scheme_1(*parts: str | bytes | int | float | None) -> bytes:
    """16 bytes as srtui's first keys were made: a number counts as its digits, so ("1") and (1) are equal.

    For finding what was stored by them, and for draws (``draw``), where the types never vary.
    """
    return blake2b(_laid_out(parts), digest_size=16).digest()


def _laid_out(parts: Iterable[str | bytes | int | float | None]) -> bytes:
    whole: list[bytes] = []
    for part in parts:
        if isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
        else:
            data = part if isinstance(part, bytes) else repr(part).encode()
        whole += (len(data).to_bytes(8, "little"), data)
    return b"".join(whole)


draw = scheme_1
"""Bytes to draw by: which samples are held out, what seed a request has. They are what they always were,
so that the same recipe draws the same in every version; nothing is looked up by them."""


def draw_of_each(*parts: str | bytes | int | float | None) -> Callable[[int], bytes]:
    """``draw(*parts, n)`` as a function of the last: of many numbers, what is in front of them is hashed once."""
    begun = blake2b(_laid_out(parts), digest_size=16)

    def drawn(n: int) -> bytes:
        data = b"%d" % n
        h = begun.copy()
        h.update(len(data).to_bytes(8, "little") + data)
        return h.digest()

    return drawn
