"""The header of a GGUF file, read without loading the file.

Version 2 and 3, little-endian; layout from the specification in the ggml repository. A file of many
gigabytes takes milliseconds, and no length or count in it is believed before it is checked against the
file's size: whatever the bytes are, the outcome is a :class:`ModelInfo` or a UserError of one sentence.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.models.info import ModelInfo, text_or_none
from srtui.models.memory import TeacherShape

GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""ggml's tensor types: number -> (name, values a block, bytes a block)."""

FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""``general.file_type``: the recipe by which a whole file was quantized."""

# GGUF value types that have a fixed size: number -> struct code.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Far above any real model; they only keep a hostile header from looping for hours.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS = 65_536, 1_000_000, 8_000_000
_LONGEST_TEXT = 4_000_000
_KEPT_NUMBERS = 1024  # of an array: one a layer, and not one a token


class _Short(Exception):
    """The bytes end before what they announce."""


class _Reader:
    """A bounds-checked cursor over the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.offset, self.size = data, 0, len(data)

    def take(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        if self.offset + layout.size > self.size:
            raise _Short
        (value,) = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return value

    def skip(self, count: int) -> None:
        if count > self.size - self.offset:
            raise _Short
        self.offset += count

    def text(self) -> str:
        length = self.take("Q")
        start = self.offset
        self.skip(length)
        if length > _LONGEST_TEXT:
            raise ValueError(f"a text of {length:,} bytes")
        return self.data[start : self.offset].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A scalar or a text as itself, and so a short array of numbers; any other is stepped over and becomes its
        length."""
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of unknown type {kind}")
        inner, count = self.take("I"), self.take("Q")
        if inner in _SCALARS and count <= _KEPT_NUMBERS:
            return [self.take(_SCALARS[inner]) for _ in range(count)]
        if inner in _SCALARS:
            self.skip(count * struct.calcsize("<" + _SCALARS[inner]))
        elif inner == _STRING and count <= _MOST_STRINGS:
            for _ in range(count):
                self.skip(self.take("Q"))
        else:
            raise ValueError(f"an array of {count:,} values of type {inner}")
        return count


def read_gguf(path: Path) -> ModelInfo:
    """The header of a GGUF file, and proof that all its tensors lie within the file.

    Raises UserError for anything else.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"{path} is not a file; name a .gguf file or a safetensors folder.")
        if size < 24:
            raise UserError(_not_gguf(path, path.read_bytes()[:4]))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise UserError(_not_gguf(path, data[:4]))
            return _parse_gguf(path, _Reader(data))
    except _Short:
        raise UserError(
            f"{path} is a truncated GGUF file ({size:,} bytes, and its header announces more); copy it again."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is a damaged GGUF file ({error}); copy it again.") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; see `srtui models list`.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def _not_gguf(path: Path, magic: bytes) -> str:
    if path.stat().st_size == 0:
        return f"{path} is empty, not a GGUF model; copy it again."
    if magic[:2] == b"PK":
        return f"{path} is a zip archive, not a GGUF model; unpack it first."
    if magic == b"GGUF":
        return f"{path} is a truncated GGUF file (it ends within its first 24 bytes); copy it again."
    return f"{path} is not a GGUF model (it starts with {magic!r}, not b'GGUF'); name a .gguf file."


def _parse_gguf(path: Path, reader: _Reader) -> ModelInfo:
    reader.offset = 4
    version = reader.take("I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        layout = "a big-endian file" if swapped in (2, 3) else f"format version {version}"
        raise ValueError(f"{layout}; versions 2 and 3, little-endian, are read")
    tensors, keys = reader.take("Q"), reader.take("Q")
    if keys > _MOST_KEYS or tensors > _MOST_TENSORS:
        raise ValueError(f"it announces {tensors:,} tensors and {keys:,} keys")
    meta: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.text()
        meta[key] = reader.value(reader.take("I"))

    parameters, end = 0, 0
    by_type: Counter[int] = Counter()
    bytes_of: Counter[str] = Counter()  # by layer, and by name where a tensor belongs to none
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.take("I")
        if not 1 <= dimensions <= 4:
            raise ValueError(f"tensor {name[:60]!r} has {dimensions} dimensions")
        values = math.prod(reader.take("Q") for _ in range(dimensions))
        kind, offset = reader.take("I"), reader.take("Q")
        parameters += values
        by_type[kind] += values
        # A type newer than this table is left to llama.cpp to judge; only its start can be checked.
        _, block, width = GGML_TYPES.get(kind, ("", 1, 0))
        end = max(end, offset + -(-values // block) * width)
        part = name.split(".")[1] if name.startswith("blk.") else name
        bytes_of[part] += -(-values // block) * width
    alignment = meta.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment = {alignment}")
    if tensors and -(-reader.offset // alignment) * alignment + end > reader.size:
        raise _Short

    architecture = meta.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ValueError("it names no general.architecture")
    context = meta.get(f"{architecture}.context_length")
    template = meta.get("tokenizer.chat_template")
    role = meta.get("general.type", "model" if tensors else "vocab")
    if meta.get("split.count", 0) not in (0, 1):
        role = f"part of {meta['split.count']}"
    return ModelInfo(
        path=path,
        kind="gguf",
        name=str(meta.get("general.name") or path.stem),
        role=str(role),
        architecture=architecture,
        parameters=parameters,
        quantization=_quantization(meta.get("general.file_type"), by_type),
        context=context if isinstance(context, int) else None,
        chat_template=template if isinstance(template, str) and template else None,
        licence=text_or_none(meta.get("general.license")),
        size=reader.size,
        shape=_shape(meta, architecture, bytes_of),
    )


def _shape(meta: dict[str, Any], architecture: str, bytes_of: Counter[str]) -> TeacherShape | None:
    """What memory is planned by; None where the header does not say it."""

    def number(key: str, default: int = 0) -> int:
        """What the header says of ``key``; of a list, one a layer (OpenELM, LFM2, Gemma 3n), the most."""
        value = meta.get(f"{architecture}.{key}")
        value = max(value, default=0) if isinstance(value, list) else value
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default

    layers, hidden = number("block_count"), number("embedding_length")
    heads = number("attention.head_count", 1)
    if not layers or not hidden:
        return None
    width = number("attention.key_length", hidden // heads)
    kv_heads = number("attention.head_count_kv", heads)
    words = meta.get("tokenizer.ggml.tokens")  # their number: texts are stepped over
    blocks = [bytes_of.pop(str(n), 0) for n in range(layers)]
    if "output.weight" in bytes_of:  # else the embeddings are the output, too, and are copied for it
        bytes_of.pop("token_embd.weight", None)  # looked up, in this computer's memory
    return TeacherShape(
        layers=tuple(blocks),
        output=bytes_of.total(),
        kv=kv_heads * (width + number("attention.value_length", width)),
        vocabulary=number("vocab_size", words if isinstance(words, int) else 0),
        hidden=hidden,
        inner=number("feed_forward_length", 4 * hidden),
    )


def _quantization(file_type: object, by_type: Counter[int]) -> str:
    """The file's own word for its quantization, else the type that most of its values have."""
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    if not by_type:
        return "none"
    kind = by_type.most_common(1)[0][0]
    return GGML_TYPES[kind][0] if kind in GGML_TYPES else f"type {kind}"
