"""How what a teacher wrote ended, segment by segment: kept with each generation."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from srtui.store.stored import stored

CUT = ("length", "repetition")
"""Finishes of a text that is not whole: it met its limit, or went round in circles."""

ENDINGS = ("whole", "unknown", "cut")
"""How a text that is kept can have ended, the worst last."""

PARTS = ("critique", "instruction", "response", "text")
"""What a segment holds; ``text`` is all of it, where the teacher wrote in one go."""


def packed(segments: Iterable[tuple[str, str, int] | tuple[str, str, int, int | None]]) -> str:
    """(part, finish, tokens, most tokens that it could have had) of each segment, as JSON."""
    return json.dumps([list(segment) for segment in segments], separators=(",", ":"))


def cut_at(generation_id: int, segments: str | None) -> Iterator[tuple[int, int]]:
    """(number of the segment, most tokens that it could have had) of the segments that ended by length, of a
    generation that has them (``segments``: as they are stored). What was stored before the second was kept had as many as it wrote. Raises
    UserError where the segments are damaged."""
    for n, (_, finish, tokens, *room) in enumerate(segments_of(generation_id, segments)):
        if finish == "length":
            yield n, tokens if not room or room[0] is None else room[0]


class GenerationEnding(NamedTuple):
    """How a generation ended. ``segments`` are its (part, finish, tokens), None where an older srtui wrote it, which
    kept the last one's ``finish`` alone."""

    segments: tuple[tuple[str, str, int], ...] | None
    finish: str


def ending_of(generation_id: int, segments: str | None, finish: str) -> GenerationEnding:
    """How a generation ended, by its columns; ``finish`` is the last segment's and there in older stores too. Raises
    UserError where the segments are damaged."""
    parsed = segments_of(generation_id, segments)
    if parsed is not None:
        parsed = tuple((part, finish, tokens) for part, finish, tokens, *_ in parsed)
    return GenerationEnding(parsed, finish)


def segments_of(generation_id: int, segments: str | None) -> Any:
    """[part, finish, tokens, most tokens that it could have had] of each segment, the last since it is kept; None where
    an older srtui wrote the generation. Raises UserError where they are damaged."""
    return stored({"id": generation_id, "segments": segments}, "generation", "segments")


def endings(conn: sqlite3.Connection, run_id: int, overruled: bool | None = None) -> dict[str, int]:
    """Of the rewrites that a run keeps: how many are ``whole``, how many were ``cut`` short (only an older
    srtui kept such), and of how many it is ``unknown``: those imported, and an older store's instructions.

    A text is made by all generations behind it: a rewritten answer's and its instruction's. What a person
    wrote or left as it was is none of them. By the student's choices; ``overruled``: of the samples that a
    person has overruled alone, by the student's choices (False) or a person's (True).
    """
    persons = (
        "SELECT {} FROM overrule WHERE run_id = o.run_id AND sample_id = o.sample_id AND undone_at IS NULL"
    )
    final = f"({persons.format('variant_id')})" if overruled else "o.variant_id"
    condition = "" if overruled is None else f" AND EXISTS ({persons.format('1')})"
    kept = "" if overruled else " AND o.kept = 1"
    counts = dict.fromkeys(ENDINGS, 0)
    for ending, n in conn.execute(
        f"SELECT ({_ENDING.format(final=final)}) AS ending, count(*) FROM outcome o "
        f"WHERE o.run_id = ?{kept}{condition} GROUP BY 1",
        (run_id,),
    ):
        if ending:
            counts[ENDINGS[ending - 1]] += n
    return counts


# One text at a time, so that a million of them take no memory.
_ENDING = (
    "WITH RECURSIVE behind(id) AS (SELECT {final} UNION SELECT v.parent_id FROM behind b JOIN variant v ON v.id = b.id "
    "WHERE v.parent_id IS NOT NULL AND v.kind <> 'manual') "
    "SELECT max(CASE WHEN v.kind IN ('original', 'manual') THEN 0 WHEN g.id IS NULL THEN 2 "
    "WHEN g.segments IS NOT NULL THEN 1 WHEN g.finish IN ('length', 'repetition') THEN 3 "
    "WHEN g.stage = 'response' THEN 1 ELSE 2 END) "
    "FROM behind b JOIN variant v ON v.id = b.id LEFT JOIN generation g ON g.id = v.generation_id"
)
