"""Does the store still say what was stored? SQLite's own check sees pages and indexes; a byte that was
flipped inside a text is sound to it, and only the digest beside the text shows it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from srtui.hashing import SCHEME, digest, scheme_1
from srtui.sample import Turn, history_digest, pair_digest
from srtui.store.connection import open_read_only
from srtui.store.scores import setting_key
from srtui.store.stored import COLUMNS, shape_fault

SHOWN = 20
"""Problems that are said one by one; the others are counted."""
QUICK = 20_000
"""Rows of each table that are compared where not all are: a tenth of a second."""


@dataclass
class Verified:
    """``problems`` are sentences; ``checked`` of ``texts`` variants were compared with their digests."""

    problems: list[str] = field(default_factory=list)
    checked: int = 0
    texts: int = 0


def verify(
    path: Path, deep: bool = False, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Compare what is stored with its digests and keys; all of it with ``deep``, else the first
    ``QUICK`` rows of each table. Raises sqlite3.Error where a page cannot be read."""
    most = -1 if deep else QUICK
    with closing(open_read_only(path)) as conn:
        conn.text_factory = lambda raw: raw.decode("utf-8", "replace")
        verified = Verified(texts=conn.execute("SELECT count(*) FROM variant").fetchone()[0])
        verified.problems = first_of(_faults(conn, most, verified, on_progress))
    return verified


def first_of(faults: Iterator[str]) -> list[str]:
    """The first sentences, and how many more there are."""
    problems = list(islice(faults, SHOWN))
    if others := sum(1 for _ in faults):
        problems.append(f"and {others:,} more like these")
    return problems


def _faults(
    conn: sqlite3.Connection, most: int, verified: Verified, on_progress: Callable[[int, int], None]
) -> Iterator[str]:
    for row, sample, stored, history, instruction, input, response in conn.execute(
        "SELECT v.id, v.sample_id, v.digest, e.history, v.instruction, v.input, v.response FROM variant v "
        "LEFT JOIN exchange e ON e.sample_id = v.sample_id ORDER BY v.id LIMIT ?",
        (most,),
    ):
        if verified.checked % 4096 == 0:
            on_progress(verified.checked, verified.texts)
        verified.checked += 1
        texts = (instruction, input, response)
        if (
            not all(isinstance(t, str) for t in texts)
            or pair_digest(instruction, input, response, history) != stored
        ):
            yield f"variant {row} of sample {sample}: its text is not the one that was stored"
    yield from _histories(conn, most)
    for row, is_same in conn.execute(
        "SELECT s.id, v.digest IS s.digest FROM sample s LEFT JOIN variant v ON v.sample_id = s.id "
        "AND v.kind = 'original' ORDER BY s.id LIMIT ?",
        (most,),
    ):
        if not is_same:
            yield f"sample {row}: its original text is not the one that was imported"
    for row, key, text in conn.execute(
        "SELECT id, key, text FROM answer WHERE origin = 'file' ORDER BY id LIMIT ?", (most,)
    ):
        if digest("file", text) != key:
            yield f"answer {row}: its text is not the one that was stored"
    for table in ("generation", "answer"):
        for row, key in conn.execute(f"SELECT id, key FROM {table} ORDER BY id LIMIT ?", (most,)):
            if not _is_key(key):
                yield f"{table} {row}: its key is damaged"
    for row in conn.execute(
        "SELECT id, digest, student_id, template, protocol, max_length, template_version, date, histories "
        "FROM scoring_setting"
    ):
        if row[1] not in (setting_key(*row[2:]), scheme_1(*row[2:6], *filter(None, [row[6]]))):
            yield f"scoring setting {row[0]}: it is not the one that was stored"
    conn.row_factory = sqlite3.Row
    for (table, column), of in COLUMNS.items():
        for r in conn.execute(f"SELECT * FROM {table} ORDER BY {', '.join(of.key)} LIMIT ?", (most,)):
            if sentence := shape_fault(r, table, column):
                yield sentence


def _histories(conn: sqlite3.Connection, most: int) -> Iterator[str]:
    """Histories against the turns that they are made of."""
    for conversation, turns in conn.execute(
        "SELECT id, turns FROM conversation ORDER BY id LIMIT ?", (most,)
    ).fetchall():
        stored = conn.execute(
            "SELECT role, text FROM turn WHERE id >= ? AND id < ? ORDER BY id",
            (conversation, conversation + turns),
        ).fetchall()
        whole = len(stored) == turns and all(isinstance(part, str) for turn in stored for part in turn)
        exchanges = conn.execute(
            "SELECT sample_id, answer_id, history FROM exchange WHERE conversation_id = ?", (conversation,)
        )
        digests: list[bytes | None] = [None]
        for turn in stored if whole else ():
            digests.append(history_digest((Turn(*turn),), digests[-1]))
        for sample, answer, history in exchanges:
            end = answer - conversation - 1
            if not whole or not 0 <= end < len(digests) or digests[end] != history:
                yield f"sample {sample}: its history is not the one that was imported"


def _is_key(key: Any) -> bool:
    """Of the first scheme, 16 bytes, or of this one, which begins with its number."""
    return isinstance(key, bytes) and (len(key) == 16 or (len(key) == 17 and key[0] == SCHEME))
