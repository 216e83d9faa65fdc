"""Go to a sample by its number, in a table of samples that is laid out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtui.tui.background import StoreReader
from srtui.tui.screens.dialogs import AskText
from srtui.tui.widgets.table import VirtualTable

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard


def ask_for_sample(app: Dashboard, reader: StoreReader, table: VirtualTable) -> None:
    """Ask for a number, and bring the cursor to that sample where the table has it."""

    async def move(sample_id: int) -> None:
        try:
            position = await reader.ask(lambda v: v.listing.position_of(sample_id))
        except Exception as error:
            app.report_error(error)
            return
        if position is None:
            app.notify(f"Sample {sample_id} is not in this table.", severity="warning", timeout=3)
        else:
            table.cursor = position
            table.focus()

    def go(answer: str | None) -> None:
        digits = (answer or "").strip()
        if digits.isascii() and digits.isdecimal() and len(digits) < 16:
            app.run_worker(move(int(digits)), group="go")
        elif digits:
            app.notify(f"{digits[:40]}: a sample's number is a whole one.", markup=False, timeout=3)

    app.push_screen(AskText("Go to", "A sample's number, as the column # has it.", placeholder="120"), go)
