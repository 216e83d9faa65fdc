"""What students made of texts: losses of spans, the scores that follow from them, and the settings under which
they compare."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from srtui.hashing import key
from srtui.measures import STORED, SpanLoss
from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.corpus import batched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from srtui.store import Store


@dataclass(frozen=True)
class StoredScore:
    """A score on its way into the store: the ratio of the perplexities of two spans, by their keys; or why
    there is none."""

    variant_id: int
    metric: str
    conditional_key: bytes | None
    unconditional_key: bytes | None
    value: float | None
    reason: str | None


class ScoringSetting(NamedTuple):
    """One way of scoring: which student, under which template, read how. ``student_id`` names its weights and
    how it computes, ``histories`` how they are laid out where that was another way at first."""

    id: int
    student: str
    student_id: str
    quantization: str
    template: str
    template_version: str
    histories: str | None = None


class VariantScore(NamedTuple):
    """A score with both passes that it is the ratio of: mean NLL in nats a token of the target, and its tokens."""

    metric: str
    value: float | None
    reason: str | None
    conditional_nll: float | None
    tokens: int | None
    truncated: int | None
    unconditional_nll: float | None


def scores_of_sample(
    conn: sqlite3.Connection, sample_id: int, setting_id: int
) -> dict[int, dict[str, VariantScore]]:
    """By variant and metric, the scores of a sample's texts under one way of scoring."""
    scores: dict[int, dict[str, VariantScore]] = {}
    for variant_id, *score in fetch_rows(
        conn,
        "SELECT s.variant_id, s.metric, s.value, s.reason, c.nll / c.tokens AS conditional_nll, c.tokens AS tokens, "
        "c.truncated AS truncated, u.nll / u.tokens AS unconditional_nll "
        "FROM variant v JOIN score s ON s.variant_id = v.id AND s.setting_id = ? "
        "LEFT JOIN span_loss c ON c.key = s.conditional_key "
        "LEFT JOIN span_loss u ON u.key = s.unconditional_key WHERE v.sample_id = ?",
        (setting_id, sample_id),
    ):
        scores.setdefault(variant_id, {})[score[0]] = VariantScore(*score)
    return scores


def setting_key(
    student_id: str,
    template: str,
    protocol: str,
    max_length: int,
    version: str = "",
    date: str | None = None,
    histories: str | None = None,
) -> bytes:
    """Key of one way of scoring: scores under equal ones may be compared, and no others.

    Args:
        student_id: hash of weights and arithmetic.
        template: its name.
        protocol: default or paper.
        max_length: in tokens.
        version: of the template's words; empty in stores from before it was known.
        date: that the template writes; None where it writes none.
        histories: how they are laid out, where that was another way at first.
    """
    return key(
        "scoring",
        student=student_id,
        template=template,
        protocol=protocol,
        max_length=max_length,
        words=version or None,
        date=date,
        histories=histories,
    )


