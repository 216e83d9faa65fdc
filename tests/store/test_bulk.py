"""Many samples overruled or flagged at once, and all of it taken back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from srtui.store import Store
from srtui.store.decisions import margin
from srtui.store.listing import SampleFilter
from srtui.store.views import Views
from srtui.workspace import Workspace
from tests.sql import sql_rows, sql_value
from tests.tui.scripted_store import make_demo_store

RUN = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("bulk") / "ws")
    make_demo_store(workspace)
    return workspace


@pytest.fixture
def store(made: Workspace, tmp_path: Path) -> Iterator[Store]:
    with Store(made.store_path) as source:
        source.backup(tmp_path / "s.sqlite")
    with Store(tmp_path / "s.sqlite") as store:
        yield store


def kinds(store: Store, samples: list[int]) -> dict[int, str]:
    """By overruled sample, the kind of the text that a person took."""
    return {
        sample: sql_value(store, "SELECT kind FROM variant WHERE id = ?", (variant,))
        for sample, variant in store.marks.overruled(RUN).items()
        if sample in samples
    }


def test_a_bulk_takes_the_text_that_each_sample_has(store: Store) -> None:
    samples = list(range(1, 41))
    bulk = store.bulk.overrule(RUN, samples, "response")
    assert bulk.changed + bulk.without == len(samples)
    assert bulk.without > 0  # every 17th rewrite never came
    assert set(kinds(store, samples).values()) == {"response_reflected"}
    for sample, variant in store.marks.overruled(RUN).items():  # of that very sample
        assert sql_value(store, "SELECT sample_id FROM variant WHERE id = ?", (variant,)) == sample
    assert store.bulk.overrule(RUN, samples, "response").changed == 0  # it stands already


def test_undoing_a_bulk_restores_what_a_person_took_before(store: Store) -> None:
    first = store.bulk.overrule(RUN, [1, 2, 3], "original")
    before = store.marks.overruled(RUN)
    bulk = store.bulk.overrule(RUN, [2, 3, 4, 5], "instruction")
    assert store.marks.overruled(RUN) != before
    assert store.bulk.undo(bulk) == bulk.changed
    assert store.marks.overruled(RUN) == before
    assert store.bulk.undo(first) == 1  # of 2 and 3 the overruling is a later one by now
    again = store.bulk.overrule(RUN, [2, 3], "student")
    assert (again.changed, store.marks.overruled(RUN)) == (2, {})
    store.bulk.undo(again)
    assert set(store.marks.overruled(RUN)) == {2, 3}


def test_undoing_leaves_what_was_overruled_since(store: Store) -> None:
    bulk = store.bulk.overrule(RUN, [1, 2], "original")
    rewrite = sql_value(
        store, "SELECT id FROM variant WHERE sample_id = 1 AND kind = 'instruction_reflected'"
    )
    store.marks.overrule(RUN, 1, rewrite)
    assert store.bulk.undo(bulk) == 1
    assert store.marks.overruled(RUN) == {1: rewrite}


def test_flags_are_set_and_taken_back_together(store: Store) -> None:
    changed = store.bulk.flag([1, 2, 3], True)  # 3 has a flag already
    assert sorted(changed) == [1, 2]
    store.bulk.flag(changed, False)
    assert [r[0] for r in sql_rows(store, "SELECT sample_id FROM flag")] == [3]


def test_margins_order_samples_by_how_close_the_choice_was(store: Store) -> None:
    views = Views(store.path)
    total = views.listing.lay_out(SampleFilter(RUN, order="margin"))
    rows = views.listing.window(RUN, 0, total)
    shown = [r.margin for r in rows if r.margin is not None]
    assert shown == sorted(shown)
    assert all(r.margin is None for r in rows[len(shown) :])
    decisions = {r.id: store.decisions.of_sample(RUN, r.id) for r in rows[:5]}
    for row in rows[:5]:
        apart = [
            abs(math.log(d.compared[0][1]) - math.log(d.compared[1][1]))
            for d in decisions[row.id].values()
            if len(d.compared) > 1
        ]
        assert row.margin == pytest.approx(min(apart))
    views.close()


def test_a_margin_is_between_the_two_that_a_choice_was_between() -> None:
    three = "[[1,0.5,null],[2,0.4,null],[3,0.9,null]]"
    assert margin(three, 3, 1, 1) == pytest.approx(math.log(0.9 / 0.5))
    assert margin(three, 1, 0, 0) == pytest.approx(0.1)  # it lost, and the nearest rewrite says by how much
    for nothing in (
        "[[1,0.5,null]]",
        '[[1,null,"x"],[2,0.4,null]]',
        '[[1,0.5,null],[2,null,"x"]]',
        "no JSON",
    ):
        assert margin(nothing, 1, 0, 1) is None
