"""Each screen, driven by keys over a store as real runs leave it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import unicodedata
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.widgets import Button, Input

from srtui.recipe import load
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.listing import SampleFilter
from srtui.tui import checks
from srtui.tui.processes import Started
from srtui.tui.screens.live import LiveScreen
from srtui.tui.screens.new_run import NewRun
from srtui.tui.screens.sample import SampleScreen, read_edited
from srtui.tui.screens.sample_filter import FilterForm
from srtui.tui.tabs import TABS, key_of, numbered
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace
from tests.conftest import ROOT
from tests.sql import sql_rows
from tests.tui.driving import dashboard, press, settled, text
from tests.tui.scripted_store import Script, demo_pairs


def stored(workspace: Workspace, sql: str, *values: object) -> list[tuple[object, ...]]:
    with Store(workspace.store_path, read_only=True) as store:
        return [tuple(r) for r in sql_rows(store, sql, values)]


async def test_every_number_opens_its_screen(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        signs = {
            "runs": "another-seed", "live": "stages", "samples": "60 samples", "scores": "r-IFD   mean",
            "training": "No training yet", "models": "No models yet", "log": "Loaded teacher",
            "evaluation": "Nothing has been evaluated yet", "data": "60 rows read",
        }  # fmt: skip
        assert list(signs) == [tab.mode for tab in TABS] == list(app.MODES)
        for number, (mode, sign) in enumerate(signs.items(), 1):
            key = str(number % 10)
            await press(pilot, key)
            assert sign in text(app)
            assert mode == app.screen.MODE
            assert f"{key} {TABS[number - 1].label}" == numbered(mode) in text(app).splitlines()[0]
            await press(pilot, "question_mark")
            assert "Help" in text(app)
            await press(pilot, "escape")
        assert app.problems == []


async def test_first_run_offers_the_demo(empty: Workspace) -> None:
    async with dashboard(empty, (80, 24)) as (app, pilot):
        assert "No runs yet" in text(app)
        assert isinstance(app.focused, Button)
        await press(pilot, "enter")
        assert isinstance(app.screen, NewRun)
        assert "quickstart.toml" in text(app)
        assert "srtui models add smollm2-135m" in " ".join(text(app).split())
        assert app.screen.query_one("#start", Button).disabled
        await press(pilot, "escape")
        signs = (
            "Nothing is running", "No samples yet", "No scores yet", "No training yet", "No models yet",
            "Nothing has been logged", "Nothing has been evaluated yet",
        )  # fmt: skip
        for key, sign in zip("2345678", signs, strict=True):
            await press(pilot, key)
            assert sign in text(app)
        assert app.problems == []


async def test_a_store_that_comes_later_is_seen(empty: Workspace, made: Workspace) -> None:
    async with dashboard(empty) as (app, pilot):
        with Store(made.store_path) as store:
            store.backup(empty.store_path)
        await pilot.pause(1.2)
        await settled(pilot)
        assert "quickstart" in text(app)
        assert [r.state for r in app.runs] == ["running", "stopped", "done"]


async def test_pause_resume_and_stop_are_asked_of_the_engine(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        assert app.current_run is not None
        assert app.current_run.name == "at-work"
        await press(pilot, "p")
        with Store(demo.store_path) as store:
            store.runs.update(app.current_run.id, status="paused")
        await pilot.pause(1.2)
        assert "paused" in text(app)
        await press(pilot, "p", "x", "y")
        assert [r[0] for r in stored(demo, "SELECT kind FROM request ORDER BY id")] == [
            "pause",
            "resume",
            "stop",
        ]


async def test_a_stopped_run_is_started_as_it_was(demo: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(demo) as (app, pilot):
        started: list[list[str]] = []
        monkeypatch.setattr(app, "start_engine", started.append)
        await press(pilot, "down", "p")
        assert started == [["resume", "another-seed"]]


async def test_a_run_that_was_asked_for_is_the_one_that_is_shown(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        pid = 0

        def poll(self) -> None: ...

    monkeypatch.setattr(
        "srtui.tui.app.start_engine",
        lambda workspace, words: Started(words, workspace.root / "log", Process()),
    )
    async with dashboard(demo) as (app, pilot):
        app.start_engine(["run", "x.toml"])
        app.start_engine(["run", "x.toml"])
        assert len(app.started) == 1
        with Store(demo.store_path) as store:
            Script(demo, store, "asked-for", 5).begin(demo_pairs())
        await pilot.pause(1.2)
        await settled(pilot)
        assert app.current_run is not None
        assert app.current_run.name == "asked-for"
        await press(pilot, "left_square_bracket")
        assert app.screen.query_one(VirtualTable).row.key == app.run_id != 4


async def test_a_model_that_is_not_there_is_said(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, key_of("models"), "a", *"no/such.gguf", "enter")
        assert "neither a model here" in app.problems[-1].sentence


async def test_a_run_is_deleted_by_its_name_only(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "down", "d", *"another", "enter")
        assert len(app.runs) == 3
        await press(pilot, *"-seed", "enter")
        assert [r.name for r in app.runs] == ["at-work", "quickstart"]
        assert stored(demo, "SELECT count(*) FROM decision WHERE run_id = 2") == [(0,)]
        assert stored(demo, "PRAGMA foreign_key_check") == []
        await press(pilot, "home", "d", *"at-work", "enter")
        assert "stop it first" in app.problems[-1].sentence
        assert len(app.runs) == 2


async def test_a_clone_carries_what_its_run_had(demo: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(demo.store_path) as store:
        recipe = store.runs.named("quickstart").recipe
        recipe["training"]["epochs"] = 5.0
        store.runs.update(1, recipe=json.dumps(recipe))
    monkeypatch.setattr("srtui.tui.checks._check_models", lambda *_: None)
    async with dashboard(demo) as (app, pilot):
        started: list[list[str]] = []
        monkeypatch.setattr(app, "start_engine", started.append)
        await press(pilot, "end", "c")
        assert "training.epochs=5.0" in text(app)
        app.screen.query_one("#limit", Input).value = "0"
        await settled(pilot)
        assert "a whole number from 1" in text(app)
        app.screen.query_one("#limit", Input).value = "12"
        app.screen.query_one("#seed", Input).value = "11"
        await settled(pilot)
        assert "for 12 samples" in text(app)
        await press(pilot, "ctrl+s")
        (words,) = started
        assert words[0] == "run"
        assert words[-2:] == ["--limit", "12"]
        assert {"training.epochs=5.0", "seed=11", 'name="quickstart"'} & set(words) >= {
            "training.epochs=5.0",
            "seed=11",
        }


async def test_the_form_looks_into_the_file_and_shows_the_name_that_will_be(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("srtui.tui.checks._check_models", lambda *_: None)
    mixed, other = tmp_path / "mixed.json", tmp_path / "other.json"
    mixed.write_text(json.dumps([{"instruction": "a", "output": "b"}] * 3 + [{"instruction": "a"}]))
    other.write_text("no data at all")
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "n")
        field = {name: app.screen.query_one(f"#{name}", Input) for name in ("name", "dataset")}
        assert field["name"].value == "quickstart-2"
        field["dataset"].value = str(mixed)
        await settled(pilot)
        assert "alpaca, 3 rows, 1 more that cannot be used" in text(app)
        assert "for 3 samples" in text(app)
        assert not app.screen.query_one("#start", Button).disabled
        field["name"].value = "quickstart"
        await settled(pilot)
        assert "there is a run of this name already" in text(app)
        assert app.screen.query_one("#start", Button).disabled
        field["dataset"].value = str(other)
        await settled(pilot)
        assert "✗" in text(app)
        assert app.problems == []


async def test_what_is_started_is_what_stands_in_the_form(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a person is faster than the checks."""
    monkeypatch.setattr("srtui.tui.checks._check_models", lambda *_: None)
    at_once = checks.check

    def slow(*given: object) -> object:
        time.sleep(0.3)
        return at_once(*given)  # type: ignore[arg-type]

    async with dashboard(demo) as (app, pilot):
        started: list[list[str]] = []
        monkeypatch.setattr(app, "start_engine", started.append)
        await press(pilot, "n")
        monkeypatch.setattr("srtui.tui.checks.check", slow)
        await pilot.press(*["tab"] * 5, "3", "ctrl+s")
        await settled(pilot)
        (words,) = started
        assert words[-2:] == ["--limit", "3"]


