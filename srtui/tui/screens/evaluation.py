"""Evaluation: every comparison in the store, what it came to, and the way down to each judgement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content

from srtui.evaluation import result_words
from srtui.store.evaluations import Evaluation
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable
from srtui.tui.widgets.words import STATE_SIGNS, Words, shown
from srtui.wording import evaluation_state

_TONES: dict[str, Tone] = {"running": "accent", "stopped": "warn", "failed": "bad", "done": "good"}
_BAR = 16


class EvaluationScreen(DashboardScreen):
    """The table of evaluations, and of the one under the cursor its figures."""

    MODE = "evaluation"
    HELP_TEXT = (
        "Every evaluation in this store, the newest first; f leaves those of the chosen run. In a bar █ is A better, "
        "▒ a tie, ░ B better; an interval is at 95 %, and one that holds 0.5 shows neither to be better. Enter goes "
        "down to the single judgements. h lets a person judge, where an evaluation is by people. m lays the runs out "
        "against what they were evaluated by."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Judgements"),
        Binding("h", "human", "Judge yourself"),
        Binding("f", "only", "This run only"),
        Binding("m", "matrix", "By run"),
    ]
    DEFAULT_CSS = """
    EvaluationScreen #evaluations { height: 2fr; min-height: 5; }
    EvaluationScreen #about { height: 3fr; padding: 0 2; background: $surface; }
    EvaluationScreen #about Words { width: 1fr; height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._evaluations: list[Evaluation] = []
        self._only = self._by_run = False

    def body(self) -> ComposeResult:
        """The table of evaluations, and what is known of the chosen one."""
        yield VirtualTable(
            [
                Column("id", "#", 4, right=True),
                Column("kind", "kind", 11),
                Column("a", "A"),
                Column("b", "B"),
                Column("judge", "judge", 20, from_width=120),
                Column("state", "state", 10, from_width=90),
                Column("bar", "A █ ▒ ░ B", _BAR),
                Column("rate", "win rate or score", 28, from_width=110),
            ],
            id="evaluations",
        )
        with VerticalScroll(id="about", can_focus=False):
            yield Words()
        yield Empty("", "", id="none")

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        for selector in ("#evaluations", "#about", "#none"):
            self.query_one(selector).add_class("hidden")

    async def read(self) -> None:
        """The table, and the figures of the evaluation under the cursor."""
        app = self.dashboard
        if not app.watched:
            return
        only = app.run_id if self._only else None
        has_store = app.workspace.store_path.exists()
        self._evaluations = await app.ask(lambda v: v.evaluations.all(only)) if has_store else []
        table = self.query_one(VirtualTable)
        is_empty = not self._evaluations
        table.set_class(is_empty, "hidden")
        self.query_one("#about").set_class(is_empty, "hidden")
        self.query_one("#none").set_class(not is_empty, "hidden")
        if is_empty:
            self._show_empty(only is not None)
        was_empty = not table.total
        table.show_rows([_row(e) for e in self._evaluations])
        if was_empty and self._evaluations:
            table.focus()
        self._about()

    def _show_empty(self, filtered: bool) -> None:
        empty = self.query_one("#none", Empty)
        if filtered:
            empty.show("Nothing has evaluated this run yet", "f shows the evaluations of all runs.")
        else:
            empty.show(
                "Nothing has been evaluated yet",
                "Is the tuned student better? Ask a judge model:\n"
                "  srtui eval pairwise RUN MODEL --prompts FILE --judge MODEL\n"
                "Or ask people:\n"
                "  srtui eval human RUN MODEL --prompts FILE --annotator NAME",
            )

    @property
    def chosen(self) -> Evaluation | None:
        """The evaluation under the cursor."""
        row = self.query_one(VirtualTable).row
        return None if row is None else next((e for e in self._evaluations if e.id == row.key), None)

    @on(VirtualTable.Highlighted)
    def _about(self) -> None:
        e = self.chosen
        if e is not None:
            width = max(20, self.size.width - 8)
            lines = matrix(self._evaluations, width) if self._by_run else evaluation_lines(e, width)
            self.query_one("#about Words", Words).show(Content("\n").join(lines))

    # -- what a person does -----------------------------------------------------------------

    def action_open(self) -> None:
        """Open the judgements of the chosen evaluation."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self) -> None:
        from srtui.tui.screens.judgements import JudgementsScreen

        if (e := self.chosen) is not None:
            self.app.push_screen(JudgementsScreen(e))

    def action_only(self) -> None:
        """Change between the evaluations of this run and all."""
        self._only = not self._only
        self.notify("Evaluations of this run only." if self._only else "Evaluations of all runs.", timeout=2)
        self.reread()

    def action_matrix(self) -> None:
        """Change between the chosen evaluation's figures and the matrix of all runs."""
        self._by_run = not self._by_run
        self._about()

    def action_human(self) -> None:
        """Ask for a name and let that person judge the chosen evaluation."""
        e = self.chosen
        if e is None or e.kind != "human":
            self.notify("Choose an evaluation by people; srtui eval human begins one.", timeout=4)
            return
        from srtui.tui.screens.dialogs import AskText

        def begin(name: str | None) -> None:
            if name is not None and name.strip():
                self._sit(e.id, name.strip())

        words = "Who judges? Under the same name you continue where you were."
        self.app.push_screen(AskText("Judge yourself", words, "", "your name"), begin)

    def _sit(self, evaluation_id: int, annotator: str) -> None:
        from srtui.tui.screens.judging import HumanScreen

        app = self.dashboard
        screen = HumanScreen(app.reader, app.writer, evaluation_id, annotator)
        self.app.push_screen(screen, lambda _: self.reread())


