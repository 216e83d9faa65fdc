"""Best of n by likelihood, through a whole run: each prompt is evaluated once, and the choice is never a worse one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui import recipe as recipes
from srtui.llama import TeacherProgress, open_teacher
from srtui.pipeline import Engine, prepare
from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model
SAMPLES, CANDIDATES = 5, 4


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def ran(folder: Path, pair_folder: Path, candidates: int) -> tuple[TeacherProgress, Workspace]:
    """What the teacher had evaluated by the end of a run of so many candidates; two slots, so that most candidates
    wait for one."""
    workspace = make_workspace(folder, pair_folder)
    path = small_recipe(
        workspace,
        SAMPLES,
        training={"enabled": False},
        reflection={"candidates": candidates, "max_attempts": 1},
        selection={"policy": "keep", "instruction_by": "original", "response_by": "likelihood"},
    )
    file = workspace.models / "tiny.F16.gguf"
    teacher = open_teacher(file, name="tiny.F16", sha256="0" * 64, slots=2, context=4096, threads=1)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        Engine(workspace, store, run, Quiet(), teacher=teacher).work()
    return teacher.progress(), workspace


def test_four_candidates_cost_one_prompt_and_choose_no_worse(tmp_path: Path, pair_folder: Path) -> None:
    one, alone = ran(tmp_path / "one", pair_folder, 1)
    four, workspace = ran(tmp_path / "four", pair_folder, CANDIDATES)
    with Store(alone.store_path) as store:
        prompts = sql_value(store, "SELECT sum(prompt_tokens) FROM generation")
        assert sql_value(store, "SELECT count(*) FROM generation") == SAMPLES
    # All of a prompt but its last token, for each candidate behind the first; and what all prompts begin with.
    assert four.prompt_tokens_saved == one.prompt_tokens_saved + (CANDIDATES - 1) * (prompts - SAMPLES)
    with Store(workspace.store_path) as store:
        rows = sql_rows(
            store,
            "SELECT chosen_id, compared, (SELECT json_group_array(g.candidate || ':' || v.id) FROM generation g "
            "JOIN variant v ON v.generation_id = g.id WHERE v.sample_id = d.sample_id) AS written "
            "FROM decision d WHERE stage = 'response' ORDER BY sample_id",
        )
    better = 0
    for row in rows:
        before, *rewrites = (
            (variant, value) for variant, value, _ in json.loads(row["compared"]) if value is not None
        )
        of = dict([before, *rewrites])
        assert of[row["chosen_id"]] == max(of.values())
        candidate_of = {int(v): int(c) for c, v in (one.split(":") for one in json.loads(row["written"]))}
        of_one = max(value for variant, value in of.items() if candidate_of.get(variant, 0) == 0)
        better += of[row["chosen_id"]] > of_one
    assert len(rows) == SAMPLES and better > 0  # what one candidate would not have had
