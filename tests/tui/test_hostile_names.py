"""Forms and messages live with whatever is typed and whatever files are called."""

from __future__ import annotations

import shutil

import pytest
from textual.widgets import Input, Select

from srtui.tui.app import Dashboard
from srtui.tui.background import StoreReader
from srtui.tui.screens.command_form import CommandForm
from srtui.tui.screens.import_form import ImportForm, files_in
from srtui.tui.screens.map_screen import MapScreen
from srtui.tui.widgets.scatter import Scatter
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text

HALF_NAMES = {"~nobody-here/x": "no such home folder", "x" * 300: "name too long", "absent": "no such file"}


async def test_a_form_says_why_a_name_is_none(demo: Workspace) -> None:
    async with dashboard(demo, (100, 44)) as (app, pilot):
        for keys in (("9", "i"), ("escape", "8", "n", "c")):
            await press(pilot, *keys)
            for typed, words in HALF_NAMES.items():
                app.screen.query_one("#file", Input).value = typed
                await settled(pilot)
                assert words in " ".join(text(app).split()), typed


async def test_a_workspace_without_recipes_still_evaluates(demo: Workspace) -> None:
    demo.recipes.rename(demo.root / "elsewhere")
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "8", "n", "c")
        assert isinstance(app.screen, CommandForm)
        assert app.problems == []


async def test_no_name_of_a_file_is_obeyed(demo: Workspace) -> None:
    (demo.root / "a\x1b]0;x\x07.jsonl").write_text("{}")
    (demo.root / "b.jsonl").write_text("{}")
    assert "b.jsonl" in dict(files_in(demo))
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "9", "i", "ctrl+o")
        await press(pilot, "enter")
        assert isinstance(app.screen, ImportForm)
        assert "\x1b" not in text(app)


async def test_no_message_is_obeyed(demo: Workspace) -> None:
    app = Dashboard(demo)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await settled(pilot)
        app.notify("Done: srtui import a\x1b]0;x\x07[red]b.jsonl")
        await settled(pilot)
        assert "[red]b.jsonl" in text(app)
        assert "\x1b" not in text(app)


async def test_no_name_of_a_recipe_is_obeyed(demo: Workspace) -> None:
    name = "[red]x\x1b]0;x\x07.toml"
    shutil.copy(demo.recipes / "quickstart.toml", demo.recipes / name)
    async with dashboard(demo, (100, 44)) as (app, pilot):
        await press(pilot, "n")
        app.screen.query_one("#recipe", Select).value = name
        await settled(pilot)
        assert "[red]x" in text(app)
        assert "\x1b" not in text(app)


async def test_a_store_that_fails_is_said_on_the_map(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    async with dashboard(demo, (120, 40)) as (app, pilot):
        await press(pilot, "end", "3", "m")
        assert isinstance(app.screen, MapScreen)
        monkeypatch.setattr(StoreReader, "ask", fail)
        app.screen.query_one(Scatter).post_message(Scatter.Opened(1))
        await pilot.pause(0.2)
        assert "the disk is gone" in app.problems[0].sentence
