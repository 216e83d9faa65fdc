"""Where models run: what --on says, which worker goes where, and what a node must have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from srtui.cluster.address import parse_place
from srtui.cluster.placement import Node, seats
from srtui.cluster.worker_messages import MODELS, ModelFiles, ShippedFolder
from srtui.errors import UserError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ray", None),
        (" ray ", None),
        ("ray://head.example", "ray://head.example:10001"),
        ("ray://10.0.0.7:9000", "ray://10.0.0.7:9000"),
        ("10.0.0.7:6379", "10.0.0.7:6379"),
        ("[::1]:6379", "[::1]:6379"),
    ],
)
def test_places(text: str, address: str | None) -> None:
    assert parse_place(text).ray == address
    assert parse_place(text).is_local == (address is None)


@pytest.mark.parametrize(
    "text",
    ["", "rays", "ray:/x", "ray://", "http://h:1", "host", "host:0", "host:99999", "a b:1", "ray://h:x"],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UserError, match=r"--on .*: write ray for Ray on this machine"):
        parse_place(text)


def test_a_file_with_an_address(tmp_path: Path) -> None:
    file = tmp_path / "cluster"
    file.write_text("\n10.1.2.3:6379\n")
    assert parse_place(str(file)).ray == "10.1.2.3:6379"
    for wrong in ("", "ray", "10.1.2.3:6379\nray://x", "\x1b[31m", str(file)):
        file.write_text(wrong)
        with pytest.raises(UserError, match="has to hold one line"):
            parse_place(str(file))


def test_one_worker_a_gpu_and_never_two() -> None:
    there = [Node("a", "a", 16, 2), Node("b", "b", 4, 1), Node("c", "c", 8, 0)]
    assert [s.gpu for s in seats(there, None)] == [True] * 3
    assert len(seats(there, 2)) == 2
    with pytest.raises(UserError, match="--workers 4: there are 3 GPUs"):
        seats(there, 4)
    with pytest.raises(UserError, match="has no node"):
        seats([], None)


@given(st.lists(st.integers(1, 96), min_size=1, max_size=8), st.none() | st.integers(1, 64))
def test_workers_are_dealt_out_by_processors(cpus: list[int], workers: int | None) -> None:
    there = [Node(str(n), str(n), c, 0) for n, c in enumerate(cpus)]
    placed = seats(there, workers)
    assert [s.number for s in placed] == list(range(workers or len(cpus)))
    for node in there:
        threads = [s.threads for s in placed if s.node == node.id]
        assert len(set(threads)) <= 1  # those of a node are equal
        assert sum(threads) <= max(node.cpus, len(threads)) and all(t >= 1 for t in threads)
    if workers is None:
        assert [(s.node, s.threads) for s in placed] == [(n.id, int(n.cpus)) for n in there]


# -- what a node must have ----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "llama"
    folder.mkdir(parents=True)
    for name, text in {"model.safetensors": "w" * 50, "config.json": "{}", "tokenizer.json": "[]"}.items():
        (folder / name).write_text(text)
    (folder / "README.md").write_text("no part of the model")
    return folder


def copied(model: Path, target: Path, **changed: str | None) -> Path:
    target.mkdir(parents=True)
    for path in model.iterdir():
        text = changed.get(path.name.replace(".", "_"), path.read_text())
        if text is not None:
            (target / path.name).write_text(text)
    return target


def test_the_models_of_a_node_may_lie_elsewhere(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ModelFiles.of(model)
    assert [name for name, _ in files.sha256] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert files.find("n1") == model
    there = copied(model, tmp_path / "there" / "llama")
    monkeypatch.setenv(MODELS, str(there.parent))
    assert files.find("n1") == there


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"config_json": None}, "Node n1 lacks .*config.json, a file of the model llama; copy it there"),
        ({"model_safetensors": "w" * 49 + "x"}, "Node n1 has another .*model.safetensors than this machine"),
        (
            {"tokenizer_json": ""},
            "Node n1 has another .*tokenizer.json than this machine: its sha256 begins with",
        ),
    ],
)
def test_which_node_lacks_what(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str | None],
    sentence: str,
) -> None:
    files = ModelFiles.of(model)
    monkeypatch.setenv(MODELS, str(copied(model, tmp_path / "there" / "llama", **changed).parent))
    with pytest.raises(UserError, match=sentence):
        files.find("n1")


def test_a_node_without_the_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ModelFiles.of(model)
    monkeypatch.setenv(MODELS, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=f"Node n1 lacks the model llama: .*nowhere/llama.* or set {MODELS}"):
        files.find("n1")


def test_an_adapter_is_sent_along(model: Path) -> None:
    folder = ShippedFolder.of(model).unpack()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in model.iterdir()
    }


# -- the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--on", "nowhere"], "--on nowhere: write ray for Ray on this machine"),
        (["--workers", "2"], "--workers goes with --on"),
        (["--on", "ray"], "which is not installed here; install it with: pip install 'srtui[ray]'"),
    ],
)
def test_without_ray_or_without_a_place(
    pair_workspace: object, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    from srtui.cli import app
    from srtui.workspace import Workspace
    from tests.conftest import small_recipe

    assert isinstance(pair_workspace, Workspace)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(pair_workspace.root)
    path = small_recipe(pair_workspace, 2)
    result = CliRunner().invoke(app, ["run", str(path), *words])
    assert isinstance(result.exception, UserError) and sentence in str(result.exception)
