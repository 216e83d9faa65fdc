"""Chat in the dashboard: the models in a process of their own, both answers as they are written, the prompt shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from srtui.store import Store
from srtui.store.runs import Run
from srtui.store.views import Views
from srtui.tui.screens.chat_screen import ChatScreen
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text


async def said(pilot: Pilot[None], words: str) -> None:
    """Wait until it stands on the screen: the models are loaded meanwhile."""
    for _ in range(1200):
        await pilot.pause(0.05)
        if words in text(pilot.app):  # type: ignore[arg-type]
            return
    raise AssertionError(text(pilot.app))  # type: ignore[arg-type]


async def test_both_students_answer_beside_each_other(tuned: tuple[Workspace, Store, Run]) -> None:
    workspace, store, _ = tuned
    store.close()
    async with dashboard(workspace, (110, 30)) as (app, pilot):
        await press(pilot, "w")
        assert "Chat" in text(app)
        await pilot.press("t")
        await said(pilot, "loading the student")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await said(pilot, "✓ ready")
        screen.query_one("#ask", Input).value = "Name three trees."
        await pilot.press("enter")
        await said(pilot, "### Instruction:")  # the template that it was trained with
        await said(pilot, "✓ ready")
        (exchange,) = screen._exchanges
        assert exchange.instruction == "Name three trees."
        assert exchange.answers["base"] and exchange.answers["tuned"]
        process = screen._process
        await pilot.press("escape")
        assert process is not None
        assert await asyncio.to_thread(process.wait, 60) != 0
        assert app.problems == []


def test_a_line_that_comes_while_the_screen_goes_is_lost_in_silence(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The screen's widgets go before it does: whoever hears the models must not die of it in its thread."""

    class Closing:
        def call_from_thread(self, call: Callable[[], None]) -> None:
            call()

    monkeypatch.setattr(ChatScreen, "app", Closing())
    views = Views(demo.store_path)
    screen = ChatScreen(views.runs()[-1])  # which has none of its widgets
    views.close()
    screen._hand_on(screen._take, {"type": "prompt", "text": "x"})
    assert screen._prompt == "x"
    screen._has_gone = True
    screen._hand_on(screen._take, {"type": "prompt", "text": "y"})
    assert screen._prompt == "x"


async def test_a_chat_that_cannot_begin_says_why(tuned: tuple[Workspace, Store, Run]) -> None:
    workspace, store, run = tuned
    store.close()
    async with dashboard(workspace, (80, 24)) as (app, pilot):
        row = app.runs[0]
        (workspace.runs / run.name / "adapter").unlink()
        app.push_screen(ChatScreen(row))
        await said(pilot, "✗")
        assert any("The chat has ended" in p.sentence for p in app.problems)
        await pilot.press("escape")
