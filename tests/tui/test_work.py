"""What a dashboard starts beside runs: forms with proposals, how far each is, its output, a stop; known again later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from textual import events
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList

from srtui import process_id
from srtui.store import Store
from srtui.tui.app import Dashboard
from srtui.tui.processes import Started, earlier, start
from srtui.tui.screens.command_form import CommandForm
from srtui.tui.screens.work import WorkList
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is started, in place of being started."""
    words: list[list[str]] = []
    monkeypatch.setattr(Dashboard, "start_engine", lambda _, given: words.append(given))
    return words


async def test_an_evaluation_begins_from_its_screen(
    demo: Workspace, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "srtui.tui.screens.work_forms.checks.choices_for", lambda *_: [("judge-8b.Q8_0", "8 B parameters")]
    )
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "end", "8", "n")
        for words in ("A judge model compares", "People compare", "What is a judge model worth?"):
            assert words in text(app)
        await press(pilot, "p")
        form = app.screen
        assert isinstance(form, CommandForm)
        assert form.query_one("#a", Input).value == "quickstart"
        assert form.query_one("#b", Input).value == "base:quickstart"
        form.query_one("#file", Input).value = "absent.jsonl"
        await settled(pilot)
        assert "absent.jsonl: there is no such file" in text(app)
        assert form.query_one("#start", Button).disabled
        form.query_one("#file", Input).value = "recipes/eval-prompts.jsonl"
        form.query_one("#limit", Input).value = "8"
        await press(pilot, "ctrl+s")
        await press(pilot, "n", "m")
        app.screen.query_one("#file", Input).value = "recipes/eval-prompts.jsonl"
        await press(pilot, "ctrl+s")
        assert app.problems == []
    prompts = "recipes/eval-prompts.jsonl"
    pairwise, measures = started
    assert pairwise == [
        "eval", "pairwise", "quickstart", "base:quickstart", "--prompts", prompts, "--judge", "judge-8b.Q8_0", "--limit", "8",
    ]  # fmt: skip
    assert measures[:4] == ["choose", "calibrate", prompts, "--recipe"]


async def test_the_palette_has_what_comes_after_a_run(demo: Workspace, started: list[list[str]]) -> None:
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "end")
        commands = {c.title: c for c in app.get_system_commands(app.screen)}
        assert "quickstart: Write the report" in commands
        for wanted in ("Data: Import", "Evaluation: New", "Samples: Borderline first", "Work in progress"):
            assert wanted in commands
        await commands["quickstart: Write the report"].callback()
        await commands["Evaluate: Multiple choice, by lm-eval's task files"].callback()
        await settled(pilot)
        assert isinstance(app.screen, CommandForm)
        assert app.screen.query_one("#file", Input).value == "recipes/choice"
    assert started == [["report", "quickstart"]]


async def test_what_comes_after_a_run_is_a_form(demo: Workspace, started: list[list[str]]) -> None:
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "end", "w", "b", "ctrl+s")
        await press(pilot, "w", "m", "ctrl+s")
        await press(pilot, "w", "o")
        assert app.problems == []
    ablation, model, control = started
    assert (ablation[0], ablation[-4:]) == ("ablate", ["--only", "original,random", "--seeds", "1"])
    assert model == ["export-model", "quickstart", "--to", "gguf", "--quantize", "Q8_0"]
    assert control[-2:] == ["--only", "original"]


async def test_work_is_seen_while_it_lasts_and_its_output_after(demo: Workspace) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        app.start_engine(["scores", "quickstart", "--json"])
        await press(pilot, "r")
        assert "▶ srtui scores quickstart" in text(app)
        for _ in range(600):
            await pilot.pause(0.1)
            if not app.started:
                break
        await press(pilot, "f3")
        assert isinstance(app.screen, WorkList)
        await pilot.pause(1.2)
        await settled(pilot)
        assert "✓ done" in text(app)
        heading = next(line for line in text(app).splitlines() if "command" in line)
        assert "says" in heading
        assert "srtui scores quickstart --json" in text(app)
        await press(pilot, "enter")
        assert "{" in text(app)
        assert app.problems == []


async def test_where_nothing_was_started_the_list_says_so(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "f3")
        for _ in range(400):
            if "Nothing was started" in text(app):
                break
            await pilot.pause(0.02)
        assert "Nothing was started from a dashboard" in text(app)
        await press(pilot, "escape")
        assert app.problems == []


async def test_keys_that_are_typed_ahead_reach_the_menu(demo: Workspace) -> None:
    """Over a slow line both keys come before the menu is there."""
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "end")
        for key in "wm":
            app.post_message(events.Key(key, key))
        await settled(pilot)
        assert isinstance(app.screen, CommandForm)
        assert "Export the tuned student" in text(app)


