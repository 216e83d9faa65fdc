"""How one sample is drawn: a pane for each of its texts, and what was decided, in sentences."""

from __future__ import annotations

import re

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from srtui.measures import MEASURES
from srtui.store.conversations import FOLLOWED
from srtui.store.sample_view import SampleView, VariantView
from srtui.text import number
from srtui.tui.widgets.rewrite_diff import word_diff
from srtui.tui.widgets.words import bar, shown
from srtui.wording import ROLE_NAMES, ending_words, folded, left_out_words

_BAR = 10
PARTS = ("instruction", "input", "response")
PART_NAMES = {"instruction": "Instruction", "input": "Input", "response": "Answer"}
_STATE_SENTENCES = {
    "waiting": "nothing has been done with it yet",
    "instruction written": "the teacher has rewritten its instruction; the student has not chosen yet",
    "instruction chosen": "the student has chosen its instruction; the answer comes next",
    "answer written": "the teacher has rewritten its answer; the student has not chosen yet",
    "answer chosen": "both choices are made",
}


def sentences(s: SampleView, takes: str = "training takes") -> list[str]:
    """What was decided, stage by stage, and what came of it; ``takes`` names what uses a text that a person chose."""
    lines = []
    for stage in ("instruction", "response"):
        if stage in s.decisions:
            reason = s.decisions[stage].reason
            if stage in s.reflections and s.reflections[stage].status == FOLLOWED:
                reason = "the instruction stays as it is: later turns of its conversation refer to it"
            lines.append(reason[:1].upper() + reason[1:])
        elif stage in s.reflections and s.reflections[stage].status != "parsed":
            lines.append(f"No rewrite of the {stage}: {s.reflections[stage].status}")
    if s.stands.overruled:
        lines.append(f"» Overruled by a person: {takes} {_named(s.final)}")
    elif s.outcome is not None:
        lines.append(
            "✓ Kept for training" if s.outcome.kept else f"✗ Left out: {left_out_words(s.outcome.reason)}"
        )
    elif s.state in _STATE_SENTENCES:
        sentence = _STATE_SENTENCES[s.state]
        lines.append(sentence[0].upper() + sentence[1:])
    return lines


def history_line(s: SampleView, opened: bool) -> Content:
    """Where a sample stands in its conversation, its history in a line, and the key that opens or folds that."""
    sign, key = ("▾", "c folds it") if opened else ("▸", "c opens it")
    where = f"Turn {s.place.turn} of {s.place.turns}" if s.place else ""
    if s.place and s.place.followed:
        where += "; others follow, so its instruction stays"
    if not s.history:
        return shown(f"{where}. Nothing came before.", "$dim")
    where += ". " if where else ""
    return Content.assemble(
        (f"{sign} ", "$text-accent"), shown(f"{where}{folded(s.history)}"), (f"  ({key})", "$dim")
    )


def history_text(s: SampleView, search: re.Pattern[str] | None = None) -> Content:
    """What came before a sample in its conversation, turn by turn; matches of ``search`` stand out."""
    lines = []
    for turn in s.history:
        lines.append(Content.styled(ROLE_NAMES[turn.role], "bold $dim"))
        content = shown(turn.text)
        lines.append(content.highlight_regex(search, style="reverse $text-accent") if search else content)
    return Content("\n").join(lines)


def _named(variant: VariantView) -> str:
    return {
        "original": "the original",
        "instruction_reflected": "the rewritten instruction",
        "response_reflected": "the rewritten answer",
        "manual": "the text written by hand",
    }[variant.kind]


def columns(s: SampleView) -> list[tuple[str, VariantView | None, str]]:
    """(heading, variant, stage) of each pane."""
    columns = [
        ("Original", s.original, ""),
        ("Rewritten instruction", s.variant(s.rewrites.get("instruction")), "instruction"),
        ("Rewritten answer", s.variant(s.rewrites.get("response")), "response"),
    ]
    manual = [v for v in s.variants if v.kind == "manual"]
    if manual:
        columns.append(("By hand", manual[-1], "manual"))
    return columns


Diffs = dict[tuple[int, str], Content]


