"""What a model file says about itself: a GGUF file, or a folder of safetensors; and its sha256."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from srtui.atomic import replacing, sha256_of
from srtui.errors import UserError
from srtui.files import remembered
from srtui.models.gguf_header import read_gguf
from srtui.models.info import ModelInfo
from srtui.models.safetensors_folder import read_safetensors_folder


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


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Files in a workspace's ``models/`` are hashed once: ``models/.hashes.json`` remembers the result
    for as long as the file's size and modification time (ns) stay the same. Raises OSError, and UserError for
    what is no file.
    """
    path = path.resolve()
    cache_file = _hash_cache(path)
    state = path.stat()
    key = path.relative_to(cache_file.parent).as_posix() if cache_file else ""
    hashes = _load_hashes(cache_file)
    entry = hashes.get(key)
    if isinstance(entry, list) and entry[:2] == [state.st_size, state.st_mtime_ns] and len(entry) == 3:
        return str(entry[2])
    result = sha256_of(path)
    if cache_file:
        updated = _load_hashes(cache_file) | {key: [state.st_size, state.st_mtime_ns, result]}
        updated = {name: value for name, value in updated.items() if (cache_file.parent / name).exists()}
        # A read-only models folder costs the cache, never the answer.
        with contextlib.suppress(UserError), replacing(cache_file) as file:
            file.write(json.dumps(updated, indent=1).encode())
    return result


def _hash_cache(path: Path) -> Path | None:
    for folder in (path.parent, path.parent.parent):
        if (folder / "models.toml").is_file():
            return folder / ".hashes.json"
    return None


def _load_hashes(cache_file: Path | None) -> dict[str, Any]:
    if cache_file is None:
        return {}
    hashes = remembered(cache_file)
    return hashes if isinstance(hashes, dict) else {}
