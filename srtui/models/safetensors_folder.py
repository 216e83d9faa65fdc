"""A folder of safetensors as Hugging Face lays it out, read without loading its weights.

Only headers are read, and nothing in them is believed before it is checked against the files' sizes: whatever
lies in a folder, the outcome is a :class:`ModelInfo` or a UserError of one sentence.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.files import not_a_file, parse_json, read_bytes
from srtui.models.info import ModelInfo, text_or_none

_MOST_JSON = 100_000_000  # bytes; far above any real model's, to keep a hostile header from looping for hours
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SAFE_FILES = (".json", ".safetensors", ".jinja", ".txt", ".md", ".model")
"""The only kinds of file that are taken out of a safetensors folder."""


def read_safetensors_folder(folder: Path) -> ModelInfo:
    """A Hugging Face folder: config.json, tokenizer.json and whole *.safetensors, and no code.

    Raises UserError where a part is missing, truncated, pickled, quantised already, or where the
    model wants code of its own to be run.
    """
    try:
        return _parse_folder(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror or error}); make it readable, or check the disk."
        ) from error


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
        method_name = method.get("quant_method", "an unknown method") if isinstance(method, dict) else method
        raise UserError(
            f"{folder} is already quantised ({method_name}); name the weights as they were before that."
        )
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
    tensors: list[tuple[str, int]] = []
    try:
        header = json.loads(raw)
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            first, last = tensor["data_offsets"]
            if not 0 <= first <= last <= size - 8 - length:
                raise UserError(f"{file} is truncated (tensor {name[:60]!r} lies outside); copy it again.")
            tensors.append((str(tensor["dtype"]), math.prod(int(n) for n in tensor["shape"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} has a header that is not safetensors'; copy it again.") from None
    return tensors


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
    provenance = folder / "srtui.json"
    if provenance.is_file():
        return text_or_none(_json(provenance).get("licence"))
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
