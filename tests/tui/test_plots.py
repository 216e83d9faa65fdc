"""Plots react to clicks, say which direction is good, and their colours are those of the report."""

from __future__ import annotations

import re

import pytest

from srtui.tui.app import DARK, LIGHT
from srtui.tui.screens.sample import SampleScreen
from srtui.tui.screens.scores import Flow
from srtui.tui.widgets.plot import Plot
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text
from tests.tui.scripted_store import ROOT

OLDER = ("left_square_bracket", "left_square_bracket")


def of_the_report(dark: bool) -> dict[str, str]:
    """The colours of the report's roles, in the dark or in the light."""
    style = (ROOT / "srtui" / "report" / "templates" / "report.css").read_text(encoding="utf-8")
    block = re.findall(r"--before:[^}]*", style)[1 if dark else 0]
    return dict(re.findall(r"--(before|after|limit): (#[0-9a-f]{6})", block))


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
def test_a_colour_means_the_same_in_the_dashboard_and_in_the_report(theme: object) -> None:
    variables = theme.variables  # type: ignore[attr-defined]
    for role, colour in of_the_report(theme.dark).items():  # type: ignore[attr-defined]
        assert variables[f"plot-{role}"] == colour


async def test_a_click_on_a_point_opens_its_sample(demo: Workspace) -> None:
    async with dashboard(demo, (140, 60)) as (app, pilot):
        await press(pilot, *OLDER, "4")
        plot = app.screen.query_one("#scatter", Plot)
        assert plot._ranges is not None
        dot = app.screen._dots[True][0]  # type: ignore[attr-defined]
        left, right, low, high = plot._ranges
        width, height = plot.content_size.width - 8, plot.content_size.height - 3
        x = round((dot.ifd - left) / (right - left) * (width - 1)) + 8 + 1  # the axis, and a cell of padding
        y = round((high - dot.rifd) / (high - low) * (height - 1)) + 1
        await pilot.click(plot, offset=(x, y))
        await settled(pilot)
        screen = app.screen
        assert isinstance(screen, SampleScreen)
        shown = next(
            p for p in (await app.ask(lambda v: v.score_pairs(1))) if p.sample_id == screen._sample_id
        )
        assert abs(shown.ifd - dot.ifd) < 3 * (right - left) / width  # that one, or one beneath the same cell
        await press(pilot, "n", "escape")
        assert app.problems == []


async def test_a_click_on_a_step_lists_its_samples(demo: Workspace) -> None:
    async with dashboard(demo, (140, 60)) as (app, pilot):
        await press(pilot, *OLDER, "4")
        flow = app.screen.query_one(Flow)
        line = next(n for n, f in enumerate(flow._leads_to) if f is not None and f.decision == "new answer")
        await pilot.click(flow, offset=(5, line))
        await settled(pilot)
        assert app.current_mode == "samples"
        assert "new answer" in text(app).splitlines()[2]


async def test_a_click_on_a_curve_says_what_the_point_is(demo: Workspace) -> None:
    async with dashboard(demo, (140, 60)) as (app, pilot):
        await press(pilot, *OLDER, "5")
        plot = app.screen.query_one("#loss", Plot)
        told: set[str] = set()
        for y in range(1, plot.content_size.height - 2):
            await pilot.click(plot, offset=(9, y))
            told |= {n.message for n in app._notifications}
        assert any("at step" in words for words in told)


async def test_every_histogram_says_which_side_is_good(demo: Workspace) -> None:
    async with dashboard(demo, (140, 60)) as (app, pilot):
        await press(pilot, *OLDER, "4")
        assert "instructions: higher wins" in text(app)
        assert "answers: lower wins" in text(app)