def diffs(s: SampleView, columns: list[tuple[str, VariantView | None, str]]) -> Diffs:
    """Marked texts by variant and part: each rewrite against the text that it was made of."""
    marked: Diffs = {}
    for _, variant, _ in columns:
        before = s.variant(variant.parent_id) if variant is not None else None
        if variant is None or before is None:
            continue
        for part in PARTS:
            old, new = getattr(before, part), getattr(variant, part)
            if old != new and (marks := word_diff(old, new)) is not None:
                # What the answer's rewrite changed of the instruction's is marked there only if the
                # instruction's own changes are not marked already.
                marked.setdefault((before.id, part), marks[0])
                marked[variant.id, part] = marks[1]
    return marked


def pane(
    s: SampleView,
    name: str,
    variant: VariantView | None,
    stage: str,
    marked: Diffs,
    stacked: bool,
    search: re.Pattern[str] | None = None,
) -> VerticalScroll:
    """One text with its scores and the critique that led to it; matches of ``search`` stand out.

    Args:
        s: the sample.
        name: above the text.
        variant: the text; None where there is none.
        stage: instruction or response, whose critique is shown; empty for none.
        marked: texts whose changed words are marked, by variant and part.
        stacked: whether panes stand one above the other.
        search: the search that led here; None without one.
    """
    blocks: list[Static] = []
    if variant is None:
        reflection = s.reflections.get(stage)
        explanation = (
            "the teacher has not written it yet"
            if reflection is None
            else f"there is none: {reflection.status}"
        )
        blocks = [Static(Content.styled(name, "bold $text-primary")), Static(shown(explanation, "$dim"))]
    else:
        is_final = variant.id == s.stands.variant_id
        head = Content.assemble(
            (name, "bold $text-primary"), ("  ● final" if is_final else "", "bold $text-success")
        )
        blocks = [Static(head), Static(_scores(variant, stacked), classes="scores")]
        for part in PARTS:
            text = getattr(variant, part)
            if text:
                blocks.append(Static(Content.styled(PART_NAMES[part], "bold $dim")))
                content = marked.get((variant.id, part), shown(text))
                if search is not None:
                    content = content.highlight_regex(search, style="reverse $text-accent")
                blocks.append(Static(content + Content("\n")))
    critique = s.critiques.get(stage)
    if critique:
        blocks.append(Static(Content.styled("The teacher's critique", "bold $dim")))
        blocks.append(Static(shown(critique, "italic $dim")))
    ending = s.endings.get(stage)
    if ending is not None:
        blocks.append(Static(shown(f"How it ended: {ending_words(ending)}.", "$dim")))
    return VerticalScroll(*blocks, classes="pane", can_focus=False)


def _scores(v: VariantView, stacked: bool) -> Content:
    """Each score and its two losses as small bars; where panes are stacked, a score and its losses in a line."""
    if all(score is None for score in v.scores.values()):
        words = (
            "waiting for a score"
            if v.kind == "manual" and not v.unscored
            else v.unscored or "not scored: no choice needed it"
        )
        return shown(words, "$dim")
    top = max([4.0, *(x for x in v.losses.values() if x is not None)])
    lines = []
    for metric, ratio in v.scores.items():
        name = MEASURES[metric].label
        given, alone = MEASURES[metric].loss_names
        if stacked:
            if ratio is not None:
                over = " ≥ 1" if ratio >= 1 else ""
                losses = "".join(f"   {which} {number(v.losses[which], 2)}" for which in (given, alone))
                lines.append(
                    Content.assemble(
                        (f"{name:<6} {number(ratio, 2):>5} ", "bold"),
                        (bar(ratio, 1.5, _BAR), "$text-warning" if over else "$text-primary"),
                        (over, "$text-warning"),
                        (losses, "$dim"),
                    )
                )
            continue
        # A score that was not needed keeps its place, so that what is below stands side by side.
        if ratio is None:
            lines += [Content.styled(f"{label:<6}     -", "$dim") for label in (name, given, alone)]
            continue
        over = "  ≥ 1" if ratio >= 1 else ""
        lines.append(
            Content.assemble(
                (f"{name:<6} {number(ratio, 2):>5} ", "bold"),
                (bar(ratio, 1.5, _BAR), "$text-warning" if over else "$text-primary"),
                (over, "$text-warning"),
            )
        )
        for which in (given, alone):
            loss = v.losses[which]
            lines.append(
                Content.assemble(
                    (f"{which:<6} {number(loss, 2):>5} ", "$dim"), (bar(loss or 0.0, top, _BAR), "$dim")
                )
            )
    return Content("\n").join(lines)
