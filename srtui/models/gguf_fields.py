"""Keys of a GGUF header, with the types that the ``gguf`` package writes them as."""

from __future__ import annotations

from typing import Any, NamedTuple


class HeaderField(NamedTuple):
    """One key of a GGUF header; ``kind`` is a gguf.GGUFValueType, ``inner`` that of an array's values."""

    value: Any
    kind: Any
    inner: Any = None


def text_field(value: str) -> HeaderField:
    """A text."""
    return HeaderField(value, _kinds().STRING)


def int_field(value: int) -> HeaderField:
    """An unsigned integer of 32 bits."""
    return HeaderField(int(value), _kinds().UINT32)


def float_field(value: float) -> HeaderField:
    """A float of 32 bits."""
    return HeaderField(float(value), _kinds().FLOAT32)


def bool_field(value: bool) -> HeaderField:
    """True or false."""
    return HeaderField(bool(value), _kinds().BOOL)


def texts_field(values: list[str]) -> HeaderField:
    """An array of texts."""
    return HeaderField(values, _kinds().ARRAY, _kinds().STRING)


def ints_field(values: list[int]) -> HeaderField:
    """An array of integers of 32 bits."""
    return HeaderField(values, _kinds().ARRAY, _kinds().INT32)


def floats_field(values: list[float]) -> HeaderField:
    """An array of floats of 32 bits."""
    return HeaderField(values, _kinds().ARRAY, _kinds().FLOAT32)


def _kinds() -> Any:
    import gguf

    return gguf.GGUFValueType