def test_an_estimate_says_what_it_rests_on() -> None:
    recipe = load(ROOT / "recipes" / "quickstart.toml")
    rates = {"reflect-instruction": 1.0, "choose-instruction": 0.5, "reflect-response": 1.0}
    assert checks._estimate(10, {}, recipe).startswith("No estimate")
    assert checks._estimate(None, rates, recipe).startswith("No estimate")
    some = checks._estimate(10, rates, recipe)
    assert some.startswith("At least 25.0 s for 10 samples")
    assert "Choose answers, Train the student" in some
    # Two epochs of ten samples in batches of four are five steps.
    every = checks._estimate(10, rates | {"choose-response": 0.5, "train": 6.0}, recipe)
    assert every.startswith("About 1 min 00 s for 10 samples")


def test_a_name_is_made_free() -> None:
    assert checks.free_name("a", set()) == "a"
    assert checks.free_name("a", {"a"}) == "a-2"
    assert checks.free_name("a-2", {"a", "a-2"}) == "a-3"


async def test_the_palette_has_what_the_screen_can_do(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, key_of("samples"))
        here = {c.title: c for c in app.get_system_commands(app.screen)}
        assert {"Search", "Filter", "Sort", "Runs", "Run quickstart"} <= set(here)
        assert here["Filter"].help == "Here, by f"
        await press(pilot, "ctrl+p", *"filter", "enter")
        assert isinstance(app.screen, FilterForm)


