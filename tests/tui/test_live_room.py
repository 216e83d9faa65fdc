"""Live with room to spare: every slot, curves, the last decisions; small as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.store import Store
from srtui.tui import machine_lines
from srtui.tui.screens.live_room import acceptance_series, speed_series, wall_words
from srtui.tui.widgets.plot import Plot
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text

WALL = [
    {"sample": n, "text": f"slot {n} writes " + "on " * 80 + f"end of {n}", "tokens": 10 * n, "room": 100}
    for n in (3, 1, 2)
]
DECIDED = [{"sample": 7, "taken": True, "reason": "took the new instruction: IFD 0.6000 > 0.5000"}]


def live_with(workspace: Workspace, **live: object) -> None:
    with Store(workspace.store_path) as store, store.transaction():
        row = store.runs.named("at-work")
        store.conn.execute(
            "UPDATE lease SET live = ? WHERE run_id = ?",
            (json.dumps({"slots": 4, "slots_in_use": 3, "waiting": 0, "text": "one text", **live}), row.id),
        )


async def test_every_slot_is_seen_where_there_is_room(demo: Workspace) -> None:
    live_with(demo, wall=WALL, decided=DECIDED)
    async with dashboard(demo, (120, 36)) as (app, pilot):
        await press(pilot, "2")
        shown = text(app)
        for n in (1, 2, 3):
            assert f"end of {n}" in shown
        assert shown.index("end of 1") < shown.index("end of 2")
        assert "20%" in shown
        assert "being written in 3 slots" in shown
        assert "took the new instruction" in shown
        assert "tokens a second" in shown
        await pilot.resize_terminal(80, 24)
        await press(pilot, "r")
        assert "one text" in text(app)
        assert "end of 1" not in text(app)
        assert app.problems == []


async def test_the_time_that_is_left_is_never_cut(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "2")
        line = next(line for line in text(app).splitlines() if "▶ Reflect on instructions" in line)
        assert "41/60" in line and line.rstrip(" │").endswith(" left")


async def test_a_legend_has_a_second_line_before_it_is_cut(demo: Workspace) -> None:
    """And what has been 0 all along is drawn at the foot of an axis from 0, whose minutes count back."""
    live_with(demo, wall=WALL, decided=DECIDED)
    async with dashboard(demo, (120, 36)) as (app, pilot):
        await press(pilot, "2")
        plot = app.screen.query_one("#acceptance", Plot)
        nothing_taken = {"instruction": (0, 4), "response": (0, 2)}
        plot.show(
            acceptance_series([nothing_taken] * 2, [0.0, 180.0]), names=("minutes ago", ""), from_zero=True
        )
        await pilot.pause()
        drawn = str(plot.render())
        assert "── instructions" in drawn and "╌╌ answers" in drawn and "…" not in drawn
        assert "-" not in drawn
        assert "2" in drawn.splitlines()[-1]


def test_a_line_of_the_wall_fits_whatever_is_written() -> None:
    wide = [{"sample": 1, "text": "木漏れ日" * 50 + "\x1b[2Jx", "tokens": 5, "room": 9}]
    for room in (30, 40, 61):
        assert wall_words(wide, room).cell_length <= room + 1


def test_acceptance_is_of_the_choices_so_far() -> None:
    history = [
        {"instruction": (0, 0), "response": (0, 0)},
        {"instruction": (1, 4), "response": (0, 0)},
        {"instruction": (3, 6), "response": (1, 1)},
    ]
    instructions, answers = acceptance_series(history, [0.0, 1.0, 61.0])
    assert [y for _, y in instructions.points] == [25.0, 50.0]
    assert [y for _, y in answers.points] == [100.0]
    assert answers.dashed and not instructions.dashed  # told apart without their colours


def test_a_curve_knows_when_nobody_looked() -> None:
    (speeds,) = speed_series([10.0, 12.0, 8.0], [100.0, 101.0, 701.0])  # ten minutes on another screen
    assert speeds.points == [(pytest.approx(-601 / 60), 10.0), (-10.0, 12.0), (0.0, 8.0)]


def test_a_card_that_does_not_tell_its_use_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '[N/A], 1000, 140000'\necho '7, [N/A], [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(machine_lines, "_gpu_reading", machine_lines._GpuReading(str(tool), read_at=-1e9))
    divided, shy = machine_lines.machine_lines("/", 1.0)[3:]
    assert divided.startswith("GPU 0     - %") and "1.0 of" in divided
    assert shy.startswith("GPU 1     7 %") and "memory is not told" in shy
