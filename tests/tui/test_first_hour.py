"""What a first user meets: a form that starts nothing unasked, words that lead somewhere, keys that do what they say."""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from textual.widgets import Button, Input, Select, TextArea

from srtui.recipe import load
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.store.runs import Run
from srtui.tui import checks
from srtui.tui.app import Dashboard
from srtui.tui.screens.dialogs import Confirm
from srtui.tui.screens.edit_text import EditText
from srtui.tui.screens.live import LiveScreen
from srtui.tui.screens.new_run import ASKED_FROM, NewRun
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace
from tests.pilot.scripted import RESULT
from tests.sql import sql_value
from tests.tui.driving import dashboard, press, settled, text


def at_work(store: Store) -> Run:
    return store.runs.named("at-work")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is started, in place of being started; models are taken to be there."""
    words: list[list[str]] = []
    monkeypatch.setattr("srtui.tui.checks._check_models", lambda *_: None)
    monkeypatch.setattr(Dashboard, "start_engine", lambda _, given: words.append(given))
    return words


async def test_a_pilot_is_one_key_of_the_form(demo: Workspace, started: list[list[str]]) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "n")
        assert "Try 24 first" in text(app)
        await press(pilot, "ctrl+t")
    (words,) = started
    assert words[0] == "pilot"
    assert words[1].endswith("quickstart.toml")
    assert 'name="quickstart-2"' in words


async def test_many_samples_of_unknown_length_are_not_started_unasked(
    empty: Workspace, started: list[list[str]], tmp_path: Path
) -> None:
    many = tmp_path / "many.jsonl"
    line = json.dumps({"instruction": "a", "output": "b"}) + "\n"
    many.write_text(line * (ASKED_FROM + 1))
    async with dashboard(empty, (80, 24)) as (app, pilot):
        await press(pilot, "enter")
        assert isinstance(app.screen, NewRun)
        app.screen.query_one("#dataset", Input).value = str(many)
        await settled(pilot)
        assert "A pilot makes one" in " ".join(text(app).split())
        await press(pilot, "ctrl+s")
        assert isinstance(app.screen, Confirm)
        assert f"Start {ASKED_FROM + 1:,} samples?" in text(app)
        await press(pilot, "escape")
        assert started == []
        assert isinstance(app.screen, NewRun)
        await press(pilot, "ctrl+s", "y")
    assert [words[0] for words in started] == ["run"]


async def test_a_model_that_loads_is_a_step_with_its_time(demo: Workspace) -> None:
    with Store(demo.store_path) as store:
        run = at_work(store)
        store.runs.progress(run.id, "load-teacher", 0, 1)
        store.runs.update(run.id, stage="reflect-response")  # of which nothing has begun
        with store.transaction():
            store.conn.execute(
                "UPDATE lease SET live = ? WHERE run_id = ?",
                (json.dumps({"step": "load-teacher", "since": time.time() - 75}), run.id),
            )
    async with dashboard(demo, (120, 36)) as (app, pilot):
        assert "Loading" in text(app).splitlines()[1]
        assert "0/0" not in text(app)
        await press(pilot, "2")
        assert isinstance(app.screen, LiveScreen)
        words = " ".join(text(app).split())
        assert "▶ Load the teacher" in words
        assert re.search(r"for 1 min [1-5]\d s", words)
        assert "0/0" not in words


async def test_what_was_reused_has_no_rate(demo: Workspace) -> None:
    with Store(demo.store_path) as store:
        run = store.runs.named("quickstart")
        store.runs.progress(run.id, "reflect-instruction", 60, 60, 0, 0.06, {"reused": 60})
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "end", "2")
        line = next(line for line in text(app).splitlines() if "Reflect on instructions" in line)
        assert "reused" in line
        assert "/s" not in line


async def test_stopping_is_a_state(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "x", "y")
        await pilot.pause(1.2)
        await settled(pilot)
        assert "▪ stopping" in text(app)
        assert "finishes the step that it is in, then stops" in " ".join(text(app).split())
        await press(pilot, "x")
        assert not isinstance(app.screen, Confirm)


async def test_a_paused_run_is_not_said_to_be_worked_on(demo: Workspace) -> None:
    with Store(demo.store_path) as store:
        store.runs.update(at_work(store).id, status="paused")
    async with dashboard(demo) as (app, _):
        assert "holds it; p resumes" in text(app)
        assert "is working on it" not in text(app)


async def test_where_a_name_is_typed_y_is_a_letter(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "down", "d")
        assert "y yes" not in text(app)
        await press(pilot, "escape", "x")


async def test_the_palette_has_what_every_screen_can_do(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        commands = {c.title: c for c in app.get_system_commands(app.screen)}
        for wanted in (
            "New run",
            "Samples: Filter",
            "Samples: Search",
            "Live: Stop",
            "Training: Compare with another run",
        ):
            assert wanted in commands
        await commands["Samples: Filter"].callback()  # type: ignore[misc]
        await settled(pilot)
        assert "Which samples?" in text(app)
        assert app.current_mode == "samples"


async def test_a_table_in_a_terminal_that_shrinks_is_laid_out_again(demo: Workspace) -> None:
    async with dashboard(demo, (140, 30)) as (app, pilot):
        assert "started" in text(app)
        await pilot.resize_terminal(80, 30)
        await settled(pilot)
        async with dashboard(demo, (80, 30)) as (fresh, _):
            wanted = text(fresh).splitlines()[2:6]
        assert text(app).splitlines()[2:6] == wanted


async def test_the_form_has_both_ways_out(demo: Workspace, started: list[list[str]]) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "n")
        app.screen.query_one("#name", Input).value = "quickstart"  # there is one of that name
        await settled(pilot)
        assert app.screen.query_one("#pilot", Button).disabled
        await press(pilot, "ctrl+t")
        assert isinstance(app.screen, NewRun)
    assert started == []


def piloted(workspace: Workspace) -> None:
    """A pilot of the demo's recipe that is done, as the store has one."""
    with Store(workspace.store_path) as store:
        first = store.runs.named("quickstart")
        recipe = {**first.recipe, "name": "quickstart.pilot", "pilot": 24}
        recipe["training"] = {**recipe["training"], "enabled": False}
        path = str(workspace.recipes / "quickstart.toml")
        run = store.runs.create(
            "quickstart.pilot", first.dataset_id, path, json.dumps(recipe), "p", [(1, False)]
        )
        store.runs.update(run.id, status="done", started_at=time.time(), finished_at=time.time())
        store.runs.keep_pilot(run.id, json.dumps(asdict(RESULT)))


