"""What an older srtui stored is taken where it can be whole, and asked again where it was cut short."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from srtui.llama import TeacherIdentity
from srtui.pipeline.reflect import Reflecting
from srtui.pipeline.tries import Tries
from srtui.recipe import parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.endings import packed
from srtui.store.generations import GenerationRow
from srtui.store.imports import NewRow
from tests.sql import sql_rows

BY = TeacherIdentity("m", "aa", "llama", 1, "Q8_0", 4096)
WHOLE = packed([("critique", "length", 48), ("response", "end", 60)])


@pytest.mark.parametrize(
    ("finish", "segments", "asked_again", "unknown"),
    [
        ("end", WHOLE, None, 0),
        ("end", None, None, 1),
        ("length", None, 2, 0),
        ("repetition", None, 2, 0),
        ("too_long", packed([]), 1, 0),
    ],
)
def test_a_stored_rewrite(
    tmp_path: Path, finish: str, segments: str | None, asked_again: int | None, unknown: int
) -> None:
    before = Pair("i", "", "r")
    recipe = parse({"name": "r", "dataset": "d", "reflection": {"max_attempts": 2}}, "test")
    protocol = ReflectionPrompt(load_criteria("response", "response"), recipe)
    with Store(tmp_path / "s.sqlite") as store:
        made = store.imports.add_samples("d", "f", "sha", "alpaca", [NewRow(0, before, "{}")])
        sample, at = sql_rows(store, "SELECT sample_id, id FROM variant")[0]
        run = store.runs.create(
            "r", made.dataset_id, "r.toml", recipe.model_dump_json(), "f", [(sample, False)]
        )
        with store.transaction():
            by = store.generations.add(
                GenerationRow(
                    id=0, variant_id=None, created_at=0.0, key=(protocol.key if segments else protocol.first_key)(before, 1, 0, BY) or b"", parent_variant_id=at,
                    stage="response", model="m", model_sha256="aa", prompt_version=protocol.version, mode="guided",
                    sampler="{}", seed=1, attempt=1, candidate=0, prompt="", text="t", thinking="", critique="",
                    prompt_tokens=1, new_tokens=1, seconds=1.0, finish=finish, segments=segments, parsed="parsed",
                )
            )  # fmt: skip
            new, _ = store.corpus.add_variant(
                sample, "response_reflected", "teacher", at, by, Pair("i", "", "better")
            )
            store.generations.set_variant(by, new)
        context: Any = SimpleNamespace(store=store, run=run, recipe=recipe, watch=None, sample_count=1)
        teacher: Any = SimpleNamespace(
            identity=BY, room=lambda request: [s.max_tokens for s in request.segments]
        )
        tries = Tries(context, protocol, teacher, Reflecting(context, protocol)._settle)
        asked = tries.first_unasked(sample, store.corpus.variants([at])[at])
        assert (asked.attempt if asked else None) == asked_again
        assert tries.unknown_endings == unknown
        kept = [(r.status, r.attempts) for r in store.generations.reflections_of(run.id, sample).values()]
        assert kept == ([] if asked_again else [("parsed", 1)])
        # Where the recipe takes what the store has, and no teacher can be asked again, a cut one is left out.
        there = store.corpus.rewrites_of(at, "response_reflected")
        assert [v.id for v in there] == ([] if finish in ("length", "repetition") else [new])


def test_what_is_written_takes_the_place_of_a_refusal(tmp_path: Path) -> None:
    """The same request was too long for a smaller context; of two that were written the first stays."""
    with Store(tmp_path / "s.sqlite") as store:
        store.imports.add_samples("d", "f", "sha", "alpaca", [NewRow(0, Pair("i", "", "r"), "{}")])
        (at,) = sql_rows(store, "SELECT id FROM variant")[0]

        def add(text: str, finish: str) -> int:
            return store.generations.add(
                GenerationRow(
                    id=0, variant_id=None, created_at=0.0, key=b"k", parent_variant_id=at, stage="response", model="m", model_sha256="aa",
                    prompt_version="1", mode="guided", sampler="{}", seed=1, attempt=1, candidate=0, prompt="",
                    text=text, thinking="", critique="", prompt_tokens=1, new_tokens=1, seconds=1.0,
                    finish=finish, segments=packed([]), parsed="parsed" if text else finish,
                )
            )  # fmt: skip

        with store.transaction():
            ids = {add("", "too_long"), add("written", "end"), add("again", "end")}
        assert len(ids) == 1
        assert [tuple(r) for r in sql_rows(store, "SELECT text, finish FROM generation")] == [
            ("written", "end")
        ]
