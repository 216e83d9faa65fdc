"""A run whose teacher a server has: doctor, the report and Live say so, and whether it may be another machine."""

from __future__ import annotations

from typing import Any

import pytest

from srtui import doctor
from srtui.report import facts
from srtui.store import Store
from srtui.wording import server_words
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press
from tests.tui.scripted_store import Script, demo_pairs

REMOTE = "may be another machine"


def working(workspace: Workspace, **teacher: Any) -> int:
    """A run at work whose recipe has these keys of [teacher]."""
    with Store(workspace.store_path) as store:
        script = Script(workspace, store, "quickstart", 7).begin(demo_pairs())
        store.runs.update(script.run_id, status="running", stage="reflect-instruction")
        with store.transaction():
            for name, value in teacher.items():
                store.conn.execute(
                    "UPDATE run SET recipe = json_set(recipe, '$.teacher.' || ?, json(?))",
                    (name, "true" if value is True else f'"{value}"'),
                )
        script.hold(slots=16, slots_in_use=16, waiting=3)
        return script.run_id


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_server_is_named_and_another_machine_is_said(workspace: Workspace, allowed: bool) -> None:
    endpoint = "http://10.0.0.9:8000/v1" if allowed else "http://127.0.0.1:8000/v1"
    run_id = working(workspace, endpoint=endpoint, **({"allow_remote": True} if allowed else {}))
    (check,) = doctor._servers(workspace.root)
    with Store(workspace.store_path, read_only=True) as store:
        reported = facts.gather(store, workspace.root, run_id)
    teacher = next(model for model in reported.models if model.name and "server" in repr(model))
    async with dashboard(workspace) as (app, pilot):
        await press(pilot, "2")
        live = str(app.screen.query_one("#writing-box").border_subtitle)
    for words in (check.detail, repr(teacher), live):
        assert endpoint in words and "cannot be hashed" in words
        assert (REMOTE in words) is allowed
    assert check.ok is (None if allowed else True)


async def test_a_teacher_of_this_process_is_no_server(workspace: Workspace) -> None:
    working(workspace)
    assert list(doctor._servers(workspace.root)) == []
    assert server_words({"teacher": {"model": "tiny"}}) == ""
