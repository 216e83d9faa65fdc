"""Conversations and preference pairs on the screens, at the sizes that terminals have."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.store import Store
from srtui.tui.screens.sample import SampleScreen
from srtui.tui.screens.training import TrainingScreen
from srtui.tui.tabs import key_of
from srtui.workspace import Workspace
from tests.tui.driving import dashboard, press, text
from tests.tui.scripted_conversations import PAIRS, make_conversations

SIZES = ((80, 24), (120, 36), (160, 50))
QUESTION = 'What is the opposite of "scarce"?'
"""Of the last conversation, whose second exchange is the last sample."""


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("talks") / "ws")
    make_conversations(workspace)
    return workspace


@pytest.mark.parametrize("size", SIZES)
async def test_a_history_is_folded_above_the_texts_and_c_opens_it(
    talks: Workspace, size: tuple[int, int]
) -> None:
    async with dashboard(talks, size) as (app, pilot):
        await press(pilot, key_of("samples"), "end", "enter")
        assert isinstance(app.screen, SampleScreen)
        folded = text(app).splitlines()
        line = next(line for line in folded if "▸" in line)
        assert "▸ Turn 4 of 4. 2 turns before, the last by assistant: Plentiful.  (c opens it)" in line
        assert folded.index(line) < min(n for n, words in enumerate(folded) if "Original" in words)
        assert QUESTION not in "\n".join(folded)
        await press(pilot, "c")
        opened = text(app).splitlines()
        assert any("▾ Turn 4 of 4." in words and "(c folds it)" in words for words in opened)
        where = [next(n for n, words in enumerate(opened) if said in words) for said in (
            "▾", "User", QUESTION, "Assistant", "Plentiful.", "Original", "Use it in a sentence.",
        )]  # fmt: skip
        where[4] = max(
            n for n, words in enumerate(opened) if "Plentiful." in words
        )  # the line above names it, too
        assert where == sorted(where) and len(set(where)) == len(where)
        rules = [n for n, words in enumerate(opened) if set(words.strip()) == {"─"}]
        assert not any(n + 1 in rules for n in rules), "two lines, one behind the other"
        await press(pilot, "c")
        assert text(app).splitlines() == folded
        # The first exchange of that conversation has none, and says so.
        await press(pilot, "p", "c")
        line = "Turn 2 of 4; others follow, so its instruction stays. Nothing came before."
        assert line in text(app)
        assert any("Nothing came before this sample" in n.message for n in app._notifications)


@pytest.mark.parametrize("size", SIZES)
async def test_a_search_finds_what_a_history_says_and_opens_it_there(
    talks: Workspace, size: tuple[int, int]
) -> None:
    async with dashboard(talks, size) as (app, pilot):
        await press(pilot, key_of("samples"), "slash", *"scarce", "enter")
        assert "2 samples" in text(app)  # the one that asks it, and the one that it is the history of
        await press(pilot, "end", "enter")
        shown = text(app)
        assert "(c folds it)" in shown and QUESTION in shown and "Sample 134" in shown
        reversed_ = {
            segment.text
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style is not None and segment.style.reverse and segment.text.isalpha()
        }
        assert reversed_ == {"scarce"}


@pytest.mark.parametrize("size", SIZES)
async def test_training_on_pairs_shows_margin_and_accuracy(talks: Workspace, size: tuple[int, int]) -> None:
    async with dashboard(talks, size) as (app, pilot):
        await press(pilot, key_of("training"))
        screen = app.screen
        assert isinstance(screen, TrainingScreen)
        shown = " ".join(text(app).split())
        assert "trained on 109 pairs (dpo)" in shown and "of the choices in 134 samples" in shown
        assert "of 65 kept" not in shown and "8 held out" not in shown
        assert (
            "held-out pairs: reward margin 0.312 (0.104 to 0.521, n = 17) · reward accuracy 0.706 (0.469 to 0.867, "
            "n = 17)" in shown
        )
        assert "held-out loss: original 2.610 → 2.640 · of a pair 0.693 → 0.581" in shown
        assert "loss of a pair" in shown
        plots = {
            plot.id: not plot.has_class("hidden") and plot.size.height > 3 for plot in screen.query("Plot")
        }
        assert plots == {"loss": True, "rate": True, "speed": True, "memory": False, "margin": True}
        # Losses of another unit are not drawn, and that is said.
        await press(pilot, "v")
        shown = " ".join(text(app).split())
        assert "talks: its loss is of tokens, of which no axis is here." in shown
        assert "trained on 57 samples" in shown and "of 65 kept, 8 held out" in shown


async def test_before_held_out_pairs_are_measured_the_last_steps_speak(
    talks: Workspace, tmp_path: Path
) -> None:
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(talks.store_path) as store:
        store.backup(workspace.store_path)
    with Store(workspace.store_path) as store, store.transaction():
        run = store.runs.named(PAIRS).id
        store.conn.execute(
            "UPDATE training_run SET status = 'running', result = '{}' WHERE run_id = ?", (run,)
        )
    async with dashboard(workspace, (120, 36)) as (app, pilot):
        await press(pilot, key_of("training"))
        shown = " ".join(text(app).split())
        assert "reward margin 0.4" in shown and "mean of 20 steps · reward accuracy 0.7" in shown
        assert "held-out pairs" not in shown
