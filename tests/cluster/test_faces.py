"""Workers as people see them: in ``srtui status`` and on the Live screen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui.store import Store
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text
from tests.tui.scripted_store import Script, demo_pairs

WORKERS = [
    {"worker": "teacher 1", "node": "\x1b[31mnode-a", "device": "GPU", "state": "working", "tokens_s": 1912.4,
     "window": 32, "tasks": 31, "restarts": 0},
    {"worker": "teacher 2", "node": "node-b", "device": "cpu, 2 threads", "state": "starting", "tokens_s": 0.0,
     "window": 0, "tasks": 0, "restarts": 2},
]  # fmt: skip


@pytest.fixture
def working(workspace: Workspace) -> Workspace:
    """A run that an engine works on with two workers, one of which is being started."""
    with Store(workspace.store_path) as store:
        script = Script(workspace, store, "quickstart", 7).begin(demo_pairs())
        store.runs.update(script.run_id, status="running", stage="reflect-instruction")
        script.hold(slots=16, slots_in_use=16, waiting=3, workers=WORKERS)
    return workspace


def status(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    from srtui.cli import app

    monkeypatch.chdir(workspace.root)
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["status", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_status_says_what_each_worker_does(working: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = status(working, monkeypatch, "quickstart").splitlines()
    first = next(line for line in lines if "teacher 1" in line)
    second = next(line for line in lines if "teacher 2" in line)
    assert "\x1b" not in "".join(lines)  # a node's name is data
    assert all(word in first for word in ("node-a", "GPU", "working", "1,912", "31/32", "0"))
    assert all(word in second for word in ("node-b", "cpu, 2 threads", "starting", "2"))
    assert "2 workers" in " ".join(status(working, monkeypatch).split())


def test_status_as_json(working: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    summary: dict[str, Any] = json.loads(status(working, monkeypatch, "quickstart", "--json"))
    assert summary["workers"] == WORKERS
    with Store(working.store_path) as store:
        assert store.check() == []
        with store.transaction():
            store.conn.execute("DELETE FROM lease")
    assert json.loads(status(working, monkeypatch, "quickstart", "--json"))["workers"] == []


async def test_live_shows_the_workers_where_there_are_any(working: Workspace) -> None:
    async with dashboard(working) as (app, pilot):
        await press(pilot, "2")
        seen = text(app)
        assert "workers" in seen and "teacher 1" in seen and "1,912" in seen and "31/32" in seen
        assert "cpu, 2 threads" in seen and "starting" in seen


async def test_live_has_no_box_of_workers_where_the_engine_runs_its_models_itself(working: Workspace) -> None:
    with Store(working.store_path) as store, store.transaction():
        store.conn.execute("UPDATE lease SET live = '{}'")
    async with dashboard(working) as (app, pilot):
        await press(pilot, "2")
        assert "restarts" not in text(app)
