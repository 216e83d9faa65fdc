"""What a run has done to each sample: generations, reflections, scores, decisions, outcomes.

Each unit of work is one transaction, and what is still to do is read off what is there: a run that
was killed goes on by asking the same questions again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srtui.hashing import key
from srtui.measures import SpanLoss
from srtui.store.corpus import batched
from srtui.store.figures import SELECTED
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store

CAME_TO_SOMETHING = ("parsed", "unchanged")
"""What a generation's ``parsed`` says where its text could be used."""


@dataclass(frozen=True)
class StoredGeneration:
    """A generation on its way into the store; the columns are those of the generation table."""

    key: bytes
    parent_variant_id: int
    stage: str
    model: str
    model_sha256: str
    prompt_version: str
    mode: str
    sampler: str
    seed: int
    attempt: int
    candidate: int
    prompt: str
    text: str
    thinking: str
    critique: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    finish: str
    segments: str | None
    parsed: str


@dataclass(frozen=True)
class StoredScore:
    variant_id: int
    metric: str
    conditional_key: bytes | None
    unconditional_key: bytes | None
    value: float | None
    reason: str | None


def setting_key(
    student_id: str, template: str, protocol: str, max_length: int, version: str = "", date: str | None = None
) -> bytes:
    """Key of one way of scoring: scores under equal ones may be compared, and no others."""
    return key(
        "scoring",
        student=student_id,
        template=template,
        protocol=protocol,
        max_length=max_length,
        words=version or None,
        date=date,
    )


