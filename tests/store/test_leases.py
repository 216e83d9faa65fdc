"""One engine a run: processes are told apart by what the kernel says of them, and never by a clock."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from srtui import process_id
from srtui import recipe as recipes
from srtui.errors import UserError
from srtui.pipeline import Engine
from srtui.pipeline.context import Context
from srtui.progress import Progress
from srtui.sample import Pair
from srtui.store import Store, leases
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.sql import sql_rows, sql_value


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.store_path)


@pytest.fixture
def run_id(store: Store) -> int:
    rows = [NewRow(n, Pair(f"i {n}", "", f"r {n}"), "{}") for n in range(2)]
    done = store.imports.add_samples("d", "f", "sha", "alpaca", rows)
    ids = [r[0] for r in sql_rows(store, "SELECT id FROM sample")]
    recipe = recipes.parse({"name": "r", "dataset": "d"}, "test").model_dump_json()
    return store.runs.create("r", done.dataset_id, "r.toml", recipe, "f", [(i, False) for i in ids]).id


class Quiet:
    def progress(self, progress: Progress) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def held_by(store: Store, run_id: int, **values: object) -> None:
    lease = {
        "run_id": run_id,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_started": 0.0,
        "acquired_at": time.time(),
        "heartbeat_at": time.time(),
        "live": "{}",
        "process": process_id.token(),
    } | values
    with store.transaction():
        store.conn.execute(
            f"INSERT OR REPLACE INTO lease({', '.join(lease)}) VALUES ({', '.join('?' * len(lease))})",
            tuple(lease.values()),
        )


@pytest.mark.parametrize("step", [-7200.0, -30.0, 1.5, 30.0, 7200.0])
def test_a_clock_that_is_set_takes_no_lease_away(
    store: Store, run_id: int, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What psutil calls a process's start moves with the wall clock, as on Linux it does."""
    lease = store.runs.acquire(run_id)
    start, now = psutil.Process.create_time, time.time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: start(self) + step)
    monkeypatch.setattr(time, "time", lambda: now() + step)
    with pytest.raises(UserError, match=f"worked on by process {os.getpid()}"):
        store.runs.acquire(run_id)
    monkeypatch.undo()
    lease.release()
    assert store.runs.holder(run_id) is None


def test_a_process_id_that_was_given_out_again_holds_nothing(store: Store, run_id: int) -> None:
    here, pid, ticks = (process_id.token() or "").rsplit("/", 2)
    held_by(store, run_id, process=f"{here}/{pid}/{int(ticks) + 1}")
    assert store.runs.holder(run_id) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_that_ended_and_was_not_waited_for_holds_nothing(store: Store, run_id: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_id.token(child.pid)
    assert process_id.runs(name or "")
    held_by(store, run_id, pid=child.pid, process=name)
    assert store.runs.holder(run_id) is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert store.runs.holder(run_id) is None
    child.wait()


def test_what_cannot_be_seen_from_here_is_judged_by_its_heartbeat(store: Store, run_id: int) -> None:
    other_boot = "another-boot:pid:[1]/1/77"
    for host, name in (("elsewhere", process_id.token()), (socket.gethostname(), other_boot)):
        held_by(store, run_id, host=host, pid=1, process=name)
        assert store.runs.holder(run_id) is not None
        held_by(store, run_id, host=host, pid=1, process=name, heartbeat_at=time.time() - 91)
        assert store.runs.holder(run_id) is None
    # A lease of an earlier version has no name of its process.
    held_by(store, run_id, process=None)
    assert store.runs.holder(run_id) is not None
    held_by(store, run_id, process=None, pid=2**22 - 7)
    assert store.runs.holder(run_id) is None


def test_an_engine_that_lost_its_run_stops_with_one_sentence_and_writes_no_more(
    workspace: Workspace, store: Store, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    engine = Engine(workspace, store, store.runs.get(run_id), Quiet())
    watch, asked = engine._watch, []

    def work() -> None:
        with Store(store.path) as another:
            held_by(another, run_id, pid=4711, host="workstation", process="another-boot:pid/4711/1")
        began = time.monotonic()
        while not watch.should_stop() and time.monotonic() - began < 10:
            time.sleep(0.01)
        asked.append(time.monotonic() - began)
        watch.raise_if_stopped()

    monkeypatch.setattr(engine, "_stages", lambda: iter([("reflect-instruction", work)]))
    monkeypatch.setattr(Context, "close_teacher", lambda self: None)
    with pytest.raises(
        UserError, match=r"lost its run \(process 4711 on workstation works on it now\)"
    ) as said:
        engine.work()
    assert "\n" not in str(said.value)
    assert asked[0] < 5
    # The run is the other engine's: neither its lease nor its status is touched.
    assert sql_value(store, "SELECT pid FROM lease") == 4711
    assert store.runs.get(run_id).status == "running"


def test_a_token_is_of_one_process(tmp_path: Path) -> None:
    mine = process_id.token()
    assert mine is not None
    assert mine == process_id.token(os.getpid())
    assert process_id.runs(mine) is True
    code = "from srtui import process_id; print(process_id.token())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    assert other != mine
    assert process_id.runs(other) is False
    assert process_id.runs("nonsense") is None
    assert process_id.token(2**22 - 7) is None


def test_an_evaluation_that_was_taken_over_is_noticed_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtui.store.evaluations import NewEvaluation

    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    evaluation, _ = store.evaluations.prepare(NewEvaluation("choice", "f", "A", {}, "p.jsonl", "sha", {}))
    lease = store.evaluations.acquire(evaluation.id)
    with pytest.raises(UserError, match="is being worked on by process"):
        store.evaluations.acquire(evaluation.id)
    with Store(store.path) as another, another.transaction():
        another.conn.execute("DELETE FROM evaluation_lease")
    began = time.monotonic()
    while not lease.lost and time.monotonic() - began < 10:
        time.sleep(0.01)
    assert lease.lost is not None
    assert "lost its evaluation (its lease is gone from the store)" in lease.lost
    lease.release()