def _row(e: Evaluation) -> TableRow:
    counts, rate = result_words.verdicts(e.result), result_words.headline(e.result)
    progress = f"{e.done:,}/{e.total:,}" if e.total and e.state != "done" else ""
    return TableRow(
        e.id,
        (
            Cell(str(e.id), "dim"),
            Cell(e.kind),
            Cell(e.contestant_a, "bold"),
            Cell(e.contestant_b or ""),
            Cell(e.judge or ("people" if e.kind == "human" else ""), "dim"),
            Cell(
                f"{STATE_SIGNS.get(e.state, '·')} {evaluation_state(e.kind, e.state)}",
                _TONES.get(e.state, ""),
            ),
            Cell("".join(verdict_bar_parts(counts, _BAR)) if counts else progress),
            Cell(result_words.estimate_words(rate, 2) if rate else ""),
        ),
    )


def verdict_bar_parts(counts: result_words.Verdicts, width: int) -> tuple[str, str, str]:
    """Win, tie and lose as parts of one bar of ``width`` cells; what there is of one has at least a cell."""
    if not counts.total:
        return "", "", ""
    sizes = [max(1, round(n / counts.total * width)) if n else 0 for n in counts]
    while sum(sizes) != width:
        largest = max(range(3), key=lambda n: sizes[n])
        sizes[largest] += 1 if sum(sizes) < width else -1
    return "█" * sizes[0], "▒" * sizes[1], "░" * sizes[2]


def _bar(counts: result_words.Verdicts, width: int) -> Content:
    win, tie, lose = verdict_bar_parts(counts, width)
    return Content.assemble((win, "$text-success"), (tie, "$dim"), (lose, "$text-error"))


def evaluation_lines(e: Evaluation, width: int) -> list[Content]:
    """One evaluation in lines of at most about ``width`` cells."""
    names = f"{e.contestant_a} (A) against {e.contestant_b} (B)" if e.contestant_b else e.contestant_a
    lines = [shown(names, "bold")]
    parts = [
        e.kind,
        e.source,
        f"judge {e.judge}" if e.judge else "",
        f"{e.done:,} of {e.total:,}" if e.total else "",
    ]
    lines.append(shown("  ·  ".join(p for p in parts if p), "$dim"))
    if e.error:
        lines.append(shown(f"✗ {e.error}", "$text-error"))
    if e.result is None:
        lines.append(Content("It has no result yet."))
        return lines
    counts = result_words.verdicts(e.result)
    if counts:
        lines.append(_bar(counts, width))
        lines.append(
            Content.assemble(
                (f"█ A better {counts.win:,}", "$text-success"),
                (f"   ▒ tie {counts.tie:,}   ", "$dim"),
                (f"░ B better {counts.lose:,}", "$text-error"),
            )
        )
    lines += [Content.styled(sentence, "$text-warning") for sentence in _doubts(e.result)]
    for title, header, rows in result_words.tables(e.result):
        lines.append(Content(""))
        lines.append(shown(title, "bold $dim"))
        lines += _table(title, e.result, header, rows, width)
    figures = result_words.lines(e.result)
    lines += [Content(""), *(_figure(name, words) for name, words in figures)]
    return lines


