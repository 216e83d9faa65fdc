"""How what a teacher wrote ended, segment by segment: kept with each generation, and said in words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from srtui.store.stored import Row, stored

CUT = ("length", "repetition")
"""Finishes of a text that is not whole: it met its limit, or went round in circles."""

ENDINGS = ("whole", "unknown", "cut")
"""How a text that is kept can have ended, the worst last."""

PARTS = ("critique", "instruction", "response", "text")
"""What a segment holds; ``text`` is all of it, where the teacher wrote in one go."""


def packed(ended: Iterable[tuple[str, str, int] | tuple[str, str, int, int | None]]) -> str:
    """(part, finish, tokens, most tokens that it could have had) of each segment, as JSON."""
    return json.dumps([list(one) for one in ended])


def cut_at(generation: Row) -> Iterator[tuple[int, int]]:
    """(number of the segment, most tokens that it could have had) of the segments that ended by length, of a
    generation that has them. What was stored before the second was kept had as many as it wrote. Raises
    UserError where the segments are damaged."""
    for n, (_, finish, tokens, *room) in enumerate(stored(generation, "generation", "segments")):
        if finish == "length":
            yield n, tokens if not room or room[0] is None else room[0]


def in_words(generation: Row) -> str:
    """One line about all segments of a generation, of which ``generation`` has id, segments and finish, which
    is the last segment's and there in older stores too. Raises UserError where the segments are damaged."""
    segments, finish = stored(generation, "generation", "segments"), generation["finish"]
    if segments is None:
        return f"the last part {_words(finish)}; of the others it is not known (an older srtui wrote it)"
    ended = [f"{part} {_words(how)} after {tokens:,} tokens" for part, how, tokens, *_ in segments]
    return ", ".join(ended) or f"nothing was written: {finish}"


def _words(finish: str) -> str:
    if finish == "length":
        return "cut off at its limit"
    if finish == "repetition":
        return "cut off where it repeats itself"
    kind, _, marker = finish.partition(":")
    return f"ended by {marker}" if kind == "stop" else "ended by itself" if finish == "end" else finish


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
    which = "" if overruled is None else f" AND EXISTS ({persons.format('1')})"
    kept = "" if overruled else " AND o.kept = 1"
    found = dict.fromkeys(ENDINGS, 0)
    for ending, n in conn.execute(
        f"SELECT ({_ENDING.format(final=final)}) AS ending, count(*) FROM outcome o "
        f"WHERE o.run_id = ?{kept}{which} GROUP BY 1",
        (run_id,),
    ):
        if ending:
            found[ENDINGS[ending - 1]] += n
    return found


# One text at a time, so that a million of them take no memory.
_ENDING = (
    "WITH RECURSIVE behind(id) AS (SELECT {final} UNION SELECT v.parent_id FROM behind b JOIN variant v ON v.id = b.id "
    "WHERE v.parent_id IS NOT NULL AND v.kind <> 'manual') "
    "SELECT max(CASE WHEN v.kind IN ('original', 'manual') THEN 0 WHEN g.id IS NULL THEN 2 "
    "WHEN g.segments IS NOT NULL THEN 1 WHEN g.finish IN ('length', 'repetition') THEN 3 "
    "WHEN g.stage = 'response' THEN 1 ELSE 2 END) "
    "FROM behind b JOIN variant v ON v.id = b.id LEFT JOIN generation g ON g.id = v.generation_id"
)
