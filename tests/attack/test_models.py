"""Model files and folders from elsewhere, and settings that only fit other models."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from srtui.tui import checks
from tests.attack.ground import Attack, Ground

DEEP = "[" * 100_000
PARTS = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "{}"}


def folder(**files: bytes | str | None) -> Callable[[Ground], object]:
    """A safetensors folder called ``m`` of small well-formed parts, but for these files (None: absent)."""

    def do(ground: Ground) -> None:
        header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        whole = PARTS | {"model.safetensors": struct.pack("<Q", len(header)) + header + bytes(8)}
        for name, content in (whole | files).items():
            if content is not None:
                ground.put(f"models/m/{name}", content)

    return do


def pipe(name: str) -> Callable[[Ground], object]:
    def do(ground: Ground) -> None:
        folder(**{name: None})(ground)
        os.mkfifo(ground.root / "models" / "m" / name)

    return do


def weights(header: bytes, rest: bytes = b"") -> Callable[[Ground], object]:
    return folder(**{"model.safetensors": struct.pack("<Q", len(header)) + header + rest})


def gguf(content: bytes) -> Callable[[Ground], object]:
    return lambda ground: ground.put("models/m.gguf", content)


def header(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


LINKS: dict[str, Callable[[Ground], object]] = {
    "a shard outside the folder": folder(
        **{"model.safetensors.index.json": '{"weight_map": {"w": "../../../etc/passwd"}}'}
    ),
    "an index nested too deep": folder(**{"model.safetensors.index.json": DEEP}),
    "an index without a map": folder(**{"model.safetensors.index.json": "{}"}),
}
FOLDERS: dict[str, Callable[[Ground], object]] = LINKS | {
    f"a pipe called {name}": pipe(name)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "srtui.json")
} | {
    "no weights": folder(**{"model.safetensors": None}),
    "weights that are pickled": folder(**{"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."}),
    "a configuration nested too deep": folder(**{"config.json": DEEP}),
    "a configuration that is a list": folder(**{"config.json": "[]"}),
    "a configuration that wants code": folder(**{"config.json": '{"auto_map": {"AutoModel": "x.Y"}}'}),
    "a tokenizer that wants code": folder(**{"tokenizer_config.json": '{"auto_map": {}}'}),
    "an empty weights file": folder(**{"model.safetensors": b""}),
    "a header of 2**63 bytes": folder(**{"model.safetensors": struct.pack("<Q", 2**63) + b"{}"}),
    "a header nested too deep": weights(b"[" * 100_000),
    "a header that is no object": weights(b"[1]"),
    "a tensor outside": weights(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,99]}}'),
    "a tensor that ends before it begins": weights(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[9,0]}}'),
    "a shape that is no number": weights(b'{"w":{"dtype":"F32","shape":["x"],"data_offsets":[0,0]}}'),
}  # fmt: skip
FILES: dict[str, Callable[[Ground], object]] = {
    "empty": gguf(b""),
    "only magic": gguf(b"GGUF"),
    "a zip": gguf(b"PK\x03\x04" + bytes(64)),
    "big-endian": gguf(b"GGUF" + struct.pack(">I", 3) + bytes(64)),
    "of version 99": gguf(header(0, 0, version=99)),
    "of 2**63 tensors": gguf(header(2**63, 0)),
    "of 2**63 keys": gguf(header(0, 2**63)),
    "of a key of 2**63 letters": gguf(header(0, 1, struct.pack("<Q", 2**63))),
    "of an array of 2**63": gguf(
        header(0, 1, struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**63))
    ),
    "of a type that is none": gguf(header(0, 1, struct.pack("<Q", 1) + b"k" + struct.pack("<I", 77))),
    "zeros": gguf(bytes(4096)),
}

ATTACKS = [
    *(
        Attack(f"a folder with {name}: {verb}", f"{verb} {where}", prepare=make)
        for name, make in FOLDERS.items()
        for verb, where in (("models inspect", "m"), ("models add", "models/m"))
        if not (verb == "models add" and name.endswith("srtui.json"))
    ),
    *(Attack(f"a folder with {name}: models list", "models list", 0, prepare=make) for name, make in FOLDERS.items()),
    *(Attack(f"a GGUF that is {name}: models inspect", "models inspect m", prepare=make) for name, make in FILES.items()),
    *(Attack(f"a GGUF that is {name}: models list", "models list", 0, "", prepare=make) for name, make in FILES.items()),
    Attack("a catalogue nested too deep", "models list", prepare=lambda g: g.put("models/models.toml", f"x = {DEEP}"),
           code=(0, 2)),
    Attack("a catalogue with a table of its own", "models add x",
           prepare=lambda g: g.put("models/models.toml", "[x]\ndistribution = '--index-url=http://x'")),
    Attack("a catalogue with a path that leads out", "models add x",
           prepare=lambda g: g.put("models/models.toml", "[x]\nmember = '../../x'")),
    Attack("hashes that are no JSON", "models list", 0, prepare=lambda g: g.put("models/.hashes.json", DEEP)),
    Attack("tunings that are no JSON", "models list", 0, prepare=lambda g: g.put("models/tuning.json", DEEP)),
    Attack("a wheel that is none", "models add x.whl", prepare=lambda g: g.put("x.whl", b"PK\x03\x04")),
    Attack("a wheel of another model", "models add evil-1.0-py3-none-any.whl",
           prepare=lambda g: g.put("evil-1.0-py3-none-any.whl", b"PK\x03\x04")),
    Attack("a model called like an option", "models inspect -- --help"),
    Attack("a model called like a path", "models inspect ../../../etc/passwd"),
    Attack("a user who is nobody", "models inspect '~nobody-of-this-name/x'"),
    Attack("a workspace of a user who is nobody", "status", env={"SRTUI_WORKSPACE": "~nobody-of-this-name/x"},
           says="no such user"),
    Attack("an empty name for the workspace", "status", 0, env={"SRTUI_WORKSPACE": ""}),
    Attack("a file for the workspace", "status", env={"SRTUI_WORKSPACE": "/etc/passwd"}, says="not a workspace"),
    Attack("a control character for a run", "status '\x01'", says="no run"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_models(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


@pytest.mark.parametrize("student", ["smollm2-135m", "nobody", "../../etc/passwd", "~nobody-of-this-name/x"])
def test_a_student_that_is_a_gguf_can_stand_in_the_form(ground: Ground, student: str) -> None:
    """New run of the dashboard, with a recipe whose student only chooses."""
    text = 'student = {quantization = "gguf"}\ntraining = {enabled = false}\ndataset = "quickstart"\n'
    path = ground.put("recipes/gguf.toml", text)
    values = dict.fromkeys(checks.FIELDS, "") | {
        "name": "x", "dataset": "quickstart", "teacher": "smollm2-135m", "student": student, "seed": "0"
    }  # fmt: skip
    found = checks.check(ground.root, ground.workspace.models, path, values, [], checks.StoreFacts())
    assert "student" in found.problems and "\n" not in found.problems["student"]


def test_a_real_gguf_student_is_measured(ground: Ground, models_folder: Path) -> None:
    shutil.rmtree(ground.root / "models")
    (ground.root / "models").symlink_to(models_folder)
    text = 'student = {quantization = "gguf"}\ntraining = {enabled = false}\ndataset = "quickstart"\n'
    path = ground.put("recipes/gguf.toml", text)
    values = dict.fromkeys(checks.FIELDS, "") | {
        "name": "x", "dataset": "quickstart", "teacher": "smollm2-135m", "student": "smollm2-135m", "seed": "0"
    }  # fmt: skip
    known = checks.StoreFacts(datasets={"quickstart": 60})
    found = checks.check(ground.root, ground.workspace.models, path, values, [], known)
    assert found.problems == {} and found.notes["student"].startswith("✓ 1")
