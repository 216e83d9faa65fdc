"""A window of work, not the whole work: what is outstanding is bounded, stops and kills lose what is in flight and
nothing else, and decisions are those of an undisturbed run."""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bench_scale
from srtui import recipe as recipes
from srtui.pipeline import Engine, prepare
from srtui.pipeline import reflect as reflecting
from srtui.pipeline.ahead import Ahead, in_pages, in_portions
from srtui.progress import Stopped
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.commands import _kill_at, _server
from tests.conftest import make_workspace
from tests.sql import sql_rows, sql_value

COUNTED = (
    "sample",
    "variant",
    "generation",
    "reflection",
    "candidate",
    "decision",
    "outcome",
    "score",
    "span_loss",
)


# -- pages ----------------------------------------------------------------------------------------


def test_pages_hold_all_once_in_order() -> None:
    there = list(range(1, 1001, 3))

    def read(after: int, size: int) -> list[int]:
        return [n for n in there if n > after][:size]

    for size in (1, 7, 334, 1000):
        pages = list(in_pages(read, size, lambda n: n))
        assert [n for page in pages for n in page] == there
        assert all(len(page) == size for page in pages[:-1])


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 20))
def test_portions_hold_all_in_order_and_are_no_larger_than_they_must_be(sizes: list[int], most: int) -> None:
    portions = list(in_portions(sizes, int, most))
    assert [n for portion in portions for n in portion] == sizes
    assert all(sum(portion) <= most or len(portion) == 1 for portion in portions)
    assert all(sum(a) + b[0] > most for a, b in itertools.pairwise(portions))
    assert bool(sizes) == all(portions)


def test_what_is_prepared_ahead_is_two_pages_and_comes_in_order() -> None:
    read: list[int] = []

    def pages() -> Any:
        for n in range(6):
            read.append(n)
            yield [10 * n + i for i in range(4)] if n != 3 else []

    threads: set[int] = set()

    def prepared(item: int) -> str:
        threads.add(threading.get_ident())
        return str(item)

    taken: list[str] = []
    with Ahead(pages(), prepared) as ahead:
        while not ahead.exhausted:
            taken += ahead.take(wait_for_it=True)
            assert len(read) <= 6 and 4 * (read[-1] + 1) - len(taken) <= 8 + 4  # the empty page has none
        assert ahead.take(wait_for_it=True) == []
    assert taken == [str(10 * n + i) for n in range(6) for i in range(4) if n != 3]
    assert threads and threading.get_ident() not in threads


def test_a_stop_is_answered_while_a_page_is_prepared() -> None:
    """Also where one item takes for ever: the wait is the thread's, not the caller's."""
    begun, stop = threading.Event(), threading.Event()

    def slow(item: int) -> int:
        begun.set()
        time.sleep(0.05)
        return item

    def should_stop() -> bool:
        return begun.is_set()

    began = time.monotonic()
    with Ahead([list(range(10_000))], slow, should_stop) as ahead:
        assert ahead.take(wait_for_it=True) == []
    assert time.monotonic() - began < 5
    stop.set()


def test_what_goes_wrong_in_the_thread_is_raised_to_the_caller() -> None:
    def fails(item: int) -> int:
        raise ValueError(item)

    with Ahead([[7]], fails) as ahead, pytest.raises(ValueError, match="7"):
        ahead.take(wait_for_it=True)


# -- a run with stand-ins that answer at once ---------------------------------------------------


def scale_workspace(root: Path, pair_folder: Path, samples: int) -> Workspace:
    workspace = make_workspace(root, pair_folder)
    with Store(workspace.store_path) as store:
        rows = (NewRow(n, p, json.dumps(p._asdict())) for n, p in enumerate(bench_scale.texts(samples)))
        store.imports.add_samples("scale", "scale.jsonl", "0" * 64, "alpaca", rows)
    (workspace.recipes / "scale.toml").write_text(bench_scale.RECIPE)
    return workspace


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def run(workspace: Workspace, teacher_file: Path, *, kill_at: tuple[str, int] | None = None) -> None:
    """One process of a run with stand-ins, to its end or to its kill."""
    if kill_at is not None:
        _kill_at(*kill_at)
    bench_scale.work(workspace.root, 0, teacher_file, say=lambda **facts: None)


def killed_or_done(workspace: Workspace, teacher_file: Path, kill_at: tuple[str, int] | None) -> int:
    process = _server().Process(target=run, args=(workspace, teacher_file), kwargs={"kill_at": kill_at})
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return int(process.exitcode)


def decided(workspace: Workspace) -> list[tuple[Any, ...]]:
    with Store(workspace.store_path, read_only=True) as store:
        return bench_scale.decided(store)


def test_killed_ten_times_it_decides_the_same_and_does_nothing_twice(
    tmp_path: Path, pair_folder: Path
) -> None:
    """kill -9 in the middle of commits, over all stages, of windows that are half full."""
    teacher_file = pair_folder / "tiny.F16.gguf"
    calm, wild = (scale_workspace(tmp_path / name, pair_folder, 300) for name in ("calm", "wild"))
    assert killed_or_done(calm, teacher_file, None) == 0
    draw = random.Random(5)
    kills = 0
    for _ in range(10):
        kills += killed_or_done(wild, teacher_file, ("commit", draw.randint(5, 14))) == -signal.SIGKILL
        with Store(wild.store_path, read_only=True) as store:
            assert store.check() == []
    assert killed_or_done(wild, teacher_file, None) == 0
    assert kills >= 6
    assert decided(wild) == decided(calm)
    assert len(decided(calm)) == 600
    with Store(wild.store_path, read_only=True) as a, Store(calm.store_path, read_only=True) as b:
        assert {t: a.counts()[t] for t in COUNTED} == {t: b.counts()[t] for t in COUNTED}
        assert sql_value(a, "SELECT count(*) - count(DISTINCT key) FROM generation") == 0


