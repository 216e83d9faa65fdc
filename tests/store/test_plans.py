"""What SQLite reads for each query that an engine, the dashboard or a command sends: by an index, never a whole
table that grows with the samples. Queries are collected as they are sent, and explained on the same tables."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from srtui import recipe as recipes
from srtui.pipeline import Engine, prepare
from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import make_workspace, small_recipe
from tests.store.test_scale import GROWING
from tests.tui.driving import dashboard, press
from tests.tui.scripted_store import make_demo_store

READS_ALL = {
    # A whole dataset is what a new run is over, once; its index is read, in order.
    r"SELECT (count\(\*\)|id) FROM sample": "the samples of a dataset",
    # Names of datasets with how many samples they have.
    r"SELECT d\.name, \(SELECT count": "the sizes of the datasets",
}
"""Queries that may read a whole table, each with why; as regular expressions."""


class Heard:
    """Every statement of every connection that is opened while it listens."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.said: dict[str, str] = {}
        self.temporary: dict[str, None] = {}  # tables that a connection makes for itself
        connect = sqlite3.connect

        def traced(*given: Any, **named: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*given, **named)
            connection.set_trace_callback(self._hear)
            return connection

        patch.setattr(sqlite3, "connect", traced)

    def _hear(self, statement: str) -> None:
        if re.match(r"\s*CREATE TEMP", statement):
            self.temporary.setdefault(statement)
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", statement):
            # One of each shape: values do not change how tables are read.
            shape = re.sub(r"X?'(?:[^']|'')*'|\b\d+(\.\d+)?\b", "?", statement)
            shape = re.sub(r"\?(, ?\?)+", "?", shape)
            self.said.setdefault(shape, statement)


def scans(path: Path, statements: Iterable[str], temporary: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(what is read, by which statement) of growing tables that are read from one end to the other."""
    found = []
    with closing(sqlite3.connect(path)) as conn:
        conn.create_function("has_code", 1, lambda text: 0, deterministic=True)
        conn.create_function("margin", 4, lambda *decision: 0, deterministic=True)
        for table in temporary:
            conn.execute(re.sub(r"TABLE (?!IF)", "TABLE IF NOT EXISTS ", table))
        for statement in statements:
            if "sqlite_" in statement or "variant_text" in statement:
                continue  # the file's own tables, and the text index, which is asked by words
            words = re.sub(r"[(),]", " ", statement).split()
            names = {alias: table for table, alias in pairwise(words) if table in GROWING}
            for _, _, _, step in conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
                if not step.startswith("SCAN "):
                    continue
                name = step.split()[1]
                limited = re.search(rf"FROM {name} ORDER BY \w+( DESC)? LIMIT 1\b", statement)
                allowed = any(re.search(why, statement) for why in READS_ALL)
                if names.get(name, name) in GROWING and not limited and not allowed:
                    found.append((step, statement))
    return found


def test_a_scan_is_found(workspace: Workspace) -> None:
    """The check itself: what it is to refuse, it refuses."""
    with Store(workspace.store_path):
        pass
    whole = "SELECT count(*) FROM variant WHERE response = 'x'"
    by_index = "SELECT v.id FROM variant v WHERE v.sample_id = 1"
    joined = "SELECT 1 FROM decision d, outcome o WHERE d.reason = o.reason"
    assert [sql for _, sql in scans(workspace.store_path, [whole, by_index])] == [whole]
    assert len(scans(workspace.store_path, [joined])) == 2


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def test_an_engine_reads_by_indices(pair_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with retries and training, resumed at each stage, and one from the store's own texts."""
    workspace, policy = pair_workspace, {"policy": "keep"}
    Store(workspace.store_path).close()  # making the tables reads what there is, which is nothing
    heard = Heard(monkeypatch)
    path = small_recipe(workspace, 6, selection=policy, student={"quantization": "f32"})
    with Store(workspace.store_path) as store:
        for stage in (
            "reflect-instruction",
            "choose-instruction",
            "reflect-response",
            "choose-response",
            None,
        ):
            run, _ = prepare(workspace, store, recipes.load(path), path)
            Engine(workspace, store, run, _Silent()).work(stage)
        again = recipes.load(
            path, ["name=again", "reflection.source=store", "training.enabled=false", "seed=2"]
        )
        run, is_new = prepare(workspace, store, again, path)
        assert is_new
        Engine(workspace, store, run, _Silent()).work()
        assert {r.status for r in store.runs.all()} == {"done"}
    monkeypatch.undo()
    assert len(heard.said) > 40
    assert any("INSERT INTO outcome" in sql or "INTO outcome" in sql for sql in heard.said)
    assert scans(workspace.store_path, heard.said.values(), heard.temporary) == []


async def test_the_dashboard_reads_by_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every screen, the samples sorted, searched and filtered."""
    workspace = make_workspace(tmp_path / "ws")
    make_demo_store(workspace)
    heard = Heard(monkeypatch)
    async with dashboard(workspace) as (_, pilot):
        for screen in "1234567890":
            await press(pilot, screen)
        await press(
            pilot, "3", "s", "s", "s", "/", "b", "e", "s", "t", "enter", "enter", "escape", "f", "escape"
        )
    monkeypatch.undo()
    assert any("FROM sample" in sql or "run_sample" in sql for sql in heard.said)
    assert scans(workspace.store_path, heard.said.values(), heard.temporary) == []
