"""A text that was cut because the teacher's context was short is written again where there is more room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from srtui.llama.batching import LlamaTeacher
from srtui.pipeline.context import Context
from srtui.pipeline.reflect import Reflecting
from srtui.pipeline.watch import Watch
from srtui.progress import Progress
from srtui.recipe import parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.workspace import Workspace
from tests.llama.tiny_gguf import write_tiny
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model

TEMPLATE = "{% for m in messages %}{{ m.content[:20] }}\n{% endfor %}"
BUDGET = {"critique_tokens": 16, "instruction_tokens": 16, "answer_tokens": 64, "max_attempts": 2}
SHORT, LONG = 300, 512


class _Silent:
    def progress(self, progress: Progress) -> None: ...

    def event(self, level: str, message: str) -> None: ...


@pytest.fixture(scope="module")
def tiny(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("room") / "t.gguf", teacher_file, "llama", template=TEMPLATE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.sqlite") as store:
        store.imports.add_samples(
            "d", "f", "sha", "alpaca", [NewRow(0, Pair("Name a prime.", "", "Nine."), "{}")]
        )
        yield store


def asked(store: Store, tiny: Path, context: int, name: str, **reflection: Any) -> int:
    """How many tokens a run with such a teacher has it write."""
    recipe = parse(
        {
            "name": name, "dataset": "d", "teacher": {"context": context},
            "reflection": BUDGET | reflection, "sampler": {"temperature": 2.0, "repeat_penalty": 1.3},
        },
        "test",
    )  # fmt: skip
    run = store.runs.create(name, 1, "r.toml", recipe.model_dump_json(), name, [(1, False)])
    teacher = LlamaTeacher(tiny, name="t", sha256="sha", context=context, threads=1)
    teacher._vocabulary.ends_turn = lambda token: False  # type: ignore[method-assign]  # every answer is cut at its room
    watch = Watch(store, run.id, _Silent(), lambda: False)
    protocol = ReflectionPrompt(load_criteria("response", "response"), recipe)
    try:
        Reflecting(Context(Workspace(store.path.parent), store, run, watch, teacher), protocol).work(
            [[(1, 1)]]
        )
        return teacher.progress().new_tokens
    finally:
        teacher.close()


def answers(store: Store) -> dict[int, tuple[str, int]]:
    """By attempt: how the answer ended, after how many tokens."""
    rows = sql_rows(store, "SELECT attempt, segments FROM generation ORDER BY attempt")
    return {r[0]: tuple(json.loads(r[1])[-1][1:3]) for r in rows}  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["guided", "free"])
def test_where_there_is_more_room(store: Store, tiny: Path, mode: str) -> None:
    asked(store, tiny, SHORT, "short", mode=mode)
    first = answers(store)
    whole = {"guided": 128, "free": 16 + 2 * 64}[mode]
    assert first[2][0] == "length"
    assert first[1][1] < first[2][1] < whole  # the retry had some of the room that it was to have
    # With the same context nothing is asked twice.
    assert asked(store, tiny, SHORT, "again", mode=mode) == 0
    assert asked(store, tiny, LONG, "long", mode=mode) == 16 + 2 * 64
    assert answers(store) == {1: first[1], 2: ("length", whole)}
    # What had all the room that it was to have is not asked for again, by whomever.
    assert asked(store, tiny, LONG, "long-again", mode=mode) == 0
    assert asked(store, tiny, SHORT, "less", mode=mode) == 0


def test_a_text_that_ended_is_used_whatever_the_room(store: Store, tiny: Path) -> None:
    asked(store, tiny, SHORT, "short")
    store.conn.execute("UPDATE generation SET parsed = 'unchanged' WHERE attempt = 2")
    assert asked(store, tiny, LONG, "long") == 0


def test_a_retry_of_an_older_srtui_had_the_room_of_a_first_try(store: Store, tiny: Path) -> None:
    """It kept how the last part ended and no more, and took the text all the same."""
    asked(store, tiny, LONG, "new")
    keys = dict(sql_rows(store, "SELECT attempt, key FROM generation"))
    store.conn.execute("UPDATE generation SET segments = NULL, parsed = 'parsed', finish = 'length'")
    from srtui.llama import TeacherIdentity

    protocol = ReflectionPrompt(
        load_criteria("response", "response"),
        parse(
            {"name": "r", "dataset": "d", "reflection": BUDGET,
             "sampler": {"temperature": 2.0, "repeat_penalty": 1.3}}, "test",
        ),
    )  # fmt: skip
    identity = TeacherIdentity("t", "sha", "llama", 1, "", 4096)
    for attempt, key in keys.items():
        first = protocol.first_key(Pair("Name a prime.", "", "Nine."), attempt, 0, identity)
        store.conn.execute("UPDATE generation SET key = ? WHERE key = ?", (first, key))
    assert asked(store, tiny, LONG, "newer") > 128
    assert sql_value(store, "SELECT count(*) FROM generation WHERE attempt = 1") == 1
    rows = sql_rows(store, "SELECT segments FROM generation WHERE attempt = 2 AND segments IS NOT NULL")
    assert [json.loads(r[0])[-1][1:] for r in rows] == [["length", 128, 128]]
