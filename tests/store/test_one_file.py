"""The store is one SQLite file: whatever its path spells, while others write, and after all is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srtui import recipe as recipes
from srtui.cli import app
from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store import Store, backup
from srtui.store.backup import BackupStopped
from srtui.store.corpus import NewRow
from srtui.store.views import SampleFilter, Views
from tests.conftest import ROOT

ODD_NAMES = ["a#b", "a?mode=memory", "a%20b", "a b", "ö 東京 🙂", 'it\'s "quoted"', "a&vfs=none;x", "a\\b"]


def rows(count: int, size: int = 20) -> list[NewRow]:
    return [NewRow(n, Pair(f"instruction {n}", "", f"response {n} " * size), "{}") for n in range(count)]


def run_of(store: Store, samples: int = 5) -> int:
    done = store.corpus.import_rows("d", "f", "sha", "alpaca", rows(samples))
    ids = [r[0] for r in store.rows("SELECT id FROM sample")]
    recipe = recipes.parse({"name": "r", "dataset": "d"}, "test").model_dump_json()
    return store.runs.create("r", done.dataset_id, "r.toml", recipe, "f", [(i, False) for i in ids]).id


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_workspace_may_be_called_anything(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import make_workspace

    workspace = make_workspace(tmp_path / name / "ws")
    with Store(workspace.store_path) as store:
        store.corpus.import_rows("d", "f", "sha", "alpaca", rows(5))
        counts = store.counts()
    with Store(workspace.store_path, read_only=True) as read:
        assert read.counts() == counts
        copy = workspace.root / "copy.sqlite"
        read.backup(copy)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            read.conn.execute("DELETE FROM variant")
    with Store(copy, read_only=True) as copied:
        assert copied.counts() == counts
    views = Views(workspace.store_path)
    assert views.datasets() == [("d", 5)]
    views.close()
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    for words in (
        ["status"],
        ["db"],
        ["db", "check"],
        ["db", "backup", str(workspace.root / "again.sqlite")],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / name / "ws").iterdir()) == [
        "again.sqlite", "copy.sqlite", "models", "recipes", "store",
    ]  # fmt: skip


@pytest.fixture
def big(tmp_path: Path) -> Store:
    """A store of some 40 MB: a backup of it takes a moment."""
    store = Store(tmp_path / "store" / "s.sqlite")
    store.corpus.import_rows("d", "f", "sha", "alpaca", rows(6000, 400))
    store.checkpoint()
    return store


WRITER = """
import sys, time
from pathlib import Path
from srtui.store import Store, backup
store = Store(Path(sys.argv[1]))
n = 0
while True:
    with store.transaction():
        for _ in range(3):
            store.conn.execute("INSERT INTO event(run_id, at, level, message) VALUES (NULL, ?, 'info', ?)", (n, "x" * 500))
        n += 1
    if n == 1:
        print("writing", flush=True)
    time.sleep(0.002)