class Scores:
    """``store.scores``: one row for each variant, setting and metric; runs with the same setting share them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first_losses: bool | None = None

    def setting(
        self,
        student: str,
        student_id: str,
        quantization: str,
        template: str,
        protocol: str,
        max_length: int,
        template_version: str = "",
        date: str | None = None,
        histories: str | None = None,
    ) -> int:
        """The id of one way of scoring. ``template_version`` stands for the template's words and how they
        are cut into tokens: the same name with other words is another way. ``date`` is the one that the
        template writes, where it writes one.

        Args:
            student: its name, for people.
            student_id: hash of weights and arithmetic.
            quantization: for people; ``student_id`` has it too.
            template: its name.
            protocol: default or paper.
            max_length: in tokens.
            template_version: of the template's words.
            date: that the template writes; None where it writes none.
            histories: how they are laid out, where that was another way at first; None for texts without any.
        """
        digest = setting_key(student_id, template, protocol, max_length, template_version, date, histories)
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR IGNORE INTO scoring_setting(digest, student, student_id, quantization, template, protocol, "
                "max_length, template_version, date, histories) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    digest,
                    student,
                    student_id,
                    quantization,
                    template,
                    protocol,
                    max_length,
                    template_version,
                    date,
                    histories,
                ),
            )
        return int(
            fetch_value(self._store.conn, "SELECT id FROM scoring_setting WHERE digest = ?", (digest,))
        )

    def setting_by_id(self, setting_id: int | None) -> ScoringSetting | None:
        """The way of scoring with this id; None where there is none, as in a run that has not scored yet."""
        row = fetch_row(
            self._store.conn,
            "SELECT id, student, student_id, quantization, template, template_version, histories FROM scoring_setting "
            "WHERE id = ?",
            (setting_id,),
        )
        return ScoringSetting(*row) if row else None

    def losses(self, keys: Iterable[bytes]) -> dict[bytes, SpanLoss]:
        """The stored losses among ``keys``."""
        losses: dict[bytes, SpanLoss] = {}
        for chunk in batched(keys, 500):
            marks = ",".join("?" * len(chunk))
            for r in fetch_rows(
                self._store.conn,
                f"SELECT key, nll, tokens, truncated, reason FROM span_loss WHERE key IN ({marks})",
                chunk,
            ):
                losses[r[0]] = SpanLoss(r[1], r[2], bool(r[3]), r[4])
        return losses

    def has_first_losses(self) -> bool:
        """Whether losses are stored under keys of the first scheme, of 16 bytes."""
        if self._first_losses is None:
            # Keys of the second begin with its number: so one of the first lies beyond them, or is the first of all.
            of_16_bytes = fetch_rows(
                self._store.conn,
                "SELECT 1 FROM (SELECT key FROM span_loss ORDER BY key LIMIT 1) WHERE length(key) = 16 "
                "UNION ALL SELECT 1 FROM (SELECT key FROM span_loss ORDER BY key DESC LIMIT 1) WHERE length(key) = 16",
            )
            self._first_losses = bool(of_16_bytes)
        return self._first_losses

    def token_losses(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[Any]]:
        """By key, the stored losses of each token of a span (tokens,) in nats, among ``keys``."""
        import numpy as np

        losses: dict[bytes, NDArray[Any]] = {}
        for chunk in batched(keys, 500):
            marks = ",".join("?" * len(chunk))
            for r in fetch_rows(
                self._store.conn, f"SELECT key, nll FROM token_loss WHERE key IN ({marks})", chunk
            ):
                losses[r[0]] = np.frombuffer(r[1], dtype="<f2").astype(np.float32)
        return losses

    def add_losses(self, losses: Mapping[bytes, SpanLoss]) -> bool:
        """Store losses by the key of their span, with their tokens' own where they have them; those that are
        there already stay as they are. Returns whether none was."""
        with self._store.transaction():
            stored_count = self._store.conn.executemany(
                "INSERT OR IGNORE INTO span_loss(key, nll, tokens, truncated, reason) VALUES (?,?,?,?,?)",
                [(key, v.nll, v.tokens, int(v.truncated), v.reason) for key, v in losses.items()],
            )
            # Half a float each: off by a thousandth of a nat where a token costs two.
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO token_loss(key, nll) VALUES (?,?)",
                [
                    (key, v.by_token.astype("<f2").tobytes())
                    for key, v in losses.items()
                    if v.by_token is not None
                ],
            )
        return stored_count.rowcount == len(losses)

    def of_variants(
        self, variant_ids: Iterable[int], setting_id: int, metric: str
    ) -> dict[int, tuple[float | None, str | None]]:
        """(value, reason) of the stored scores among ``variant_ids``."""
        scores: dict[int, tuple[float | None, str | None]] = {}
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            for r in fetch_rows(
                self._store.conn,
                f"SELECT variant_id, value, reason FROM score WHERE setting_id = ? AND metric = ? "
                f"AND variant_id IN ({marks})",
                (setting_id, metric, *chunk),
            ):
                scores[r[0]] = (r[1], r[2])
        return scores

    def losses_of(
        self, variant_ids: Iterable[int], setting_id: int, metric: str
    ) -> dict[int, tuple[SpanLoss, SpanLoss]]:
        """The conditional and the unconditional loss of the stored scores among ``variant_ids``, where they have
        any: of y for ``ifd``, of x for ``rifd``."""
        losses: dict[int, tuple[SpanLoss, SpanLoss]] = {}
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            for r in fetch_rows(
                self._store.conn,
                "SELECT s.variant_id, c.nll, c.tokens, c.truncated, c.reason, u.nll, u.tokens, u.truncated, u.reason "
                "FROM score s JOIN span_loss c ON c.key = s.conditional_key "
                "JOIN span_loss u ON u.key = s.unconditional_key "
                f"WHERE s.setting_id = ? AND s.metric = ? AND s.variant_id IN ({marks})",
                (setting_id, metric, *chunk),
            ):
                losses[r[0]] = SpanLoss(r[1], r[2], bool(r[3]), r[4]), SpanLoss(r[5], r[6], bool(r[7]), r[8])
        return losses

    def scored_in_run(self, run_id: int, setting_id: int) -> dict[str, list[int]]:
        """By metric, the variants of a run's samples that have been scored in this way."""
        variant_ids: dict[str, list[int]] = {metric: [] for metric in STORED}
        for r in fetch_rows(
            self._store.conn,
            "SELECT s.metric, s.variant_id FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
            "JOIN score s ON s.variant_id = v.id AND s.setting_id = ? WHERE rs.run_id = ? ORDER BY s.variant_id",
            (setting_id, run_id),
        ):
            variant_ids[r[0]].append(r[1])
        return variant_ids

    def add(self, setting_id: int, scores: Iterable[StoredScore]) -> None:
        """Store scores under one way of scoring; those that are there already stay as they are."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO score(variant_id, setting_id, metric, conditional_key, unconditional_key, "
                "value, reason) VALUES (?,?,?,?,?,?,?)",
                [
                    (
                        s.variant_id,
                        setting_id,
                        s.metric,
                        s.conditional_key,
                        s.unconditional_key,
                        s.value,
                        s.reason,
                    )
                    for s in scores
                ],
            )

    def of_sample(self, sample_id: int, setting_id: int) -> dict[int, dict[str, VariantScore]]:
        """By variant and metric, the scores of a sample's texts."""
        return scores_of_sample(self._store.conn, sample_id, setting_id)

    def unscored_by_hand(self, run_id: int) -> list[int]:
        """Variants that a person wrote for samples of a run, and that its student has not scored."""
        return [
            r[0]
            for r in fetch_rows(
                self._store.conn,
                "SELECT v.id FROM variant v JOIN run r ON r.id = ? "
                "JOIN run_sample rs ON rs.run_id = r.id AND rs.sample_id = v.sample_id "
                "WHERE v.kind = 'manual' AND NOT EXISTS (SELECT 1 FROM score s WHERE s.variant_id = v.id "
                "AND s.setting_id = r.setting_id AND s.metric = 'rifd') ORDER BY v.id",
                (run_id,),
            )
        ]
