"""A connection to the store that a screen has for itself, and the samples that are opened along its listing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from textual.screen import Screen

from srtui.store.listing import SampleFilter
from srtui.tui.background import StoreReader

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

Back = Callable[[int | None], None] | Callable[[int | None], Awaitable[None]]
"""Gets the position in the listing at which a sample's screen was left; None where it has none."""


class ListingScreen(Screen[None]):
    """Part of a screen that lists samples: a long sort holds up nothing else, and its listing is its own."""

    _reader: StoreReader | None = None

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    @property
    def reader(self) -> StoreReader:
        """The connection that holds the listing, opened when it is first asked; a sample's screen steps along it."""
        if self._reader is None:
            self._reader = StoreReader(self.dashboard.workspace.store_path)
        return self._reader

    def on_unmount(self) -> None:
        """Close the connection; Textual calls this beside a subclass's own."""
        if self._reader is not None:
            self._reader.close()

    def show_sample(self, position: int, sample_id: int, back: Back | None = None) -> None:
        """Open a sample that is laid out.

        Args:
            position: in the listing, from 0.
            sample_id: of the sample there.
            back: gets where the sample's screen was left.
        """
        from srtui.tui.screens.sample import SampleScreen

        self.app.push_screen(SampleScreen(self.reader, position, sample_id), back)

    async def open_sample(self, sample_id: int, back: Back | None = None) -> None:
        """Lay out all samples of the run, and open this one among them. Of a failure the dashboard is told."""
        run_id = self.dashboard.run_id
        try:
            await self.reader.ask(lambda v: v.listing.lay_out(SampleFilter(run_id)))
            position = await self.reader.ask(lambda v: v.listing.position_of(sample_id))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        self.show_sample(position or 0, sample_id, back)
