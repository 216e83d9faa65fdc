"""The map of the data: every sample where its embedding lies, by topic or by what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content

from srtui.data_map import FATES, DataMap, Fate, MapPoint, map_of_dataset, map_of_run
from srtui.store import Store
from srtui.store.listing import SampleFilter
from srtui.tui.background import StoreReader
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.tabs import numbered
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.scatter import Dot, Scatter
from srtui.tui.widgets.words import Words, shown

MOST_SHOWN = 4000
"""Samples that are drawn; of more, every n-th."""
_FIRST_WORDS = 200  # characters of an instruction
_COLOURS = (
    "$text-primary",
    "$text-accent",
    "$text-success",
    "$text-error",
    "$text-secondary",
    "$text-warning",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FATE_SIGNS: dict[Fate, tuple[str, str]] = {
    "kept": ("●", "$text-success"),
    "not kept": ("×", "$dim"),
    "left out": ("○", "$text-warning"),
    "in the data": ("●", "$text-primary"),
}
_NARROW = 110


@dataclass(frozen=True)
class _Shown:
    """What the screen is about: a run or a dataset, its map, and by sample the first words of its instruction."""

    dataset: str
    map: DataMap
    words: dict[int, str]


class MapScreen(DashboardScreen):
    """Opened from Samples; it lists on a connection of its own, so that a sample's neighbours in the table can be
    stepped to."""

    MODE = "samples"
    HELP_TEXT = (
        "The data as it was imported: each sit where the student's embeddings put it, in the plane in which they differ "
        "most (principal components), so what lies together is alike. A letter is a topic, and c changes to what became "
        "of the samples. Bold is a cell with several of them; n goes from one to the next. Arrows go from point to "
        "point, + and - zoom, 0 shows all, Enter or a second click opens a sample."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Back"),
        Binding("c", "colour", "Topics/kept"),
    ]
    DEFAULT_CSS = """
    MapScreen #map { height: 1fr; }
    MapScreen #topics {
        width: 38; height: 100%; padding: 0 1; border-left: solid $panel; text-wrap: nowrap; text-overflow: ellipsis;
    }
    MapScreen.-narrow #topics { display: none; }
    MapScreen #point {
        height: 2; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: _Shown | None = None
        self._of: dict[int, MapPoint] = {}
        self._by_topic = True
        self._reader: StoreReader | None = None

    def body(self) -> ComposeResult:
        """What is drawn, the map with its topics, and the sample at the cursor."""
        yield Words(id="which", classes="line")
        with Horizontal(id="map"):
            yield Scatter(id="scatter")
            yield Words(id="topics")
        yield Words(id="point")
        yield Empty("No map yet", "", id="none")

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self._hide(True, empty=False)
        self.on_resize()

    def on_resize(self) -> None:
        """No list of topics where there is no room for it."""
        self.set_class(self.app.size.width < _NARROW, "-narrow")

    def on_unmount(self) -> None:
        """Close this screen's own connection to the store."""
        if self._reader is not None:
            self._reader.close()

    def tick(self, changed: bool) -> None:
        """It is drawn when it is opened, and on r: a map that moves under the cursor is no use."""
        super().tick(False)

    def _hide(self, hidden: bool, empty: bool) -> None:
        for name in ("#which", "#map", "#point"):
            self.query_one(name).set_class(hidden, "hidden")
        self.query_one("#none").set_class(not empty, "hidden")

    async def read(self) -> None:
        """The points of the current run, or of a dataset where there is no run."""
        app = self.dashboard
        if not app.watched:
            return
        path, run = app.workspace.store_path, app.current_run
        if not path.exists():
            self._show_empty(
                f"Import a dataset with srtui import FILE, or start the demo on {numbered('runs')}."
            )
            return
        if self._shown is None:
            self._hide(True, empty=True)
            self.query_one("#none", Empty).show("Drawing the map", "")
        self._shown = await asyncio.to_thread(_read, path, run.id if run else None)
        if self._shown is None or not self._shown.map.points:
            self._show_empty(self._what_to_do(run.name if run else None))
            return
        self._of = {point.sample_id: point for point in self._shown.map.points}
        self._hide(False, empty=False)
        self._draw()
        if self.focused is None:
            self.query_one(Scatter).focus()

    def _what_to_do(self, run: str | None) -> str:
        if self._shown is None:
            return f"Import a dataset with srtui import FILE, or start the demo on {numbered('runs')}."
        if self._shown.map.embedded:
            return f"{self._shown.map.embedded} samples have an embedding; a map needs four."
        command = (
            f"srtui data look --run {run} --embed"
            if run
            else f"srtui data embed {self._shown.dataset} --student NAME"
        )
        return (
            "A map needs the samples' embeddings, and there are none. The student makes them in one pass over the data: "
            f"{command}, and then r here."
        )

    def _show_empty(self, words: str) -> None:
        self._hide(True, empty=True)
        self.query_one("#none", Empty).show("No map yet", words)

    def _draw(self) -> None:
        if self._shown is None:
            return
        self.query_one(Scatter).show([self._dot(point) for point in self._shown.map.points])
        self._show_heading()
        self._show_topics(self._shown.map)

    def _dot(self, point: MapPoint) -> Dot:
        sign, style = (
            (_letter(point.topic), _colour(point.topic)) if self._by_topic else _FATE_SIGNS[point.fate]
        )
        return Dot(point.sample_id, point.x, point.y, sign, style)

    def _show_heading(self) -> None:
        if self._shown is None:
            return
        drawn = self._shown.map
        count = f"{len(drawn.points):,} of {drawn.samples:,} samples" if drawn.step > 1 else (
            f"{len(drawn.points):,} samples"
        )  # fmt: skip
        parts = [Content.styled(count, "bold")]
        if self.dashboard.current_run is None:  # there may be many datasets, and no line above names this one
            parts.insert(0, shown(self._shown.dataset))
        if drawn.step > 1:
            parts.append(Content(f"every {_ordinal(drawn.step)}"))
        if drawn.embedded < -(-drawn.samples // drawn.step):
            parts.append(Content("those with an embedding"))
        zoomed = self.query_one(Scatter).zoomed
        if zoomed > 1:
            parts.append(Content(f"zoom {zoomed:.0f}"))
        fates = Counter(point.fate for point in drawn.points)
        for fate in FATES:
            if fates[fate]:
                sign, style = _FATE_SIGNS[fate]
                mark = Content("") if self._by_topic else Content.styled(f"{sign} ", style)
                parts.append(mark + Content(f"{fates[fate]:,} {fate}"))
        self.query_one("#which", Words).show(Content("  ·  ").join(parts))

    def _show_topics(self, drawn: DataMap) -> None:
        lines = [Content.styled("Topics, and the samples of each", "bold")]
        for n, topic in enumerate(drawn.topics):
            lines.append(
                Content.styled(f"{_letter(n)} ", f"bold {_colour(n)}")
                + Content.styled(f"{topic.before:>6,}  ", "$dim")
                + shown(", ".join(topic.words[:3]) or "-")
            )
        self.query_one("#topics", Words).show(Content("\n").join(lines))

    @on(Scatter.Moved)
    def _show_point(self) -> None:
        scatter = self.query_one(Scatter)
        point = self._of.get(scatter.current or 0)
        if self._shown is None or point is None:
            return
        self._show_heading()
        place, of = scatter.here
        sign, style = _FATE_SIGNS[point.fate]
        parts = [
            Content.styled(f"Sample {point.sample_id}", "bold"),
            Content.styled(f"{sign} {point.fate}", style),
            Content.styled(_letter(point.topic), f"bold {_colour(point.topic)}")
            + shown(f" {', '.join(self._shown.map.topics[point.topic].words) or 'no word of its own'}"),
        ]
        if of > 1:
            parts.insert(1, Content(f"{place} of {of:,} here"))
        self.query_one("#point", Words).show(
            Content("  ·  ").join(parts) + Content("\n") + shown(self._shown.words.get(point.sample_id, ""))
        )

    # -- what a person does -----------------------------------------------------------------

    def action_back(self) -> None:
        """Return to the table."""
        self.dismiss()

    def action_colour(self) -> None:
        """Change between topics and what became of the samples."""
        self._by_topic = not self._by_topic
        self._draw()

    @on(Scatter.Opened)
    async def _open(self, event: Scatter.Opened) -> None:
        from srtui.tui.screens.sample import SampleScreen

        run_id = self.dashboard.run_id
        if self._reader is None:
            self._reader = StoreReader(self.dashboard.workspace.store_path)
        reader = self._reader
        try:
            await reader.ask(lambda v: v.listing.lay_out(SampleFilter(run_id)))
            position = await reader.ask(lambda v: v.listing.position_of(event.key))
        except Exception as error:
            self.dashboard.report_error(error)
            return

        async def back(last: int | None) -> None:
            if last is not None:
                sample_id = await reader.ask(lambda v: v.listing.sample_at(last))
                if sample_id is not None:
                    self.query_one(Scatter).go_to(sample_id)

        self.app.push_screen(SampleScreen(reader, position or 0, event.key), back)


def _read(path: Path, run_id: int | None) -> _Shown | None:
    """The map of a run, or of the last dataset that has embeddings; None where there is no sample."""
    with Store(path, read_only=True) as store:
        if run_id is not None:
            run = store.runs.get(run_id)
            drawn = map_of_run(store, run, MOST_SHOWN)
            dataset = store.corpus.dataset_name(run.dataset_id) or ""
        else:
            names = [d.name for d in store.corpus.datasets()]
            ids = {name: store.corpus.dataset_id(name) or 0 for name in reversed(names)}
            if not ids:
                return None
            dataset = next(
                (name for name in ids if store.embeddings.setting_of_dataset(ids[name]) is not None),
                names[-1],
            )
            drawn = map_of_dataset(store, ids[dataset], MOST_SHOWN)
        pairs = store.corpus.original_pairs_of(point.sample_id for point in drawn.points)
        words = {
            sample: " ".join(pair.instruction[: 2 * _FIRST_WORDS].split())[:_FIRST_WORDS]
            for sample, pair in pairs.items()
        }
        return _Shown(dataset, drawn, words)


def _letter(topic: int) -> str:
    return _LETTERS[topic % len(_LETTERS)]


def _colour(topic: int) -> str:
    return _COLOURS[topic % len(_COLOURS)]


def _ordinal(n: int) -> str:
    ending = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