async def test_what_a_search_found_stands_out_in_the_sample(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("samples"))
        await press(pilot, "slash", *"photosyn", "enter", "enter")
        assert isinstance(app.screen, SampleScreen)
        found = {
            segment.text.lower()
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style is not None and segment.style.reverse
        }
        assert found == {"photosyn"}


async def test_live_says_of_a_run_that_is_over_what_its_speed_was(demo: Workspace) -> None:
    """Not 0 tokens/s, which is what it does now: nothing."""
    with Store(demo.store_path, read_only=True) as store:
        stages = store.runs.stages(1).values()
    tokens, seconds = sum(s.tokens for s in stages), sum(s.seconds for s in stages)
    async with dashboard(demo) as (app, pilot):
        await press(pilot, key_of("live"), "left_square_bracket", "left_square_bracket")
        shown = text(app)
        assert f"{tokens / seconds:,.0f} tokens/s on the mean" in shown
        assert " 0 tokens/s" not in shown
        assert "─ in all ─" in shown
        await press(pilot, "right_square_bracket", "right_square_bracket")
        assert "─ so far ─" in text(app)


async def test_live_shows_the_text_that_is_being_written(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, key_of("live"))
        assert isinstance(app.screen, LiveScreen)
        shown = text(app)
        assert "41/60" in shown
        assert "14/16 used, 5 waiting" in shown
        assert "difference between weather and climate" in shown
        assert "Loaded teacher" in shown


