"""The small things that screens are made of."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from srtui.store.training import StoredTraining, TrainingView
from srtui.tui.screens.live import tokens_a_second
from srtui.tui.screens.training import before_and_after, seconds_left, smoothed, speeds
from srtui.tui.tabs import TABS, fitted, numbered
from srtui.tui.widgets.plot import Plot, Series, _Canvas, round_ticks
from srtui.tui.widgets.rewrite_diff import word_diff
from srtui.tui.widgets.table import _fit
from srtui.tui.widgets.words import bar, shown, sparkline


@given(st.text(max_size=80), st.integers(2, 40), st.booleans())
def test_a_cell_is_as_wide_as_its_column_whatever_is_in_it(text: str, width: int, right: bool) -> None:
    fitted = _fit(text, width, right)
    assert cell_len(fitted) == width
    assert not [c for c in fitted if unicodedata.category(c) == "Cc"]


@given(st.floats(0, 2), st.integers(1, 60))
def test_bars_never_leave_their_place(part: float, width: int) -> None:
    assert len(bar(part, 1.0, width)) == width


def test_bars_and_sparklines_of_nothing() -> None:
    assert bar(1, 0, 4) == "    "
    assert sparkline([], 5) == "     "
    assert sparkline([0.0, 0.0], 3) == "   "
    assert sparkline([1.0, 8.0], 2) == "▂█"


def marked(content: object) -> list[str]:
    return [content.plain[s.start : s.end] for s in content.spans if s.style]  # type: ignore[attr-defined]


def test_a_diff_marks_words_and_nothing_else() -> None:
    both = word_diff("Name the capital of Australia.", "Name the old capital of Austria.")
    assert both is not None
    before, after = both
    assert before.plain == "Name the capital of Australia."
    assert after.plain == "Name the old capital of Austria."
    assert marked(before) == ["Australia"]
    assert [w.strip() for w in marked(after)] == ["old", "Austria"]


def test_a_diff_of_a_script_without_spaces_goes_by_letters() -> None:
    both = word_diff("今天天气很好", "今天天气不好")
    assert both is not None
    assert marked(both[0]) == ["很"]
    assert marked(both[1]) == ["不"]


@pytest.mark.parametrize(
    ("before", "after"), [("one two three", "nine ten"), ("", "x"), ("a " * 5000, "b " * 5000)]
)
def test_where_nothing_is_common_nothing_is_marked(before: str, after: str) -> None:
    assert word_diff(before, after) is None


def test_data_is_shown_and_not_obeyed() -> None:
    content = shown("\x1b[31mred\x1b[0m [bold]x[/bold] \u202e")
    assert content.plain == "␛[31mred␛[0m [bold]x[/bold] <202e>"
    assert content.spans == []


def test_smoothing_starts_at_the_first_point_and_skips_what_is_no_number() -> None:
    assert smoothed([(1, 2.0), (2, float("nan")), (3, 2.0)]) == [
        (1.0, pytest.approx(2.0)),
        (3.0, pytest.approx(2.0)),
    ]


def test_a_canvas_draws_a_line_from_corner_to_corner() -> None:
    canvas = _Canvas(4, 2)
    canvas.draw([(0, 0), (7, 7)], Series("", []))
    assert canvas.row(0, None, None).plain == "⠑⢄  "
    assert canvas.row(1, None, None).plain == "  ⠑⢄"


def test_a_plot_of_one_point_or_none_is_drawn() -> None:
    plot = Plot("loss")
    plot.show([Series("", [(1.0, float("inf"))])])
    assert "nothing to draw yet" in plot.render().plain


def test_speed_is_even_where_reports_come_in_bursts() -> None:
    """600 tokens each six seconds are 100 a second at any moment, and none once nothing comes."""
    counts: list[tuple[float, int]] = []
    for second in range(60):
        if second % 6 == 0:
            counts.append((float(second), 600 * len(counts)))
        if second >= 12:
            assert tokens_a_second(counts, float(second)) == pytest.approx(100)
    assert tokens_a_second(counts, 54 + 30.0) == 0.0
    assert tokens_a_second([], 1.0) == tokens_a_second([(0.0, 5)], 1.0) == 0.0


def training_view(**known: Any) -> TrainingView:
    """A training of which no more than this matters."""
    row = StoredTraining(1, 1, "running", 3, 50, 9, 0.0, None, {}, 0.0, {}, 3, None, None, "sft", 0)
    return TrainingView(**{**vars(row), "metrics": {}, "checkpoints": [], **known})


def test_a_training_that_went_on_from_a_checkpoint_has_speeds_and_an_end() -> None:
    """Ten steps of two seconds; then from step 10 on in another process, whose clock starts again."""
    metrics = {
        "tokens": [(step, 100.0 * step) for step in range(1, 21)],
        "seconds": [(step, 2.0 * (step if step <= 10 else step - 10)) for step in range(1, 21)],
    }
    training = training_view(metrics=metrics)
    assert [value for _, value in speeds(training)] == pytest.approx([50.0] * 19)
    assert seconds_left(training) == pytest.approx(60.0)
    assert seconds_left(replace(training, status="done")) is None
    assert seconds_left(replace(training, metrics={})) is None


def test_the_loss_after_a_training_is_that_of_the_weights_that_were_kept() -> None:
    """Early stopping keeps those of the best step; what was measured last is of worse ones."""
    training = training_view(
        metrics={"held_out_original": [(10, 2.0), (20, 2.2)]},
        result={"held_out": {"original": {"before": 2.5, "after": 2.0, "samples": 4}}},
        steps=40,
    )
    assert before_and_after(training) == {"original": (2.5, 2.0)}
    assert before_and_after(replace(training, result={})) == {"original": (2.0, 2.2)}


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=14), min_size=1, max_size=10),
    st.integers(0, 9),
    st.integers(20, 140),
)
def test_the_bar_of_tabs_fits_itself(names: list[str], opened: int, room: int) -> None:
    labels = [f"{n % 10} {name}" for n, name in enumerate(names, 1)]
    opened %= len(labels)
    shown, gap = fitted(labels, opened, room)
    width = 1 + sum(map(len, shown)) + len(gap) * (len(shown) - 1)
    assert shown[opened] == labels[opened]
    assert width <= room or all(len(word) == 1 for n, word in enumerate(shown) if n != opened)
    for word, label in zip(shown, labels, strict=True):
        assert word == label or label.startswith(word.removesuffix("…"))
    assert shown == labels or gap == " "


def test_nine_screens_fit_into_80_columns() -> None:
    labels = [*(numbered(tab.mode) for tab in TABS), "9 Comparisons"]
    shown, gap = fitted(labels, 7, 80)
    assert len(" " + gap.join(shown)) <= 80
    assert shown[7] == numbered("evaluation") and all(len(word) > 4 for word in shown)
    assert fitted(labels[:8], 0, 80) == (labels[:8], "  ")


@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e6), st.integers(1, 12), st.booleans())
def test_ticks_are_round_numbers_within_the_range(low: float, size: float, most: int, whole: bool) -> None:
    high = low + size
    ticks = round_ticks(low, high, most, whole)
    assert len(ticks) <= most + 1
    for tick, words in ticks:
        assert low - 1e-6 * size <= tick <= high + 1e-6 * size
        assert len(words) <= 6
        assert not whole or tick == int(tick)
    steps = {f"{b[0] - a[0]:.6g}" for a, b in itertools.pairwise(ticks)}
    assert len(steps) <= 1 or max(map(float, steps)) / min(map(float, steps)) < 1.001
    assert all(step.replace(".", "").replace("e-0", "e").lstrip("0")[:1] in "125" for step in steps)


def test_the_ticks_of_known_ranges() -> None:
    assert [words for _, words in round_ticks(0.0378, 0.839, 4)] == ["0.2", "0.4", "0.6", "0.8"]
    assert [words for _, words in round_ticks(0, 1400, 3)] == ["0", "500", "1,000"]
    assert [words for _, words in round_ticks(1, 3, 8, whole=True)] == ["1", "2", "3"]
    assert round_ticks(1, 1, 3) == []


def test_points_aside_do_not_press_a_curve_flat() -> None:
    plot = Plot()
    curve = Series("loss", [(n, 1 + n / 10) for n in range(10)])
    plot.show([curve, Series("held out", [(0, 9.0)], kind="dots", sign="◆", aside=True)])
    low, high = plot._heights()
    assert (low, high) == (1.0, pytest.approx(1.9 + 0.45))
    plot.show([curve, Series("held out", [(0, 2.0)], kind="dots", aside=True)])
    assert plot._heights() == (1.0, 2.0)