async def test_training_again_is_offered_for_what_is_new(demo: Workspace) -> None:
    offer = "Train again with your 1 change;"
    with Store(demo.store_path) as store:
        run = store.runs.named("quickstart")
        with store.transaction():
            store.conn.execute(
                "UPDATE training_run SET created_at = ? WHERE run_id = ?", (time.time(), run.id)
            )
        original = store.conn.execute(
            "SELECT id FROM variant WHERE sample_id = 1 AND kind = 'original'"
        ).fetchone()[0]
        store.marks.overrule(run.id, 1, original, "")
    async with dashboard(demo, (100, 34)) as (app, pilot):
        await press(pilot, "end", "w")
        assert offer in text(app), app.current_run
        await press(pilot, "escape")
        with Store(demo.store_path) as store, store.transaction():
            store.conn.execute(
                "UPDATE training_run SET created_at = ? WHERE run_id = ?", (time.time(), run.id)
            )
        await pilot.pause(1.2)
        await settled(pilot)
        await press(pilot, "w")
        assert offer not in text(app)


async def test_the_step_under_the_cursor_can_be_read(demo: Workspace) -> None:
    """Its key is in the accent's colour, which says nothing on the theme's primary."""
    async with dashboard(demo, (100, 34)) as (app, pilot):
        for theme in ("srtui-light", "srtui-dark"):
            app.theme = theme
            await press(pilot, "end", "w")
            chosen = app.screen.query_one(OptionList).get_component_styles("option-list--option-highlighted")
            assert chosen.background == Color.parse(app.theme_variables["row-cursor"])
            await press(pilot, "escape")


async def test_an_ablation_does_not_take_the_screen_from_who_reads(demo: Workspace) -> None:
    """It makes one run after the other; a run that was asked for is shown once it is there."""
    token = process_id.token(os.getpid()) or ""
    with Store(demo.store_path) as store:
        recipe = str(store.conn.execute("SELECT recipe FROM run").fetchone()[0])
    async with dashboard(demo) as (app, pilot):
        for command, name in (("ablate", "an-arm"), ("run", "asked-for")):
            app.started = [
                Started([command, "recipes/quickstart.toml"], demo.runs / "x.log", None, token=token)
            ]
            reads, count = app.run_id, len(app.runs)
            with Store(demo.store_path) as store:
                made = store.runs.create(name, 1, "recipes/quickstart.toml", recipe, "f", [(1, False)])
            for _ in range(100):
                await pilot.pause(0.05)
                if len(app.runs) > count:
                    break
            await settled(pilot)
            assert app.run_id == (reads if command == "ablate" else made.id)
        app.started = []


async def listed(app: Dashboard, pilot: Pilot[None]) -> None:
    """Open the list of work, and wait until it has its lines."""
    await press(pilot, "f3")
    for _ in range(400):
        if app.screen.query_one(VirtualTable).row is not None:
            return
        await pilot.pause(0.02)


async def test_a_second_stop_says_what_it_does(demo: Workspace) -> None:
    """To an engine, a second Ctrl-C is the end at once; whoever asked first may be an earlier dashboard."""
    words = ["run", "quickstart"]
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(2, signal.SIG_IGN); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    token = process_id.token(process.pid)
    demo.runs.mkdir(exist_ok=True)
    note = {"words": words, "token": token, "started_at": 1.0}
    (demo.runs / "engine-1-1.json").write_text(json.dumps(note))
    try:
        async with dashboard(demo, (120, 30)) as (app, pilot):
            await listed(app, pilot)
            await press(pilot, "x")
            assert "It finishes the step that it is in" in " ".join(text(app).split())
        (engine,) = earlier(demo)
        assert engine.stop() and engine.state == "stopping"
        async with dashboard(demo, (120, 30)) as (app, pilot):
            await listed(app, pilot)
            await press(pilot, "x")
            assert "Stop at once: srtui run?" in text(app)
    finally:
        process.kill()
        process.wait()


def test_another_dashboard_knows_what_was_started(demo: Workspace) -> None:
    engine = start(demo, ["status", "--json"])
    (known,) = earlier(demo)
    assert known.words == ["status", "--json"]
    assert (known.state == "running") == (engine.pid is not None)
    assert earlier(demo, [engine]) == []
    assert engine.process is not None
    engine.process.wait(120)
    (known,) = earlier(demo)
    assert (known.state, known.stop()) == ("ended", False)
    (demo.runs / "engine-1-1.json").write_text("[]")  # what is no note of ours is none
    assert len(earlier(demo)) == 1
