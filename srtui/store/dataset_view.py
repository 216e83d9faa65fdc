"""Datasets as a person looks at them: where each came from, what was refused of it, and what is in it.

Counts are read by indices; what needs the texts themselves is said of a random part of them, so that a look at a
million samples costs what a look at two thousand does.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from srtui.gates import pair_language
from srtui.sample import Pair
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.corpus import has_code
from srtui.store.imports import StoredBadRow, bad_rows_of

LOOKED_AT = 1000
"""The most texts that are read to say what is in a dataset."""


class DatasetRow(NamedTuple):
    """One line of the table of datasets. ``read``, ``duplicate`` and ``bad`` count rows of its files, ``runs`` the
    runs over it; ``imported_at`` is when its last file came, 0 where none is known (another store's)."""

    id: int
    name: str
    samples: int
    conversations: int
    files: int
    read: int
    duplicate: int
    bad: int
    runs: int
    imported_at: float


class ImportedFileView(NamedTuple):
    """A file that a dataset, or rewrites of its samples, came from. ``turns`` is what was taken of conversations,
    None where its rows are none."""

    path: str
    format: str
    kind: str
    read: int
    new: int
    duplicate: int
    bad: int
    imported_at: float
    turns: str | None


@dataclass(frozen=True)
class TextFigures:
    """``texts`` samples in figures: lengths in characters at the 5th, 50th and 95th of a hundred, shares by counts."""

    texts: int
    instruction_length: tuple[int, int, int]
    response_length: tuple[int, int, int]
    with_input: int
    with_code: int
    languages: dict[str, int]
    """By name; "" where a text is too short to say."""


@dataclass(frozen=True)
class DatasetView:
    """What is known of one dataset. ``bad_rows`` are the first that were refused, ``reasons`` counts those that are
    stored by why; ``near_duplicates`` are those that are marked, ``left_out`` what new runs leave out, by why."""

    files: list[ImportedFileView]
    reasons: dict[str, int]
    bad_rows: list[StoredBadRow]
    near_duplicates: int
    left_out: dict[str, int]
    figures: TextFigures


def dataset_rows(conn: sqlite3.Connection) -> list[DatasetRow]:
    """All datasets, in the order of their import."""
    of_files = "FROM import i WHERE i.dataset_id = d.id AND i.kind = 'original'"
    return [
        DatasetRow(*r)
        for r in fetch_rows(
            conn,
            "SELECT d.id, d.name, (SELECT count(*) FROM sample s WHERE s.dataset_id = d.id), "
            "(SELECT count(*) FROM conversation c WHERE c.dataset_id = d.id), "
            f"(SELECT count(*) {of_files}), (SELECT coalesce(sum(i.rows_read), 0) {of_files}), "
            f"(SELECT coalesce(sum(i.rows_duplicate), 0) {of_files}), (SELECT coalesce(sum(i.rows_bad), 0) {of_files}), "
            "(SELECT count(*) FROM run r WHERE r.dataset_id = d.id), "
            f"(SELECT coalesce(max(i.created_at), 0) {of_files}) FROM dataset d ORDER BY d.id",
        )
    ]


def view_dataset(
    conn: sqlite3.Connection, dataset_id: int, figures: TextFigures | None = None, bad_rows: int = 200
) -> DatasetView:
    """What is known of one dataset.

    Args:
        conn: of the store.
        dataset_id: of the dataset, which must be there.
        figures: those of its texts, where they are known already; they are not read again then.
        bad_rows: how many of the refused rows are read.
    """
    files = [
        ImportedFileView(*r)
        for r in fetch_rows(
            conn,
            "SELECT path, format, kind, rows_read, rows_new, rows_duplicate, rows_bad, created_at, turns "
            "FROM import WHERE dataset_id = ? ORDER BY id",
            (dataset_id,),
        )
    ]
    reasons = {
        r[0]: r[1]
        for r in fetch_rows(
            conn,
            "SELECT b.reason, count(*) FROM import i JOIN bad_row b ON b.import_id = i.id WHERE i.dataset_id = ? "
            "GROUP BY 1 ORDER BY 2 DESC, 1",
            (dataset_id,),
        )
    }
    return DatasetView(
        files,
        reasons,
        bad_rows_of(conn, dataset_id, bad_rows),
        near_duplicates_of(conn, dataset_id),
        left_out_of(conn, dataset_id),
        figures or text_figures(some_pairs(conn, dataset_id)),
    )


def near_duplicates_of(conn: sqlite3.Connection, dataset_id: int) -> int:
    """How many samples of a dataset are marked as near-duplicates."""
    query = "SELECT count(*) FROM near_duplicate n JOIN sample s ON s.id = n.sample_id WHERE s.dataset_id = ?"
    return int(fetch_value(conn, query, (dataset_id,)))


def left_out_of(conn: sqlite3.Connection, dataset_id: int) -> dict[str, int]:
    """How many samples of a dataset new runs leave out, by reason."""
    query = (
        "SELECT l.why, count(*) FROM left_out l JOIN sample s ON s.id = l.sample_id WHERE s.dataset_id = ? "
        "GROUP BY 1 ORDER BY 1"
    )
    return {r[0]: r[1] for r in fetch_rows(conn, query, (dataset_id,))}


def some_pairs(conn: sqlite3.Connection, dataset_id: int, count: int = LOOKED_AT) -> list[Pair]:
    """``count`` samples as they were imported, without their histories: a random part, and the same each time."""
    # In the order of their digests, which is an index, and random with respect to everything in the texts.
    rows = fetch_rows(
        conn,
        "SELECT v.instruction, v.input, v.response FROM (SELECT id FROM sample WHERE dataset_id = ? ORDER BY digest "
        "LIMIT ?) s CROSS JOIN variant v WHERE v.sample_id = s.id AND v.kind = 'original'",
        (dataset_id, count),
    )
    return [Pair(*r) for r in rows]


def text_figures(pairs: Iterable[Pair]) -> TextFigures:
    """What some texts come to."""
    instructions, responses = [], []
    inputs = code = 0
    languages: Counter[str] = Counter()
    for pair in pairs:
        instructions.append(len(pair.instruction))
        responses.append(len(pair.response))
        inputs += bool(pair.input.strip())
        code += has_code(pair.response)
        languages[pair_language(pair)] += 1
    return TextFigures(
        len(instructions),
        _quantiles(instructions),
        _quantiles(responses),
        inputs,
        code,
        dict(languages.most_common()),
    )


def _quantiles(lengths: Sequence[int]) -> tuple[int, int, int]:
    ordered = sorted(lengths) or [0]
    low, middle, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.05, 0.5, 0.95))
    return low, middle, high
