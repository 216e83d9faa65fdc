"""What a run chose of each sample's variants, and what it keeps: decisions and outcomes."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from srtui.measures import MEASURES
from srtui.store._query import batched, fetch_row, fetch_rows, fetch_value
from srtui.store.figures import KEPT, SELECTED
from srtui.store.stored import stored

if TYPE_CHECKING:
    from srtui.store import Store


class ScoreChange(NamedTuple):
    """What the response's choice compared for one sample: the score of the text it was, and of the chosen one, as
    the JSON of the decision has them; damaged JSON may hold anything."""

    sample_id: int
    before: Any
    after: Any


class NewDecision(NamedTuple):
    """The student's choice for a sample on its way into the store: the variant that the next stage begins with,
    whether that is a rewrite, why, and (variant, score, why there is none) of each text that was compared, what the
    stage began with first. ``by_proxy``: the scores are a proxy's, and the student itself was not asked."""

    sample_id: int
    chosen_id: int
    reflected: bool
    reason: str
    compared: Sequence[tuple[int, float | None, str | None]]
    by_proxy: bool = False


class StoredDecision(NamedTuple):
    """What the student chose for a sample at one stage. ``reflected`` is 1 where it took a rewrite; ``compared``
    has (variant, score, reason for none) of each text that it compared, the one before the stage first."""

    run_id: int
    sample_id: int
    stage: str
    chosen_id: int
    reflected: int
    reason: str
    compared: list[Any]
    created_at: float


class StoredOutcome(NamedTuple):
    """Whether a sample's text is trained on. ``kept`` is 0 or 1, ``reason`` why; the scores are by the student of
    ``setting_id``, ratios of perplexities."""

    run_id: int
    sample_id: int
    variant_id: int
    kept: int
    reason: str
    ifd: float | None
    rifd: float | None
    setting_id: int | None


class GatedRewrite(NamedTuple):
    """A rewrite that a gate kept from being compared: its variant, the gate's key, and why."""

    variant_id: int
    gate: str
    reason: str


