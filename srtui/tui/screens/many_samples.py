"""Many samples of a table at once: marked, flagged, overruled, and all of that taken back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual.binding import Binding, BindingType

from srtui.store import Store
from srtui.store.bulk import TAKEN, BulkOverruling, Taken
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.screens.dialogs import Menu, NextStep
from srtui.tui.screens.listing_screen import ListingScreen
from srtui.tui.widgets.table import VirtualTable

MOST_MARKED = 10_000
"""Samples that can be marked at a time."""
_TAKES = (
    ("original", "o", "The original, as it was imported"),
    ("instruction", "i", "The rewrite with the new instruction"),
    ("response", "a", "The rewrite with the new answer"),
    ("student", "s", "The student's own choice: take overrulings back"),
)


def _samples(count: int) -> str:
    return f"{count:,} sample{'' if count == 1 else 's'}"


class ManySamples(ListingScreen, DashboardScreen):
    """What the screen of samples does to marked ones; it says how its table shows them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark"),
        Binding("A", "mark_all", "Mark all listed", show=False),
        Binding("F", "flag_marked", "Flag marked", show=False),
        Binding("o", "overrule_marked", "Overrule marked", show=False),
        Binding("u", "undo", "Undo the last bulk", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._marked: dict[int, None] = {}
        self._marked_of: int | None = None  # the run that they are marked in
        self._done_last: tuple[str, Callable[[Store], int]] | None = None

    def marks_changed(self) -> None:
        """Show the marks as they are."""
        raise NotImplementedError

    def listing_changed(self) -> None:
        """List again: what is listed, and in which order, may be another now."""
        raise NotImplementedError

    def marks_are_of(self, run_id: int | None) -> None:
        """A mark is of a run, and so is what was done to it."""
        if run_id != self._marked_of:
            self._marked, self._marked_of, self._done_last = {}, run_id, None

    def action_mark(self) -> None:
        """Mark the sample under the cursor, or take its mark away, and go to the next."""
        table = self.query_one(VirtualTable)
        if table.row is None:
            return
        if self._marked.pop(table.row.key, 0) is not None:
            if len(self._marked) >= MOST_MARKED:
                self.notify(f"At most {MOST_MARKED:,} samples are marked at a time.", timeout=3)
                return
            self._marked[table.row.key] = None
        table.action_move(1)
        self.marks_changed()

    async def action_mark_all(self) -> None:
        """Mark every sample that is listed."""
        try:
            # The table may be of fewer than are being laid out by now.
            listed = await self.reader.ask(lambda v: v.listing.sample_ids(MOST_MARKED + 1))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        if len(listed) > MOST_MARKED:
            self.notify(
                f"More are listed than the {MOST_MARKED:,} that are marked at a time: f leaves fewer.",
                timeout=4,
            )
            return
        self._marked = dict.fromkeys(listed)
        self.marks_changed()

    def action_flag_marked(self) -> None:
        """Flag all marked samples; where all of them have one, take the flags away."""
        marked = list(self._marked)
        if not self._some_marked():
            return

        def flag(store: Store) -> tuple[list[int], bool]:
            changed = store.bulk.flag(marked, True)
            return (changed, True) if changed else (store.bulk.flag(marked, False), False)

        def flagged(result: tuple[list[int], bool]) -> None:
            changed, now = result
            self._done(
                f"{_samples(len(changed))} {'flagged' if now else 'without a flag now'}",
                lambda store: len(store.bulk.flag(changed, not now)),
            )

        self.dashboard.write(flag, flagged)

    def action_overrule_marked(self) -> None:
        """Ask which text stands for all marked samples, and take it."""
        run_id, marked = self.dashboard.run_id, list(self._marked)
        if run_id is None or not self._some_marked():
            return

        def done(bulk: BulkOverruling, which: Taken) -> None:
            result = "overruled" if which != "student" else "as the student chose again"
            missing = f"; {bulk.without:,} without such a text as before" if bulk.without else ""
            self._done(f"{_samples(bulk.changed)} {result}{missing}", lambda store: store.bulk.undo(bulk))

        def take(name: str | None) -> None:
            which = next((t for t in TAKEN if t == name), None)
            if which is not None:
                self.dashboard.write(
                    lambda store: store.bulk.overrule(run_id, marked, which), partial(done, which=which)
                )

        title = f"Which text stands for the {len(marked):,} marked samples?"
        self.app.push_screen(Menu(title, [NextStep(*step) for step in _TAKES]), take)

    def _some_marked(self) -> bool:
        if not self._marked:
            self.notify("Nothing is marked: Space marks a sample, A all that are listed.", timeout=3)
        return bool(self._marked)

    def _done(self, words: str, undo: Callable[[Store], int]) -> None:
        self._done_last = words, undo
        self.notify(f"{words}. u takes it back.", timeout=5)
        self.listing_changed()

    def action_undo(self) -> None:
        """Take the last bulk back."""
        if self._done_last is None:
            self.notify("There is no bulk to take back here.", timeout=3)
            return
        last = words, undo = self._done_last

        def undone(count: int) -> None:
            if self._done_last is last:  # where it failed it can be taken back still
                self._done_last = None
            self.notify(f"Taken back: {words} ({count:,} are as before).", timeout=5)
            self.listing_changed()

        self.dashboard.write(undo, undone)
