"""A screen that shows what the store says, and reads it again when that may have changed."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen


class ReadingScreen(Screen[None]):
    """``read`` brings what the store says onto the screen; the app calls ``tick`` each second."""

    EVERY_SECOND: ClassVar[bool] = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "reread", "Refresh", show=False)]

    def __init__(self) -> None:
        super().__init__()
        self._reading = self._again = False

    @property
    def idle(self) -> bool:
        """Whether nothing is being read for this screen."""
        return not self._reading

    async def read(self) -> None:
        """Fetch and show."""

    def show_run(self) -> None:
        """Show what is known of the run without reading."""

    def report_error(self, error: Exception) -> None:
        """Report what reading raised."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        """Read anew when the screen is opened again."""
        self.show_run()
        self.reread()

    def action_reread(self) -> None:
        """Read anew, by key."""
        self.reread()

    def tick(self, changed: bool) -> None:
        """A second has passed; ``changed`` says whether the store was written to."""
        self.show_run()
        if changed or self.EVERY_SECOND:
            self.reread()

    def reread(self) -> None:
        """Read again; asked while reading, once more after that, so that slow reads never pile up."""
        if self._reading:
            self._again = True
            return
        self._reading = True
        self.run_worker(self._read_all(), group="read")

    async def _read_all(self) -> None:
        try:
            while True:
                self._again = False
                await self.read()
                if not self._again:
                    break
        except Exception as error:
            self.report_error(error)
        finally:
            self._reading = False
