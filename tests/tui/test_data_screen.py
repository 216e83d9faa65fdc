"""The datasets of a workspace: what is in them, what was refused, a look into any, and a file on its way in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.widgets import Button, Input

from srtui.datasets.preview import preview
from srtui.errors import UserError
from srtui.pipeline import import_file
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.dataset_view import some_pairs, text_figures
from srtui.store.imports import NewRow
from srtui.tui.app import Dashboard
from srtui.tui.screens.dataset_rows import DatasetRows
from srtui.tui.screens.import_form import ImportForm
from srtui.tui.screens.new_run import NewRun
from srtui.tui.screens.sample import SampleScreen
from srtui.tui.widgets.table import VirtualTable
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, settled, text

ROWS = [
    {"prompt": "Name a tree.", "note": "a", "completion": "The oak is a tree that grows in the park."},
    {"prompt": "Write code.", "note": "b", "completion": "```python\nprint(1)\n```"},
    {"prompt": "", "note": "c", "completion": "nothing was asked"},
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is started, in place of being started."""
    words: list[list[str]] = []
    monkeypatch.setattr(Dashboard, "start_engine", lambda _, given: words.append(given))
    return words


@pytest.fixture
def pairs_file(demo: Workspace) -> Path:
    path = demo.root / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def test_a_dataset_says_what_is_in_it(
    demo: Workspace, pairs_file: Path, started: list[list[str]]
) -> None:
    with Store(demo.store_path) as store:
        import_file(store, pairs_file, "mine")
    async with dashboard(demo, (100, 44)) as (app, pilot):
        await press(pilot, "9", "end")
        words = " ".join(text(app).split())
        for part in (
            "3 rows read: 2 samples, 0 there already, 1 refused",
            "with code in the answer",
            "empty instruction 1",
            "mine.jsonl",
            "none is marked; d looks for them",
        ):
            assert part in words
        await press(pilot, "b")
        assert "line 3: empty instruction" in " ".join(text(app).split())
        await press(pilot, "escape", "d", "n")
        assert isinstance(app.screen, NewRun)
        assert app.screen.query_one("#dataset", Input).value == "mine"
    assert started == [["data", "dedup", "mine", "--mark"]]


async def test_any_dataset_is_looked_into(demo: Workspace) -> None:
    async with dashboard(demo, (80, 24)) as (app, pilot):
        await press(pilot, "9", "enter")
        rows: object = app.screen
        assert isinstance(rows, DatasetRows)
        assert "samples as they were imported" in text(app)
        await press(pilot, "g")
        app.screen.query_one(Input).value = "12"
        await press(pilot, "enter")
        assert app.screen.query_one(VirtualTable).row.key == 12  # type: ignore[union-attr]
        await press(pilot, "enter")
        opened: object = app.screen
        assert isinstance(opened, SampleScreen)
        assert "Sample 12" in text(app)
        await press(pilot, "right", "escape")
        assert app.screen.query_one(VirtualTable).row.key == 13  # type: ignore[union-attr]
        await press(pilot, "escape")
        assert app.problems == []


async def test_a_file_is_seen_before_it_is_imported(
    demo: Workspace, pairs_file: Path, started: list[list[str]]
) -> None:
    async with dashboard(demo, (100, 40)) as (app, pilot):
        await press(pilot, "9", "i")
        assert isinstance(app.screen, ImportForm)
        assert "^o pick  ^s start" in text(app)
        app.screen.query_one("#file", Input).value = "recipes/eval-prompts.jsonl"
        await settled(pilot)
        assert "No row of it can be used" in " ".join(text(app).split())
        app.screen.query_one("#file", Input).value = "mine.jsonl"
        await settled(pilot)
        words = " ".join(text(app).split())
        assert "instruction ← prompt" in words
        assert "response ← completion" in words
        assert "kept with the record: note" in words
        assert "2 good, 1 refused (1 empty instruction)" in words
        assert "Name a tree." in words
        app.screen.query_one("#response", Input).value = "absent"
        await settled(pilot)
        assert "has no field 'absent'" in " ".join(text(app).replace("│", " ").split())
        assert app.screen.query_one("#start", Button).disabled
        app.screen.query_one("#response", Input).value = "note"
        await settled(pilot)
        assert "response ← note" in " ".join(text(app).split())
        await press(pilot, "ctrl+s")
    assert started == [["import", str(pairs_file), "--column", "response=note"]]


def test_a_preview_says_how_rows_map(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("Prompt,Answer,more\nq,a,1\nq2,a2,2\n")
    seen = preview(table)
    assert (seen.format, seen.columns) == ("csv", {"instruction": "Prompt", "response": "Answer"})
    assert [p.texts for p in seen.pairs] == [("q", "", "a"), ("q2", "", "a2")]
    assert (seen.good, seen.whole) == (2, True)
    chats = tmp_path / "b.jsonl"
    turns = [
        {"role": r, "content": t}
        for r, t in (("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"))
    ]
    chats.write_text(json.dumps({"messages": turns}) + "\n")
    assert preview(chats).pairs[0].texts == ("3", "", "4")
    assert preview(chats, turns="first").pairs[0].texts == ("1", "", "2")
    with pytest.raises(UserError, match="no known format"):
        (tmp_path / "c.json").write_text('[{"a": 1}]')
        preview(tmp_path / "c.json")


def test_figures_of_many_are_of_a_random_part(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        rows = [NewRow(n, Pair(f"q{n}", "", "a" * (1 + n % 100)), "{}") for n in range(3000)]
        store.imports.add_samples("many", "many.json", "1" * 64, "alpaca", rows)
        pairs = some_pairs(store.conn, 1, 500)
        numbers = [int(p.instruction[1:]) for p in pairs]
        # Of all rows and not of the first: the mean of 500 of 0..2999 has a standard error of 35.
        assert abs(sum(numbers) / len(numbers) - 1499.5) < 200
        assert pairs == some_pairs(store.conn, 1, 500)
        assert text_figures(pairs).texts == 500
        query = "EXPLAIN QUERY PLAN SELECT id FROM sample WHERE dataset_id = 1 ORDER BY digest LIMIT 500"
        assert "USING COVERING INDEX" in " ".join(str(tuple(r)) for r in store.conn.execute(query))
