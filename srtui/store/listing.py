"""Tables of samples: what a filter leaves, in its order, read by position.

``Listing.lay_out`` puts the ids of what a filter leaves, in order, into a temporary table (inside SQLite, so
a million of them neither take Python's memory nor hold its lock), and ``window`` fetches the few rows that are seen.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal, get_args

from srtui.errors import UserError
from srtui.measures import STORED
from srtui.store import figures
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.figures import SCORES, ScoreName, joins

State = Literal[
    "waiting",
    "instruction written",
    "instruction chosen",
    "answer written",
    "answer chosen",
    "kept",
    "dropped",
    "overruled",
]
STATES: tuple[State, ...] = get_args(State)
Part = Literal["old", "new", "by hand"]
"""Where a part of the final text comes from: the dataset, the teacher, a person."""
ORDERS = ("sample", "state", "instruction", "answer", *STORED, "margin", "length", "text")
DECISIONS = ("new instruction", "instruction kept", "new answer", "answer kept")


@dataclass(frozen=True)
class SampleFilter:
    """Which samples, in which order. Without a run: every sample of the store."""

    run_id: int | None = None
    dataset_id: int | None = None
    """Without a run: the samples of this dataset alone."""
    state: str | None = None
    decision: str | None = None
    measure: ScoreName = "ifd"
    low: float | None = None
    high: float | None = None
    both: bool = False
    """Only samples that have the score before as well as the final one, as in a histogram."""
    shortest: int | None = None
    longest: int | None = None
    text: str = ""
    flagged: bool = False
    order: str = "sample"
    descending: bool = False

    @property
    def is_plain(self) -> bool:
        """Nothing is left out, and the order never changes."""
        return self == SampleFilter(self.run_id, self.dataset_id, measure=self.measure)


@dataclass(frozen=True)
class SampleRow:
    """One line of the table of samples: all of it is of the final text."""

    id: int
    state: State
    instruction: Part | None
    answer: Part | None
    ifd: float | None
    rifd: float | None
    margin: float | None
    """By how much the scores of the closest of its choices are apart (srtui.store.decisions.margin)."""
    length: int
    flagged: bool
    noted: bool
    text: str


_STATE = (
    "CASE WHEN p.id IS NOT NULL THEN 7 WHEN o.kept = 1 THEN 5 WHEN o.kept = 0 THEN 6 WHEN d2.run_id IS NOT NULL THEN 4 "
    "WHEN f2.run_id IS NOT NULL THEN 3 WHEN d1.run_id IS NOT NULL THEN 2 WHEN f1.run_id IS NOT NULL THEN 1 ELSE 0 END"
)
# Of the text that stands: 0 the dataset's, 1 rewritten, 2 by hand. What a person took is known by its kind.
_INSTRUCTION = (
    "CASE WHEN p.id IS NULL THEN d1.reflected WHEN pv.kind = 'manual' THEN 2 "
    "ELSE pv.kind = 'instruction_reflected' OR coalesce(pp.kind, '') = 'instruction_reflected' END"
)
_ANSWER = "CASE WHEN p.id IS NULL THEN d2.reflected WHEN pv.kind = 'manual' THEN 2 ELSE pv.kind = 'response_reflected' END"
# Of both choices the closer one; a sample with one choice has that one's.
_MARGIN = "min(coalesce(d1.margin, d2.margin), coalesce(d2.margin, d1.margin))"
_ORDER = {
    "sample": ("b.sample_id", ()),
    "state": (_STATE, ("p", "o", "d2", "f2", "d1", "f1")),
    "instruction": (_INSTRUCTION, ("p", "pv", "d1")),
    "answer": (_ANSWER, ("p", "pv", "d2")),
    **{name: (SCORES[name][0], (SCORES[name][1],)) for name in STORED},
    "margin": (_MARGIN, ("d1", "d2")),
    "length": ("length(v.response)", ("v",)),
    "text": ("v.instruction COLLATE NOCASE", ("v",)),
}
_DECIDED = {
    "new instruction": ("d1.reflected = 1", "d1"),
    "instruction kept": ("d1.reflected = 0", "d1"),
    "new answer": ("d2.reflected = 1", "d2"),
    "answer kept": ("d2.reflected = 0", "d2"),
}
_PARTS: tuple[Part, ...] = get_args(Part)


def state_of(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> State:
    """How far a run has come with a sample, which must be there."""
    tables = joins("p", "o", "d2", "f2", "d1", "f1")
    query = f"SELECT {_STATE} FROM (SELECT :sample AS sample_id) b {tables}"
    state: int = fetch_value(conn, query, {"run": run_id, "sample": sample_id})
    return STATES[state]


class Listing:
    """The samples that were laid out last, on one connection, which may be read-only."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def lay_out(self, filters: SampleFilter) -> int:
        """Lay out the samples that ``filters`` leaves, in its order, for ``window``; returns how many."""
        if filters.order not in _ORDER:
            raise UserError(f"Samples cannot be sorted by {filters.order!r}; choose {', '.join(ORDERS)}.")
        joined: list[str] = []
        conditions: list[str] = []
        values: dict[str, Any] = {
            "run": filters.run_id,
            "setting": figures.setting_id_of(self._conn, filters.run_id),
        }
        if filters.state:
            joined += ["p", "o", "d2", "f2", "d1", "f1"]
            conditions.append(f"{_STATE} = :state")
            values["state"] = STATES.index(filters.state)
        if filters.decision:
            test, table = _DECIDED[filters.decision]
            joined.append(table)
            conditions.append(test)
        column, table = SCORES[filters.measure]
        if filters.both:
            test, needed = figures.both(filters.measure)
            joined += needed
            conditions.append(test)
        for bound, sign in (("low", ">="), ("high", "<")):
            if getattr(filters, bound) is not None:
                joined.append(table)
                conditions.append(f"{column} {sign} :{bound}")
                values[bound] = getattr(filters, bound)
        for bound, sign in (("shortest", ">="), ("longest", "<=")):
            if getattr(filters, bound) is not None:
                joined.append("v")
                conditions.append(f"length(v.response) {sign} :{bound}")
                values[bound] = getattr(filters, bound)
        if filters.flagged:
            conditions.append("b.sample_id IN (SELECT sample_id FROM flag)")
        if filters.text.strip():
            test, in_turns, values["text"] = _text_test(filters.text)
            # A conversation's turn is found with the samples that it is the history of.
            conditions.append(
                f"(b.sample_id IN (SELECT t.sample_id FROM {test}) OR b.sample_id IN (SELECT e.sample_id FROM {in_turns} "
                "JOIN conversation c ON c.id = (SELECT max(id) FROM conversation WHERE id <= t.id) "
                "JOIN exchange e ON e.conversation_id = c.id AND t.id < e.answer_id - 1))"
            )
        if filters.run_id is not None:
            base = "run_sample b"
            conditions.append("b.run_id = :run")
        elif filters.dataset_id is not None:
            base = "(SELECT id AS sample_id FROM sample WHERE dataset_id = :dataset) b"
            values["dataset"] = filters.dataset_id
        else:
            base = "(SELECT id AS sample_id FROM sample) b"
        order, tables = _ORDER[filters.order]
        joined += tables
        direction = "DESC" if filters.descending else "ASC"
        ending = f"{order} {direction}" + (" NULLS LAST, b.sample_id" if order != "b.sample_id" else "")
        condition = " WHERE " + " AND ".join(conditions) if conditions else ""
        self._conn.execute(
            "CREATE TEMP TABLE IF NOT EXISTS listing(position INTEGER PRIMARY KEY, sample_id INTEGER)"
        )
        self._conn.execute("BEGIN")
        try:
            self._conn.execute("DELETE FROM listing")
            cursor = self._conn.execute(
                f"INSERT INTO listing(sample_id) SELECT b.sample_id FROM {base} {joins(*joined)}{condition} ORDER BY {ending}",
                values,
            )
        except BaseException:
            if self._conn.in_transaction:  # an interrupt rolls back by itself
                self._conn.execute("ROLLBACK")
            raise
        self._conn.execute("COMMIT")
        return cursor.rowcount

    def window(self, run_id: int | None, first: int, count: int) -> list[SampleRow]:
        """Rows ``first`` (from 0) and on of what ``lay_out`` laid out."""
        rows = fetch_rows(
            self._conn,
            f"SELECT b.sample_id, {_STATE} AS state, {_INSTRUCTION} AS part1, {_ANSWER} AS part2, "
            f"ifd1.value AS ifd, rifd1.value AS rifd, {_MARGIN} AS margin, length(v.response) AS length, "
            "EXISTS (SELECT 1 FROM flag g WHERE g.sample_id = b.sample_id) AS flagged, "
            "coalesce((SELECT n.text <> '' FROM note n WHERE n.sample_id = b.sample_id ORDER BY n.id DESC LIMIT 1), 0) "
            "AS noted, substr(v.instruction, 1, 400) AS text FROM temp.listing b "
            f"{joins('f1', 'f2', 'd1', 'd2', 'o', 'p', 'pv', 'v0', 'ifd1', 'rifd1', 'v')} "
            "WHERE b.position > :first AND b.position <= :last ORDER BY b.position",
            {
                "run": run_id,
                "setting": figures.setting_id_of(self._conn, run_id),
                "first": first,
                "last": first + count,
            },
        )
        return [
            SampleRow(
                r["sample_id"],
                STATES[r["state"]],
                None if r["part1"] is None else _PARTS[r["part1"]],
                None if r["part2"] is None else _PARTS[r["part2"]],
                r["ifd"],
                r["rifd"],
                r["margin"],
                r["length"] or 0,
                bool(r["flagged"]),
                bool(r["noted"]),
                r["text"] or "",
            )
            for r in rows
        ]

    def position_of(self, sample_id: int) -> int | None:
        """Where a sample stands in what ``lay_out`` laid out, from 0."""
        position = fetch_value(
            self._conn, "SELECT position - 1 FROM temp.listing WHERE sample_id = ?", (sample_id,)
        )
        return None if position is None else int(position)

    def sample_ids(self, most: int) -> list[int]:
        """The first ``most`` that ``lay_out`` laid out, in order."""
        query = "SELECT sample_id FROM temp.listing ORDER BY position LIMIT ?"
        return [r[0] for r in fetch_rows(self._conn, query, (most,))]

    def sample_at(self, position: int) -> int | None:
        """The sample that stands at ``position``, from 0."""
        sample_id = fetch_value(
            self._conn, "SELECT sample_id FROM temp.listing WHERE position = ?", (position + 1,)
        )
        return None if sample_id is None else int(sample_id)

    def unindexed(self) -> int:
        """Texts, of variants and of conversations' turns, that a search does not see yet."""
        return sum(
            int(
                fetch_value(
                    self._conn, f"SELECT count(*) FROM {t} WHERE id > (SELECT {t}_id FROM {t}_text_upto)"
                )
            )
            for t in ("variant", "turn")
        )


def _text_test(words: str) -> tuple[str, str, str]:
    """The subqueries that find a text of a variant and of a turn, as table ``t``, and the parameter to give them."""
    # Scripts without spaces are one long token to the index; those are looked for letter by letter.
    if any(
        "\u2e80" <= c <= "\u9fff" or "\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7af" for c in words
    ):
        return (
            "variant t WHERE instr(t.instruction || ' ' || t.input || ' ' || t.response, :text)",
            "(SELECT id FROM turn WHERE instr(text, :text)) t",
            words.strip(),
        )
    # Every word is quoted, so that nothing in it is an operator; the last one may be unfinished.
    quoted = ['"' + w.replace('"', '""') + '"' for w in words.split()]
    return (
        "variant_text x JOIN variant t ON t.id = x.rowid WHERE variant_text MATCH :text",
        "(SELECT rowid AS id FROM turn_text WHERE turn_text MATCH :text) t",
        " ".join(quoted) + "*",
    )
