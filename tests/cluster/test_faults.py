"""Workers that are killed, hang, run out of memory or lose their node: nothing is lost, nothing comes twice, and what
is written and chosen is what one process writes and chooses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from srtui.cluster.placement import seats
from srtui.cluster.pool import Pool
from srtui.errors import UserError
from srtui.workspace import Workspace
from tests.cluster import faulty
from tests.cluster.conftest import ENVIRONMENT, Nodes
from tests.cluster.runs import Made, made, meanwhile, read, work
from tests.commands import forked

pytestmark = pytest.mark.model

REFLECTED = "reflect-instruction"


@pytest.fixture
def no_template_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers alone: no student is loaded."""
    monkeypatch.setattr("srtui.pipeline.engine.template_checked", lambda *_: nullcontext(lambda: None))


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """``fault("killed", most=1)``: workers fail like this from now on; the file counts how often they have."""

    def has(fault: str, **more: Any) -> str:
        file = str(tmp_path / "happened")
        for name, value in {"fault": fault, "file": file, "after": 3, "most": 1, **more}.items():
            monkeypatch.setattr(faulty.FAULT, name, value)
        monkeypatch.setattr("srtui.cluster.teacher_job.TeacherJob", faulty.FaultyTeacher)
        monkeypatch.setattr("srtui.cluster.scorer_job.ScorerJob", faulty.FaultyScorer)
        return file

    return has


def reflected_like(there: Made, alone: Made) -> None:
    """The first stage is what one process made of it, and nothing is there twice."""
    first = [row for row in alone.reflections if row[1] == "instruction"]
    assert there.reflections == first and there.doubled == 0
    keys = {row[0]: row for row in alone.generations}
    assert there.generations and all(keys[row[0]] == row for row in there.generations)


def test_a_run_goes_on_elsewhere_than_it_began(
    ground: Workspace, alone: Made, place: Callable[..., Any]
) -> None:
    """Instructions by one process, responses by workers: the same run, and nothing is asked or scored again."""
    work(ground, None, "choose-instruction")
    before = read(ground)
    there = made(ground, place(workers=1))
    there.same_as(alone)
    assert len(before.generations) < len(there.generations) and there.said() == []


def test_workers_that_are_killed_in_a_whole_run(
    ground: Workspace, alone: Made, place: Callable[..., Any], fault: Callable[..., str]
) -> None:
    """A teacher, and later a scorer, kills itself (-9) in the middle of its work: decisions are one process's."""
    file = fault("killed", most=2)
    there = made(ground, place())
    assert faulty.times(file) == 2
    there.same_as(alone)
    assert len(alone.decisions) == 32 and len({d[2] for d in alone.decisions}) > 16
    assert len(there.said("its process ended", "started again")) == 2


@pytest.mark.usefixtures("no_template_check")
def test_a_worker_that_runs_out_of_memory(
    ground: Workspace, alone: Made, place: Callable[..., Any], fault: Callable[..., str]
) -> None:
    fault("memory")
    there = made(ground, place(), REFLECTED)
    reflected_like(there, alone)
    assert len(there.said("its memory ran out", "go to others", "started again")) == 1


