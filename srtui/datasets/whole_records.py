"""Conversations on their way out: a record as it was imported, with the texts that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from srtui.datasets.json_edits import JsonEdits, Member, written
from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.layouts.conversation import SYSTEM_FIELDS, split_input
from srtui.datasets.layouts.layout import Rewritten
from srtui.prompts import PromptTemplate
from srtui.sample import Turn

CONVERSATION_FORMATS = tuple(name for name, layout in LAYOUTS.items() if layout.lay_out)
"""The formats whose records are conversations."""

Places = Sequence[tuple[int, int]]


class WholeRecord(NamedTuple):
    """A record that is laid out already, for :func:`srtui.datasets.write`: its JSON."""

    text: str


def put_back(
    format: str,
    layout: str,
    record: str,
    turns: Sequence[Turn],
    places: Places,
    rewritten: Sequence[Rewritten],
    *,
    samples: Sequence[int] | None = None,
    weighed: bool = False,
) -> WholeRecord:
    """A conversation with the texts that a run chose.

    In the layout that it was imported in it is its record, in which the turns that were rewritten have other
    texts; all else is as it was, byte for byte, but for turns behind the last answer, which are left out. In another
    layout its turns are laid out anew, and the other fields are as they were.

    Args:
        format: the layout to write.
        layout: the one that it was imported in.
        record: as it was imported, JSON.
        turns: its turns.
        places: by turn where it lies in the record (srtui.datasets.Conversation).
        rewritten: what became of its exchanges; those that are not kept get ``weight`` 0.
        samples: ids that it gets as ``samples``, unless it has a field of that name.
        weighed: its first answer gets ``weight`` 1 where no turn of it has a weight, so that a loader that takes
            a file's fields from its first records knows of them.

    Returns:
        The record to write.
    """
    edits = JsonEdits(record)
    texts: dict[int, str] = {}
    weights: dict[int, int] = {}
    for new in rewritten:
        if not new.kept:
            weights[new.answer] = 0
            continue
        texts[new.answer - 1] = PromptTemplate.target_of(new.pair.instruction, new.pair.input)
        texts[new.answer] = new.pair.response
    if weighed and not weights:
        weights[next(n for n, turn in enumerate(turns) if turn.role == "assistant")] = 1
    input_now = _input_now(edits, turns, rewritten)
    if format == layout:
        (field,) = LAYOUTS[layout].keys
        _edit_turns(edits, field, turns, places, texts, weights)
        if input_now is not None:
            edits.set(edits.start, "input", input_now)
        _add_samples(edits, samples)
        return WholeRecord(edits.result)
    whole = [Turn(turn.role, texts.get(n, turn.text)) for n, turn in enumerate(turns)]
    return WholeRecord(_laid_out_anew(edits, format, layout, whole, weights, input_now, samples))


def _edit_turns(
    edits: JsonEdits,
    field: str,
    turns: Sequence[Turn],
    places: Places,
    texts: dict[int, str],
    weights: dict[int, int],
) -> None:
    """Give turns their new texts and weights, and take away what stands behind the last answer.

    Args:
        edits: of the record.
        field: the list of its turns.
        turns: as they were imported.
        places: where they lie.
        texts: by turn, what it says now.
        weights: by turn, what it gets where it has no weight, or where that is 0.
    """
    listed = edits.member(edits.start, field)
    assert listed is not None  # noqa: S101 - its turns were read from there
    entries = edits.elements(listed.start)
    gone: set[int] = set(range(sum(places[-1]), len(entries)))
    for n, (place, size) in enumerate(places):
        if n in texts and texts[n] != turns[n].text:
            _edit_text(edits, edits.members(entries[place].start), texts[n])
            gone.update(range(place + 1, place + size))
        if n in weights:
            for entry in (entries[i] for i in range(place, place + size) if i not in gone):
                if weights[n] == 0 or edits.member(entry.start, "weight") is None:
                    edits.set(entry.start, "weight", weights[n])
    for n in gone:
        edits.cut(entries[n]._replace(start=entries[n - 1].end))


def _edit_text(edits: JsonEdits, members: Sequence[Member], text: str) -> None:
    """Either spelling; where an entry has both, one is null."""
    values = {m.key: m.value for m in members}
    name = next(
        name
        for name in ("value", "content")
        if name in values and edits.text[values[name].start : values[name].end] != "null"
    )
    in_parts = edits.text[values[name].start] == "["
    edits.replace(values[name], [{"type": "text", "text": text}] if in_parts else text)


def _input_now(edits: JsonEdits, turns: Sequence[Turn], rewritten: Sequence[Rewritten]) -> str | None:
    """The record's ``input`` says which part of the last user turn is one, and follows what was chosen: what it says
    now, None where it stays as it is."""
    place = edits.member(edits.start, "input")
    final = max((new for new in rewritten if new.kept), default=None, key=lambda new: new.answer)
    if place is None or final is None or final.answer != len(turns) - 1:
        return None
    _, before = split_input(turns[-2].text, edits.string(place))
    return None if final.pair.input == (before or "") else final.pair.input


def _add_samples(edits: JsonEdits, samples: Sequence[int] | None) -> None:
    if samples is not None and edits.member(edits.start, "samples") is None:
        edits.set(edits.start, "samples", list(samples))


def _laid_out_anew(
    edits: JsonEdits,
    format: str,
    layout: str,
    turns: Sequence[Turn],
    weights: dict[int, int],
    input_now: str | None,
    samples: Sequence[int] | None,
) -> str:
    """The turns in another layout, behind the other fields of the record as they were.

    Args:
        edits: of the record, none made so far.
        format: the layout to write.
        layout: the one that it was imported in.
        turns: with the texts that were chosen.
        weights: by turn, what it gets.
        input_now: what the record's ``input`` says now; None where it stays as it is.
        samples: ids that it gets, unless it has a field of that name.
    """
    lay_out = LAYOUTS[format].lay_out
    assert lay_out is not None  # noqa: S101 - only such formats are asked for
    ((field, entries),) = lay_out(turns).items()
    for n, weight in weights.items():
        entries[n]["weight"] = weight
    gone = {*LAYOUTS[layout].keys, *SYSTEM_FIELDS, field}
    members = [m for m in edits.members(edits.start) if m.key not in gone]
    fields: dict[str, Any] = {field: entries}
    if input_now is not None:
        members = [m for m in members if m.key != "input"]
        fields["input"] = input_now
    parts = [edits.text[m.start : m.value.end] for m in members]
    if samples is not None and all(m.key != "samples" for m in members):
        fields["samples"] = list(samples)
    return "{" + ",".join([*parts, *(f"{written(k)}:{written(v)}" for k, v in fields.items())]) + "}"
