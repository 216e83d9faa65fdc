"""Ways to drive a dashboard in a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    quiet = 0
    for _ in range(400):
        await pilot.pause(0.01)
        quiet = quiet + 1 if app.idle else 0
        if quiet >= 3:
            return
    raise AssertionError("the dashboard does not come to rest")


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys one after the other, each settled before the next."""
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


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
