"""What a choice is made by comes from the table of measures: each of its sources is computed, and none by accident."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from srtui import recipe as recipes
from srtui.measures import FILTERS, MEASURES, SCORE_OF, STORED, Direction, Measure, Source, SpanLoss, Value
from srtui.pipeline import prepare
from srtui.pipeline.ablate import ARMS
from srtui.pipeline.choose import Choosing
from srtui.pipeline.context import Context
from srtui.pipeline.watch import Watch
from srtui.recipe.settings import SIDES, SelectionSettings
from srtui.store import Store
from srtui.store.figures import SCORES
from srtui.store.listing import ORDERS
from srtui.wording import LABELS
from srtui.workspace import Workspace
from tests.conftest import small_recipe
from tests.sql import sql_value


class Quiet:
    def progress(self, progress: object) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def choosing_of_nothing() -> Choosing:
    nothing = SimpleNamespace(watch=None, store=None, run=None, recipe=None, sample_count=0)
    return Choosing(cast(Context, nothing))


def test_every_source_is_computed() -> None:
    assert set(choosing_of_nothing()._sources) == set(get_args(Source))
    assert {measure.source for measure in MEASURES.values()} == set(get_args(Source))


def test_what_nobody_computes_is_not_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new measure once fell into the branch of the last one, and was drawn at random under its own name."""
    strange = dataclasses.replace(MEASURES["random"], name="strange", source=cast(Source, "the moon"))
    monkeypatch.setitem(MEASURES, "strange", strange)
    for by in ("strange", "nothing of that name"):
        with pytest.raises(KeyError):
            choosing_of_nothing()._measure(
                "instruction", by, [[1, 2]], lambda group: None, lambda share: None
            )


def test_all_that_names_measures_follows_from_the_table() -> None:
    by = SelectionSettings.model_json_schema()["properties"]["instruction_by"]["enum"]
    assert by == [*MEASURES, *SIDES]
    assert set(MEASURES) <= set(ARMS)
    assert set(STORED) <= set(ORDERS)
    assert set(SCORES) == {*STORED, *(f"{name} before" for name in STORED)} <= set(LABELS)
    assert set(FILTERS) <= set(STORED)
    for direction in get_args(Direction):
        assert MEASURES[SCORE_OF[direction]].losses == (direction,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"losses": ()},
        {"formula": None},
        {"source": "draw"},
        {"losses": ("forward", "reverse")},
        {"losses": ("target",)},
        {"name": "r-ifd"},
    ],
)
def test_a_row_that_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ifd: "):
        dataclasses.replace(MEASURES["ifd"], **wrong)


def test_the_table_of_scores_takes_every_stored_measure(tmp_path: Path) -> None:
    """Rows are inserted OR IGNORE, which would skip a metric that the table's CHECK does not have, without a word."""
    with Store(tmp_path / "s.sqlite") as store:
        table = sql_value(store, "SELECT sql FROM sqlite_schema WHERE name = 'score'")
    assert set(STORED) <= set(re.findall(r"'(\w+)'", str(table).split("CHECK")[1].split(")")[0]))


@pytest.mark.model
def test_a_new_row_is_computed_from_the_losses_of_both_directions(
    pair_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(y: SpanLoss, y_alone: SpanLoss, x: SpanLoss, x_alone: SpanLoss) -> Value:
        return math.exp(y.mean - y_alone.mean + x.mean - x_alone.mean), None

    row = Measure(
        "product",
        "IFD x r-IFD",
        "chosen by both",
        "losses",
        higher_instruction=True,
        higher_response=False,
        losses=("forward", "reverse"),
        formula=product,
    )
    monkeypatch.setitem(MEASURES, "product", row)
    path = small_recipe(pair_workspace, 4)
    shares: list[float] = []
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path), path)
        context = Context(pair_workspace, store, run, Watch(store, run.id, Quiet(), lambda: False))
        choosing = Choosing(context)
        ids = [v.id for v in store.corpus.originals(run.id).values()]
        values, by_proxy = choosing._measure(
            "instruction", "product", [ids], lambda group: None, shares.append
        )
        setting = context.variant_scorer().setting_id
        scores = {name: store.scores.of_variants(ids, setting, name) for name in STORED}
        perplexities = {
            target: choosing._measure(target, "perplexity", [ids], lambda group: None, shares.append)[0]
            for target in ("instruction", "response")
        }
        losses = {name: store.scores.losses_of(ids, setting, name) for name in STORED}
        context.unload_students()
    assert not by_proxy and len(values) == 4
    for v in ids:
        stored = [scores[name][v][0] for name in STORED]
        assert values[v].score == pytest.approx(math.prod(s for s in stored if s is not None), rel=1e-9)
        for target, name in (("instruction", "ifd"), ("response", "rifd")):
            given = losses[name][v][0]
            assert perplexities[target][v].score == math.exp(given.nll / given.tokens)  # type: ignore[operator]
    assert (
        shares == sorted(shares) and 0 < shares[0] < 0.5 < shares[-1] <= 1
    )  # of one direction, then of both
