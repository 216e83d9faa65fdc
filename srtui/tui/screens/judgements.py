"""The judgements of one evaluation, and one of them with both answers and the judge's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from srtui.store.evaluations import Answer, Evaluation, JudgedPair, Judgement
from srtui.text import number
from srtui.tui.screens.dashboard_screen import KeyLine
from srtui.tui.widgets.table import Cell, Column, TableRow, Tone, VirtualTable
from srtui.tui.widgets.words import Words, shown, sparkline

if TYPE_CHECKING:
    from srtui.tui.app import Dashboard

_ORDERINGS = {"ab": "A first", "ba": "B first", "a": "alone"}
_CHOICES = {"a": "A better", "b": "B better", "tie": "tie", "bad": "both bad", "skip": "skipped"}


def verdict_words(j: Judgement) -> str:
    """What one judgement says of A and B, or why it says nothing."""
    if j.choice is not None:
        return _CHOICES[j.choice]
    if j.score_a is None:
        return j.parsed
    if j.score_b is None:
        return ""
    return "A better" if j.score_a > j.score_b else "B better" if j.score_b > j.score_a else "tie"


class JudgementsScreen(Screen[None]):
    """A row a judgement: item by item, both orders beneath each other."""

    HELP_TEXT = (
        "Each judgement: which answer was shown first, the scores of A and B in that order, and what follows. A judge "
        "whose two orders disagree has judged the place and not the answers. Enter opens one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Evaluations"),
        Binding("enter", "open", "Open"),
    ]
    DEFAULT_CSS = """
    JudgementsScreen #top { height: auto; padding: 0 1; background: $surface; }
    """

    def __init__(self, evaluation: Evaluation) -> None:
        super().__init__()
        self._evaluation = evaluation

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """The table of judgements, one line each."""
        yield Words(id="top")
        yield VirtualTable(
            [
                Column("item", "item", 5, right=True),
                Column("category", "category", 14, from_width=90),
                Column("turn", "turn", 4, right=True, from_width=110),
                Column("order", "order", 7),
                Column("who", "who", 12, from_width=100),
                Column("a", "A", 5, right=True),
                Column("b", "B", 5, right=True),
                Column("says", "says", 10),
                Column("question", "question"),
            ],
            self._rows,
        )
        yield KeyLine()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(VirtualTable).focus()
        self.run_worker(self._begin(), group="read")

    async def _begin(self) -> None:
        e = self._evaluation
        try:
            judgements = await self.dashboard.ask(lambda v: v.evaluations.judgements(e.id))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        names = f"{e.contestant_a} (A) against {e.contestant_b} (B)" if e.contestant_b else e.contestant_a
        summary = f"{len(judgements):,} judgements" if judgements else "nothing has been judged yet"
        self.query_one("#top", Words).show(
            Content.assemble(
                (f"Evaluation {e.id}", "bold"), shown(f"  ·  {e.kind}  ·  {names}  ·  {summary}", "$dim")
            )
        )
        self.query_one(VirtualTable).show(len(judgements), 0)

    async def _rows(self, start: int, count: int) -> Sequence[TableRow]:
        id = self._evaluation.id
        judged = await self.dashboard.ask(lambda v: v.evaluations.judged(id, limit=count, offset=start))
        return [_row(p) for p in judged]

    def action_back(self) -> None:
        """Return to the evaluations."""
        self.dismiss(None)

    def action_open(self) -> None:
        """Open the chosen judgement."""
        self.query_one(VirtualTable).action_select()

    @on(VirtualTable.Selected)
    def _open(self, event: VirtualTable.Selected) -> None:
        def back(position: int | None) -> None:
            if position is not None:
                self.query_one(VirtualTable).cursor = position

        self.app.push_screen(JudgementScreen(self._evaluation, event.position, event.table.total), back)


def _row(p: JudgedPair) -> TableRow:
    j, verdict = p.judgement, verdict_words(p.judgement)
    tone: Tone = "good" if verdict == "A better" else "bad" if verdict == "B better" else "dim"
    return TableRow(
        j.id,
        (
            Cell(str(j.item), "dim"),
            Cell(p.item.category),
            Cell(str(j.turn), "dim"),
            Cell(_ORDERINGS[j.ordering], "dim"),
            Cell(j.annotator or "judge"),
            Cell(number(j.score_a, 2)),
            Cell(number(j.score_b, 2)),
            Cell(verdict, tone),
            Cell(p.item.turns[j.turn - 1] if j.turn <= len(p.item.turns) else ""),
        ),
    )


class JudgementScreen(Screen[int]):
    """One judgement. Dismissed with its position, so that the table comes back to it."""

    HELP_TEXT = (
        "The question, both answers, and the judge's words. Scores are means under the judge's probabilities of 1 "
        "to 10, drawn as bars; beside them what its words say."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Table"),
        Binding("n,right", "step(1)", "Next"),
        Binding("p,left", "step(-1)", "Prev"),
        Binding("down,j", "scroll_by(3)", "Down", show=False),
        Binding("up,k", "scroll_by(-3)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(12)", "Page down", show=False),
        Binding("pageup", "scroll_by(-12)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    JudgementScreen #top { height: auto; padding: 0 1; background: $surface; }
    JudgementScreen #question { height: auto; max-height: 25%; padding: 0 2; margin: 1 0; }
    JudgementScreen #panes { height: 1fr; }
    JudgementScreen .pane { width: 1fr; height: 1fr; padding: 0 1; border-left: solid $panel; }
    JudgementScreen .pane:first-child { border-left: none; }
    JudgementScreen .pane Static { width: 1fr; height: auto; }
    JudgementScreen #words { height: auto; max-height: 35%; padding: 0 2; background: $surface; }
    JudgementScreen #words Static { width: 1fr; height: auto; }
    """

    def __init__(self, evaluation: Evaluation, position: int, total: int) -> None:
        super().__init__()
        self._evaluation, self._position, self._total = evaluation, position, total

    @property
    def dashboard(self) -> Dashboard:
        """The app, as the type that it is."""
        return self.app  # type: ignore[return-value]

    def compose(self) -> ComposeResult:
        """The question, both answers side by side, the judge's words."""
        yield Words(id="top")
        with VerticalScroll(id="question", can_focus=False):
            yield Static(id="asked")
        with Horizontal(id="panes"):
            for side in ("a", "b"):
                yield VerticalScroll(Static(id=side), classes="pane", can_focus=False)
        with VerticalScroll(id="words", can_focus=False):
            yield Static(id="said")
        yield KeyLine()

    def on_mount(self) -> None:
        """Read the judgement."""
        self._reload()

    def _reload(self) -> None:
        self.run_worker(self._show(), exclusive=True, group="show")

    async def _show(self) -> None:
        e, position = self._evaluation, self._position
        try:
            judged = await self.dashboard.ask(lambda v: v.evaluations.judged(e.id, limit=1, offset=position))
        except Exception as error:
            self.dashboard.report_error(error)
            return
        if not judged:
            self.notify("This judgement is not in the store any more.", timeout=3)
            return
        p = judged[0]
        j = p.judgement
        self.query_one("#top", Words).show(
            Content.assemble(
                (f"Judgement {position + 1:,} of {self._total:,}", "bold"),
                shown(
                    f"  ·  item {j.item}, {p.item.category or 'no category'}, turn {j.turn}  ·  {_ORDERINGS[j.ordering]}"
                    f"  ·  {j.annotator or 'judge'}  ·  ",
                    "$dim",
                ),
                shown(verdict_words(j), "bold"),
            )
        )
        self.query_one("#asked", Static).update(shown("\n\n".join(p.item.turns[: j.turn])))
        self.query_one("#a", Static).update(_answer("A", e.contestant_a, p.answer_a))
        self.query_one("#b", Static).update(_answer("B", e.contestant_b or "", p.answer_b))
        self.query_one("#b").parent.set_class(e.contestant_b is None, "hidden")  # type: ignore[union-attr]
        self.query_one("#said", Static).update(_verdict_lines(j))
        for pane in self.query(VerticalScroll):
            pane.scroll_home(animate=False)

    def action_back(self) -> None:
        """Return to the table, at the judgement that was shown last."""
        self.dismiss(self._position)

    def action_step(self, by: int) -> None:
        """Show the judgement ``by`` places further; at an end, say so."""
        position = self._position + by
        if not 0 <= position < self._total:
            self.notify("That was the last one." if by > 0 else "This is the first one.", timeout=2)
            return
        self._position = position
        self._reload()

    def action_scroll_by(self, lines: int) -> None:
        """Scroll both answers together."""
        for pane in self.query(".pane"):
            pane.scroll_relative(y=lines, animate=False)


