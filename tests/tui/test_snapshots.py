"""Pictures of every screen; of two, a table's way down to one sample and the plots, small and large, dark and
light. ``pytest --snapshot-update`` takes new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from srtui.tui.app import Dashboard
from srtui.tui.tabs import key_of
from srtui.workspace import Workspace
from tests.tui.driving import press, settled

OLDER = ("left_square_bracket", "left_square_bracket")  # from the run at work to the one that is done
SCREENS: dict[str, tuple[str, ...]] = {
    "runs": ("end",),
    "new_run": ("n",),
    "live": (key_of("live"),),
    "samples": (*OLDER, key_of("samples")),
    "sample": (*OLDER, key_of("samples"), "enter"),
    "odd_sample": (*OLDER, key_of("samples"), *["down"] * 9, "enter"),
    "filter": (*OLDER, key_of("samples"), "f"),
    "scores": (*OLDER, key_of("scores")),
    "training": (*OLDER, key_of("training")),
    "models": (key_of("models"),),
    "log": (key_of("log"),),
    "evaluation": (key_of("evaluation"),),
    "data": (key_of("data"),),
    "export": (*OLDER, "w", "e"),
    "help": (key_of("samples"), "question_mark"),
}
LARGE = (160, 50)
EVERY_WAY = ("sample", "scores")
WAYS = [
    pytest.param(name, size, theme, id=f"{name}-{size[0]}x{size[1]}-{theme}")
    for name in SCREENS
    for size in ((80, 24), LARGE)
    for theme in ("srtui-dark", "srtui-light")
    if name in EVERY_WAY or (size, theme) == (LARGE, "srtui-dark")
]


def drive(theme: str, keys: tuple[str, ...]) -> Callable[[Pilot[None]], Any]:
    async def run(pilot: Pilot[None]) -> None:
        pilot.app.theme = theme
        await settled(pilot)
        await press(pilot, *keys)
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        for box in pilot.app.screen.query("#writing-box"):  # it follows the text one refresh later
            box.scroll_end(animate=False, immediate=True)
        await pilot.pause(0.1)

    return run


@pytest.fixture(autouse=True)
def no_models_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a form says of memory is different on each machine."""
    monkeypatch.setattr("srtui.tui.checks._check_models", lambda *_: None)
    monkeypatch.setattr("srtui.tui.checks._memory", lambda taken: "")


@pytest.mark.parametrize(("name", "size", "theme"), WAYS)
def test_screen(snap_compare: Any, demo: Workspace, name: str, size: tuple[int, int], theme: str) -> None:
    assert snap_compare(Dashboard(demo), terminal_size=size, run_before=drive(theme, SCREENS[name]))


def test_first_run(snap_compare: Any, empty: Workspace) -> None:
    assert snap_compare(Dashboard(empty), terminal_size=LARGE, run_before=drive("srtui-dark", ()))
