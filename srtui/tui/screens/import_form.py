"""Import a data file: the form, with a look into the file as it would be taken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from srtui.errors import UserError
from srtui.text import bytes_text, safe
from srtui.tui.screens.command_form import CommandForm, FormField, Values, existing_path, filled
from srtui.tui.widgets.words import shown

if TYPE_CHECKING:
    from srtui.datasets.preview import FilePreview
    from srtui.tui.app import Dashboard
    from srtui.workspace import Workspace

_PATTERNS = ("*.json", "*.jsonl", "*.csv", "*.tsv", "*.parquet", "*.gz", "*.zst")
_TEXTS = ("instruction", "input", "response")
_TURNS = ("last", "each", "first")
_SHORT = 200

Asked = tuple[str, str, tuple[str, ...]]


class ImportForm(CommandForm):
    """Dismissed with the words of ``srtui import``, or None."""

    HELP_TEXT = (
        "A file is known by its content. Its first rows are read as you type: which field each text comes from, three "
        "rows as they would be stored, and what would be refused. Where the fields have other names, say them."
    )
    DEFAULT_CSS = """
    ImportForm #preview { height: auto; margin-top: 1; }
    """

    def __init__(self, workspace: Workspace) -> None:
        fields = [
            FormField(
                "file",
                "file",
                placeholder="its path; ^o picks one of the workspace's",
                choices=files_in(workspace),
            ),
            FormField("name", "name", placeholder="the file's name"),
            FormField("turns", "of conversations", "last", options=_TURNS),
            *(FormField(text, f"{text} is in", placeholder="found by its name") for text in _TEXTS),
        ]
        words = "Rows become samples of a dataset; the same file a second time adds nothing."
        super().__init__("Import a data file", words, fields, self._command)
        self._root = workspace.root
        self._asked: Asked | None = None
        self._answer: FilePreview | str | None = None

    def extra(self) -> ComposeResult:
        """What the file looks like."""
        yield Static(id="preview")

    def _path(self, values: Values) -> Path:
        path = existing_path(self._root, values["file"])
        if not path.is_file():
            raise UserError(f"{values['file']}: that is no file; check the path.")
        return path

    def _command(self, values: Values) -> list[str]:
        if not values["file"]:
            raise UserError("Which file? Name one to import.")
        path = self._path(values)
        if self._asked == _asked(values) and isinstance(self._answer, str):
            raise UserError(self._answer)
        seen = self._answer if self._asked == _asked(values) else None
        if seen is not None and not isinstance(seen, str) and seen.whole and not seen.good:
            raise UserError("No row of it can be used; say above which fields its texts are in.")
        words = filled(["import", str(path)], values, name="--name")
        words += [w for text in _TEXTS if values[text] for w in ("--column", f"{text}={values[text]}")]
        return words if values["turns"] == "last" else [*words, "--turns", values["turns"]]

    def checked(self, values: Values) -> None:
        """Look into the file, where that has not been done for what stands in the fields."""
        asked = _asked(values)
        if asked != self._asked:
            self._asked, self._answer = asked, None
            self.query_one("#preview", Static).update("")
            with contextlib.suppress(UserError):  # the form says it
                if values["file"]:
                    look = self._look(asked, self._path(values), values)
                    self.run_worker(look, exclusive=True, group="preview")

    async def _look(self, asked: Asked, path: Path, values: Values) -> None:
        size = 0
        try:
            answer: FilePreview | str = await asyncio.to_thread(_preview, path, values)
            size = path.stat().st_size
        except UserError as error:
            answer = str(error)
        except OSError as error:  # it has gone meanwhile, say
            answer = f"{values['file']}: {error.strerror}; check the path."
        except Exception as error:
            app: Dashboard = self.app  # type: ignore[assignment]
            app.report_error(error)
            return
        if asked == self._asked:
            self._answer = answer
            words = Content("") if isinstance(answer, str) else preview_words(answer, size)
            self.query_one("#preview", Static).update(words)
            self.check()


def _asked(values: Values) -> Asked:
    return values["file"], values["turns"], tuple(values[text] for text in _TEXTS)


def _preview(path: Path, values: Values) -> FilePreview:
    from srtui.datasets.preview import preview

    turns = next(t for t in ("last", "each", "first") if t == values["turns"])
    return preview(path, {text: values[text] for text in _TEXTS if values[text]}, turns)


def files_in(workspace: Workspace) -> list[tuple[str, str]]:
    """Data files of the workspace's own folder and of its recipes, each with its size. One whose name a terminal would
    obey is not offered: a field shows what it holds as it is."""
    folders = (workspace.root, workspace.recipes)
    files = sorted(
        p for folder in folders for pattern in _PATTERNS for p in folder.glob(pattern) if p.is_file()
    )
    names = [(str(p.relative_to(workspace.root)), bytes_text(p.stat().st_size)) for p in files]
    return [(name, size) for name, size in names if safe(name) == name]


def preview_words(seen: FilePreview, size: int) -> Content:
    """What a look into a file came to, in lines."""
    counted = (
        f"{seen.good:,} good"
        if seen.whole
        else f"of the first {seen.good + sum(seen.bad.values()):,} rows {seen.good:,} good"
    )
    refused = f", {sum(seen.bad.values()):,} refused ({_reasons(seen.bad)})" if seen.bad else ", none refused"
    lines = [shown(f"{seen.format}, {bytes_text(size)}: {counted}{refused}", "bold")]
    if seen.conversations:
        lines.append(shown("rows are conversations: instruction and answer are turns of them", "$dim"))
    else:
        unused = [name for name in seen.fields if name not in seen.columns.values()]
        mapped = "   ".join(f"{text} ← {seen.columns.get(text, 'none')}" for text in _TEXTS)
        lines.append(shown(mapped))
        if unused:
            lines.append(shown(f"kept with the record: {', '.join(unused)}", "$dim"))
    for pair in seen.pairs:
        lines += [
            shown(f"• {_line(' / '.join(t for t in (pair.instruction, pair.input) if t))}", "$text-primary"),
            shown(f"  {_line(pair.response)}", "$dim"),
        ]
    return Content("\n").join(lines)


def _reasons(bad: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in bad.items())


def _line(text: str) -> str:
    line = " ".join(text[: 2 * _SHORT].split())
    return line if len(line) <= _SHORT else f"{line[: _SHORT - 1]}…"