def test_the_window_is_bounded_and_retries_join_it(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more requests outstanding than the window, and never none while there is work; what a stop left
    is done by the next start, with the same decisions as in one go."""
    monkeypatch.setattr(reflecting, "PAGE", 8)
    monkeypatch.setattr("srtui.pipeline.engine.PAGE", 8)
    file = pair_folder / "tiny.F16.gguf"
    most: list[int] = []

    def work(workspace: Workspace, stop_at: int | None) -> None:
        with Store(workspace.store_path) as store:
            path = workspace.recipes / "scale.toml"
            one, _ = prepare(workspace, store, recipes.load(path), path)
            teacher = bench_scale.instant_teacher(file, "0" * 64, lambda: None)
            monkeypatch.setattr(type(teacher), "window", 32)
            answer = type(teacher)._answer

            def counted(self: Any, sequence: Any) -> Any:
                most.append(len(self._heap) + 1)
                return answer(self, sequence)

            monkeypatch.setattr(type(teacher), "_answer", counted)
            engine = Engine(
                workspace, store, one, _Silent(), lambda: stop_at is not None and len(most) > stop_at, teacher
            )
            try:
                engine.work("reflect-instruction")
                assert stop_at is None
            except Stopped:
                assert stop_at is not None

    monkeypatch.setattr("srtui.pipeline.engine.template_checked", lambda *_: nullcontext(lambda: None))
    whole, stopped = (scale_workspace(tmp_path / name, pair_folder, 200) for name in ("whole", "stopped"))
    work(whole, None)
    assert 8 < max(most) <= 32
    asked = len(most)
    assert asked > 200  # with retries
    most.clear()
    work(stopped, 70)
    with Store(stopped.store_path, read_only=True) as store:
        assert 0 < sql_value(store, "SELECT count(*) FROM reflection") < 200
        assert store.runs.named("scale").status == "stopped"
    work(stopped, None)
    assert len(most) <= asked + 32  # a stop loses the window at most
    rows = "SELECT sample_id, status, attempts FROM reflection ORDER BY sample_id"
    with Store(whole.store_path, read_only=True) as a, Store(stopped.store_path, read_only=True) as b:
        assert [tuple(r) for r in sql_rows(a, rows)] == [tuple(r) for r in sql_rows(b, rows)]
        assert a.counts()["generation"] == b.counts()["generation"] == asked
    # Prompts of thousands of characters: few are outstanding, however many the window would take.
    most.clear()
    monkeypatch.setattr(reflecting, "_PAGE_TEXT", 4_000)
    monkeypatch.setattr(reflecting, "_WINDOW_TEXT", 8_000)
    narrow = scale_workspace(tmp_path / "narrow", pair_folder, 200)
    work(narrow, None)
    assert max(most) <= 8 and len(most) == asked
    with Store(whole.store_path, read_only=True) as a, Store(narrow.store_path, read_only=True) as b:
        assert [tuple(r) for r in sql_rows(a, rows)] == [tuple(r) for r in sql_rows(b, rows)]


def test_a_pause_is_answered_while_a_page_is_prepared(
    tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page stands still in its thread; the run is paused all the same, asks nothing, and resumes on request."""
    monkeypatch.setattr("srtui.pipeline.engine.template_checked", lambda *_: nullcontext(lambda: None))
    workspace = scale_workspace(tmp_path, pair_folder, 20)
    preparing, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def until(store: Store, status: str) -> None:
        end = time.monotonic() + 30
        while store.runs.named("scale").status != status and time.monotonic() < end:
            time.sleep(0.05)
        seen.append(store.runs.named("scale").status)

    with Store(workspace.store_path) as store:
        path = workspace.recipes / "scale.toml"
        one, _ = prepare(workspace, store, recipes.load(path), path)
        teacher = bench_scale.instant_teacher(
            pair_folder / "tiny.F16.gguf", "0" * 64, lambda: seen.append("asked")
        )
        ready = teacher.prepare

        def slow(request: Any) -> Any:
            preparing.set()
            assert go_on.wait(60)
            return ready(request)

        monkeypatch.setattr(teacher, "prepare", slow)

        def face() -> None:
            try:
                assert preparing.wait(60)
                with Store(workspace.store_path) as other:
                    other.runs.ask(one.id, "pause")
                    until(other, "paused")
                    go_on.set()  # the page gets ready while the run is paused
                    time.sleep(0.5)
                    seen.append("resumed")
                    other.runs.ask(one.id, "resume")
            finally:
                go_on.set()

        thread = threading.Thread(target=face)
        thread.start()
        Engine(workspace, store, one, _Silent(), teacher=teacher).work("reflect-instruction")
        thread.join()
        assert seen == ["paused", "resumed", "asked"]
        assert store.runs.named("scale").status != "paused"
        assert sql_value(store, "SELECT count(*) FROM reflection") == 20