def matrix(evaluations: list[Evaluation], width: int) -> list[Content]:
    """Contestants down, what they were evaluated by across; of several alike the last with a result counts."""
    methods: dict[tuple[str, ...], int] = {}
    cells: dict[tuple[str, int], str] = {}
    for e in reversed(evaluations):
        method = (e.kind, PurePath(e.source).name, e.contestant_b or "", e.judge or "")
        column = methods.setdefault(method, len(methods) + 1)
        figure = result_words.headline(e.result)
        if figure:
            cells[e.contestant_a, column] = result_words.estimate_words({**figure, "n": None}, 2)
        else:
            cells.setdefault((e.contestant_a, column), e.state)
    names = list(dict.fromkeys(name for name, _ in cells))
    name_width, cell_width = 20, 20
    shown_methods = list(methods.values())[-max(1, (width - name_width) // (cell_width + 2)) :]
    lines = [
        shown(
            " " * name_width + "".join(f"  {_cell(f'({n})', cell_width)}" for n in shown_methods), "bold $dim"
        )
    ]
    for name in names:
        row = "".join(f"  {_cell(cells.get((name, n), '·'), cell_width)}" for n in shown_methods)
        lines.append(Content.assemble(shown(_cell(name, name_width), "bold"), shown(row)))
    lines.append(Content(""))
    for (kind, source, b, judge), n in methods.items():
        if n in shown_methods:
            parts = [kind, f"against {b}" if b else "", source, f"judge {judge}" if judge else ""]
            lines.append(shown(f"({n})  " + ", ".join(p for p in parts if p), "$dim"))
    return lines


def _doubts(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the figures."""
    doubts = []
    rate, calibration = result.get("win_rate"), result.get("calibration", {})
    if result_words.is_estimate(rate) and rate["low"] is not None and rate["low"] <= 0.5 <= rate["high"]:
        doubts.append("The interval of the win rate holds one half: neither is shown to be better.")
    if result.get("better_than_chance") is False or (calibration or {}).get("better_than_chance") is False:
        doubts.append("This judge was no better than chance: do not trust its verdicts.")
    elif calibration is None:
        doubts.append("What this judge is worth is unknown; srtui eval calibrate says it.")
    return doubts


def _figure(name: str, words: str) -> Content:
    return Content.assemble(shown(_cell(name, 38), "$dim"), " ", shown(words))


def _table(
    title: str, result: Mapping[str, Any], header: list[str], rows: list[list[str]], width: int
) -> list[Content]:
    """A table by category: bars where it counts verdicts, cells where it does not."""
    key = next(k for k in result if str(k).replace("_", " ") == title)
    lines = []
    for name, inner in result[key].items():
        counts, rate = result_words.verdicts(inner), inner.get("win_rate")
        if counts is None or not result_words.is_estimate(rate):
            break
        words = result_words.estimate_words({**rate, "n": None}, 2)
        lines.append(
            Content.assemble(shown(_cell(str(name), 18)), " ", _bar(counts, 24) if counts.total else " " * 24)
            + shown(f"  {counts.win:,} / {counts.tie:,} / {counts.lose:,}  {words}", "$dim")
        )
    else:
        return lines
    size = max(6, (width - 20) // max(1, len(header) - 1) - 2)
    drawn = []
    for n, row in enumerate([header, *rows]):
        cells = [_cell(c, 18 if column == 0 else size) for column, c in enumerate(row)]
        drawn.append(shown("  ".join(cells), "$dim" if n == 0 else ""))
    return drawn


def _cell(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
