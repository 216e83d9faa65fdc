"""Review in bulk: the closest choices first, many marked, flagged, overruled, and all of it taken back."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from srtui.store import Store
from srtui.store.bulk import Bulk
from srtui.store.listing import Listing, SampleFilter
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text


def overruled(workspace: Workspace) -> int:
    with Store(workspace.store_path, read_only=True) as store:
        return len(store.marks.overruled(1))


async def test_borderline_samples_are_marked_overruled_and_restored(demo: Workspace) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "end", "3", "b")
        assert "by margin" in text(app)
        await press(pilot, "space", "space", "space")
        assert "◆ 3 marked" in text(app)
        await press(pilot, "o")
        assert "Which text stands for the 3 marked samples?" in text(app)
        await press(pilot, "o")
        assert overruled(demo) == 3
        await press(pilot, "u")
        assert overruled(demo) == 0
        await press(pilot, "A", "F")
        assert "⚑" in text(app)
        await press(pilot, "escape")
        assert "marked:" not in text(app)
        await press(pilot, "g")
        app.screen.query_one(Input).value = "17"
        await press(pilot, "enter")
        assert app.screen.query_one(VirtualTable).row.key == 17  # type: ignore[union-attr]
        assert app.problems == []


async def test_a_cursor_that_moves_while_the_list_is_laid_out_again_stays_there(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "end", "3", "b")
        table, lay_out = app.screen.query_one(VirtualTable), Listing.lay_out

        def moved_meanwhile(self: Listing, wanted: SampleFilter) -> int:
            app.call_from_thread(setattr, table, "cursor", 5)
            return lay_out(self, wanted)

        monkeypatch.setattr(Listing, "lay_out", moved_meanwhile)
        app.screen._listed_at = 0.0  # type: ignore[attr-defined]
        await app.screen.read()  # type: ignore[attr-defined]
        assert table.cursor == 5


async def test_what_could_not_be_taken_back_can_be_later(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "end", "3", "space", "space", "o", "o")
        with monkeypatch.context() as broken:
            broken.setattr(Bulk, "undo", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
            await press(pilot, "u")
        assert "the disk is full" in app.problems[0].sentence
        assert overruled(demo) == 2
        await press(pilot, "u")
        assert overruled(demo) == 0
        await press(pilot, "o", "s")
        assert any("as the student chose again" in n.message for n in app._notifications)


async def test_no_more_are_marked_than_can_be(demo: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srtui.tui.screens.many_samples.MOST_MARKED", 10)
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "end", "3")
        # What is laid out is more than what the table shows: another filter is on its way.
        app.screen.query_one(VirtualTable).total = 5
        await app.screen.action_mark_all()  # type: ignore[attr-defined]
        assert "marked:" not in text(app)


async def test_marks_are_of_one_run(demo: Workspace) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "end", "3", "space", "left_square_bracket")
        assert "marked" not in text(app)
        await press(pilot, "o")
        assert any("Nothing is marked" in n.message for n in app._notifications)