async def test_samples_are_sorted_filtered_and_searched(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("samples"))
        assert "60 samples" in text(app)
        app.screen.change(SampleFilter(order="rifd", descending=True))
        await settled(pilot)
        table = app.screen.query_one(VirtualTable)
        values = [table.row_at(n).cells[5].text for n in range(table.total)]
        scored = [float(v) for v in values if v != "-"]
        assert scored == sorted(scored, reverse=True)
        assert values[len(scored) :] == ["-"] * (60 - len(scored))
        app.screen.change(SampleFilter(state="kept", decision="new instruction"))
        await settled(pilot)
        rows = [table.row_at(n) for n in range(table.total)]
        assert rows
        assert all(r.cells[1].text == "✓ kept" and r.cells[2].text == "new" for r in rows)
        await press(pilot, "escape", "slash", *"photosyn", "enter")
        assert table.total == 1
        assert "Define photosynthesis" in text(app)
        await press(pilot, "escape", "slash")
        app.screen.query_one(Input).value = "天气"
        await press(pilot, "enter")
        assert table.total == 1
        await press(pilot, "slash")
        app.screen.query_one(Input).value = 'xyzzy AND "of NEAR('
        await press(pilot, "enter")
        assert "No sample is like this" in text(app)
        await press(pilot, "escape")
        assert table.total == 60
        assert app.problems == []


async def test_the_filter_form_narrows_by_score_and_length(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("samples"), "f")
        app.screen.query_one("#low", Input).value = "0.5"
        app.screen.query_one("#high", Input).value = "0.8"
        app.screen.query_one("#longest", Input).value = "200"
        await press(pilot, "ctrl+s")
        table = app.screen.query_one(VirtualTable)
        rows = [table.row_at(n) for n in range(table.total)]
        assert rows
        assert all(0.495 <= float(r.cells[4].text) <= 0.805 for r in rows)
        assert all(int(r.cells[7].text) <= 200 for r in rows)
        assert "IFD of the final text 0.5 to 0.8" in text(app)


async def open_sample(pilot: object, app: object, sample_id: int) -> None:
    await press(
        pilot,
        "left_square_bracket",
        "left_square_bracket",
        key_of("samples"),
        "home",
        *["down"] * (sample_id - 1),
        "enter",
    )  # type: ignore[arg-type]


