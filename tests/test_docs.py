"""Every command in the README and in docs/evaluation.md is run, in order, in a workspace of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, make_workspace

TINY = ["reflection.critique_tokens=8", "reflection.instruction_tokens=8", "reflection.answer_tokens=12"]


def commands_of(document: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.model
def test_the_readmes_commands_work(tmp_path: Path, models_folder: Path) -> None:
    make_workspace(tmp_path / "my-workspace", models_folder)
    where = tmp_path
    ran = 0
    for words in commands_of("README.md"):
        if words[0] == "make":
            assert f"{words[1]}:" in (ROOT / "Makefile").read_text()
            continue
        if words[0] == "cd":
            where = where / words[1]
            continue
        assert words[0] == "srtui"
        extra = [w for setting in TINY for w in ("--set", setting)] if words[1] in ("run", "ablate") else []
        done = subprocess.run(
            [sys.executable, "-m", *words, *extra],
            cwd=where,
            env=os.environ.copy(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (words, done.stderr)
        ran += 1
    assert ran >= 12


@pytest.mark.model
def test_the_commands_of_evaluation_work(tmp_path: Path, models_folder: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", models_folder)
    ran = 0
    for words in commands_of("docs/evaluation.md"):
        if words[:3] == ["srtui", "eval", "choice"] and importlib.util.find_spec("lm_eval") is None:
            continue
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=workspace.root, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        ran += 1
    assert ran >= 4


def test_docs_name_what_exists() -> None:
    for name in ("method.md", "architecture.md", "evaluation.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:srtui|tests)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), path
