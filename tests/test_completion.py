"""What the shell completes: this workspace's names, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srtui.cli import completion
from srtui.workspace import Workspace
from tests.conftest import make_workspace
from tests.tui.scripted_store import make_demo_store


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    workspace = make_workspace(tmp_path / "ws")
    make_demo_store(workspace)
    (workspace.models / "big.Q4_K_M.gguf").touch()
    (workspace.models / "little").mkdir()
    (workspace.models / "little" / "config.json").touch()
    monkeypatch.chdir(workspace.root)
    return workspace


def test_names_of_this_workspace(told: Workspace) -> None:
    assert completion.run_names("q") == ["quickstart"]
    assert {"big.Q4_K_M", "little"} <= set(completion.model_names(""))
    assert completion.catalogue_names("smol") == ["smollm2-135m"]
    assert "recipes/quickstart.toml" in completion.recipe_files("recipes/q")
    assert completion.recipe_files("rec") == sorted(
        {f"recipes/{p.name}" for p in told.recipes.glob("*.toml")} | {"recipes/"}
    )
    assert "training.learning_rate=" in completion.recipe_settings("training.le")
    assert "base:quickstart" in completion.contestants("base:")
    assert len(completion.dataset_names("")) == 1


def test_outside_a_workspace_there_is_nothing_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRTUI_WORKSPACE", raising=False)
    for complete in (
        completion.run_names, completion.dataset_names, completion.recipe_files, completion.model_names,
        completion.catalogue_names,
    ):  # fmt: skip
        assert complete("") == []


def test_the_shell_is_answered_without_anything_heavy(told: Workspace) -> None:
    """As bash asks, which is through the environment and without a word on the command line."""
    code = (
        "import sys; sys.argv = ['srtui']\n"
        "from srtui.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'llama_cpp', 'numpy', 'pyarrow', 'textual'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    asked = {"_SRTUI_COMPLETE": "complete_bash", "COMP_WORDS": "srtui resume a", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked, timeout=120
    )
    assert done.stdout.split() == ["another-seed", "at-work", "HEAVY", "[]"], done.stderr