async def test_one_sample_is_explained(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await open_sample(pilot, app, 1)
        shown = text(app)
        for words in (
            "Took the new instruction: IFD",
            "Took the new answer: r-IFD",
            "Kept for training",
            "● final",
        ):
            assert words in shown
        assert "L(y|x)" in shown
        assert "The teacher's critique" in shown
        await press(pilot, "n")
        assert "Sample 2" in text(app)
        await press(pilot, "p", "p")
        assert "Sample 1" in text(app)
        await press(pilot, "n", "n", "escape")
        assert app.screen.query_one(VirtualTable).cursor == 2


async def test_a_person_overrules_and_undoes(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await open_sample(pilot, app, 1)
        await press(pilot, "o")
        assert "Overruled by a person: exports take the original" in text(app)
        await press(pilot, "i")
        active = stored(demo, "SELECT variant_id FROM overrule WHERE undone_at IS NULL")
        assert len(active) == 1
        with Store(demo.store_path) as store:
            assert dict(store.decisions.selected(1))[1] == active[0][0]
        await press(pilot, "u")
        assert "Kept for training" in text(app)
        assert stored(demo, "SELECT count(*) FROM overrule WHERE undone_at IS NULL") == [(0,)]
        assert stored(demo, "SELECT count(*) FROM overrule") == [(2,)]
        await press(pilot, "h")
        assert stored(demo, "SELECT count(*) FROM overrule") == [(2,)]
        assert app.problems == []


async def test_notes_and_flags(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await open_sample(pilot, app, 1)
        await press(pilot, "f", "t", *"odd", "enter")
        assert "⚑ flagged" in text(app)
        assert "✎ odd" in text(app)
        await press(pilot, "f")
        assert "⚑ flagged" not in text(app)
        await press(pilot, "escape")
        assert app.screen.query_one(VirtualTable).row_at(0).cells[8].text == "✎"


async def test_a_text_written_by_hand_waits_for_a_score(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/In short/By hand/' \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    async with dashboard(demo, (160, 50)) as (app, pilot):
        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await open_sample(pilot, app, 1)
        await press(pilot, "e")
        shown = text(app)
        assert "By hand" in shown
        assert "waiting for a score" in shown
        ((kind, origin, parent, response),) = stored(
            demo, "SELECT kind, origin, parent_id IS NOT NULL, response FROM variant WHERE kind = 'manual'"
        )
        assert (kind, origin, parent) == ("manual", "person", 1)
        assert str(response).startswith("By hand:")
        await press(pilot, "h")
        assert "exports take the text written by hand" in text(app)
        assert app.problems == []
        monkeypatch.setenv("VISUAL", "no-such-editor")
        await press(pilot, "e")
        assert "set EDITOR" in app.problems[-1].sentence


async def test_an_editor_changes_only_what_the_person_changed(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(demo.store_path)) as conn, conn:
        conn.execute("UPDATE variant SET response = 'one\r\ntwo\rthree' WHERE sample_id = 1")
    latin = tmp_path / "latin"
    latin.write_text("#!/bin/sh\nprintf '\\351' >> \"$1\"\n")
    latin.chmod(0o755)
    async with dashboard(demo, (160, 50)) as (app, pilot):
        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await open_sample(pilot, app, 1)
        monkeypatch.setenv("VISUAL", "true")
        await press(pilot, "e")
        assert app.problems == []
        for editor, why in ((str(latin), "UTF-8"), ('vi "', "not a command")):
            monkeypatch.setenv("VISUAL", editor)
            await press(pilot, "e")
            assert why in app.problems[-1].sentence
        assert len(app.problems) == 2
        assert stored(demo, "SELECT count(*) FROM variant WHERE kind = 'manual'") == [(0,)]


def test_an_edited_file_is_read_back_to_the_letter() -> None:
    pair = Pair("Do\nthis.", "", "Done.\n\n=== not a heading\n")
    names = ("Instruction", "Input", "Answer")
    written = "".join(f"=== {n} ===\n{t}\n" for n, t in zip(names, pair.texts, strict=True))
    assert read_edited(written) == pair
    with pytest.raises(Exception, match="where a part ends is not known"):
        read_edited(written.replace("=== Answer ===", "Answer"))


async def test_a_range_of_scores_is_followed_to_its_samples(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("scores"))
        assert "What became of the samples" in text(app)
        await press(pilot, *["down"] * 10, *["shift+down"] * 4, "enter")
        assert app.screen.MODE == "samples"
        assert "IFD of the final text ≥ 1" in text(app)
        assert "scored before and after" in text(app)
        expected = stored(
            demo,
            "SELECT count(*) FROM outcome o JOIN score s ON s.variant_id = o.variant_id AND s.metric = 'ifd' "
            "JOIN variant v ON v.sample_id = o.sample_id AND v.kind = 'original' "
            "JOIN score s0 ON s0.variant_id = v.id AND s0.metric = 'ifd' WHERE o.run_id = 1 AND s.value >= 1",
        )
        assert app.screen.query_one(VirtualTable).total == expected[0][0] > 0


async def test_training_draws_its_curves(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("training"))
        shown = text(app)
        assert "step 60 of 60" in shown
        assert "◇ held out, selected" in shown
        assert "checkpoints: step 40, 60 (9.4 MB in 0.3 s each)  ·  1 removed for room" in shown
        assert "planned: 36,600 tokens, about 2 min 30 s and 820.0 MB, packed" in shown
        for name in ("learning rate", "tokens a second", "memory, GB"):
            assert name in shown
        assert "254 tokens/s" in shown
        await press(pilot, "v")
        assert "No other run has a training" in " ".join(n.message for n in app._notifications)
        assert app.problems == []


async def test_training_on_pairs_shows_margin_and_accuracy(demo: Workspace) -> None:
    """While it runs those of the last steps, then those of held-out pairs with their interval and number."""
    margin = {"value": 0.42, "low": 0.31, "high": 0.53, "n": 18}
    accuracy = {"value": 0.833, "low": 0.608, "high": 0.942, "n": 18}
    with Store(demo.store_path) as store:
        run = store.runs.named("quickstart")
        recipe = {**run.recipe, "training": {**run.recipe["training"], "method": "dpo"}}
        store.runs.update(run.id, recipe=json.dumps(recipe))
        training = store.training.of_run(run.id)
        assert training is not None and training.method == "dpo"
        for step in range(1, training.steps + 1):
            store.training.add_metrics(
                training.id, step, {"reward_margin": 0.01 * step, "reward_accuracy": 0.75}
            )
    keys = ("left_square_bracket", "left_square_bracket", key_of("training"))
    async with dashboard(demo, (120, 40)) as (app, pilot):
        await press(pilot, *keys)
        assert "reward accuracy 0.75" in text(app) and ", mean of 20 steps" in text(app)
        assert "pairs (dpo)" in text(app)
    with Store(demo.store_path) as store:
        result = {**training.result, "rewards": {"margin": margin, "accuracy": accuracy}}
        store.training.finish(training.id, "done", 1, 1.0, training.adapter, result)
    async with dashboard(demo, (120, 40)) as (app, pilot):
        await press(pilot, *keys)
        assert "reward margin 0.420 (0.310 to 0.530, n = 18)" in text(app)
        assert "reward accuracy 0.833 (0.608 to 0.942, n = 18)" in text(app)
        assert "loss of a pair" in text(app)
        assert app.screen.query_one("#margin").display and not app.screen.query_one("#memory").display
        assert app.problems == []


async def test_two_trainings_are_laid_over_each_other(demo: Workspace) -> None:
    with Store(demo.store_path) as store:
        other = Script(demo, store, "twice-the-rate", 3).begin(demo_pairs())
        other.reflect("instruction").choose("instruction").reflect("response").choose("response")
        other.settle().train(30).finish()
        training = store.training.of_run(other.run_id)
        assert training is not None
        store.training.rewind(training.id, 20)
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, "end", key_of("training"), "v")
        shown = text(app)
        assert "── quickstart  " in shown
        assert "╌╌ twice-the-rate  " in shown
        assert "step 20 of 30" in shown
        await press(pilot, "v")
        assert "twice-the-rate" not in text(app)
        assert app.problems == []


async def test_losses_of_pairs_are_not_laid_over_those_of_tokens(demo: Workspace) -> None:
    """One is in nats a token and the other the loss of a pair; facts and small curves stay side by side."""
    with Store(demo.store_path) as store:
        other = Script(demo, store, "pairs", 3).begin(demo_pairs())
        other.reflect("instruction").choose("instruction").reflect("response").choose("response")
        other.settle().train(30).finish()
        recipe = store.runs.get(other.run_id).recipe
        recipe = {**recipe, "training": {**recipe["training"], "method": "dpo"}}
        store.runs.update(other.run_id, recipe=json.dumps(recipe))
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, "end", key_of("training"), "v")
        shown = text(app)
        assert "pairs (dpo)" in shown and "── quickstart  " in shown
        assert "╌╌ pairs" not in shown
        assert app.problems == []


async def test_a_damaged_model_says_so(demo: Workspace) -> None:
    (demo.models / "broken.gguf").write_bytes(b"GGUF but not really")
    async with dashboard(demo) as (app, pilot):
        await press(pilot, key_of("models"))
        assert "✗ bad" in text(app)
        assert "broken" in text(app)


async def test_what_goes_wrong_is_a_toast_and_a_line_in_the_log(demo: Workspace) -> None:
    async with dashboard(demo, (100, 30)) as (app, pilot):
        app.report_error(ValueError("the \x1b[31mreason\x1b[0m [bold]is[/bold] this"))
        await press(pilot, key_of("log"))
        shown = text(app)
        assert "␛[31mreason" in shown
        assert "[bold]is[/bold]" in shown
        assert "37 % of 48" in shown
        await press(pilot, "home", "enter")
        assert "Traceback" in text(app) or "ValueError" in text(app)


async def test_data_cannot_drive_the_terminal(demo: Workspace) -> None:
    async with dashboard(demo, (160, 50)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("samples"))
        assert "[bold red]this[/bold red]" in text(app)
        await press(pilot, *["down"] * 9, "enter")
        assert "[link=file:///etc/passwd]here[/link]" in text(app)
        for strip in app.screen._compositor.render_strips():
            for segment in strip:
                assert segment.style is None or segment.style.link is None
                assert not [
                    c for c in segment.text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\u200d"
                ]


async def test_wide_letters_keep_columns_straight(demo: Workspace) -> None:
    async with dashboard(demo, (100, 30)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("samples"))
        table = app.screen.query_one(VirtualTable)
        for y in range(table.size.height):
            strip = table.render_line(y)
            assert cell_len("".join(s.text for s in strip)) == table.size.width


async def test_a_million_rows_fetch_only_what_is_seen(demo: Workspace) -> None:
    from srtui.tui.widgets.table import Cell, Column, TableRow

    asked: list[int] = []

    async def source(first: int, count: int) -> list[TableRow]:
        asked.append(first)
        return [TableRow(n, (Cell(f"row {n:,}"),)) for n in range(first, min(first + count, 1_000_000))]

    async with dashboard(demo) as (app, pilot):
        table = VirtualTable([Column("name", "name")], source)
        await app.screen.mount(table, before=0)
        await settled(pilot)
        table.show(1_000_000, 0)
        table.focus()
        await settled(pilot)
        table.action_edge(1)
        assert table.row is None
        table.action_select()
        await settled(pilot)
        assert table.row is not None
        assert table.row.cells[0].text == "row 999,999"
        assert table._asked_for == -1
        await press(pilot, "pageup", "home")
        assert len(set(asked)) <= 5


async def test_the_mouse_does_what_keys_do(demo: Workspace) -> None:
    async with dashboard(demo, (120, 30)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket")
        at = text(app).splitlines()[0].index(numbered("samples"))
        await pilot.click(offset=(at + 2, 0))
        await settled(pilot)
        assert app.screen.MODE == "samples"
        heading = text(app).splitlines()[3].index("r-IFD")
        for turn in (False, True):
            await pilot.click(offset=(heading + 1, 3))
            await settled(pilot)
            assert (app.sample_filter.order, app.sample_filter.descending) == ("rifd", turn)
        await pilot.click(offset=(20, 7), times=2)
        await settled(pilot)
        assert isinstance(app.screen, SampleScreen)
        keys = text(app).splitlines()[28]  # in two lines
        await pilot.click(offset=(keys.index("Back"), 28))
        await settled(pilot)
        assert app.screen.query_one(VirtualTable).cursor == 3


async def test_small_and_large_terminals(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        for size in ((40, 10), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            for key in "12345678":
                await press(pilot, key)
        await press(pilot, key_of("samples"), "enter")
        await pilot.resize_terminal(160, 50)
        await settled(pilot)
        assert isinstance(app.screen, SampleScreen)
        assert app.problems == []


async def test_a_drawn_table_changes_with_the_theme(demo: Workspace) -> None:
    async with dashboard(demo) as (app, pilot):
        await press(pilot, key_of("samples"))
        table = app.screen.query_one(VirtualTable)
        dark = {segment.style.bgcolor for segment in table.render_line(3)}
        await press(pilot, "f2")
        assert not dark & {segment.style.bgcolor for segment in table.render_line(3)}


@pytest.mark.parametrize("theme", ["srtui-light", "textual-dark", "textual-light", "nord"])
async def test_themes(demo: Workspace, theme: str) -> None:
    async with dashboard(demo) as (app, pilot):
        app.theme = theme
        for key in "1234":
            await press(pilot, key)
        assert app.problems == []


@pytest.mark.parametrize("width", [112, 130])
async def test_the_bars_of_what_became_of_the_samples_stand_behind_their_numbers(
    demo: Workspace, width: int
) -> None:
    async with dashboard(demo, (width, 45)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket", key_of("scores"))
        flow = app.screen.query_one("#flow")
        lines = str(flow.render()).split("\n")
        assert lines[1].startswith("samples") and lines[1].rstrip().endswith("█")
        assert flow.size.height == len(lines), "a line is broken in two"