@pytest.mark.usefixtures("no_template_check")
def test_kill_9_from_outside(ground: Workspace, alone: Made, place: Callable[..., Any]) -> None:
    there = place()
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while not killed and time.monotonic() < until:
            for pool in there._pools:
                busy = [
                    m for m in pool._members if m.facts is not None and pool._dispatcher.held(m.seat.number)
                ]
                if busy and busy[0].facts is not None:
                    killed.append(busy[0].facts.pid)
                    os.kill(killed[0], signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = meanwhile(kill)
    came = made(ground, there, REFLECTED)
    thread.join()
    assert killed
    reflected_like(came, alone)
    assert len(came.said("its process ended")) == 1


@pytest.mark.usefixtures("no_template_check")
@pytest.mark.parametrize("kind", ["hangs", "stopped"])
def test_a_worker_without_progress_is_replaced(
    ground: Workspace, alone: Made, place: Callable[..., Any], fault: Callable[..., str], kind: str
) -> None:
    """Its model stands still while its process answers, or the whole process does."""
    fault(kind)
    came = made(ground, place(silent=6), REFLECTED)
    reflected_like(came, alone)
    assert len(came.said("made no progress for 6 seconds", "go to others")) == 1


@pytest.mark.usefixtures("no_template_check")
def test_three_failures_in_a_row_drop_a_worker_with_one_sentence(
    ground: Workspace, alone: Made, place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One of two workers dies whenever it has written a text; the other one does all."""
    file = str(tmp_path / "happened")
    dies = faulty.Fails("killed", file, after=1, most=99)
    waits = faulty.Fails("waits", file + ".other", after=1, most=1, other=file, times=3)
    monkeypatch.setattr(Pool, "__init__", faulty.only_on(0, dies, waits))
    came = made(ground, place(), REFLECTED)
    reflected_like(came, alone)
    assert len(came.said("teacher 1", "failed 3 times in a row", "is dropped; 1 is left.")) == 1
    assert faulty.times(file) == 3


@pytest.mark.usefixtures("no_template_check")
def test_where_all_are_dropped_the_run_ends_with_a_sentence_and_resumes(
    ground: Workspace,
    alone: Made,
    place: Callable[..., Any],
    fault: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault("refuses", most=2, after=6)
    with pytest.raises(
        UserError, match=r"No worker is left: teacher .* own memory is too small.* resume the run"
    ):
        work(ground, place(), REFLECTED)
    begun = read(ground)
    assert len(begun.generations) > 0 and len(begun.reflections) < 16
    monkeypatch.undo()
    monkeypatch.setattr("srtui.pipeline.engine.template_checked", lambda *_: nullcontext(lambda: None))
    reflected_like(made(ground, None, REFLECTED), alone)


@pytest.mark.usefixtures("no_template_check")
def test_a_text_that_kills_its_workers_is_given_up_and_the_workers_are_not(
    ground: Workspace, alone: Made, place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srtui.cluster.teacher_job.TeacherJob", faulty.DeadlyText)
    came = made(ground, place(), REFLECTED)
    fates = {row[0]: row[2] for row in came.reflections}
    assert [status for status in fates.values() if status == "workers_died"] == ["workers_died"]
    others = {row[0]: row for row in alone.reflections if row[1] == "instruction"}
    assert sum(others[row[0]] == row for row in came.reflections) == 15
    assert len(came.said("1 task was given up")) == 1 and not came.said("dropped")


@pytest.mark.usefixtures("no_template_check")
def test_a_node_that_is_taken_away(
    ground: Workspace,
    alone: Made,
    place: Callable[..., Any],
    nodes: Nodes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In the middle of its work; its worker goes on on the node that is left."""
    there = place()  # before the node comes, so that this process is no part of it
    node = nodes.add(2)
    there._seats = seats(there._session.nodes(), 2)
    ray = there._session.ray
    only_there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    ray.get(
        ray.remote(lambda: None).options(num_cpus=0, scheduling_strategy=only_there).remote()
    )  # it takes work
    assert {seat.node for seat in there._seats} == {n.id for n in there._session.nodes()}
    number = next(seat.number for seat in there._seats if seat.node == node.node_id)
    file = str(tmp_path / "begun")
    hangs = faulty.Fails("hangs", file, after=2)
    waits = faulty.Fails(
        "waits", file + ".other", after=1, other=file, times=1
    )  # or it would do all the work
    monkeypatch.setattr(Pool, "__init__", faulty.only_on(number, hangs, waits))

    def take_away() -> None:
        until = time.monotonic() + 120
        while not faulty.times(file) and time.monotonic() < until:
            time.sleep(0.01)
        nodes.remove(node)

    thread = meanwhile(take_away)
    came = made(ground, there, REFLECTED)
    thread.join()
    reflected_like(came, alone)
    assert came.said(f"teacher {number + 1}", "its node", "go to others", "started again")


def _killed(ground: Workspace, address: Any) -> None:
    """An engine that kills itself in the middle of a transaction, its tenth text, while its workers write."""
    from srtui.cluster.cluster_place import ClusterPlace
    from srtui.pipeline import engine, reflect
    from srtui.store.generations import Generations

    os.environ.update(ENVIRONMENT)  # the process that it is forked from may be older
    engine.template_checked = lambda *_: nullcontext(lambda: None)
    reflect._TOGETHER = 2
    values_of, added = Generations._values, 0

    def dies(self: Any, generations: Any, *given: Any) -> Any:
        nonlocal added
        added += len(generations)
        if added >= 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return values_of(self, generations, *given)

    Generations._values = dies  # type: ignore[method-assign]
    work(ground, ClusterPlace(address, 2), REFLECTED)


@pytest.mark.usefixtures("no_template_check")
def test_the_driver_is_killed_and_the_run_resumed(
    ground: Workspace, alone: Made, place: Callable[..., Any], nodes: Nodes
) -> None:
    """kill -9 of the process that writes the store; its workers end with it."""
    process = forked(_killed, ground, nodes.address)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    begun = read(ground)
    assert len(begun.generations) > 0 and len(begun.reflections) < 16
    there = made(ground, place(), REFLECTED)
    reflected_like(there, alone)
    assert len(there.reflections) == 16
    until = time.monotonic() + 60
    while _workers() > 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert _workers() <= 2


def _workers() -> int:
    """Processes of this user that hold a model for an engine."""
    return sum("ray::Worker" in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
