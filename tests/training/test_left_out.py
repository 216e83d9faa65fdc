"""Selected samples that leave nothing to train on are left out with a word, and stop nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui import recipe as recipes
from srtui.pipeline import Engine, prepare
from srtui.progress import Progress
from srtui.store import Store
from srtui.workspace import Workspace
from tests.training.conftest import make_tiny

LONG = "Describe, in as many words as you can, " + "and again " * 60 + "a tree."


def run_on(
    workspace: Workspace, student: Path, pairs: list[tuple[str, str]]
) -> tuple[list[str], list[Progress], dict[str, object]]:
    make_tiny(student, workspace.models / "tiny")
    rows = [json.dumps({"instruction": i, "input": "", "output": o}) for i, o in pairs]
    (workspace.recipes / "few.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    path = workspace.recipes / "few.toml"
    path.write_text(
        'dataset = "few.jsonl"\n[reflection]\nsource = "store"\n[student]\nmodel = "tiny"\nquantization = "f32"\n'
        '[prompt]\nmax_length = 80\n[selection]\npolicy = "all"\n'
        "[training]\nepochs = 1\nbatch_size = 1\nmicro_batch_size = 1\nheld_out = 0\n"
    )
    said: list[str] = []
    told: list[Progress] = []

    class Listens:
        def progress(self, progress: Progress) -> None:
            told.append(progress)

        def event(self, level: str, message: str) -> None:
            said.append(f"{level}: {message}")

    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        assert Engine(workspace, store, run, Listens()).work().status == "done"
        training = store.training.of_run(run.id)
    assert training is not None
    return said, told, training


@pytest.mark.model
def test_some_have_no_room_for_an_answer(workspace: Workspace, student_folder: Path) -> None:
    said, told, training = run_on(
        workspace,
        student_folder,
        [("Name a tree.", "An oak."), (LONG, "An elm."), ("Say yes.", "Yes, I do.")],
    )
    assert (training["status"], training["examples"], training["steps"]) == ("done", 2, 2)
    last = [p for p in told if p.stage == "train"][-1]
    assert (last.done, last.total) == (2, 2)
    words = [line for line in said if "left out" in line]
    assert len(words) == 1 and "1 of the 3" in words[0] and "1 target_truncated" in words[0]


@pytest.mark.model
def test_none_has(workspace: Workspace, student_folder: Path) -> None:
    said, _, training = run_on(workspace, student_folder, [(LONG, "An oak."), (LONG + " Now!", "An elm.")])
    assert str(training["status"]).startswith("skipped: ") and training["examples"] == 0
    assert any("Nothing was trained" in line for line in said)