class Work:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._first_losses: bool | None = None

    # -- reflection -------------------------------------------------------------------------

    def to_reflect(self, run_id: int, stage: str) -> list[tuple[int, int]]:
        """(sample id, variant id to reflect on) of the samples not yet reflected on at ``stage``."""
        if stage == "instruction":
            return [
                (r[0], r[1])
                for r in self._store.rows(
                    "SELECT rs.sample_id, v.id FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
                    "AND v.kind = 'original' LEFT JOIN reflection f ON f.run_id = rs.run_id AND "
                    "f.sample_id = rs.sample_id AND f.stage = 'instruction' "
                    "WHERE rs.run_id = ? AND f.run_id IS NULL ORDER BY rs.sample_id",
                    (run_id,),
                )
            ]
        return [
            (r[0], r[1])
            for r in self._store.rows(
                "SELECT d.sample_id, d.chosen_id FROM decision d LEFT JOIN reflection f ON f.run_id = d.run_id "
                "AND f.sample_id = d.sample_id AND f.stage = 'response' "
                "WHERE d.run_id = ? AND d.stage = 'instruction' AND f.run_id IS NULL ORDER BY d.sample_id",
                (run_id,),
            )
        ]

    def generation(self, *keys: bytes | None) -> dict[str, Any] | None:
        """The stored generation with the first of these keys that one has."""
        for one in keys:
            row = one and self._store.row("SELECT * FROM generation WHERE key = ?", (one,))
            if row:
                return dict(row)
        return None

    def add_generation(self, generation: StoredGeneration) -> int:
        """The id of this generation; the same key is stored once, in the place of a text that came to nothing
        where there is one: it was refused, or asked again where there is more room. What came to something stays."""
        names = list(StoredGeneration.__dataclass_fields__)
        self._store.conn.execute(
            f"INSERT INTO generation({', '.join(names)}, created_at) VALUES ({', '.join('?' * len(names))}, ?) "
            f"ON CONFLICT(key) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in names if n != 'key')}, "
            f"created_at = excluded.created_at WHERE generation.parsed NOT IN {CAME_TO_SOMETHING}",
            (*(getattr(generation, n) for n in names), time.time()),
        )
        return int(self._store.value("SELECT id FROM generation WHERE key = ?", (generation.key,)))

    def made(self, generation_id: int, variant_id: int) -> None:
        """This generation came to this variant."""
        self._store.conn.execute(
            "UPDATE generation SET variant_id = ? WHERE id = ?", (variant_id, generation_id)
        )

    def generations_of(self, sample_id: int) -> list[dict[str, Any]]:
        return [
            dict(r)
            for r in self._store.rows(
                "SELECT g.* FROM generation g JOIN variant v ON v.id = g.parent_variant_id "
                "WHERE v.sample_id = ? ORDER BY g.id",
                (sample_id,),
            )
        ]

    def add_reflection(
        self,
        run_id: int,
        sample_id: int,
        stage: str,
        parent_variant_id: int,
        status: str,
        attempts: int,
        candidates: Sequence[int],
    ) -> None:
        """A sample's reflection at ``stage`` is done, with the variants that the student compares."""
        conn = self._store.conn
        conn.execute(
            "INSERT OR IGNORE INTO reflection(run_id, sample_id, stage, parent_variant_id, status, attempts) "
            "VALUES (?,?,?,?,?,?)",
            (run_id, sample_id, stage, parent_variant_id, status, attempts),
        )
        conn.executemany(
            "INSERT OR IGNORE INTO candidate(run_id, sample_id, stage, ordinal, variant_id) VALUES (?,?,?,?,?)",
            [(run_id, sample_id, stage, n, variant_id) for n, variant_id in enumerate(candidates)],
        )

    def leave_unasked(self, run_id: int, stage: str, todo: Iterable[tuple[int, int]]) -> None:
        """These samples (with the variants they have) get no reflection at ``stage``: the recipe wants none."""
        with self._store.transaction():
            for sample_id, variant_id in todo:
                self.add_reflection(run_id, sample_id, stage, variant_id, "not_asked", 0, [])

    def reflections_of(self, run_id: int, sample_id: int) -> dict[str, dict[str, Any]]:
        return {
            r["stage"]: dict(r)
            for r in self._store.rows(
                "SELECT * FROM reflection WHERE run_id = ? AND sample_id = ?", (run_id, sample_id)
            )
        }

    def first_candidates(self, run_id: int, stage: str) -> list[tuple[int, int]]:
        """(sample id, variant id) of the teacher's first rewrite of each sample at ``stage``, taken or not."""
        return [
            (r[0], r[1])
            for r in self._store.rows(
                "SELECT sample_id, variant_id FROM candidate WHERE run_id = ? AND stage = ? AND ordinal = 0 "
                "ORDER BY sample_id",
                (run_id, stage),
            )
        ]

    # -- scores -----------------------------------------------------------------------------

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
    ) -> int:
        """The id of one way of scoring. ``template_version`` stands for the template's words and how they
        are cut into tokens: the same name with other words is another way. ``date`` is the one that the
        template writes, where it writes one."""
        digest = setting_key(student_id, template, protocol, max_length, template_version, date)
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR IGNORE INTO scoring_setting(digest, student, student_id, quantization, template, protocol, "
                "max_length, template_version, date) VALUES (?,?,?,?,?,?,?,?,?)",
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
                ),
            )
        return int(self._store.value("SELECT id FROM scoring_setting WHERE digest = ?", (digest,)))

    def losses(self, keys: Iterable[bytes]) -> dict[bytes, SpanLoss]:
        """The stored losses among ``keys``."""
        found: dict[bytes, SpanLoss] = {}
        for chunk in batched(keys, 500):
            marks = ",".join("?" * len(chunk))
            for r in self._store.rows(
                f"SELECT key, nll, tokens, truncated, reason FROM span_loss WHERE key IN ({marks})", chunk
            ):
                found[r[0]] = SpanLoss(r[1], r[2], bool(r[3]), r[4])
        return found

    def has_first_losses(self) -> bool:
        """Whether losses are stored under keys of the first scheme, of 16 bytes."""
        if self._first_losses is None:
            # Keys of the second begin with its number: one beyond them tells, or the first of all.
            found = self._store.rows(
                "SELECT 1 FROM (SELECT key FROM span_loss ORDER BY key LIMIT 1) WHERE length(key) = 16 "
                "UNION ALL SELECT 1 FROM (SELECT key FROM span_loss ORDER BY key DESC LIMIT 1) WHERE length(key) = 16"
            )
            self._first_losses = bool(found)
        return self._first_losses

    def add_losses(self, losses: Mapping[bytes, SpanLoss]) -> None:
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO span_loss(key, nll, tokens, truncated, reason) VALUES (?,?,?,?,?)",
                [(key, v.nll, v.tokens, int(v.truncated), v.reason) for key, v in losses.items()],
            )

    def scores(
        self, variant_ids: Iterable[int], setting_id: int, metric: str
    ) -> dict[int, tuple[float | None, str | None]]:
        """(value, reason) of the stored scores among ``variant_ids``."""
        found: dict[int, tuple[float | None, str | None]] = {}
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            for r in self._store.rows(
                f"SELECT variant_id, value, reason FROM score WHERE setting_id = ? AND metric = ? "
                f"AND variant_id IN ({marks})",
                (setting_id, metric, *chunk),
            ):
                found[r[0]] = (r[1], r[2])
        return found

    def perplexities(self, variant_ids: Iterable[int], setting_id: int, metric: str) -> dict[int, float]:
        """Numerators of the stored scores: ppl(y|x) for ``ifd``, ppl(x|y) for ``rifd``, where they are."""
        found: dict[int, float] = {}
        for chunk in batched(variant_ids, 500):
            marks = ",".join("?" * len(chunk))
            for r in self._store.rows(
                "SELECT s.variant_id, l.nll / l.tokens FROM score s JOIN span_loss l ON l.key = s.conditional_key "
                f"WHERE s.setting_id = ? AND s.metric = ? AND l.reason IS NULL AND s.variant_id IN ({marks})",
                (setting_id, metric, *chunk),
            ):
                found[r[0]] = math.exp(r[1])
        return found

    def scored_in_run(self, run_id: int, setting_id: int) -> dict[str, list[int]]:
        """By metric, the variants of a run's samples that have been scored in this way."""
        found: dict[str, list[int]] = {"ifd": [], "rifd": []}
        for r in self._store.rows(
            "SELECT s.metric, s.variant_id FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id "
            "JOIN score s ON s.variant_id = v.id AND s.setting_id = ? WHERE rs.run_id = ? ORDER BY s.variant_id",
            (setting_id, run_id),
        ):
            found[r[0]].append(r[1])
        return found

    def add_scores(self, setting_id: int, scores: Iterable[StoredScore]) -> None:
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

    def scores_of(self, variant_id: int, setting_id: int) -> dict[str, dict[str, Any]]:
        """By metric: the ratio, and mean NLL (nats a token) and tokens of both its passes."""
        return {
            r["metric"]: dict(r)
            for r in self._store.rows(
                "SELECT s.metric, s.value, s.reason, c.nll / c.tokens AS conditional_nll, c.tokens AS tokens, "
                "c.truncated AS truncated, u.nll / u.tokens AS unconditional_nll FROM score s "
                "LEFT JOIN span_loss c ON c.key = s.conditional_key "
                "LEFT JOIN span_loss u ON u.key = s.unconditional_key "
                "WHERE s.variant_id = ? AND s.setting_id = ?",
                (variant_id, setting_id),
            )
        }

    def unscored_by_hand(self, run_id: int) -> list[int]:
        """Variants that a person wrote for samples of a run, and that its student has not scored."""
        return [
            r[0]
            for r in self._store.rows(
                "SELECT v.id FROM variant v JOIN run r ON r.id = ? "
                "JOIN run_sample rs ON rs.run_id = r.id AND rs.sample_id = v.sample_id "
                "WHERE v.kind = 'manual' AND NOT EXISTS (SELECT 1 FROM score s WHERE s.variant_id = v.id "
                "AND s.setting_id = r.setting_id AND s.metric = 'rifd') ORDER BY v.id",
                (run_id,),
            )
        ]

    # -- decisions --------------------------------------------------------------------------

    def to_decide(self, run_id: int, stage: str) -> dict[int, tuple[int, list[int]]]:
        """sample id -> (variant reflected on, candidate variants) of the choices not yet made."""
        found: dict[int, tuple[int, list[int]]] = {}
        for r in self._store.rows(
            "SELECT f.sample_id, f.parent_variant_id, c.variant_id FROM reflection f "
            "LEFT JOIN decision d ON d.run_id = f.run_id AND d.sample_id = f.sample_id AND d.stage = f.stage "
            "LEFT JOIN candidate c ON c.run_id = f.run_id AND c.sample_id = f.sample_id AND c.stage = f.stage "
            "WHERE f.run_id = ? AND f.stage = ? AND d.run_id IS NULL ORDER BY f.sample_id, c.ordinal",
            (run_id, stage),
        ):
            _, candidates = found.setdefault(r[0], (r[1], []))
            if r[2] is not None:
                candidates.append(r[2])
        return found

    def add_decision(
        self,
        run_id: int,
        sample_id: int,
        stage: str,
        chosen_id: int,
        reflected: bool,
        reason: str,
        compared: Sequence[tuple[int, float | None, str | None]],
    ) -> None:
        self._store.conn.execute(
            "INSERT OR IGNORE INTO decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, "
            "created_at) VALUES (?,?,?,?,?,?,?,?)",
            (run_id, sample_id, stage, chosen_id, int(reflected), reason, json.dumps(compared), time.time()),
        )

    def decisions_of(self, run_id: int, sample_id: int) -> dict[str, dict[str, Any]]:
        return {
            r["stage"]: {**dict(r), "compared": stored(r, "decision", "compared")}
            for r in self._store.rows(
                "SELECT * FROM decision WHERE run_id = ? AND sample_id = ?", (run_id, sample_id)
            )
        }

    def taken(self, run_id: int, stage: str) -> int:
        """How many rewrites the student took so far."""
        found = self._store.value(
            "SELECT count(*) FROM decision WHERE run_id = ? AND stage = ? AND reflected = 1", (run_id, stage)
        )
        return int(found)

    def decisions(self, run_id: int) -> list[tuple[int, str, int, str]]:
        """(sample id, stage, chosen variant, reason), in order: what a run decided."""
        return [
            (r[0], r[1], r[2], r[3])
            for r in self._store.rows(
                "SELECT sample_id, stage, chosen_id, reason FROM decision WHERE run_id = ? ORDER BY sample_id, stage",
                (run_id,),
            )
        ]

    def undecided_outcomes(self, run_id: int) -> list[tuple[int, bool, bool, int]]:
        """(sample id, instruction was taken, response was taken, winner's variant id) of the samples
        through both choices and without an outcome."""
        return [
            (r[0], bool(r[1]), bool(r[2]), r[3])
            for r in self._store.rows(
                "SELECT b.sample_id, a.reflected, b.reflected, b.chosen_id FROM decision b "
                "JOIN decision a ON a.run_id = b.run_id AND a.sample_id = b.sample_id AND a.stage = 'instruction' "
                "LEFT JOIN outcome o ON o.run_id = b.run_id AND o.sample_id = b.sample_id "
                "WHERE b.run_id = ? AND b.stage = 'response' AND o.run_id IS NULL ORDER BY b.sample_id",
                (run_id,),
            )
        ]

    def add_outcome(
        self,
        run_id: int,
        sample_id: int,
        variant_id: int,
        kept: bool,
        reason: str,
        ifd: float | None,
        rifd: float | None,
        setting_id: int | None = None,
    ) -> None:
        """``setting_id`` says whose scores these are: the student's, or a proxy's that decided alone."""
        self._store.conn.execute(
            "INSERT OR IGNORE INTO outcome(run_id, sample_id, variant_id, kept, reason, ifd, rifd, setting_id) "
            "VALUES (?,?,?,?,?,?,?,?)",
            (run_id, sample_id, variant_id, int(kept), reason, ifd, rifd, setting_id),
        )

    def outcome_of(self, run_id: int, sample_id: int) -> dict[str, Any] | None:
        row = self._store.row("SELECT * FROM outcome WHERE run_id = ? AND sample_id = ?", (run_id, sample_id))
        return dict(row) if row else None

    def selected(self, run_id: int, *, held_out: bool | None = None) -> list[tuple[int, int]]:
        """(sample id, variant id) of what is kept, a person's overruling over the student's choice."""
        return [
            (r[0], r[1])
            for r in self._store.rows(SELECTED, {"run": run_id})
            if held_out is None or bool(r["held_out"]) == held_out
        ]

    def selected_scores(self, run_id: int) -> list[tuple[int, float | None, float | None, bool, int, bytes]]:
        """(sample id, IFD, r-IFD, a person chose its text, length of the response, the text's hash) of
        what is kept and not held out. Scores are the run's own student's, of the text that stands: what a
        proxy alone has scored has none here, for scores of two students do not rank together."""
        setting = self._store.runs.get(run_id).setting_id or 0
        return [
            (r[0], r[1], r[2], bool(r[3]), r[4], r[5])
            for r in self._store.rows(
                "SELECT k.sample_id, i.value, r.value, k.by_person, length(v.response), v.digest "
                f"FROM ({SELECTED}) k JOIN variant v ON v.id = k.variant_id "
                "LEFT JOIN score i ON i.variant_id = v.id AND i.setting_id = :setting AND i.metric = 'ifd' "
                "LEFT JOIN score r ON r.variant_id = v.id AND r.setting_id = :setting AND r.metric = 'rifd' "
                "WHERE NOT k.held_out ORDER BY k.sample_id",
                {"run": run_id, "setting": setting},
            )
        ]

    def held_out(self, run_id: int) -> list[int]:
        """The sample ids that training does not see."""
        return [
            r[0]
            for r in self._store.rows(
                "SELECT sample_id FROM run_sample WHERE run_id = ? AND held_out = 1 ORDER BY sample_id",
                (run_id,),
            )
        ]
