"""Reading headers: the truth about whole files, one sentence about all others."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srtui.errors import UserError
from srtui.models import file_sha256, inspect
from srtui.models.gguf_header import FILE_TYPES, GGML_TYPES, read_gguf

ANY_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return make_student(tmp_path / "my-student")


def make_student(folder: Path) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = {"model_type": "llama", "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "README.md").write_text('---\ntags: [x]\nlicense: "mit"\n---\n# A model\n')
    save_file({"w": np.ones((4, 3), dtype=np.float32)}, folder / "model.safetensors")
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_tables_are_those_of_the_gguf_package() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

    ours = {name: (block, width) for name, block, width in GGML_TYPES.values()}
    for kind in GGMLQuantizationType:
        assert GGML_TYPES[kind.value][0] == kind.name
        assert ours[kind.name] == GGML_QUANT_SIZES[kind]
    theirs = {t.value: t.name.removeprefix("ALL_").removeprefix("MOSTLY_") for t in LlamaFileType}
    theirs.pop(1024)  # a mark, not a type
    assert theirs == FILE_TYPES


def test_tiny_gguf(tiny: Path) -> None:
    from gguf import GGUFReader

    info = inspect(tiny)
    reader = GGUFReader(tiny)
    assert info.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert (info.architecture, info.quantization, info.context) == ("llama", "F32", 64)
    assert (info.role, info.chat_template, info.licence) == ("model", None, None)
    assert info.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()


@pytest.mark.model
def test_real_gguf_as_the_gguf_package_reads_it(teacher_file: Path) -> None:
    from gguf import GGUFReader

    info = inspect(teacher_file, with_hash=False)
    reader = GGUFReader(teacher_file)
    assert info.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert info.chat_template == reader.fields["tokenizer.chat_template"].contents()
    assert (info.architecture, info.quantization, info.context) == ("llama", "Q8_0", 8192)
    assert info.licence == "apache-2.0"


def test_truncated_anywhere(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    for end in [*range(0, 64), *random.Random(0).sample(range(64, len(whole) - 1), 200), len(whole) - 1]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:end])
        with pytest.raises(UserError) as caught:
            read_gguf(cut)
        assert "cut.gguf" in str(caught.value) and "\n" not in str(caught.value)


@ANY_FOLDER
@given(place=st.integers(0, 1500), change=st.binary(min_size=1, max_size=12))
def test_changed_bytes_never_raise_anything_else(
    tiny: Path, tmp_path: Path, place: int, change: bytes
) -> None:
    data = bytearray(tiny.read_bytes())
    data[place : place + len(change)] = change
    _only_user_errors(tmp_path, bytes(data))


@ANY_FOLDER
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_never_raise_anything_else(tmp_path: Path, body: bytes, header: bool) -> None:
    _only_user_errors(tmp_path, (b"GGUF" + struct.pack("<I", 3) if header else b"") + body)


def _only_user_errors(folder: Path, data: bytes) -> None:
    file = folder / "any.gguf"
    file.write_bytes(data)
    try:
        read_gguf(file)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"PK\3\4" + b"x" * 40, "zip"),
        (b"\x93NUMPY" + b"x" * 40, "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "announces"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "truncated"),
        # an array of arrays, and an array longer than any file
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**62), "array"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture"),
    ],
)
def test_malformed(tmp_path: Path, data: bytes, word: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(data)
    with pytest.raises(UserError, match=word):
        read_gguf(file)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        inspect(tmp_path / "none.gguf")
    with pytest.raises(UserError, match=r"config\.json"):
        inspect(tmp_path)


def test_safetensors_folder(student: Path) -> None:
    info = inspect(student)
    assert (info.kind, info.architecture, info.parameters, info.quantization) == (
        "safetensors",
        "llama",
        12,
        "F32",
    )
    assert (info.context, info.chat_template, info.licence) == (64, "{{ messages }}", "mit")
    first = info.sha256
    change(student / "config.json", max_position_embeddings=128)
    assert inspect(student).sha256 == first  # the weights are what is hashed


def test_pickles_are_refused(student: Path) -> None:
    (student / "model.safetensors").rename(student / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, and pickles"):
        inspect(student)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_is_refused(student: Path, file: str) -> None:
    change(student / file, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    with pytest.raises(UserError, match="custom code"):
        inspect(student)


def test_other_folders_are_refused(student: Path) -> None:
    change(student / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UserError, match="gptq"):
        inspect(student)
    change(student / "config.json", quantization_config=None)
    (student / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../../secret"}}')
    with pytest.raises(UserError, match="secret"):
        inspect(student)
    (student / "model.safetensors.index.json").unlink()
    (student / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        inspect(student)
    (student / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter"):
        inspect(student)


def test_safetensors_truncated_anywhere(student: Path) -> None:
    file = student / "model.safetensors"
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"model\.safetensors"):
            inspect(student)


@ANY_FOLDER
@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists))
def test_any_json_never_raises_anything_else(tmp_path: Path, content: Any) -> None:
    folder = tmp_path / "any-student"
    if not folder.exists():
        make_student(folder)
    body = (content if isinstance(content, str) else json.dumps({"w": content})).encode("utf-8", "replace")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    try:
        inspect(folder)
    except UserError as error:
        assert "\n" not in str(error)


def test_hashes_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.toml").write_text("")
    file = tmp_path / "a.gguf"
    file.write_bytes(b"one")
    first = file_sha256(file)
    assert first == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert file_sha256(file) == first
    file.write_bytes(b"two!")
    assert file_sha256(file) == hashlib.sha256(b"two!").hexdigest()
    (tmp_path / ".hashes.json").write_text("{damaged")
    assert file_sha256(file) == hashlib.sha256(b"two!").hexdigest()
