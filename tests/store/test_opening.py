"""Opening a store that others open at the same time, or that an earlier srtui made and still works in."""

from __future__ import annotations

import multiprocessing
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.store import Store
from srtui.store.schema import SCRIPTS, migrations
from tests.sql import sql_rows
from tests.store.earlier_stores import earlier_store


def made_then(path: Path, last: int = 4) -> Path:
    """A store with the first ``last`` migrations only, and a run in it."""
    conn = earlier_store(path, last)
    conn.execute(
        "INSERT INTO run(id, name, dataset_id, recipe_path, recipe, fingerprint, status, created_at) "
        "VALUES (1, 'r', 1, '', '{}', 'f', 'running', 0)"
    )
    conn.commit()
    conn.execute("PRAGMA journal_mode = wal")
    conn.close()
    return path


def _open(path: Path, read_only: bool, together: Any, said: Any) -> None:
    together.wait()
    try:
        Store(path, read_only=read_only).close()
        said.put("")
    except UserError as error:
        said.put(str(error))


@pytest.mark.parametrize("old", [True, False], ids=["an old store", "a new store"])
def test_several_open_a_store_at_once(tmp_path: Path, old: bool) -> None:
    processes = multiprocessing.get_context("fork")
    for attempt in range(6):
        path = tmp_path / f"{attempt}.sqlite"
        if old:
            made_then(path)
        together, said = processes.Barrier(3), processes.Queue()
        each = [processes.Process(target=_open, args=(path, old, together, said)) for _ in range(3)]
        for one in each:
            one.start()
        assert [said.get(timeout=60) for _ in each] == ["", "", ""]
        for one in each:
            one.join()
        with Store(path, read_only=True) as store:
            assert store.check() == []


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_then(tmp_path / "old.sqlite")
    last = migrations._migrations[-1]

    def fails(db: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as m:
        m.setattr(last, "fn", fails)
        with pytest.raises(UserError, match="disk is full"):
            Store(path)
    conn = sqlite3.connect(path)
    assert [r[0] for r in conn.execute("SELECT name FROM _sqlite_migrations")] == list(SCRIPTS)[:4]
    conn.close()
    with Store(path) as store:
        assert store.check() == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_in_which_an_earlier_srtui_works_is_left_alone(tmp_path: Path, read_only: bool) -> None:
    """Migrating a large one holds the lock for longer than that engine waits: it would fail."""
    path = made_then(tmp_path / "old.sqlite")
    with sqlite3.connect(path) as conn:
        conn.execute(
            "INSERT INTO lease(run_id, pid, host, process_started, acquired_at, heartbeat_at, live) "
            "VALUES (1, 1, ?, 0, 0, ?, '{}')",
            (socket.gethostname(), time.time()),
        )
    with pytest.raises(UserError, match=r"process 1 on .* of an earlier srtui, works on run 1"):
        Store(path, read_only=read_only)
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT count(*) FROM _sqlite_migrations").fetchone() == (4,)
    conn.execute("UPDATE lease SET heartbeat_at = 0")  # that engine is gone
    conn.commit()
    conn.close()
    with Store(path, read_only=read_only) as store:
        assert store.runs.holder(1) is None


def test_older_decisions_say_whose_scores_they_compared(tmp_path: Path) -> None:
    """Their reasons did; a run's recipe names its proxy."""
    path = made_then(tmp_path / "old.sqlite", 15)
    with sqlite3.connect(path) as conn:
        for run, recipe in ((2, '{"scoring": {"proxy": "small"}}'), (3, '{"scoring": {}}'), (4, "damaged")):
            conn.execute(
                "INSERT INTO run(id, name, dataset_id, recipe_path, recipe, fingerprint, status, created_at) "
                "VALUES (?, ?, 1, '', ?, ?, 'done', 0)",
                (run, f"r{run}", recipe, f"f{run}"),
            )
        conn.execute("INSERT INTO sample(id, dataset_id, row, digest, record) VALUES (1, 1, 0, x'00', '{}')")
        conn.execute(
            "INSERT INTO variant(id, sample_id, digest, kind, origin, instruction, input, response, created_at) "
            "VALUES (1, 1, x'00', 'original', 'dataset', 'x', '', 'y', 0)"
        )
        for run, stage, reason in (
            (2, "instruction", "lower r-IFD (by small)"),
            (2, "response", "lower r-IFD"),
            (3, "response", "lower r-IFD (by small)"),
            (4, "response", "lower r-IFD (by small)"),
        ):
            conn.execute(
                "INSERT INTO decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, created_at) "
                "VALUES (?, 1, ?, 1, 0, ?, '[]', 0)",
                (run, stage, reason),
            )
    with Store(path) as store:
        rows = sql_rows(store, "SELECT run_id, stage, by_proxy FROM decision ORDER BY run_id, stage")
        assert [tuple(r) for r in rows] == [
            (2, "instruction", 1), (2, "response", 0), (3, "response", 0), (4, "response", 0)
        ]  # fmt: skip