def gated_of(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> dict[str, list[GatedRewrite]]:
    """A sample's gated rewrites in a run, by stage."""
    gated: dict[str, list[GatedRewrite]] = {}
    for row in fetch_rows(
        conn,
        "SELECT stage, variant_id, gate, reason FROM gated WHERE run_id = ? AND sample_id = ?",
        (run_id, sample_id),
    ):
        gated.setdefault(row[0], []).append(GatedRewrite(*row[1:]))
    return gated


def decisions_of(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> dict[str, StoredDecision]:
    """A sample's decisions in a run, by stage. Raises UserError where what was compared is damaged."""
    query = (
        "SELECT run_id, sample_id, stage, chosen_id, reflected, reason, compared, created_at FROM decision "
        "WHERE run_id = ? AND sample_id = ?"
    )
    return {
        r["stage"]: StoredDecision(*r)._replace(compared=stored(r, "decision", "compared"))
        for r in fetch_rows(conn, query, (run_id, sample_id))
    }


def outcome_of(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> StoredOutcome | None:
    """A sample's outcome in a run; None while it is not settled."""
    query = (
        "SELECT run_id, sample_id, variant_id, kept, reason, ifd, rifd, setting_id FROM outcome "
        "WHERE run_id = ? AND sample_id = ?"
    )
    row = fetch_row(conn, query, (run_id, sample_id))
    return StoredOutcome(*row) if row else None


def margin(compared: str | bytes, chosen_id: int, reflected: int, is_ratio: int) -> float | None:
    """By how much the scores of the two texts that a choice was between are apart: the chosen one's and that before it,
    or, where the rewrite lost, the best rewrite's. Of ratios the difference of their logarithms; None where there were
    no two.

    Args:
        compared: as :class:`StoredDecision` has it, in JSON.
        chosen_id: the variant that was chosen.
        reflected: whether that is a rewrite.
        is_ratio: whether scores are ratios.
    """
    try:
        (_, before, _), *rewrites = json.loads(compared)
        scores = [score for variant, score, _ in rewrites if not reflected or variant == chosen_id]
        levels = [
            math.log(score) if is_ratio else float(score) for score in (before, *scores) if score is not None
        ]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None  # damaged
    if before is None or len(levels) < 2:
        return None
    return min(abs(level - levels[0]) for level in levels[1:])


def chooses_by_ratio(recipe: str | bytes) -> dict[str, bool]:
    """By stage, whether a run with this recipe (JSON; anything else is no recipe, and has the defaults) compares
    ratios there."""
    try:
        of_a_run = json.loads(recipe)
    except (ValueError, RecursionError):
        of_a_run = None
    chooses = of_a_run.get("selection") if isinstance(of_a_run, dict) else None
    chooses = chooses if isinstance(chooses, dict) else {}
    by = {"instruction": chooses.get("instruction_by", "ifd"), "response": chooses.get("response_by", "rifd")}
    return {
        stage: isinstance(name, str)
        and not chooses.get("length_control")  # what is compared then are levels
        and name in MEASURES
        and MEASURES[name].is_ratio
        for stage, name in by.items()
    }


def teach_margin(conn: sqlite3.Connection) -> None:
    """Let a migration ask ``margin(compared, chosen_id, reflected, stage, recipe)``, texts as blobs: damaged ones are
    no UTF-8."""
    by_ratio = cache(chooses_by_ratio)

    def of_a_row(compared: bytes, chosen_id: int, reflected: int, stage: str, recipe: bytes) -> float | None:
        return margin(compared, chosen_id, reflected, by_ratio(recipe).get(stage, False))

    conn.create_function("margin", 5, of_a_row, deterministic=True)


class Decisions:
    """``store.decisions``: the student's choices; a person's overrulings stand beside them, in ``store.marks``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def to_decide(
        self, run_id: int, stage: str, after: int = 0, limit: int | None = None
    ) -> dict[int, tuple[int, list[int]]]:
        """sample id -> (variant reflected on, candidate variants) of the choices not yet made.

        Args:
            run_id: of the run.
            stage: instruction or response.
            after: only samples behind this one.
            limit: the first so many; None for all.
        """
        open_choices: dict[int, tuple[int, list[int]]] = {}
        for r in fetch_rows(
            self._store.conn,
            "SELECT f.sample_id, f.parent_variant_id, c.variant_id FROM (SELECT sample_id, parent_variant_id FROM "
            "reflection o WHERE run_id = ?1 AND sample_id > ?3 AND stage = ?2 AND NOT EXISTS (SELECT 1 FROM decision d "
            "WHERE d.run_id = ?1 AND d.sample_id = o.sample_id AND d.stage = ?2) ORDER BY sample_id LIMIT ?4) f "
            "LEFT JOIN candidate c ON c.run_id = ?1 AND c.sample_id = f.sample_id AND c.stage = ?2 "
            "ORDER BY f.sample_id, c.ordinal",
            (run_id, stage, after, -1 if limit is None else limit),
        ):
            _, candidates = open_choices.setdefault(r[0], (r[1], []))
            if r[2] is not None:
                candidates.append(r[2])
        return open_choices

    def add_all(self, run_id: int, stage: str, decided: Sequence[NewDecision]) -> None:
        """Store the student's choices at ``stage`` (instruction or response) for samples of a run; those that are there
        already stay as they are."""
        now, conn = time.time(), self._store.conn
        recipe = fetch_value(conn, "SELECT CAST(recipe AS BLOB) FROM run WHERE id = ?", (run_id,))
        by_ratio = chooses_by_ratio(recipe or b"")[stage]
        rows = []
        for d in decided:
            compared = json.dumps(d.compared, separators=(",", ":"))
            apart = margin(compared, d.chosen_id, d.reflected, by_ratio)
            taken, by_proxy = int(d.reflected), int(d.by_proxy)
            rows.append(
                (run_id, d.sample_id, stage, d.chosen_id, taken, d.reason, compared, now, by_proxy, apart)
            )
        conn.executemany(
            "INSERT OR IGNORE INTO decision(run_id, sample_id, stage, chosen_id, reflected, reason, compared, "
            "created_at, by_proxy, margin) VALUES (?,?,?,?,?,?,?,?,?,?)",
            rows,
        )

    def add(
        self,
        run_id: int,
        sample_id: int,
        stage: str,
        chosen_id: int,
        reflected: bool,
        reason: str,
        compared: Sequence[tuple[int, float | None, str | None]],
        by_proxy: bool = False,
    ) -> None:
        """Store the student's choice for a sample, as :meth:`add_all` does.

        Args:
            run_id: of the run that chose.
            sample_id: of the sample, which belongs to the run.
            stage: ``instruction`` or ``response``.
            chosen_id: the variant that the next stage begins with.
            reflected: whether that is a rewrite, and not what the stage began with.
            reason: why, in a sentence's part.
            compared: (variant, score, why there is none) of each text, what the stage began with first.
            by_proxy: whether the scores are a proxy's, and the student itself was not asked.
        """
        self.add_all(
            run_id, stage, [NewDecision(sample_id, chosen_id, reflected, reason, compared, by_proxy)]
        )

    def add_gated(self, run_id: int, sample_id: int, stage: str, gated: Sequence[GatedRewrite]) -> None:
        """These rewrites of a sample are not compared at ``stage``.

        Args:
            run_id: of the run.
            sample_id: of the sample, which belongs to the run.
            stage: ``instruction`` or ``response``.
            gated: the rewrites, each with its gate and why.
        """
        self._store.conn.executemany(
            "INSERT OR IGNORE INTO gated(run_id, sample_id, stage, variant_id, gate, reason) VALUES (?,?,?,?,?,?)",
            [(run_id, sample_id, stage, *entry) for entry in gated],
        )

    def gated_of(self, run_id: int, sample_id: int) -> dict[str, list[GatedRewrite]]:
        """A sample's gated rewrites in a run, by stage."""
        return gated_of(self._store.conn, run_id, sample_id)

    def of_sample(self, run_id: int, sample_id: int) -> dict[str, StoredDecision]:
        """A sample's decisions in a run, by stage."""
        return decisions_of(self._store.conn, run_id, sample_id)

    def taken(self, run_id: int, stage: str) -> int:
        """How many rewrites the student took so far."""
        return self._store.runs.tallied(run_id, "decision", stage, flag=1)

    def of_run(self, run_id: int) -> list[tuple[int, str, int, str]]:
        """(sample id, stage, chosen variant, reason), in order: what a run decided."""
        return [
            (r[0], r[1], r[2], r[3])
            for r in fetch_rows(
                self._store.conn,
                "SELECT sample_id, stage, chosen_id, reason FROM decision WHERE run_id = ? ORDER BY sample_id, stage",
                (run_id,),
            )
        ]

    def any_made(self, run_id: int) -> bool:
        """Whether the run has chosen for a sample already."""
        return bool(
            fetch_rows(self._store.conn, "SELECT 1 FROM decision WHERE run_id = ? LIMIT 1", (run_id,))
        )

    def decided(self, run_id: int, stage: str) -> int:
        """How many samples have a decision."""
        return self._store.runs.tallied(run_id, "decision", stage)

    def settled(self, run_id: int) -> int:
        """How many samples have an outcome."""
        return self._store.runs.tallied(run_id, "outcome")

    def response_changes(self, run_id: int) -> list[ScoreChange]:
        """What the student's choice of a response compared, for each sample that it keeps and that no person has
        overruled."""
        return [
            ScoreChange(*r)
            for r in fetch_rows(
                self._store.conn,
                "SELECT o.sample_id, json_extract(d.compared, '$[0][1]') AS before, (SELECT json_extract(value, '$[1]') "
                "FROM json_each(d.compared) WHERE json_extract(value, '$[0]') = d.chosen_id) AS after FROM outcome o "
                "JOIN decision d ON d.run_id = o.run_id AND d.sample_id = o.sample_id AND d.stage = 'response' "
                "WHERE o.run_id = ?1 AND o.kept = 1 AND NOT EXISTS (SELECT 1 FROM overrule p WHERE p.run_id = ?1 "
                "AND p.sample_id = o.sample_id AND p.undone_at IS NULL)",
                (run_id,),
            )
        ]

    def undecided_outcomes(
        self, run_id: int, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, bool, bool, int]]:
        """(sample id, instruction was taken, response was taken, winner's variant id) of the samples
        through both choices and without an outcome: the first ``limit`` of those behind sample ``after``."""
        return [
            (r[0], bool(r[1]), bool(r[2]), r[3])
            for r in fetch_rows(
                self._store.conn,
                "SELECT b.sample_id, a.reflected, b.reflected, b.chosen_id FROM decision b CROSS JOIN decision a "
                "ON a.run_id = ?1 AND a.sample_id = b.sample_id AND a.stage = 'instruction' "
                "WHERE b.run_id = ?1 AND b.sample_id > ?2 AND b.stage = 'response' AND NOT EXISTS (SELECT 1 FROM "
                "outcome o WHERE o.run_id = ?1 AND o.sample_id = b.sample_id) ORDER BY b.sample_id LIMIT ?3",
                (run_id, after, -1 if limit is None else limit),
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
        """``setting_id`` says whose scores these are: the student's, or a proxy's that decided alone.

        Args:
            run_id: of the run.
            sample_id: of the sample.
            variant_id: the text that was chosen last.
            kept: whether it is trained on.
            reason: why, a short fixed word.
            ifd: IFD of that text, a ratio; None where it is not scored.
            rifd: its r-IFD, likewise.
            setting_id: whose scores these are; None where it has none.
        """
        self.add_outcomes(
            [StoredOutcome(run_id, sample_id, variant_id, int(kept), reason, ifd, rifd, setting_id)]
        )

    def add_outcomes(self, outcomes: Sequence[StoredOutcome]) -> None:
        """Store outcomes; those that are there already stay as they are."""
        self._store.conn.executemany(
            "INSERT OR IGNORE INTO outcome(run_id, sample_id, variant_id, kept, reason, ifd, rifd, setting_id) "
            "VALUES (?,?,?,?,?,?,?,?)",
            outcomes,
        )

    def outcome_of(self, run_id: int, sample_id: int) -> StoredOutcome | None:
        """A sample's outcome in a run; None while it is not settled."""
        return outcome_of(self._store.conn, run_id, sample_id)

    def selected(self, run_id: int, *, held_out: bool | None = None) -> list[tuple[int, int]]:
        """(sample id, variant id) of what is kept, a person's overruling over the student's choice."""
        return [
            (r[0], r[1])
            for r in fetch_rows(self._store.conn, SELECTED, {"run": run_id})
            if held_out is None or bool(r["held_out"]) == held_out
        ]

    def kept_among(self, run_id: int, sample_ids: Iterable[int]) -> set[int]:
        """Those of these samples that are kept, by the student or by a person."""
        kept: set[int] = set()
        for chunk in batched(sample_ids, 500):
            query = (
                "SELECT o.sample_id FROM outcome o LEFT JOIN overrule p ON p.run_id = o.run_id "
                "AND p.sample_id = o.sample_id AND p.undone_at IS NULL "
                f"WHERE o.run_id = ? AND {KEPT} AND o.sample_id IN ({','.join('?' * len(chunk))})"
            )
            kept.update(row[0] for row in fetch_rows(self._store.conn, query, (run_id, *chunk)))
        return kept

    def selected_scores(self, run_id: int) -> list[tuple[int, float | None, float | None, bool, int, bytes]]:
        """(sample id, IFD, r-IFD, a person chose its text, length of the response, the text's hash) of
        what is kept and not held out. Scores are the run's own student's, of the text that stands: what a
        proxy alone has scored has none here, for scores of two students do not rank together."""
        setting = self._store.runs.get(run_id).setting_id or 0
        return [
            (r[0], r[1], r[2], bool(r[3]), r[4], r[5])
            for r in fetch_rows(
                self._store.conn,
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
            for r in fetch_rows(
                self._store.conn,
                "SELECT sample_id FROM run_sample WHERE run_id = ? AND held_out = 1 ORDER BY sample_id",
                (run_id,),
            )
        ]
