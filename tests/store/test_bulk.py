"""Many samples overruled or flagged at once, and all of it taken back."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from srtui.store import Store
from srtui.store.decisions import margin
from srtui.store.figures import TARGETS
from srtui.store.listing import SampleFilter
from srtui.store.views import Views
from srtui.workspace import Workspace
from tests.sql import sql_rows, sql_value
from tests.store.earlier_stores import earlier_store
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


_CHOICES = [("ifd", "rifd", False), ("ifd", "likelihood", False), ("random", "rifd", True)]


@pytest.mark.parametrize("earlier", [False, True], ids=["written now", "of an earlier srtui"])
def test_margins_are_stored_as_the_function_has_them(tmp_path: Path, earlier: bool) -> None:
    """Values and order are those of ``margin`` over each sample's choices, whoever stored them."""
    random, path = Random(7), tmp_path / "s.sqlite"
    runs = dict(enumerate(_CHOICES, 1))
    expected: dict[int, dict[int, float | None]] = {}
    decisions = []
    for run, (*by, at_length) in runs.items():
        ratios = [not at_length and name in ("ifd", "rifd") for name in by]
        for sample in range(1, 81):
            margins = []
            for stage, is_ratio in list(zip(TARGETS, ratios, strict=True))[: random.randrange(3)]:
                scores = [*random.choices(_SCORES, k=random.randint(1, 3)), random.uniform(0.1, 2)]
                scores = random.sample(scores, random.randint(1, len(scores)))
                compared = [(n, score, None) for n, score in enumerate(scores, 1)]
                chosen = random.randint(1, len(scores))
                decisions.append((run, sample, stage, chosen, chosen > 1, "", compared))
                margins.append(margin(json.dumps(compared), chosen, chosen > 1, is_ratio))
            expected.setdefault(run, {})[sample] = min((m for m in margins if m is not None), default=None)
    with closing(earlier_store(path, 19)) as conn, conn:
        for run, (first, second, at_length) in runs.items():
            selection = {"instruction_by": first, "response_by": second, "length_control": at_length}
            _add_run(conn, run, json.dumps({"selection": selection}))
        for n in range(1, 81):
            conn.execute(
                "INSERT INTO sample(id, dataset_id, row, digest, record) VALUES (?1, 1, ?1, ?1, '{}')", (n,)
            )
            conn.execute(
                "INSERT INTO variant(id, sample_id, digest, kind, origin, instruction, input, response, created_at) "
                "VALUES (?1, ?1, ?1, 'original', 'dataset', 'x', '', 'y', 0)",
                (n,),
            )
        conn.executemany(
            "INSERT INTO run_sample(run_id, sample_id, held_out) VALUES (?, ?, 0)",
            [(run, n) for run in runs for n in range(1, 81)],
        )
        if earlier:
            conn.executemany(_DECISION, [(*d[:-1], json.dumps(d[-1])) for d in decisions])
    with Store(path) as store, store.transaction():
        for decision in decisions if not earlier else ():
            store.decisions.add(*decision)
    with closing(Views(path)) as views:
        for run in runs:
            assert len(set(expected[run].values())) > 15
            for descending in (False, True):
                total = views.listing.lay_out(SampleFilter(run, order="margin", descending=descending))
                rows = [(r.id, r.margin) for r in views.listing.window(run, 0, total)]
                sign = -1 if descending else 1
                assert rows == sorted(
                    expected[run].items(), key=lambda row: (row[1] is None, sign * (row[1] or 0), row[0])
                )


_SCORES = [None, 0.5, 0.5, 0.25, 0.1 + 0.2, 0.0, -1.0, 5e-324, 1, 2]
_DECISION = (
    "INSERT INTO decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT), 0)"
)


def _add_run(conn: sqlite3.Connection, run: int, recipe: str | bytes) -> None:
    conn.execute(
        "INSERT INTO run(id, name, dataset_id, recipe_path, recipe, fingerprint, status, created_at) "
        "VALUES (?1, ?1, 1, '', CAST(?2 AS TEXT), ?1, 'done', 0)",
        (run, recipe),
    )


def test_an_earlier_store_with_damaged_rows_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    recipes = b"\xff", b"[]", b'{"selection": 3}', b'{"selection": {"instruction_by": []}}'
    damaged = b'["\xff"]', b"[[1,1e999,null],[2,1%s,null]]" % (b"0" * 400), b"null", b"7", b'["abc", "abc"]'
    with closing(earlier_store(path, 19)) as conn, conn:
        for run, recipe in enumerate(recipes, 1):
            _add_run(conn, run, recipe)
            conn.executemany(
                _DECISION,
                [(run, n, "instruction", 1, False, "", compared) for n, compared in enumerate(damaged, 1)],
            )
    with Store(path) as store:
        margins = {r[0] for r in sql_rows(store, "SELECT margin FROM decision")}
        assert margins == {None, math.inf}  # infinity is what the second says
