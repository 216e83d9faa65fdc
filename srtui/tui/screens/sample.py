"""One sample: every text of it side by side, what the student made of them, and what was decided."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from srtui.errors import UserError
from srtui.files import read_text
from srtui.sample import Pair
from srtui.store.sample_view import SampleView, VariantView
from srtui.text import safe
from srtui.tui.background import StoreReader
from srtui.tui.screens.dashboard_screen import KeyLine
from srtui.tui.tabs import numbered
from srtui.tui.widgets.panes import (
    PART_NAMES,
    PARTS,
    columns,
    diffs,
    history_line,
    history_text,
    pane,
    sentences,
)
from srtui.tui.widgets.words import shown

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_NARROW = 100
_KEYS_FIT_FROM = 140  # columns: on fewer the keys need a second line, or the last of them would be left out


class SampleScreen(Screen[int]):
    """Dismissed with its position in the table, so that the table comes back to it."""

    HELP_TEXT = (
        "Left the original, then what the teacher made of it. Words that are gone are struck through in the text "
        "before, new ones underlined in the rewrite. The bars are the student's losses in nats a token (how surprised it is by a "
        "token of the text, on the mean; e to that power is the perplexity; lower is better): of the "
        "answer y with and without the instruction x, and the other way round; IFD and r-IFD are the ratios of "
        "their perplexities. o, i, a and h take a text for training, overruling the student; u lets its choice stand again. "
        "c opens and folds what came before in a conversation."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Back"),
        Binding("n,right", "step(1)", "Next"),
        Binding("p,left", "step(-1)", "Prev"),
        Binding("o", "accept('original')", "Take original"),
        Binding("i", "accept('instruction')", "New instruction"),
        Binding("a", "accept('response')", "New answer"),
        Binding("h", "accept('manual')", "By hand", show=False),
        Binding("u", "undo", "Undo"),
        Binding("e", "edit", "Edit"),
        Binding("t", "note", "Note"),
        Binding("f", "flag", "Flag"),
        Binding("y", "copy", "Copy", show=False),
        Binding("d", "diff", "Diff on/off", show=False),
        Binding("c", "history", "Conversation", show=False),
        Binding("down,j", "scroll_by(3)", "Down", show=False),
        Binding("up,k", "scroll_by(-3)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(15)", "Page down", show=False),
        Binding("pageup", "scroll_by(-15)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    SampleScreen #top { height: auto; padding: 0 1; background: $surface; }
    SampleScreen #history { height: auto; max-height: 45%; padding: 0 1; border-bottom: solid $panel; }
    SampleScreen #history Static { height: auto; }
    SampleScreen #panes { height: 1fr; }
    SampleScreen .pane { width: 1fr; height: 1fr; padding: 0 1; border-left: solid $panel; }
    SampleScreen .pane:first-child { border-left: none; }
    SampleScreen .pane Static { width: 1fr; height: auto; }
    SampleScreen .pane .scores { height: auto; margin-bottom: 1; }
    SampleScreen.-stacked #history { border-bottom: none; }
    SampleScreen.-stacked #panes { layout: vertical; overflow-y: auto; }
    SampleScreen KeyLine { height: 2; }
    SampleScreen.-wide KeyLine { height: 1; }
    SampleScreen.-stacked .pane { height: auto; border-left: none; border-top: solid $panel; }
    """

    def __init__(self, reader: StoreReader, position: int, sample_id: int) -> None:
        super().__init__()
        self._reader, self._position, self._sample_id = reader, position, sample_id
        self._sample: SampleView | None = None
        self._marking = True
        self._opened = False
        self._search: re.Pattern[str] | None = None

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """The line about the sample, its texts side by side, the keys."""
        yield Static(id="top")
        with VerticalScroll(id="history", classes="hidden", can_focus=False):
            yield Static()
        yield Horizontal(id="panes")
        yield KeyLine()

    def on_mount(self) -> None:
        """Read the sample; words of the search that led here are marked in it."""
        self.set_class(self.app.size.width < _NARROW, "-stacked")
        self.set_class(self.app.size.width >= _KEYS_FIT_FROM, "-wide")
        words = self.dashboard.sample_filter.text.split()
        if words:  # those of the search that led here
            self._search = re.compile("|".join(re.escape(safe(w)) for w in words), re.IGNORECASE)
        self._reload()

    def on_resize(self) -> None:
        """Stack the texts where they have no room side by side."""
        self.set_class(self.app.size.width >= _KEYS_FIT_FROM, "-wide")
        if self.has_class("-stacked") != (self.app.size.width < _NARROW):
            self.toggle_class("-stacked")
            self._reload()

    def _reload(self) -> None:
        self.run_worker(self._show(), exclusive=True, group="show")

    async def _show(self) -> None:
        run_id, sample_id = self.dashboard.run_id, self._sample_id
        try:
            sample = await self._reader.ask(lambda v: v.sample(run_id, sample_id))
            if sample is None:
                raise UserError(f"Sample {sample_id} is not in the store any more; go back with Esc.")
            shown_variants = columns(sample)
            marked = await asyncio.to_thread(diffs, sample, shown_variants) if self._marking else {}
        except Exception as error:
            self.dashboard.report_error(error)
            return
        self._sample = sample
        if self._search is not None and any(self._search.search(safe(t.text)) for t in sample.history):
            self._opened = True  # what was looked for may stand there alone
        self._show_history(sample)
        panes = self.query_one("#panes", Horizontal)
        stacked = self.has_class("-stacked")
        with self.app.batch_update():
            await panes.remove_children()
            await panes.mount(
                *(
                    pane(sample, name, variant, stage, marked, stacked, self._search)
                    for name, variant, stage in shown_variants
                )
            )

    def _show_history(self, sample: SampleView) -> None:
        self.query_one("#top", Static).update(self._top(sample))
        history = self.query_one("#history", VerticalScroll)
        history.set_class(not (self._opened and sample.history), "hidden")
        if self._opened and sample.history:
            history.query_one(Static).update(history_text(sample, self._search))

    def _top(self, s: SampleView) -> Content:
        head = [Content.styled(f"Sample {s.id}", "bold"), shown(f"{s.dataset}, row {s.row + 1}", "$dim")]
        head.append(Content.styled(s.state, "bold $text-success" if s.state == "kept" else "bold"))
        if s.flagged:
            head.append(Content.styled("⚑ flagged", "$text-accent"))
        lines = [Content("  ·  ").join(head)]
        run = self.dashboard.current_run
        takes = "exports take" if run is not None and run.state == "done" else "training takes"
        lines += [shown(line) for line in sentences(s, takes)]
        if s.history or s.place:
            lines.append(history_line(s, self._opened))
        if s.note:
            lines.append(Content.assemble(("✎ ", "$text-accent"), shown(s.note, "italic")))
        return Content("\n").join(lines)

    # -- what a person does -----------------------------------------------------------------

    def action_back(self) -> None:
        """Return to the table, at the sample that was shown last."""
        self.dismiss(self._position)

    def action_step(self, by: int) -> None:
        """Show the sample ``by`` places further in the table's order."""
        self.run_worker(self._step(by), exclusive=True, group="step")

    async def _step(self, by: int) -> None:
        position = self._position + by
        try:
            sample_id = await self._reader.ask(lambda v: v.listing.sample_at(position))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        if sample_id is None:
            self.notify("That was the last one." if by > 0 else "This is the first one.", timeout=2)
            return
        self._position, self._sample_id = position, sample_id
        self._reload()

    def action_scroll_by(self, lines: int) -> None:
        """Scroll all texts together."""
        panes = self.query_one("#panes")
        if self._opened and (opened := self.query_one("#history")).max_scroll_y:
            end = opened.scroll_offset.y >= opened.max_scroll_y if lines > 0 else opened.scroll_offset.y <= 0
            if not end:
                opened.scroll_relative(y=lines, animate=False)
                return
        for container in [panes] if self.has_class("-stacked") else self.query(".pane"):
            container.scroll_relative(y=lines, animate=False)

    def _variant(self, kind: str) -> VariantView | None:
        s = self._sample
        if s is None:
            return None
        if kind == "original":
            return s.original
        if kind == "manual":
            return next((v for v in reversed(s.variants) if v.kind == "manual"), None)
        return s.variant(s.rewrites.get(kind))

    def action_accept(self, kind: str) -> None:
        """Take a text for training, overruling the student: original, instruction, response or manual."""
        run_id, sample_id = self.dashboard.run_id, self._sample_id
        variant = self._variant(kind)
        if run_id is None:
            self.notify("A choice belongs to a run, and there is none yet.", severity="warning")
            return
        if variant is None:
            names = {
                "instruction": "rewritten instruction",
                "response": "rewritten answer",
                "manual": "text by hand",
            }
            missing = (
                "You have written no text for this sample yet; e writes one."
                if kind == "manual"
                else f"The teacher wrote no usable {names[kind]} for this sample."
            )
            self.notify(missing, severity="warning", timeout=3)
            return
        variant_id = variant.id

        def overruled(_: None) -> None:
            run = self.dashboard.current_run
            trained = run is not None and run.state == "done"
            takes = (
                "exports take this text; w on 1 Runs trains again with it"
                if trained
                else "training takes this text"
            )
            self.notify(f"Overruled: {takes}. u lets the student's choice stand again.", timeout=5)
            self._reload()

        self.dashboard.write(lambda store: store.marks.overrule(run_id, sample_id, variant_id), overruled)

    def action_undo(self) -> None:
        """Let the student's choice stand again."""
        run_id, sample_id = self.dashboard.run_id, self._sample_id
        if run_id is None:
            return

        def report(undone: bool) -> None:
            self.notify(
                "The student's choice stands again." if undone else "Nothing was overruled here.", timeout=3
            )
            self._reload()

        self.dashboard.write(lambda store: store.marks.undo_overrule(run_id, sample_id), report)

    def action_flag(self) -> None:
        """Flag the sample, or take its flag away."""
        sample_id = self._sample_id
        self.dashboard.write(lambda store: store.marks.flag(sample_id), lambda _: self._reload())

    def action_note(self) -> None:
        """Ask for a note on the sample and store it."""
        from srtui.tui.screens.dialogs import AskText

        sample_id, note = self._sample_id, self._sample.note if self._sample else ""

        def store_note(text: str | None) -> None:
            if text is not None and text != note:
                self.dashboard.write(
                    lambda store: store.marks.note(sample_id, text), lambda _: self._reload()
                )

        self.app.push_screen(
            AskText("Note", f"On sample {sample_id}; an empty one takes it away.", note), store_note
        )

    def action_copy(self) -> None:
        """Copy the text that would be trained on now."""
        s = self._sample
        if s is not None:
            variant = s.final
            self.app.copy_to_clipboard(
                "\n\n".join(t for t in (variant.instruction, variant.input, variant.response) if t)
            )
            self.notify("Copied: what would be trained on now.", timeout=2)

    def action_history(self) -> None:
        """Open or fold what came before the sample in its conversation."""
        s = self._sample
        if s is None or not s.history:
            self.notify(
                "Nothing came before this sample: it is of no conversation, or its first turn.", timeout=3
            )
            return
        self._opened = not self._opened
        self._show_history(s)

    def action_diff(self) -> None:
        """Mark the changed words, or mark them no more."""
        self._marking = not self._marking
        self._reload()

    def action_edit(self) -> None:
        """Open the final text in the person's editor, and store what was changed as a variant by hand."""
        s = self._sample
        if s is None:
            return
        base = s.final
        if not _editor():
            from srtui.tui.screens.edit_text import EditText

            before = Pair(base.instruction, base.input, base.response)
            self.app.push_screen(EditText(before), lambda pair: self._store_edited(s.id, base, pair))
            return
        try:
            pair = self._edited(base)
        except UserError as error:
            self.dashboard.report_error(error)
            return
        self._store_edited(s.id, base, pair)

    def _store_edited(self, sample_id: int, base: VariantView, pair: Pair | None) -> None:
        if pair is None:
            self.notify("Nothing was changed, so nothing is stored.", timeout=3)
            return
        parent_id = base.id

        def stored(written: tuple[int, bool]) -> None:
            words = (
                f"Stored; it waits for a score (p on {numbered('runs')} gives it one)."
                if written[1]
                else "This sample has that very text already."
            )
            self.notify(f"{words} h takes it in place of the student's choice.", timeout=5)
            self._reload()

        self.dashboard.write(lambda store: store.marks.write_variant(sample_id, parent_id, pair), stored)

    def _edited(self, base: VariantView) -> Pair | None:
        """What the person's editor leaves of a text; None where it is as it was."""
        named = _editor()
        try:
            words = shlex.split(named)
        except ValueError as error:
            raise UserError(f"EDITOR ({named}) is not a command: {error}; set it to your editor.") from error
        before = "".join(f"=== {PART_NAMES[p]} ===\n{getattr(base, p)}\n" for p in PARTS)
        with tempfile.TemporaryDirectory(prefix="srtui-") as folder:
            path = Path(folder) / f"sample-{self._sample_id}.txt"
            path.write_bytes(before.encode("utf-8"))  # bytes both ways: a CR in a text is part of it
            try:
                with self.app.suspend():
                    editor = subprocess.run([*words, str(path)], check=False)
            except OSError as error:
                raise UserError(
                    f"{words[0]} cannot be started ({error.strerror}); set EDITOR to your editor."
                ) from error
            if editor.returncode:
                raise UserError(
                    f"{words[0]} ended with exit code {editor.returncode}; nothing was stored: try again, or set EDITOR to another."
                )
            after = read_text(path)
        return None if after == before else read_edited(after)


def _editor() -> str:
    """The command of the person's editor; "" where none is set."""
    return (os.environ.get("VISUAL") or os.environ.get("EDITOR") or "").strip()


def read_edited(text: str) -> Pair:
    """The pair in an edited file. Raises UserError where a heading is gone."""
    parts = {}
    for n, part in enumerate(PARTS):
        heading = f"=== {PART_NAMES[part]} ===\n"
        start = text.find(heading)
        if start < 0:
            raise UserError(
                f"The line {heading.strip()} is gone, so where a part ends is not known; nothing was stored: keep these lines."
            )
        end = text.find(f"=== {PART_NAMES[PARTS[n + 1]]} ===\n", start) if n + 1 < len(PARTS) else len(text)
        parts[part] = text[start + len(heading) : end if end >= 0 else len(text)].removesuffix("\n")
    return Pair(parts["instruction"], parts["input"], parts["response"])
