"""What a model file says about itself, read without loading it.

GGUF (version 2 and 3, little-endian; layout from the specification in the ggml repository) and
folders of safetensors. Only headers are read, so a file of many gigabytes takes milliseconds, and
no length or count in a file is believed before it is checked against the file's size: whatever the
bytes are, the outcome is a :class:`ModelInfo` or a UserError of one sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import re
import stat
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from srtui.errors import UserError
from srtui.files import not_a_file, open_regular, parse_json, read_bytes, remembered
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
"""``general.file_type``: the recipe by which a whole file was quantised."""

# GGUF value types that have a fixed size: number -> struct code.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Far above any real model; they only keep a hostile header from looping for hours.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS, _MOST_JSON = 65_536, 1_000_000, 8_000_000, 100_000_000
_LONGEST_TEXT = 4_000_000

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SAFE_FILES = (".json", ".safetensors", ".jinja", ".txt", ".md", ".model")
"""The only kinds of file that are taken out of a safetensors folder."""


@dataclass(frozen=True)
class ModelInfo:
    """One model as its own header describes it. ``context`` is in tokens, ``size`` in bytes.

    ``shape`` is what a GGUF's memory is planned by. ``role`` is ``model``, or what else a GGUF may hold (``adapter``, ``mmproj``, ``vocab``, …).
    ``sha256`` is None until it is asked for; of a folder it is a hash over its weight files' hashes.
    """

    path: Path
    kind: Literal["gguf", "safetensors"]
    name: str
    role: str
    architecture: str
    parameters: int
    quantization: str
    context: int | None
    chat_template: str | None
    licence: str | None
    size: int
    sha256: str | None = None
    shape: TeacherShape | None = None


def inspect(path: Path, *, with_hash: bool = True) -> ModelInfo:
    """Describe a GGUF file or a safetensors folder; ``with_hash`` reads all of it once, then caches.

    Raises UserError where it is neither, damaged, truncated, or needs code of its own to run.
    """
    info = read_safetensors_folder(path) if path.is_dir() else read_gguf(path)
    if not with_hash:
        return info
    if info.kind == "gguf":
        return replace(info, sha256=file_sha256(path))
    whole = hashlib.sha256()
    for weights in sorted(path.glob("*.safetensors")):
        whole.update(f"{weights.name} {file_sha256(weights)}\n".encode())
    return replace(info, sha256=whole.hexdigest())


# --- GGUF -----------------------------------------------------------------------------------------


class _Short(Exception):
    """The bytes end before what they announce."""


class _Reader:
    """A bounds-checked cursor over the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at, self.size = data, 0, len(data)

    def take(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        if self.at + layout.size > self.size:
            raise _Short
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return value

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise _Short
        self.at += count

    def text(self) -> str:
        length = self.take("Q")
        start = self.at
        self.skip(length)
        if length > _LONGEST_TEXT:
            raise ValueError(f"a text of {length:,} bytes")
        return self.data[start : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A scalar or a text as itself; an array is stepped over and becomes its length."""
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of unknown type {kind}")
        inner, count = self.take("I"), self.take("Q")
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
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
    reader.at = 4
    version = reader.take("I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "a big-endian file" if swapped in (2, 3) else f"format version {version}"
        raise ValueError(f"{what}; versions 2 and 3, little-endian, are read")
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
    if tensors and -(-reader.at // alignment) * alignment + end > reader.size:
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
        licence=_text_or_none(meta.get("general.license")),
        size=reader.size,
        shape=_shape(meta, architecture, bytes_of),
    )


def _shape(meta: dict[str, Any], architecture: str, bytes_of: Counter[str]) -> TeacherShape | None:
    """What memory is planned by; None where the header does not say it."""

    def number(key: str, otherwise: int = 0) -> int:
        value = meta.get(f"{architecture}.{key}")
        value = max(value, default=0) if isinstance(value, list) else value
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise

    layers, hidden = number("block_count"), number("embedding_length")
    heads = number("attention.head_count", 1)
    if not layers or not hidden:
        return None
    width = number("attention.key_length", hidden // heads)
    kv_heads = number("attention.head_count_kv", heads)
    words = meta.get("tokenizer.ggml.tokens")
    blocks = [bytes_of.pop(str(n), 0) for n in range(layers)]
    if "output.weight" in bytes_of:  # else the embeddings are the output, too, and are copied for it
        bytes_of.pop("token_embd.weight", None)  # looked up, in this computer's memory
    return TeacherShape(
        layers=tuple(blocks),
        output=bytes_of.total(),
        kv=kv_heads * (width + number("attention.value_length", width)),
        vocabulary=number("vocab_size", len(words) if isinstance(words, list) else 0),
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


# --- safetensors ----------------------------------------------------------------------------------


def read_safetensors_folder(folder: Path) -> ModelInfo:
    """A Hugging Face folder: config.json, tokenizer.json and whole *.safetensors, and no code.

    Raises UserError where a part is missing, truncated, pickled, quantised already, or where the
    model wants code of its own to be run.
    """
    try:
        return _parse_folder(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror or error}).") from error


def _parse_folder(folder: Path) -> ModelInfo:
    for path in folder.iterdir():
        # Whatever lies here, transformers may open: a pipe would hold it for good.
        with contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(not_a_file(path, mode))
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds a LoRA adapter, not a model; name the model that it was trained on.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is not a model folder; name one that has.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLES]
        why = f"only {pickled[0]}, and pickles can run code" if pickled else "none at all"
        raise UserError(f"{folder} has no *.safetensors weights ({why}); save the model as safetensors.")
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json; save the fast tokenizer beside the weights.")
    config = _json(folder / "config.json")
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer = _json(tokenizer_file) if tokenizer_file.is_file() else {}
    for file, content in ((folder / "config.json", config), (tokenizer_file, tokenizer)):
        if "auto_map" in content:
            raise UserError(f"{file} asks for custom code (auto_map), which srtui never runs.")
    method = config.get("quantization_config")
    if method:
        how = method.get("quant_method", "an unknown method") if isinstance(method, dict) else method
        raise UserError(f"{folder} is already quantised ({how}); name the weights as they were before that.")
    _check_index(folder)

    parameters = 0
    by_type: Counter[str] = Counter()
    for file in weights:
        for kind, values in _safetensors_header(file):
            parameters += values
            by_type[kind] += values
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    context = inner.get("max_position_embeddings", config.get("max_position_embeddings"))
    name = config.get("_name_or_path") or config.get("_model_name_or_path") or folder.name
    return ModelInfo(
        path=folder,
        kind="safetensors",
        name=str(name),
        role="model",
        architecture=str(config.get("model_type", "unknown")),
        parameters=parameters,
        quantization=by_type.most_common(1)[0][0] if by_type else "none",
        context=context if isinstance(context, int) else None,
        chat_template=_folder_template(folder, tokenizer),
        licence=_folder_licence(folder),
        size=sum(file.stat().st_size for file in weights),
    )


def _check_index(folder: Path) -> None:
    """A sharded model's index must name files that are here, and nothing outside the folder."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = _json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"{index} has no weight_map; copy it again.")
    for shard in sorted({str(name) for name in shards.values()}):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise UserError(f"{index} names {shard!r}, which is not in the folder; copy that file too.")


def _safetensors_header(file: Path) -> list[tuple[str, int]]:
    """(type, values) of each tensor; checks that the data that is announced is there."""
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_JSON):
            raise UserError(f"{file} is a truncated or damaged safetensors file; copy it again.")
        raw = data.read(length)
    found: list[tuple[str, int]] = []
    try:
        header = json.loads(raw)
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            first, last = tensor["data_offsets"]
            if not 0 <= first <= last <= size - 8 - length:
                raise UserError(f"{file} is truncated (tensor {name[:60]!r} lies outside); copy it again.")
            found.append((str(tensor["dtype"]), math.prod(int(n) for n in tensor["shape"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} has a header that is not safetensors'; copy it again.") from None
    return found


def _folder_template(folder: Path, tokenizer: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace") or None
    template = tokenizer.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def _folder_licence(folder: Path) -> str | None:
    """From what made the folder (srtui.json), the model card's front matter, or a licence file."""
    made = folder / "srtui.json"
    if made.is_file():
        return _text_or_none(_json(made).get("licence"))
    card = folder / "README.md"
    if card.is_file():
        head = card.read_text(encoding="utf-8", errors="replace")[:20_000]
        front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
        line = re.search(r"^license:[ \t]*([^\n]+)$", front.group(1), re.MULTILINE) if front else None
        if line:
            return line.group(1).strip().strip("\"'")
    text = next(iter(sorted(folder.glob("LICEN[SC]E*"))), None)
    return f"see {text.name}" if text else None


def _json(file: Path) -> dict[str, Any]:
    content = parse_json(read_bytes(file, _MOST_JSON), str(file))
    if not isinstance(content, dict):
        raise UserError(f"{file} does not hold a JSON object; copy it again.")
    return content


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


# --- hashes ---------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Files in a workspace's ``models/`` are hashed once: ``models/.hashes.json`` remembers the result
    for as long as the file's size and modification time (ns) stay the same. Raises OSError, and UserError for what is no file.
    """
    path = path.resolve()
    cache_file = _hash_cache(path)
    state = path.stat()
    key = path.relative_to(cache_file.parent).as_posix() if cache_file else ""
    known = _load_hashes(cache_file)
    entry = known.get(key)
    if isinstance(entry, list) and entry[:2] == [state.st_size, state.st_mtime_ns] and len(entry) == 3:
        return str(entry[2])
    with open_regular(path) as file:
        result = hashlib.file_digest(file, "sha256").hexdigest()
    if cache_file:
        fresh = _load_hashes(cache_file) | {key: [state.st_size, state.st_mtime_ns, result]}
        fresh = {name: value for name, value in fresh.items() if (cache_file.parent / name).exists()}
        # A read-only models folder costs the cache, never the answer.
        with contextlib.suppress(OSError):
            write_beside(cache_file, json.dumps(fresh, indent=1))
    return result


def write_beside(path: Path, text: str) -> None:
    """Write a small file whole or not at all: beside its place first, then renamed. Raises OSError."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _hash_cache(path: Path) -> Path | None:
    for folder in (path.parent, path.parent.parent):
        if (folder / "models.toml").is_file():
            return folder / ".hashes.json"
    return None


def _load_hashes(cache_file: Path | None) -> dict[str, Any]:
    if cache_file is None:
        return {}
    known = remembered(cache_file)
    return known if isinstance(known, dict) else {}
