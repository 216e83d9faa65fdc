"""Who has which work: whatever is lost and whoever sends late, each result is taken once, and none is missing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.cluster.dispatch import SUSPECT_AFTER, Dispatcher, Task

WORKERS = 3


def tasks(*sizes: int, parts: int = 1) -> Dispatcher:
    there = Dispatcher()
    for n, size in enumerate(sizes):
        there.add(Task(f"payload {n}", n, size, parts))
    return there


def test_the_longest_go_first_and_no_more_than_a_window() -> None:
    there = tasks(5, 9, 1, 7)
    given = there.hand_out(0, 2, 1)
    assert [t.size for t in given] == [9, 7]
    assert there.hand_out(0, 2, 1) == [] and (there.waiting, there.held(0)) == (2, 2)
    assert there.take(0, given[0].ticket, 0) is given[0]
    assert [t.size for t in there.hand_out(0, 2, 1)] == [5]


def test_the_last_tasks_are_shared_out() -> None:
    there = tasks(*[1] * 6)
    assert [len(there.hand_out(worker, 32, 3)) for worker in range(3)] == [2, 2, 2]


def test_a_result_counts_once_and_from_whom_has_the_task() -> None:
    there = tasks(3, parts=2)
    (task,) = there.hand_out(0, 4, 1)
    assert there.take(1, task.ticket, 0) is None
    assert there.take(0, task.ticket, 1) is task
    assert there.take(0, task.ticket, 1) is None  # sent twice
    assert there.lost(0) == [] and there.waiting == 1
    (again,) = there.hand_out(2, 4, 1)
    assert again is task and again.missing == {0}
    assert there.take(0, task.ticket, 0) is None  # from the one that was given up
    assert there.take(2, task.ticket, 1) is None  # it has come before
    assert there.take(2, task.ticket, 0) is task
    assert (there.waiting, there.outstanding) == (0, 0)


def test_a_task_that_kills_is_found_alone_and_given_up_and_the_others_are_not() -> None:
    there = tasks(*range(10, 2, -1))
    bad, done = 4, set()
    deaths = 0
    for _ in range(200):
        if not (there.waiting or there.outstanding):
            break
        given = there.hand_out(0, 4, 1)
        if any(t.key == bad for t in given):
            deaths += 1
            given_up = there.lost(0)
            assert [t.key for t in given_up] in ([], [bad])
            done |= {("given up", t.key) for t in given_up}
            continue
        for task in given:
            assert there.take(0, task.ticket, 0) is task
            done.add(("done", task.key))
    assert deaths == SUSPECT_AFTER + 1
    assert done == {("given up", bad), *(("done", n) for n in range(8) if n != bad)}


def test_a_worker_that_fails_is_not_trusted_with_what_others_died_of() -> None:
    there = tasks(2, 1)
    for _ in range(SUSPECT_AFTER):
        assert len(there.hand_out(0, 2, 1)) == 2
        assert there.lost(0) == []
    assert there.hand_out(0, 2, 2, trusted=False) == []
    assert len(there.hand_out(1, 2, 2)) == 1  # alone


def test_nobody_is_blamed_for_a_node_that_is_taken_away() -> None:
    there = tasks(1)
    for _ in range(5):
        (task,) = there.hand_out(0, 1, 1)
        assert there.lost(0, died=False) == [] and not task.is_suspect


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["give", "give", "answer", "answer", "late", "die", "leave"]),
                st.integers(0, WORKERS - 1),
                st.integers(0, 7),
            ),
            max_size=120,
        )
    )


@given(st.lists(st.integers(1, 50), min_size=1, max_size=25), st.integers(1, 3), histories())
def test_whatever_happens_each_part_comes_once(
    sizes: list[int], parts: int, history: list[tuple[str, int, int]]
) -> None:
    there = tasks(*sizes, parts=parts)
    came: list[tuple[Any, int]] = []
    had: list[tuple[int, int, int]] = []  # (worker, ticket, part) that was ever possible
    for what, worker, n in history:
        held = list(there._held.get(worker, {}).values())
        if what == "give":
            given = there.hand_out(worker, 1 + n, WORKERS)
            assert there.held(worker) <= max(1 + n, len(held))
            had += [(worker, t.ticket, part) for t in given for part in range(parts)]
        elif what == "answer" and held:
            task = held[n % len(held)]
            part = min(task.missing)
            assert there.take(worker, task.ticket, part) is task
            came.append((task.key, part))
        elif what == "late" and had:
            sender, ticket, part = had[n % len(had)]
            if (task := there.take(sender, ticket, part)) is not None:
                came.append((task.key, part))
        elif what in ("die", "leave"):
            for task in there.lost(worker, died=what == "die"):
                came += [(task.key, part) for part in sorted(task.missing)]
    for _ in range(1000):  # from now on all goes well
        if not (there.waiting or there.outstanding):
            break
        for worker in range(WORKERS):
            there.hand_out(worker, 4, WORKERS)
            for task in list(there._held.get(worker, {}).values()):
                for part in sorted(task.missing):
                    assert there.take(worker, task.ticket, part) is task
                    came.append((task.key, part))
    assert sorted(came) == [(n, part) for n in range(len(sizes)) for part in range(parts)]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_all_workers_get_something_as_long_as_there_is_something(workers: int) -> None:
    there = tasks(*range(1, 30))
    given = [there.hand_out(worker, 3, workers) for worker in range(workers)]
    assert all(given)
