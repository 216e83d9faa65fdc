"""Rows beside the rows that they were made of, for a check that they still follow from these.

``srtui.pipeline.rederive`` makes scores, choices and counts again and compares; here is what it reads. Texts
that are not UTF-8 any more are read with replacement signs, for a damaged store is what this is for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from srtui.store._query import fetch_row, fetch_value
from srtui.store.connection import one_snapshot, open_read_only
from srtui.store.schema_counts import counted_again
from srtui.store.stored import Row

Table = Literal["sample", "generation", "score", "decision", "outcome"]

_MADE_OF: dict[Table, str] = {
    "sample": "SELECT s.id, coalesce(c.record, s.record) AS record, v.instruction, v.input, v.response FROM sample s "
    "JOIN variant v ON v.sample_id = s.id AND v.kind = 'original' LEFT JOIN exchange e ON e.sample_id = s.id "
    "LEFT JOIN conversation c ON c.id = e.conversation_id ORDER BY s.id",
    "generation": "SELECT g.id, g.stage, g.text, g.critique, v.instruction, v.response FROM generation g "
    "LEFT JOIN variant v ON v.id = g.variant_id WHERE g.parsed = 'parsed' ORDER BY g.id",
    "score": "SELECT s.variant_id, s.metric, s.value, s.reason, s.conditional_key, s.unconditional_key, "
    "c.key AS c_key, c.nll AS c_nll, c.tokens AS c_tokens, c.reason AS c_reason, "
    "u.key AS u_key, u.nll AS u_nll, u.tokens AS u_tokens, u.reason AS u_reason FROM score s "
    "LEFT JOIN span_loss c ON c.key = s.conditional_key LEFT JOIN span_loss u ON u.key = s.unconditional_key",
    "decision": "SELECT * FROM decision",
    "outcome": "SELECT o.*, d.chosen_id, d.reflected FROM outcome o LEFT JOIN decision d ON d.run_id = o.run_id "
    "AND d.sample_id = o.sample_id AND d.stage = 'response'",
}


class CountingTable(NamedTuple):
    """A table of counts that triggers keep: the names of its key's columns, what it holds by key, and
    (key, counts) of each of its rows as the counted rows give it in the same moment."""

    name: str
    key: tuple[str, ...]
    kept: dict[tuple[Any, ...], tuple[Any, ...]]
    counted: list[tuple[tuple[Any, ...], tuple[Any, ...]]]


class Derivations:
    """A read-only connection of its own; a context manager. All of it raises sqlite3.Error (the store's
    ``DatabaseError``) where a page cannot be read."""

    def __init__(self, path: Path) -> None:
        self._conn = open_read_only(path)
        self._conn.row_factory = sqlite3.Row
        self._conn.text_factory = lambda raw: raw.decode("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn.close()

    def count(self) -> int:
        """How many rows there are in all tables that ``rows`` reads."""
        return sum(fetch_value(self._conn, f"SELECT count(*) FROM {table}") for table in _MADE_OF)

    def rows(self, table: Table) -> Iterator[Row]:
        """The rows of a table with what they were made of, one by one: of ``sample`` its original text, of
        ``generation`` (the parsed ones) the text of the variant it came to, of ``score`` both losses as ``c_`` and
        ``u_``, of ``outcome`` the response's decision."""
        yield from self._conn.execute(_MADE_OF[table])

    def is_a_score(self, variant_id: int, metric: str, value: float) -> bool:
        """Whether some student gave this variant this score."""
        query = "SELECT 1 FROM score WHERE variant_id = ? AND metric = ? AND value = ?"
        return fetch_row(self._conn, query, (variant_id, metric, value)) is not None

    def run(self, run_id: int) -> Row | None:
        """Id, name and recipe (JSON) of a run."""
        return fetch_row(self._conn, "SELECT id, name, recipe FROM run WHERE id = ?", (run_id,))

    def counting_tables(self) -> Iterator[CountingTable]:
        """The tables that triggers keep, beside what they count."""
        for table, key, query in counted_again():
            split = len(key)
            with one_snapshot(self._conn):
                kept = {
                    tuple(r)[:split]: tuple(r)[split:] for r in self._conn.execute(f"SELECT * FROM {table}")
                }
                counted = [(tuple(r)[:split], tuple(r)[split:]) for r in self._conn.execute(query)]
            yield CountingTable(table, key, kept, counted)

    def summed_runs(self) -> list[int]:
        """The runs whose sums are kept."""
        return [r[0] for r in self._conn.execute("SELECT run_id FROM run_sums ORDER BY run_id")]