def _answer(side: str, name: str, answer: Answer | None) -> Content:
    head = Content.assemble((side, "bold $text-primary"), shown(f"  {name}", "$dim"))
    if answer is None:
        return head + Content.styled("\nthere is no answer", "$dim")
    if not answer.text:
        return head + shown(f"\nit is empty: {answer.finish}", "$dim")
    return head + Content("\n") + shown(answer.text)


def _unread(parsed: str) -> str:
    """Why there is nothing of a judge's words."""
    if parsed == "not asked":
        return "The judge was not asked: an answer is missing, so the other one wins."
    return f"The judge gave no score that counts: {parsed}"


def _verdict_lines(j: Judgement) -> Content:
    lines = []
    for side, score, text_score in (("A", j.score_a, j.text_score_a), ("B", j.score_b, j.text_score_b)):
        if score is None:
            continue
        chances = (j.probabilities or {}).get(side.lower())
        drawn = f"  1 {sparkline(chances, 10)} 10" if chances else ""
        words = f"   its words say {text_score:g}" if text_score is not None else ""
        lines.append(
            Content.assemble(
                (f"{side} {number(score, 2)}", "bold"), (drawn, "$text-primary"), (words, "$dim")
            )
        )
    if j.annotator:
        lines.append(shown(f"{j.annotator} said: {verdict_words(j)}, after {j.seconds:.0f} s"))
    elif j.words:
        lines += [Content.styled("The judge's words", "bold $dim"), shown(j.words, "italic")]
    elif j.parsed != "parsed":
        lines.append(shown(_unread(j.parsed), "$dim"))
    return Content("\n").join(lines)
