"""A try that is asked again, for there is more room: what choices were made by stays, and nothing is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from srtui.llama import Generation, Prepared, Request, TeacherIdentity, TeacherProgress, WrittenSegment
from srtui.pipeline.context import Context
from srtui.pipeline.rederive import faults
from srtui.pipeline.reflect import Reflecting
from srtui.pipeline.watch import Watch
from srtui.progress import Progress
from srtui.recipe import parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.sql import sql_rows

Writes = Callable[[int, int], Sequence[tuple[str, str]]]
"""By attempt and candidate: (text, finish) of each segment."""


class _Silent:
    def progress(self, progress: Progress) -> None: ...

    def event(self, level: str, message: str) -> None: ...


class _Teacher:
    """Writes what a script says, with ``room`` tokens at most for each segment."""

    identity = TeacherIdentity("m", "aa", "llama", 1, "Q8_0", 4096)

    def __init__(self, room: int, writes: Writes) -> None:
        self._room, self._writes = room, writes
        self._queue: list[Request] = []
        self.asked: list[int] = []

    def room(self, request: Request) -> list[int]:
        return [min(s.max_tokens, self._room) for s in request.segments]

    window = 4

    def prepare(self, request: Request) -> Prepared:
        return Prepared(request, None)

    def submit(self, requests: Sequence[Request | Prepared]) -> None:
        self._queue += [r.request if isinstance(r, Prepared) else r for r in requests]

    def run(self, should_stop: Callable[[], bool]) -> Iterator[Generation]:
        while self._queue:
            request = self._queue.pop(0)
            key: Any = request.key
            self.asked.append(key.attempt)
            for candidate in range(request.candidates):
                written = tuple(
                    WrittenSegment(text, finish, room if finish == "length" else 1, room)
                    for (text, finish), room in zip(
                        self._writes(key.attempt, candidate), self.room(request), strict=True
                    )
                )
                text = "".join(w.text for w in written)
                yield Generation(key, candidate, request.seed, written, text, "", "p", 1, 1, 0.1)

    def progress(self) -> TeacherProgress:
        return TeacherProgress(1, 0, 0, 0, 0, 0, None, "")

    def close(self) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    pair = Pair("Name a prime.", "", "Nine.")
    record = json.dumps({"instruction": pair.instruction, "output": pair.response})
    with Store(tmp_path / "s.sqlite") as store:
        store.imports.add_samples("d", "f", "sha", "alpaca", [NewRow(0, pair, record)])
        yield store


def asked(store: Store, name: str, room: int, writes: Writes, candidates: int = 1) -> list[int]:
    """Which tries a run asks such a teacher for."""
    recipe = parse(
        {"name": name, "dataset": "d", "reflection": {"max_attempts": 2, "candidates": candidates}}, "test"
    )
    run = store.runs.create(name, 1, "r.toml", recipe.model_dump_json(), name, [(1, False)])
    teacher: Any = _Teacher(room, writes)
    watch = Watch(store, run.id, _Silent(), lambda: False)
    protocol = ReflectionPrompt(load_criteria("response", "response"), recipe)
    Reflecting(Context(Workspace(store.path.parent), store, run, watch, teacher), protocol).work([[(1, 1)]])
    return list(teacher.asked)


def compared(store: Store, run: int) -> list[str]:
    """The rewrites that the student of a run compares."""
    rows = sql_rows(
        store,
        "SELECT v.response FROM candidate c JOIN variant v ON v.id = c.variant_id WHERE c.run_id = ? ORDER BY ordinal",
        (run,),
    )
    return [r[0] for r in rows]


def test_a_later_try_is_taken_from_the_store(store: Store) -> None:
    """Its text would be another one where the arithmetic is another: a longer context, another batch."""

    def writes(answer: str) -> Writes:
        return lambda attempt, _: [("Hm.", "end"), ("Two and", "length") if attempt == 1 else (answer, "end")]

    assert asked(store, "short", 20, writes("Two.")) == [1, 2]
    assert asked(store, "long", 5000, writes("Three.")) == [1]
    assert compared(store, 1) == compared(store, 2) == ["Two."]
    assert list(faults(store)) == []
    assert asked(store, "long-again", 5000, writes("Five.")) == []


def test_what_stands_beside_one_that_lacked_room_stays(store: Store) -> None:
    def short(_: int, candidate: int) -> list[tuple[str, str]]:
        return [("Hm.", "end"), [("Two.", "end"), ("Three and", "length")][candidate]]

    def long(_: int, candidate: int) -> list[tuple[str, str]]:
        return [("Hm.", "end"), [("Five.", "end"), ("Three.", "end")][candidate]]

    assert asked(store, "short", 20, short, 2) == [1]
    assert asked(store, "long", 5000, long, 2) == [1]
    assert (compared(store, 1), compared(store, 2)) == (["Two."], ["Two.", "Three."])
    made = (
        "SELECT g.text, v.response FROM generation g JOIN variant v ON v.id = g.variant_id ORDER BY candidate"
    )
    assert [tuple(r) for r in sql_rows(store, made)] == [("Hm.Two.", "Two."), ("Hm.Three.", "Three.")]
    assert list(faults(store)) == []
    assert asked(store, "long-again", 5000, long, 2) == []


def test_what_was_cut_in_its_first_words_is_asked_again_once(store: Store) -> None:
    """Its critique had too little room, and no answer came behind it: nor with more."""

    def nothing(*_: int) -> list[tuple[str, str]]:
        return [("It is", "length"), ("", "end")]

    assert asked(store, "short", 20, nothing) == [1, 2]
    assert asked(store, "long", 5000, nothing) == [1, 2]
    assert asked(store, "long-again", 5000, nothing) == []
    assert asked(store, "short-again", 20, nothing) == []