async def test_a_pilots_verdict_stands_with_its_run_and_leads_to_the_whole_one(
    demo: Workspace, started: list[list[str]]
) -> None:
    piloted(demo)
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "home")
        assert "! raise answer_tokens to 640 first. (w: what next)" in " ".join(text(app).split())
        await press(pilot, "w", "v")
        words = " ".join(text(app).split())
        assert "To set: reflection.answer_tokens=640" in words
        assert "24 of 5,000" in words
        await press(pilot, "escape", "w", "s")
        assert app.problems == []
    (words_started,) = started
    assert words_started[0] == "run"
    sets = [w for before, w in itertools.pairwise(words_started) if before == "--set"]
    whole = load(demo.recipes / "quickstart.toml", sets)
    assert (whole.pilot, whole.training.enabled, whole.name) == (None, True, "quickstart")
    assert whole.reflection.answer_tokens == 640


async def test_a_run_that_is_done_says_what_next(demo: Workspace, started: list[list[str]]) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "end", "w")
        for words in ("Export the data", "Write the report"):
            assert words in text(app)
        await press(pilot, "r")
        await press(pilot, "w", "e")
        app.screen.query_one("#format", Select).value = "parquet"
        await settled(pilot)
        assert "srtui export quickstart --format parquet --out quickstart.parquet" in " ".join(
            text(app).replace("│", "").split()
        )
        await press(pilot, "ctrl+s")
    assert started == [
        ["report", "quickstart"],
        ["export", "quickstart", "--format", "parquet", "--out", "quickstart.parquet"],
    ]


async def test_two_marked_runs_are_compared(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "v")
        assert any("Mark two runs" in n.message for n in app._notifications)
        await press(pilot, "home", "m", "end", "m", "v")
        assert "Their recipes differ in:" in text(app)
        words = " ".join(text(app).replace("│", "").split())
        assert "their held-out losses" in words
        assert "No evaluation has set the two against each other yet" in words
        assert app.problems == []


async def test_data_and_models_are_picked_and_every_key_can_be_set(
    demo: Workspace, started: list[list[str]]
) -> None:
    with Store(demo.store_path) as store:
        store.imports.add_samples(
            "mine", "mine.json", "1" * 64, "alpaca", [NewRow(0, Pair("a", "", "b"), "{}")]
        )
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "n")
        field = app.screen.query_one("#dataset", Input)
        assert field.value == "mine"  # imported, and no run has used it
        app.screen.query_one("#dataset").focus()
        await press(pilot, "ctrl+o")
        assert "imported, 1 samples" in text(app)
        await press(pilot, "down", "enter")
        assert field.value != "mine"
        await press(pilot, "ctrl+g")
        assert "reflection.candidates" in text(app) or "teacher.adapter" in text(app)
        table = app.screen.query_one(VirtualTable)
        names = [k.name for k in app.screen._keys]  # type: ignore[attr-defined]
        assert {"training.epochs", "training.learning_rate", "training.lora_rank", "selection.policy"} <= set(
            names
        )
        table.cursor = names.index("training.epochs")
        await press(pilot, "enter")
        app.screen.query_one(Input).value = "5"
        await press(pilot, "enter", "ctrl+s")
        assert "set: training.epochs=5" in text(app)
        await press(pilot, "ctrl+s")
        assert app.problems == []
    (words,) = started
    assert "training.epochs=5" in words


def test_a_new_form_names_what_waits_to_be_used() -> None:
    assert checks.proposed_dataset("q.jsonl", {}, set()) == "q.jsonl"
    assert checks.proposed_dataset("q.jsonl", {"a": 1, "b": 2}, {"a"}) == "b"
    assert checks.proposed_dataset("q.jsonl", {"a": 1}, {"a"}) == "q.jsonl"
    assert checks.proposed_dataset("a", {"a": 1, "b": 2}, set()) == "a"


async def test_without_an_editor_a_text_is_written_here(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "3", "enter")
        for key in ("u Undo", "e Edit", "t Note", "f Flag", "o Take original", "i New instruction"):
            assert key in text(app)
        await press(pilot, "e")
        assert isinstance(app.screen, EditText)
        app.screen.query_one("#response", TextArea).text = "Written by hand."
        await press(pilot, "ctrl+s")
        assert app.problems == []
    with Store(demo.store_path, read_only=True) as store:
        assert sql_value(store, "SELECT response FROM variant WHERE kind = 'manual' ORDER BY id DESC") == (
            "Written by hand."
        )
