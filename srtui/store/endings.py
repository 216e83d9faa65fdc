"""How what a teacher wrote ended, segment by segment: kept with each generation, and said in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srtui.store import Store

CUT = ("length", "repetition")
"""Finishes of a text that is not whole: it met its limit, or went round in circles."""

PARTS = ("critique", "instruction", "response", "text")
"""What a segment holds; ``text`` is all of it, where the teacher wrote in one go."""


def packed(ended: Iterable[tuple[str, str, int]]) -> str:
    """(part, finish, tokens) of each segment, as JSON."""
    return json.dumps([list(one) for one in ended])


def in_words(segments: str | None, finish: str) -> str:
    """One line about all segments; ``finish`` is the last one's, which older stores have too."""
    if segments is None:
        return f"the last part {_words(finish)}; of the others it is not known (an older srtui wrote it)"
    ended = [f"{part} {_words(how)} after {tokens:,} tokens" for part, how, tokens in json.loads(segments)]
    return ", ".join(ended) or f"nothing was written: {finish}"


def _words(finish: str) -> str:
    if finish == "length":
        return "cut off at its limit"
    if finish == "repetition":
        return "cut off where it repeats itself"
    kind, _, marker = finish.partition(":")
    return f"ended by {marker}" if kind == "stop" else "ended by itself" if finish == "end" else finish


def endings(store: Store, run_id: int) -> dict[str, int]:
    """Of the rewrites that a run keeps: how many are ``whole``, how many were ``cut`` short (only an older
    srtui kept such), and of how many it is ``unknown``: those imported, and an older store's instructions.

    A text is made by all generations behind it: a rewritten answer's and its instruction's. What a person
    wrote or left as it was is none of them.
    """
    rows = store.rows(
        "WITH RECURSIVE behind(kept, id) AS ("
        "SELECT coalesce(p.variant_id, o.variant_id), coalesce(p.variant_id, o.variant_id) FROM outcome o "
        "LEFT JOIN overrule p ON p.run_id = o.run_id AND p.sample_id = o.sample_id AND p.undone_at IS NULL "
        "WHERE o.run_id = ? AND (o.kept = 1 OR p.id IS NOT NULL) "
        "UNION SELECT b.kept, v.parent_id FROM behind b JOIN variant v ON v.id = b.id "
        "WHERE v.parent_id IS NOT NULL AND v.kind <> 'manual') "
        "SELECT max(CASE WHEN v.kind IN ('original', 'manual') THEN 0 WHEN g.id IS NULL THEN 2 "
        "WHEN g.segments IS NOT NULL THEN 1 WHEN g.finish IN ('length', 'repetition') THEN 3 "
        "WHEN g.stage = 'response' THEN 1 ELSE 2 END) AS ending, count(DISTINCT b.kept) AS n "
        "FROM behind b JOIN variant v ON v.id = b.id LEFT JOIN generation g ON g.id = v.generation_id "
        "GROUP BY b.kept",
        (run_id,),
    )
    found = {"whole": 0, "unknown": 0, "cut": 0}
    for r in rows:
        if r["ending"]:
            found[("whole", "unknown", "cut")[r["ending"] - 1]] += 1
    return found
