"""Ways to drive a dashboard in a test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual import events
from textual.app import App
from textual.keys import _character_to_key, key_to_character
from textual.pilot import Pilot

from srtui.tui.app import Dashboard
from srtui.workspace import Workspace

MACHINE = [
    "CPU      42 % ██▌    2 cores",
    "memory   31 % █▉     5.6 GB free",
    "disk     58 % ███▌   21.4 GB free",
    "GPU      none found",
]
"""What the Live screen says of a machine, in pictures that are the same wherever they are taken."""


async def settled(pilot: Pilot[None]) -> None:
    """Wait until what was pressed has been read, written and drawn."""
    app: Dashboard = pilot.app  # type: ignore[assignment]
    quiet, until = 0, time.monotonic() + 30
    while quiet < 3:
        assert time.monotonic() < until, "the dashboard does not come to rest"
        await pilot.pause(0.001)  # every message that is queued by now is handled
        await app.animator.wait_until_complete()
        quiet = quiet + 1 if app.idle else 0


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys one after the other, each settled before the next."""
    for key in keys:
        # Not Pilot.press: that waits for an idle processor too, twice for a fiftieth of a second or more.
        assert pilot.app._driver is not None
        pilot.app._driver.send_message(_key_event(pilot.app, key))
        await settled(pilot)


def _key_event(app: App[None], key: str) -> events.Key:
    """A key by Textual's name for it, or by its character."""
    is_character = len(key) == 1
    name = _character_to_key(key) if is_character and not key.isalnum() else key
    event = events.Key(name, key if is_character else key_to_character(name))
    event.set_sender(app)
    return event


@asynccontextmanager
async def dashboard(
    workspace: Workspace, size: tuple[int, int] = (120, 40)
) -> AsyncIterator[tuple[Dashboard, Pilot[None]]]:
    """An open dashboard, at rest; fails where something went wrong that the test did not expect."""
    app = Dashboard(workspace)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        yield app, pilot
        await asyncio.sleep(0)


def text(app: Dashboard) -> str:
    """What is on the screen, as lines."""
    lines = ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]
    return "\n".join(lines)
