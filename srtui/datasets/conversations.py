"""Conversations on their way out: a record as it was imported, with the texts that were chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from srtui.datasets.layouts import LAYOUTS
from srtui.datasets.layouts.base import Rewritten
from srtui.prompts import PromptTemplate
from srtui.sample import Turn

CONVERSATION_FORMATS = tuple(name for name, layout in LAYOUTS.items() if layout.put_back)
"""The formats whose records are conversations."""


class WholeRecord(dict[str, Any]):
    """A record that is laid out already, for :func:`srtui.datasets.write`."""


def put_back(
    format: str,
    layout: str,
    record: str,
    turns: Sequence[Turn],
    places: Sequence[tuple[int, int]],
    rewritten: Sequence[Rewritten],
) -> WholeRecord:
    """A conversation with the texts that a run chose.

    In the layout that it was imported in it is its record, in which the turns that were rewritten have other
    texts; all else is as it was, but for turns behind the last answer, which are left out. In another layout its
    turns are laid out anew, and the other fields are kept.

    Args:
        format: the layout to write.
        layout: the one that it was imported in.
        record: as it was imported, JSON.
        turns: its turns.
        places: by turn where it lies in the record (srtui.datasets.Conversation).
        rewritten: what became of its exchanges; those that are not kept get ``weight`` 0.

    Returns:
        The record to write.
    """
    before = json.loads(record)
    put_back_as_it_was = LAYOUTS[layout].put_back
    assert put_back_as_it_was is not None  # noqa: S101 - conversations come from such layouts alone
    if format == layout:
        return WholeRecord(put_back_as_it_was(before, turns, places, rewritten))
    lay_out = LAYOUTS[format].lay_out
    assert lay_out is not None  # noqa: S101 - as above
    texts = list(turns)
    for new in rewritten:
        if new.kept:
            question = PromptTemplate.target_of(new.pair.instruction, new.pair.input)
            texts[new.answer - 1] = Turn("user", question)
            texts[new.answer] = Turn("assistant", new.pair.response)
    laid_out = lay_out(texts)
    (entries,) = laid_out.values()
    for new in rewritten:
        if not new.kept:
            entries[new.answer]["weight"] = 0
    replaced_keys = {*LAYOUTS[layout].keys, "system", "system_prompt", "system_message"}
    return WholeRecord({**{k: v for k, v in before.items() if k not in replaced_keys}, **laid_out})
