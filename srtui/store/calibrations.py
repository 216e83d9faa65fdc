"""What measures were found to be worth: calibrations by known preferences, one row each."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srtui.store._query import fetch_rows
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store


@dataclass(frozen=True)
class Calibration:
    """What each measure was worth with one student on some pairs; ``result`` as docs/method.md lists it."""

    id: int
    setting_id: int
    source: str
    pairs: int
    result: dict[str, Any]
    created_at: float


def _calibration(r: sqlite3.Row) -> Calibration:
    return Calibration(
        r["id"],
        r["setting_id"],
        r["source"],
        r["pairs"],
        stored(r, "calibration", "result"),
        r["created_at"],
    )


def calibrations_of(conn: sqlite3.Connection, setting_id: int | None) -> list[Calibration]:
    """Calibrations that hold for scores of this way of scoring, the newest first: those of the same student, under
    the same template and protocol. The length at which texts are cut may be another, and the date that a template
    writes."""
    return [
        _calibration(r)
        for r in fetch_rows(
            conn,
            "SELECT c.* FROM scoring_setting s JOIN scoring_setting t ON t.student_id = s.student_id "
            "AND t.template = s.template AND t.template_version = s.template_version AND t.protocol = s.protocol "
            "JOIN calibration c ON c.setting_id = t.id WHERE s.id = ? ORDER BY c.id DESC",
            (setting_id,),
        )
    ]


class Calibrations:
    """``store.calibrations``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def by_digest(self, digest: bytes) -> Calibration | None:
        """The one of exactly this student, these pairs and measures; None where there is none."""
        rows = fetch_rows(self._store.conn, "SELECT * FROM calibration WHERE digest = ?", (digest,))
        return _calibration(rows[0]) if rows else None

    def add(
        self, digest: bytes, setting_id: int, source: str, pairs: int, result: Mapping[str, Any]
    ) -> Calibration:
        """Store a calibration; of one that is there under ``digest`` the source and the result are replaced.

        Args:
            digest: the key of all that it depends on: student, pairs and measures.
            setting_id: the scoring setting (srtui.store.scores).
            source: where the pairs are from, for people.
            pairs: how many there were.
            result: its figures, as srtui.store.stored describes them.
        """
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT INTO calibration(digest, setting_id, source, pairs, result, created_at) VALUES (?,?,?,?,?,?) "
                "ON CONFLICT(digest) DO UPDATE SET source = excluded.source, result = excluded.result, "
                "created_at = excluded.created_at",
                (
                    digest,
                    setting_id,
                    source,
                    pairs,
                    json.dumps(dict(result), ensure_ascii=False),
                    time.time(),
                ),
            )
        stored = self.by_digest(digest)
        assert stored is not None  # noqa: S101 - written a line above
        return stored
