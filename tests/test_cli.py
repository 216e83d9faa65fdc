"""The commands as a person meets them: help, mistakes, plain output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from srtui.cli import app
from srtui.cli.base import Commands
from srtui.cli.run_tables import training_rows
from srtui.store.training import StoredTraining
from srtui.workspace import Workspace
from tests.attack.ground import Outcome, in_process
from tests.conftest import ROOT, make_workspace

COMMANDS = [
    ["init"], ["import"], ["run"], ["resume"], ["status"], ["show"], ["export"], ["export-model"],
    ["recipes"], ["report"], ["eval", "human"],
    ["doctor"],
    ["models", "list"], ["models", "inspect"], ["models", "add"], ["models", "quantize"],
    ["db", "check"], ["db", "vacuum"], ["db", "backup"],
]  # fmt: skip


def srtui(*words: str, cwd: Path = ROOT, **environment: str) -> Outcome:
    """In this process, which costs a tenth of a fresh interpreter."""
    return in_process(words, cwd, environment)


def srtui_afresh(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "srtui", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=300,
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str]) -> None:
    done = srtui(*words, "--help")
    assert done.code == 0
    assert f"Example: srtui {' '.join(words)}" in " ".join(done.out.split())


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["status", "--json"]], ids=" ".join)
def test_heavy_libraries_stay_out(words: list[str], tmp_path: Path) -> None:
    make_workspace(tmp_path / "ws")
    code = (
        "import sys; from srtui.cli import main\n"
        f"sys.argv = ['srtui', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'pandas', 'numpy', 'pyarrow', 'gguf'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"SRTUI_WORKSPACE": str(tmp_path / "ws")},
    )
    assert "HEAVY []" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "recipes/nothing.toml"], "there is no such recipe"),
        (["run", "recipes/quickstart.toml", "--until", "lunch"], "the stages are reflect-instruction"),
        (["run", "recipes/quickstart.toml", "--set", "training.epoch=1"], "did you mean epochs"),
        (["import", "nothing.json"], "nothing.json"),
        (["show", "99"], "no store yet"),
        (["export", "none", "--out", "x.json"], "no store yet"),
        (["export-model", "none", "--to", "gguf"], "no store yet"),
        (["export-model", "none", "--to", "onnx"], "it can be adapter, merged, gguf-adapter, gguf"),
        (["models", "inspect", "nothing"], "nothing"),
        (["db", "check"], "no store yet"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_sentence_and_code_2(workspace: Workspace, words: list[str], sentence: str) -> None:
    done = srtui(*words, cwd=workspace.root, SRTUI_WORKSPACE=str(workspace.root))
    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err


def test_outside_a_workspace(tmp_path: Path) -> None:
    done = srtui_afresh("status", cwd=tmp_path)
    assert done.returncode == 2
    assert "srtui init" in done.stderr


def test_init_makes_a_workspace_that_works(tmp_path: Path) -> None:
    assert srtui("init", "mine", cwd=tmp_path).code == 0
    assert (tmp_path / "mine" / "models" / "models.toml").is_file()
    assert (tmp_path / "mine" / "recipes" / "quickstart.toml").is_file()
    imported = srtui("import", "recipes/quickstart.jsonl", "--json", cwd=tmp_path / "mine")
    assert json.loads(imported.out)["new"] == 56
    again = srtui("import", "recipes/quickstart.jsonl", cwd=tmp_path / "mine")
    assert "nothing new" in again.out
    assert "sample" in srtui("db", cwd=tmp_path / "mine").out
    assert "is sound" in srtui("db", "check", cwd=tmp_path / "mine").out
    assert srtui("db", "backup", "b.sqlite", cwd=tmp_path / "mine").code == 0
    assert srtui("db", "vacuum", cwd=tmp_path / "mine").code == 0
    assert "No runs yet" in srtui("status", cwd=tmp_path / "mine").out


def test_escape_sequences_in_data_stay_text(workspace: Workspace) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jred [bold]not markup[/] \u202egnp.exe"
    (workspace.root / "evil.jsonl").write_text(json.dumps({"instruction": evil, "output": evil}) + "\n")
    environment = {"SRTUI_WORKSPACE": str(workspace.root), "FORCE_COLOR": "1"}
    assert srtui_afresh("import", "evil.jsonl", cwd=workspace.root, **environment).returncode == 0
    shown = srtui_afresh("show", "1", cwd=workspace.root, **environment).stdout
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "[bold]not markup[/]" in shown


def test_the_quickstart_data_is_what_it_says() -> None:
    rows = [
        json.loads(line)
        for line in (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) >= 48
    assert len({(r["instruction"], r["input"]) for r in rows}) == len(rows)
    assert sum(bool(r["input"]) for r in rows) >= 8
    assert max(len(r["input"]) for r in rows) > 2000


def test_a_training_that_changed_nothing_is_shown() -> None:
    result = {"first_loss": 2.0, "last_loss": 2.0, "steps": 1, "examples": 3, "held_out": {}}

    def rows(**more: bool) -> list[tuple[str, str]]:
        return training_rows(
            StoredTraining(
                1, 1, "done", 3, 1, 9, 0.0, None, {**result, **more}, 0.0, {}, 3, None, None, "sft", 0
            )
        )

    assert any("changed nothing" in value for _, value in rows(changed=False))
    for fine in (rows(changed=True), rows()):
        assert not any("changed nothing" in value for _, value in fine)


_INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have it ignored

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            os.kill(os.getpid(), signal.SIGINT)

from srtui.__main__ import main
moment = sys.argv[1]
sys.argv = ["srtui", "status"]
sys.meta_path.insert(0, Finder())
main()
"""


@pytest.mark.parametrize("imported", ["srtui.process", "srtui.workspace", "srtui.cli"])
def test_an_interrupt_at_the_very_beginning_is_no_traceback(imported: str) -> None:
    """Ctrl-C while the command is still being imported."""
    words = [sys.executable, "-c", _INTERRUPTED, imported]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_help_lists_every_command_once_as_one_comes_to_need_them() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    listed = group.list_commands(typer.Context(group))
    assert sorted(listed) == sorted(group.commands)
    assert listed.index("init") < listed.index("import") < listed.index("pilot") < listed.index("run")
