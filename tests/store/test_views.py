"""What the dashboard reads: the same as what is there, however it is asked."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.listing import SampleFilter
from srtui.store.schema import SCRIPTS, migrations
from srtui.store.views import NEEDED, Views
from srtui.workspace import Workspace
from tests.sql import sql_rows, sql_value
from tests.store.earlier_stores import earlier_store
from tests.tui.scripted_store import make_demo_store


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("views") / "ws")
    make_demo_store(workspace)
    return workspace.store_path


@pytest.fixture
def views(path: Path) -> Views:
    return Views(path)


def listed(views: Views, what: SampleFilter) -> list[int]:
    total = views.listing.lay_out(what)
    rows = views.listing.window(what.run_id, 0, total)
    assert [r.id for r in rows] == [views.listing.sample_at(n) for n in range(total)]
    assert all(views.listing.position_of(r.id) == n for n, r in enumerate(rows))
    return [r.id for r in rows]


def test_the_views_know_the_last_migration() -> None:
    assert {m.name for m in migrations._migrations} == set(NEEDED)


@pytest.mark.parametrize("last", range(1, len(SCRIPTS)))
def test_a_store_of_an_earlier_version_is_brought_up(tmp_path: Path, last: int) -> None:
    """Made as it was made then: only the first migrations, with rows in it."""
    path = tmp_path / "old.sqlite"
    conn = earlier_store(path, last)
    conn.execute("INSERT INTO sample VALUES (1, 1, 0, NULL, x'00', '{}')")
    conn.execute(
        "INSERT INTO variant VALUES (1, 1, x'00', 'original', 'dataset', NULL, NULL, 'Say hello.', '', 'Hello!', 0)"
    )
    conn.commit()
    conn.close()
    views = Views(path)
    assert listed(views, SampleFilter()) == [1]
    assert views.evaluations.all() == []
    with Store(path) as store:
        assert store.check() == []
        assert store.marks.index_texts() == 0
        assert store.marks.flag(1)
    assert listed(views, SampleFilter(text="hello", flagged=True)) == [1]


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.sqlite"
    with Store(path) as store, store.transaction():
        store.conn.execute(
            "INSERT INTO _sqlite_migrations(migration_set, name) VALUES ('srtui', '9999_future')"
        )
    with pytest.raises(UserError, match="9999_future is not known here"):
        Views(path)


def test_no_store_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no store yet"):
        Views(tmp_path / "none.sqlite")


def test_filters_leave_what_they_say(views: Views, path: Path) -> None:
    with Store(path, read_only=True) as store:
        kept = {r[0] for r in sql_rows(store, "SELECT sample_id FROM outcome WHERE run_id = 1 AND kept = 1")}
        taken = {
            r[0]
            for r in sql_rows(
                store, "SELECT sample_id FROM decision WHERE run_id = 1 AND stage = 'response' AND reflected"
            )
        }
        compared = {
            r["sample_id"]: json.loads(r["compared"])
            for r in sql_rows(
                store, "SELECT sample_id, compared FROM decision WHERE run_id = 1 AND stage = 'response'"
            )
        }
    assert set(listed(views, SampleFilter(1, state="kept"))) == kept
    assert set(listed(views, SampleFilter(1, decision="new answer"))) == taken
    before = {s: c[0][1] for s, c in compared.items() if c[0][1] is not None}
    wanted = {s for s, v in before.items() if 0.4 <= v < 0.7}
    assert set(listed(views, SampleFilter(1, measure="rifd before", low=0.4, high=0.7))) == wanted
    assert set(listed(views, SampleFilter(1, measure="rifd before", low=0.4, high=0.7, both=True))) == wanted
    counts, mean = views.histogram(1, "rifd before", 0.1, 15)
    assert sum(counts) == len(before)
    assert counts[4] == sum(0.4 <= v < 0.5 for v in before.values())
    assert mean == pytest.approx(sum(before.values()) / len(before))


@pytest.mark.parametrize(
    "order", ["sample", "state", "instruction", "answer", "ifd", "rifd", "length", "text"]
)
def test_every_order_has_every_sample_once_and_turns_round(views: Views, order: str) -> None:
    up = listed(views, SampleFilter(1, order=order))
    down = listed(views, SampleFilter(1, order=order, descending=True))
    assert sorted(up) == sorted(down) == list(range(1, 61))
    if order in ("ifd", "rifd", "length"):
        views.listing.lay_out(SampleFilter(1, order=order))
        values = [getattr(r, order) for r in views.listing.window(1, 0, 60)]
        there = [v for v in values if v is not None]
        assert there == sorted(there)
        assert values[: len(there)] == there


def test_an_interrupted_listing_can_be_asked_again(views: Views) -> None:
    views.conn.set_progress_handler(lambda: 1, 1)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        views.listing.lay_out(SampleFilter(1, order="length"))
    views.conn.set_progress_handler(None, 1)
    assert len(listed(views, SampleFilter(1, order="length"))) == 60


def test_the_flow_adds_up(views: Views) -> None:
    counts = views.counts(1)
    for at in counts.targets.values():
        assert at.taken <= at.choices <= at.decided == counts.samples == 60
    assert counts.kept + sum(counts.dropped.values()) == 60


def test_words_of_a_search_are_words(path: Path, views: Views) -> None:
    with Store(path) as store:
        while store.marks.index_texts():
            pass
    assert views.listing.unindexed() == 0
    assert listed(views, SampleFilter(1, text="PHOTOSYN"))
    for odd in ('"', "a OR", "NEAR(", "col:x", "*", "-", "()", "'; DROP TABLE run; --"):
        views.listing.lay_out(SampleFilter(1, text=odd))
    assert len(views.runs()) == 3


def test_marks_are_kept_beside_the_students_choice(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / "copy.sqlite"
    with Store(path) as store:
        store.backup(copy)
    with Store(copy) as store:
        chosen = dict(store.decisions.selected(1))
        sample_id, variant_id = next(iter(chosen.items()))
        original = sql_value(
            store, "SELECT id FROM variant WHERE sample_id = ? AND kind = 'original'", (sample_id,)
        )
        decided = store.decisions.of_run(1)
        store.marks.overrule(1, sample_id, original)
        store.marks.overrule(1, sample_id, original)
        assert dict(store.decisions.selected(1))[sample_id] == original
        assert store.marks.undo_overrule(1, sample_id)
        assert not store.marks.undo_overrule(1, sample_id)
        assert dict(store.decisions.selected(1))[sample_id] == variant_id
        assert store.decisions.of_run(1) == decided
        with pytest.raises(UserError, match="nothing was stored"):
            store.marks.write_variant(sample_id, original, Pair("", "", "x"))
        assert store.marks.write_variant(sample_id, original, Pair("a", "", "b"))[1]
        assert not store.marks.write_variant(sample_id, original, Pair("a", "", "b"))[1]
