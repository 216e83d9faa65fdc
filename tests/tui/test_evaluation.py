"""The Evaluation screen, the way down to a judgement, and a person who judges blindly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from srtui.evaluation.people import blind_order, keep_result
from srtui.evaluation.result_words import Verdicts
from srtui.evaluation.sitting import next_pair
from srtui.store import Store
from srtui.store.evaluations import Evaluation
from srtui.tui.app import Dashboard
from srtui.tui.human_app import HumanApp
from srtui.tui.screens.evaluation import verdict_bar_parts
from srtui.tui.screens.judgements import JudgementScreen, JudgementsScreen
from srtui.tui.screens.judging import HumanScreen
from srtui.tui.tabs import key_of
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text
from tests.tui.scripted_evaluations import add_evaluations
from tests.tui.test_snapshots import LARGE, OLDER, drive

DONE, TURNS, PEOPLE, STOPPED = 1, 2, 3, 4


@pytest.fixture(scope="session")
def evaluated_store(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluated") / "srtui.sqlite"
    with Store(made.store_path) as store:
        store.backup(path)
    with Store(path) as store:
        add_evaluations(store)
    return path


@pytest.fixture
def evaluated(evaluated_store: Path, tmp_path: Path) -> Workspace:
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(evaluated_store) as store:
        store.backup(workspace.store_path)
    return workspace


def evaluation(workspace: Workspace, id: int) -> Evaluation:
    with Store(workspace.store_path) as store:
        return store.evaluations.get(id)


@pytest.mark.parametrize("kind", ["demo", "empty"])
async def test_without_an_evaluation_it_says_what_to_press(kind: str, request: pytest.FixtureRequest) -> None:
    async with dashboard(request.getfixturevalue(kind)) as (app, pilot):
        await press(pilot, key_of("evaluation"))
        assert "n asks a judge model, people, or multiple choice" in " ".join(text(app).split())
        await press(pilot, "enter", "h", "f")
        assert app.problems == []


async def test_the_table_and_the_figures_of_what_the_cursor_is_on(evaluated: Workspace) -> None:
    async with dashboard(evaluated, (150, 45)) as (app, pilot):
        await press(pilot, key_of("evaluation"), "end")
        result = evaluation(evaluated, DONE).result or {}
        shown = text(app)
        assert f"█ A better {result['win']}" in shown
        assert f"{result['win_rate']['value']:.2f}" in shown
        for category in ("writing", "explaining", "facts"):
            assert re.search(rf"{category} +█*▒*░* +\d+ / \d+ / \d+", shown)
        await press(pilot, "up")
        assert "turns, 1" in text(app)
        await press(pilot, "m")
        shown = text(app)
        rate = result["win_rate"]
        assert re.search(r"quickstart +0\.\d\d \(.*\) +\d\.\d\d \(.*stopped", shown)
        assert f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})" in shown
        assert "(2)  turns, prompts.jsonl, judge smollm2-135m" in shown
        await press(pilot, "m")
        await press(pilot, *OLDER, "f")
        assert text(app).count("quickstart") > 3
        await press(pilot, "left_square_bracket")
        assert "Nothing has evaluated this run yet" in text(app)


async def test_down_to_one_judgement_with_both_answers_and_the_judges_words(evaluated: Workspace) -> None:
    async with dashboard(evaluated, (150, 45)) as (app, pilot):
        await press(pilot, key_of("evaluation"), "end", "enter")
        assert isinstance(app.screen, JudgementsScreen)
        assert "48 judgements" in text(app)
        assert "A first" in text(app)
        await press(pilot, "down", "enter")
        assert isinstance(app.screen, JudgementScreen)
        shown = text(app)
        assert "Judgement 2 of 48" in shown
        assert "B first" in shown
        assert "In short:" in shown
        assert "it names what the question asks for" in shown
        assert "its words say 8" in shown
        await press(pilot, *["n"] * 7)
        assert "I cannot compare these." in text(app)
        await press(pilot, "p", "n", "escape", "escape")
        assert app.screen.MODE == "evaluation"
        await press(pilot, "up", "enter", "enter", "n", "escape", "escape")
        assert app.problems == []


async def choose(pilot: Pilot[None], app: Any, workspace: Workspace, key: str) -> tuple[str, int]:
    """Press a key on what is asked; returns the side that stood left, and the item."""
    with Store(workspace.store_path) as store:
        pair = next_pair(store.evaluations, PEOPLE, "grace")
    assert pair is not None
    await pilot.press(key)
    for _ in range(100):
        await pilot.pause(0.02)
        if not any(w.is_running for w in app.workers):
            break
    return pair.ordering[0], pair.item


async def test_a_person_judges_blindly_leaves_and_goes_on(evaluated: Workspace) -> None:
    async with dashboard(evaluated, (120, 36)) as (app, pilot):
        await press(pilot, key_of("evaluation"), "end", "up", "up", "h")
        app.screen.query_one(Input).value = "grace"
        await press(pilot, "enter")
        assert isinstance(app.screen, HumanScreen)
        seen = text(app)
        assert "1 of 6" in seen
        assert "Answer 1" in seen
        for telling in ("quickstart", "smollm2", "base:", "prompts.jsonl", "characters", "tokens", "item"):
            assert telling not in seen
        said = [await choose(pilot, app, evaluated, key) for key in ("1", "2", "t", "b")]
        assert "5 of 6" in text(app)
        await press(pilot, "u")
        assert "4 of 6" in text(app)
        await press(pilot, "escape")
        with Store(evaluated.store_path) as store:
            found = {j.item: j for j in store.evaluations.judgements(PEOPLE, annotator="grace")}
        (left_1, item_1), (left_2, item_2), (_, item_3), (_, undone) = said
        assert found[item_1].choice == left_1
        assert found[item_2].choice == {"a": "b", "b": "a"}[left_2]
        assert found[item_3].choice == "tie"
        assert undone not in found
        await press(pilot, "h")
        app.screen.query_one(Input).value = "grace"
        await press(pilot, "enter")
        assert "4 of 6" in text(app)
        await press(pilot, "s", "1", "1")
        assert "Nothing is left to judge" in text(app)
        await press(pilot, "1", "escape")
        assert app.problems == []
    now = evaluation(evaluated, PEOPLE)
    assert now.result is not None
    assert now.result["skipped"] == 1
    assert now.result["judgements"] == 6
    assert now.state == ("done" if now.result["judged"] == 6 else "stopped")


async def test_two_presses_at_once_answer_one_question(evaluated: Workspace) -> None:
    app = HumanApp(evaluated, PEOPLE, "hasty")
    async with app.run_test() as pilot:
        await pilot.pause(0.3)
        await pilot.press("1", "1", "1")
        await pilot.pause(0.5)
    with Store(evaluated.store_path) as store:
        said = store.evaluations.judgements(PEOPLE, annotator="hasty")
    assert 1 <= len(said) <= 3
    assert all(j.choice == j.ordering[0] for j in said), "each press meant the left side of what was shown"


async def test_alone_in_a_terminal_it_closes_with_the_person(evaluated: Workspace) -> None:
    app = HumanApp(evaluated, PEOPLE, "alan")
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(7):
            await pilot.pause(0.1)
            await pilot.press("2")
        await pilot.pause(0.3)
        await pilot.press("escape")
        await pilot.pause(0.3)
    with Store(evaluated.store_path) as store:
        assert len(store.evaluations.judgements(PEOPLE, annotator="alan")) == 6


def test_texts_that_are_hard_to_show_are_shown_and_not_obeyed(evaluated: Workspace) -> None:
    with Store(evaluated.store_path) as store:
        answers = store.evaluations.answers(PEOPLE)
        pair = next_pair(store.evaluations, PEOPLE, "grace")
        assert pair is not None
        texts = {answers[pair.item, side, 1].text.strip() for side in ("a", "b")}  # type: ignore[index]
        assert {pair.left, pair.right} == texts
        items = store.evaluations.items(PEOPLE)
    orders = {name: blind_order(items, 7, name) for name in ("ada", "grace", "alan")}
    assert len({tuple(i.item for i, _ in o) for o in orders.values()}) > 1


def test_a_sitting_of_nobody_comes_to_nothing(evaluated: Workspace) -> None:
    with Store(evaluated.store_path) as store:
        store.evaluations.undo_human_choice(PEOPLE, "ada")
        keep_result(store, PEOPLE)
        result = store.evaluations.get(PEOPLE).result
    assert result is not None
    assert (result["judgements"], result["win_rate"]["value"]) == (0, None)


def test_without_a_terminal_a_person_is_not_asked() -> None:
    code = (
        "from pathlib import Path; from srtui.workspace import Workspace; from srtui.tui.human_app import open_human\n"
        "open_human(Workspace(Path('.')), 1, 'ada')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ
    )
    assert "Judging by a person needs a terminal" in done.stderr


@pytest.mark.parametrize("counts", [(0, 0, 1), (1, 0, 0), (1, 1, 1000), (7, 9, 8), (1, 1, 1)])
@pytest.mark.parametrize("width", [3, 16, 24])
def test_a_bar_of_three_fills_its_place(counts: tuple[int, int, int], width: int) -> None:
    parts = verdict_bar_parts(Verdicts(*counts), width)
    assert sum(map(len, parts)) == width
    assert all(bool(part) == bool(n) for part, n in zip(parts, counts, strict=True))


SCREENS: dict[str, tuple[str, ...]] = {
    "table": (key_of("evaluation"), "end"),
    "turns": (key_of("evaluation"), "end", "up"),
    "by_run": (key_of("evaluation"), "end", "m"),
    "judgements": (key_of("evaluation"), "end", "enter"),
    "judgement": (key_of("evaluation"), "end", "enter", "enter"),
    "human": (key_of("evaluation"), "end", "up", "up", "h", "a", "d", "a", "enter"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(snap_compare: Any, evaluated: Workspace, name: str) -> None:
    assert snap_compare(
        Dashboard(evaluated), terminal_size=LARGE, run_before=drive("srtui-dark", (*OLDER, *SCREENS[name]))
    )


async def test_small_and_large_terminals(evaluated: Workspace) -> None:
    async with dashboard(evaluated, (40, 10)) as (app, pilot):
        await press(pilot, key_of("evaluation"), "end", "enter", "enter")
        await pilot.resize_terminal(200, 60)
        await settled(pilot)
        assert app.problems == []