"""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Another process commits to the store all the time."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield
    finally:
        process.kill()
        process.wait()


def test_a_backup_ends_while_an_engine_commits(big: Store, tmp_path: Path) -> None:
    began = time.monotonic()
    big.backup(tmp_path / "quiet.sqlite")
    quiet = time.monotonic() - began
    with writing(big.path):
        began = time.monotonic()
        counts = big.backup(tmp_path / "busy.sqlite")
        took = time.monotonic() - began
    assert took < max(2 * quiet, quiet + 3), (quiet, took)  # the second processor is the writer's
    with Store(tmp_path / "busy.sqlite") as copy:
        assert copy.check() == []
        # Whole transactions of three, and the rows that were counted at that moment.
        assert copy.value("SELECT count(*) FROM event") == counts["event"]
        assert counts["event"] % 3 == 0
        assert counts["variant"] == 6000
    assert not list(tmp_path.glob(".srtui-backup*"))


def test_a_backup_that_is_not_whole_gets_no_name(
    big: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup._copy

    def damaged(source: sqlite3.Connection, target: sqlite3.Connection, stop: object) -> dict[str, int]:
        counts = copy(source, target, lambda: False)
        target.execute("DELETE FROM variant WHERE id = 7")
        target.commit()
        return counts

    monkeypatch.setattr(backup, "_copy", damaged)
    with pytest.raises(UserError, match="not all rows of variant"):
        big.backup(tmp_path / "copy.sqlite")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_a_backup_can_be_stopped_and_leaves_nothing(big: Store, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(BackupStopped):
        big.backup(tmp_path / "copy.sqlite", lambda: next(asked, True))
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def killed_backup(store: Store, folder: Path, unguarded: str = "") -> None:
    """A backup into ``folder`` by a process that kills itself (SIGKILL) when half of it is written."""
    code = (
        "import contextlib, os, sys; from pathlib import Path; from srtui.store import Store, backup\n"
        f"{unguarded}\n"
        "asked = iter([False, False])\n"
        "die = lambda: next(asked, None) is None and os.kill(os.getpid(), 9)\n"
        f"Store(Path({str(store.path)!r}), read_only=True).backup(Path({str(folder / 'copy.sqlite')!r}), die)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_a_backup_that_is_killed_leaves_nothing_behind(big: Store, tmp_path: Path) -> None:
    mine = tmp_path / ".srtui-backup.of-somebody-else.part"
    mine.write_text("")
    killed_backup(big, tmp_path)
    until = time.monotonic() + 10
    while time.monotonic() < until and len(list(tmp_path.iterdir())) > 2:
        time.sleep(0.02)
    assert sorted(p.name for p in tmp_path.iterdir()) == [mine.name, "store"]


def test_a_backup_is_made_where_no_guard_can_be_started(
    big: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    big.backup(tmp_path / "copy.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.sqlite", "store"]


def test_what_a_power_cut_left_of_a_backup_the_next_one_removes(big: Store, tmp_path: Path) -> None:
    """The guard is gone with everything else."""
    killed_backup(big, tmp_path, "backup.gone_if_killed = lambda *_: contextlib.nullcontext()")
    assert list(tmp_path.glob(".srtui-backup*"))
    assert not (tmp_path / "copy.sqlite").exists()
    mine = tmp_path / ".srtui-backup.of-somebody-else.part"
    mine.write_text("")
    big.backup(tmp_path / "copy.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir()) == [mine.name, "copy.sqlite", "store"]


# -- one file -------------------------------------------------------------------------------------


def copied_alone(path: Path, to: Path) -> Store:
    """The store as somebody has it who copies the one file."""
    to.mkdir()
    return Store(Path(shutil.copyfile(path, to / "s.sqlite")), read_only=True)


def test_the_one_file_has_all_after_a_run_that_a_dashboard_watched(tmp_path: Path) -> None:
    path = tmp_path / "store" / "s.sqlite"
    engine = Store(path)
    run_id = run_of(engine)
    views = Views(path)  # the dashboard, which stays
    assert views.runs()
    lease = engine.runs.acquire(run_id)
    engine.runs.event(run_id, "info", "the last word")
    lease.release()
    counts = engine.counts()
    engine.close()
    assert views.runs()
    with copied_alone(path, tmp_path / "elsewhere") as copy:
        assert copy.counts() == counts
        assert copy.check() == []
    assert path.with_name("s.sqlite-wal").stat().st_size == 0
    views.close()


def test_no_screen_holds_a_checkpoint_up(tmp_path: Path) -> None:
    """A reader between two queries is in no transaction, so the log can be emptied at once."""
    path = tmp_path / "store" / "s.sqlite"
    engine = Store(path)
    run_id = run_of(engine)
    views = Views(path)
    views.list_samples(SampleFilter(run_id))
    views.window(run_id, 0, 3)
    views.sample(run_id, views.sample_at(0) or 0)
    for read in (views.runs, views.datasets, views.version, views.trained, views.unindexed):
        read()
    for read_of in (views.live, views.counts, views.training, views.score_pairs):
        read_of(run_id)
    views.events(0, 10, run_id)
    engine.runs.event(run_id, "info", "more")
    assert not views.conn.in_transaction
    assert engine.checkpoint(0.0)
    views.close()


def test_a_reader_in_the_middle_of_a_query_is_waited_for_and_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "store" / "s.sqlite"
    engine = Store(path)
    run_id = run_of(engine)
    reader = Views(path).conn
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM variant").fetchone()
    engine.runs.event(run_id, "info", "more")
    began = time.monotonic()
    assert not engine.checkpoint(0.3)
    assert 0.2 < time.monotonic() - began < 3
    threading.Timer(0.3, reader.interrupt).start()
    assert engine.pages_in_log() > 0
    reader.rollback()
    assert engine.checkpoint(1.0)
    assert engine.pages_in_log() == 0


def test_db_and_doctor_say_when_the_log_holds_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srtui.doctor import _log
    from tests.conftest import make_workspace

    workspace = make_workspace(tmp_path / "ws")
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    code = (
        "import os, sys; from pathlib import Path; from srtui.store import Store\n"
        f"store = Store(Path({str(workspace.store_path)!r}))\n"
        "store.checkpoint(); store.runs.event(None, 'info', 'x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert [c.ok for c in _log(workspace.root)] == [None]
    said = CliRunner().invoke(app, ["db"]).output
    assert "srtui.sqlite-wal alone" in said
    assert "srtui db checkpoint" in said
    assert CliRunner().invoke(app, ["db", "checkpoint"]).exit_code == 0
    assert "-wal alone" not in CliRunner().invoke(app, ["db"]).output
    assert [c.ok for c in _log(workspace.root)] == [True]
    with copied_alone(workspace.store_path, tmp_path / "elsewhere") as copy:
        assert copy.value("SELECT count(*) FROM event") == 1
