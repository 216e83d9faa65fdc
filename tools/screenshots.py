"""The pictures of the dashboard in docs/, made from the store that the tests are made from.

python tools/screenshots.py [FOLDER]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srtui.store import Store  # noqa: E402
from srtui.tui.screens import live  # noqa: E402
from srtui.workspace import Workspace  # noqa: E402
from tests.tui.driving import MACHINE, dashboard, press, settled  # noqa: E402
from tests.tui.scripted_store import make_demo_store  # noqa: E402

OLDER = ("left_square_bracket", "left_square_bracket")
PICTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dashboard-runs": ("srtui-dark", ()),
    "dashboard-live": ("srtui-dark", ("2",)),
    "dashboard-samples": ("srtui-dark", (*OLDER, "3")),
    "dashboard-sample": ("srtui-dark", (*OLDER, "3", "enter")),
    "dashboard-scores": ("srtui-dark", (*OLDER, "4")),
    "dashboard-scores-light": ("srtui-light", (*OLDER, "4")),
    "dashboard-training": ("srtui-dark", (*OLDER, "5")),
}


async def write_for(workspace: Workspace, seconds: int) -> None:
    """As an engine at work: some hundred tokens each second, and a sample now and then."""
    with Store(workspace.store_path) as store:
        run_id = store.runs.named("at-work").id
        for second in range(seconds):
            done = 41 + (second + 1) // 2
            detail = {
                "parsed": done,
                "retried": 4,
                "unparsed": 2,
                "slots": 16,
                "slots_in_use": 14,
                "waiting": 5,
            }
            tokens = (172, 168, 181, 158, 176, 179)[second % 6]
            store.runs.progress(run_id, "reflect-instruction", done, 60, tokens, 1.0, detail)
            await asyncio.sleep(1)


async def take(folder: Path) -> None:
    live._machine = lambda folder, cpu: MACHINE
    with tempfile.TemporaryDirectory() as place:
        workspace, _ = Workspace.create(Path(place) / "ws")
        make_demo_store(workspace)
        for name, (theme, keys) in PICTURES.items():
            async with dashboard(workspace, (130, 40)) as (app, pilot):
                app.theme = theme
                await press(pilot, *keys)
                if name == "dashboard-live":
                    await write_for(workspace, 12)
                    await settled(pilot)
                (folder / f"{name}.svg").write_text(app.export_screenshot(title="srtui"), encoding="utf-8")
                print(folder / f"{name}.svg")


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"))
