"""Scores: how the student's two scores are spread before and after, and what became of the samples."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from srtui.measures import MEASURES, STORED
from srtui.store.distributions import ScorePair
from srtui.store.figures import SCORES, Counts, ScoreName
from srtui.store.listing import SampleFilter
from srtui.store.views import Views
from srtui.text import number, share
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.screens.listing_screen import ListingScreen
from srtui.tui.tabs import numbered
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.plot import Plot, Series
from srtui.tui.widgets.words import Words, bar, shown
from srtui.wording import LABELS

_STEP = 0.1
_BINS = 15


class Histogram(Widget, can_focus=True):
    """Counts before and after, back to back, one line a step; a range of lines can be picked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("shift+up,K", "stretch(-1)", "Widen the range up", show=False),
        Binding("shift+down,J", "stretch(1)", "Widen the range down", show=False),
        Binding("enter", "pick('')", "Samples of the range"),
        Binding("b", "pick(' before')", "Its samples before", show=False),
    ]
    DEFAULT_CSS = f"""
    Histogram {{ height: {_BINS + 2}; width: 1fr; padding: 0 1; }}
    Histogram:focus {{ background: $surface; }}
    """
    cursor = reactive(0)
    fixed = reactive(0)

    class Picked(Message):
        """Show the samples of this range."""

        def __init__(self, measure: ScoreName, low: float, high: float | None) -> None:
            super().__init__()
            self.measure, self.low, self.high = measure, low, high

    def __init__(self, name: str, measure: ScoreName, id: str) -> None:
        super().__init__(id=id)
        self._name, self.measure = name, measure
        self._before: list[int] = [0] * _BINS
        self._after: list[int] = [0] * _BINS
        self._means: tuple[float | None, float | None] = (None, None)

    def show(self, before: tuple[list[int], float | None], after: tuple[list[int], float | None]) -> None:
        """Draw these counts and means."""
        self._before, self._after = before[0], after[0]
        self._means = before[1], after[1]
        self.refresh()

    def render(self) -> Content:
        """A line for each step: its count before, its limits, its count of final texts; at or above 1 in
        another colour."""
        width = self.content_size.width
        side = max(4, (width - 25) // 2)
        top = max(*self._before, *self._after, 1)
        first, last = sorted((self.cursor, self.fixed))
        rows = [
            Content.assemble(
                (f"{self._name}   mean {number(self._means[0])} → {number(self._means[1])}", "bold"),
                (f"   {direction(self.measure)}", "$dim"),
            ),
            Content.styled(f"  {'before':>{side + 7}}       {'final':<{side}}", "$dim"),
        ]
        for n in range(_BINS):
            picked = self.has_focus and first <= n <= last
            label = f"{n * _STEP:.1f}" + ("+ " if n == _BINS - 1 else "  ")
            # A bar that grows to the left has no eighths to grow by; it grows by whole cells.
            before_bar = "░" * round(self._before[n] / top * side)
            over = n * _STEP >= 1
            rows.append(
                Content.assemble(
                    ("▐ " if picked else "  ", "$text-accent"),
                    (f"{self._before[n] or '':>6} ", "$dim"),
                    (f"{before_bar:>{side}} ", "$plot-before"),
                    (f"{label:<5}", "bold reverse" if picked else "$plot-limit" if over else ""),
                    (bar(self._after[n], top, side), "$plot-limit" if over else "$plot-after"),
                    f" {self._after[n] or '':<6}",
                )
            )
        return Content("\n").join(rows)

    def action_move(self, by: int) -> None:
        """Pick the step ``by`` lines further down."""
        self.cursor = self.fixed = max(0, min(_BINS - 1, self.cursor + by))

    def action_stretch(self, by: int) -> None:
        """Move one end of the picked range."""
        self.cursor = max(0, min(_BINS - 1, self.cursor + by))

    def on_click(self, event: events.Click) -> None:
        """Pick the clicked step; with Shift a range; clicked twice, list its samples."""
        step = event.y - 2
        if 0 <= step < _BINS:
            if event.shift:
                self.cursor = step
            elif step == self.cursor and event.chain > 1:
                self.action_pick("")
            else:
                self.cursor = self.fixed = step

    def action_pick(self, suffix: str) -> None:
        """Ask for the samples of the picked range; ``suffix`` is empty for final texts, and " before"
        for those before."""
        first, last = sorted((self.cursor, self.fixed))
        measure: ScoreName = f"{self.measure}{suffix}"
        high = None if last == _BINS - 1 else round((last + 1) * _STEP, 6)
        self.post_message(self.Picked(measure, round(first * _STEP, 6), high))

    def on_focus(self) -> None:
        """Show what is picked."""
        self.refresh()

    def on_blur(self) -> None:
        """Show it no more."""
        self.refresh()


def direction(measure: str) -> str:
    """Which of two texts a measure prefers, and where: as short as a heading needs it."""
    chosen = MEASURES[measure]
    if chosen.before == "original":
        return f"instructions: {'higher' if chosen.higher_instruction else 'lower'} wins"
    return f"answers: {'higher' if chosen.higher_response else 'lower'} wins"


class Flow(Words):
    """Steps as bars; a click on one asks for its samples."""

    class Picked(Message):
        """Show these samples."""

        def __init__(self, sample_filter: SampleFilter) -> None:
            super().__init__()
            self.sample_filter = sample_filter

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._leads_to: list[SampleFilter | None] = []

    def show_steps(self, lines: Content, leads_to: list[SampleFilter | None]) -> None:
        """Show these lines; ``leads_to`` has by line which samples it counts, where a filter says it."""
        self._leads_to = leads_to
        self.show(lines)

    def on_click(self, event: events.Click) -> None:
        """Ask for the samples of the clicked line."""
        place = event.get_content_offset(self)
        if (
            place is not None
            and place.y < len(self._leads_to)
            and (only := self._leads_to[place.y]) is not None
        ):
            self.post_message(self.Picked(only))


class ScoresScreen(ListingScreen, DashboardScreen):
    """Two histograms, a scatter and the way of the samples."""

    MODE = "scores"
    HELP_TEXT = (
        "IFD of the original and of the final text, r-IFD of the text before its new answer and of the final one, over "
        "the samples that have both. What the student chose with one of them at or above 1 is not trained on: there the "
        "instruction does not help the answer, or the other way round. Up and down pick a step, with Shift a range; "
        "Enter lists its samples (b: those whose score before lies there). Tab changes between the two. A click on a bar or on a step lists its samples, one on a point opens its sample."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("tab", "app.focus_next", "Other score", show=True)]
    DEFAULT_CSS = f"""
    ScoresScreen #scroll {{ height: 1fr; }}
    ScoresScreen #histograms {{ height: {_BINS + 2}; }}
    ScoresScreen #below {{ height: 1fr; min-height: 18; margin-top: 1; }}
    ScoresScreen #below Plot {{ width: 1fr; }}
    ScoresScreen #flow {{ width: 1fr; height: auto; padding: 0 1; }}
    ScoresScreen.-narrow #below {{ layout: vertical; height: auto; }}
    ScoresScreen.-narrow #below Plot {{ height: 18; }}
    """

    def body(self) -> ComposeResult:
        """A histogram for each stored measure, the scatter, and what became of the samples."""
        with VerticalScroll(id="scroll", can_focus=False):
            with Horizontal(id="histograms"):
                for name in STORED:
                    yield Histogram(MEASURES[name].label, name, name)
            with Horizontal(id="below"):
                yield Flow(id="flow")
                yield Plot("r-IFD against IFD", id="scatter")
        yield Empty(
            "No scores yet",
            f"They come with the first choice of a run; start one on {numbered('runs')}.",
            id="none",
        )

    def __init__(self) -> None:
        super().__init__()
        self._read_at = self._reading_took = 0.0
        self._dots: dict[bool, list[ScorePair]] = {False: [], True: []}

    def tick(self, changed: bool) -> None:
        """Read seldom: counting every score of a large store each second would take a core from the engine."""
        due = time.monotonic() - self._read_at > max(2.0, 20 * self._reading_took)
        super().tick(changed and due)

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self.query_one("#scroll").add_class("hidden")
        self.query_one("#none").add_class("hidden")
        self.on_resize()

    def on_resize(self) -> None:
        """Another layout where there are fewer than 110 columns."""
        self.set_class(self.app.size.width < 110, "-narrow")

    async def read(self) -> None:
        """Histograms, scatter and flow of the current run."""
        app = self.dashboard
        run_id = app.run_id
        if not app.watched:
            return
        started = time.monotonic()
        figures = None if run_id is None else await app.ask(lambda v: _figures(v, run_id))
        self._read_at = time.monotonic()
        self._reading_took = self._read_at - started
        is_empty = figures is None or not any(sum(counts) for counts, _ in figures["histograms"].values())
        was_hidden = self.query_one("#scroll").has_class("hidden")
        self.query_one("#scroll").set_class(is_empty, "hidden")
        self.query_one("#none").set_class(not is_empty, "hidden")
        if figures is None or is_empty:
            return
        for measure in STORED:
            self.query_one(f"#{measure}", Histogram).show(
                figures["histograms"][f"{measure} before"], figures["histograms"][measure]
            )
        pairs: list[ScorePair] = figures["pairs"]
        self._dots = {kept: [p for p in pairs if p.kept is kept] for kept in (False, True)}
        self.query_one("#scatter", Plot).show(
            [
                Series(name, [(p.ifd, p.rifd) for p in self._dots[kept]], style, "dots", sign=sign)
                for name, kept, style, sign in (
                    ("dropped", False, "$plot-before", "×"),
                    ("kept", True, "$plot-after", "•"),
                )
            ],
            at_x=1.0,
            at_y=1.0,
            names=("IFD", ""),
        )
        width = self.app.size.width
        room = (width if self.has_class("-narrow") else width // 2) - 4  # padding, and a scroll bar's place
        lines, leads_to = _flow(figures["counts"], room)
        self.query_one("#flow", Flow).show_steps(lines, leads_to)
        if was_hidden and self.focused is None:
            self.query_one("#ifd").focus()

    def on_flow_picked(self, event: Flow.Picked) -> None:
        """List the samples of the step that was clicked."""
        self.dashboard.sample_filter = event.sample_filter
        self.dashboard.action_go("samples")

    def on_plot_picked(self, event: Plot.Picked) -> None:
        """Open the sample whose point was clicked."""
        dots = self._dots[event.series.name == "kept"]
        if event.point < len(dots):
            self.run_worker(self.open_sample(dots[event.point].sample_id), group="open", exclusive=True)

    def on_histogram_picked(self, event: Histogram.Picked) -> None:
        """List the samples of the picked range."""
        base = SampleFilter(order=event.measure.removesuffix(" before"))
        self.dashboard.sample_filter = replace(
            base, measure=event.measure, low=event.low, high=event.high, both=True
        )
        self.dashboard.action_go("samples")


def _figures(views: Views, run_id: int) -> dict[str, Any]:
    return {
        "histograms": {score: views.histogram(run_id, score, _STEP, _BINS) for score in SCORES},
        "pairs": views.score_pairs(run_id),
        "counts": views.counts(run_id),
    }


def _flow(counts: Counts, room: int) -> tuple[Content, list[SampleFilter | None]]:
    """What became of the samples, step by step, each as a bar of all of them, in lines of at most ``room``
    cells, and by line which samples it counts, where a filter says it. What is kept, dropped and still on its way makes
    up all of them."""
    width = min(24, max(8, room - 52))
    longest = max(8, min(35, room - width - 17))  # a window narrower than that cuts the line
    samples = counts.samples
    lines = [Content.styled("What became of the samples", "bold")]
    leads_to: list[SampleFilter | None] = [None]

    def step(
        name: str, count: int, style: str = "", indent: int = 0, only: SampleFilter | None = None
    ) -> None:
        leads_to.append(only)
        label = " " * indent + name
        lines.append(
            shown(f"{label[:longest]:<{longest}} {count:>8,} {share(count, samples):>5}  ")
            + Content.styled(bar(count, samples, width), style or "$plot-after")
        )

    step("samples", samples, only=SampleFilter())
    for stage, name in (("instruction", "new instruction"), ("response", "new answer")):
        of_target = counts.targets[stage]
        step(f"{name} taken", of_target.taken, only=SampleFilter(decision=name))
        step("rewrite lost", of_target.choices - of_target.taken, "$dim", 2)
        step("no usable rewrite", of_target.decided - of_target.choices, "$dim", 2)
        for reason, count in list(of_target.failed.items())[:3]:
            step(reason, count, "$dim", 4)
    step(LABELS["kept"], counts.kept, only=SampleFilter(state="kept"))
    if counts.overruled:
        step(
            f"of these {LABELS['overruled']}",
            counts.overruled,
            "$text-accent",
            2,
            SampleFilter(state="overruled"),
        )
    for reason, count in counts.dropped.items():
        step(f"dropped: {reason}", count, "$plot-before", only=SampleFilter(state="dropped"))
    if counts.on_their_way:
        step("still on their way", counts.on_their_way, "$dim")
    for name in STORED:
        measure = MEASURES[name]
        instruction = measure.before == "original"
        higher = measure.higher_instruction if instruction else measure.higher_response
        which = "instructions" if instruction else "answers"
        better = "higher" if higher else "lower"
        lines.append(Content.styled(f"{measure.label}: of two {which} the {better} one is taken", "$dim"))
    return Content("\n").join(lines), leads_to
