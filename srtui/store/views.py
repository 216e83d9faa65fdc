"""What the dashboard's screens read: plain queries on a read-only connection of their own.

A ``Views`` is used by one thread. Tables of samples are listed by position: ``list_samples`` puts the
ids of what a filter leaves, in order, into a temporary table (inside SQLite, so a million of them
neither take Python's memory nor hold its lock), and ``window`` fetches the few rows that are seen.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from srtui.errors import UserError
from srtui.store import Store, explain, figures
from srtui.store.connection import open_read_only
from srtui.store.endings import in_words
from srtui.store.evaluations import EvaluationReads
from srtui.store.figures import joins
from srtui.store.leases import alive
from srtui.store.runs import state_now
from srtui.store.stored import stored

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
Measure = Literal["ifd before", "ifd", "rifd before", "rifd"]
"""A score of the text before and of the final one, as srtui.store.figures defines them."""
Part = Literal["old", "new", "by hand"]
"""Where a part of the final text comes from: the dataset, the teacher, a person."""
ORDERS = ("sample", "state", "instruction", "answer", "ifd", "rifd", "length", "text")
DECISIONS = ("new instruction", "instruction kept", "new answer", "answer kept")


@dataclass(frozen=True)
class SampleFilter:
    """Which samples, in which order. Without a run: every sample of the store."""

    run_id: int | None = None
    state: str | None = None
    decision: str | None = None
    measure: Measure = "ifd"
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
        return self == SampleFilter(self.run_id, measure=self.measure)


@dataclass(frozen=True)
class SampleRow:
    """One line of the table of samples: all of it is of the final text."""

    id: int
    state: State
    instruction: Part | None
    answer: Part | None
    ifd: float | None
    rifd: float | None
    length: int
    flagged: bool
    noted: bool
    text: str


@dataclass(frozen=True)
class RunRow:
    """One line of the table of runs. ``state`` is what is so now: an engine that died is not running."""

    id: int
    name: str
    state: str
    stage: str | None
    done: int
    total: int
    samples: int
    kept: int
    kept_held_out: int
    dataset: str
    student: str
    teacher: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None
    pid: int | None
    host: str | None
    recipe: dict[str, Any]
    recipe_path: str
    peak_memory_mb: float
    trained: str | None
    """The state of its training: running, done, or skipped and why; None before."""
    adapter: str | None


@dataclass(frozen=True)
class VariantView:
    """A text of a sample with what the student made of it: losses are nats a token."""

    id: int
    kind: str
    origin: str
    parent_id: int | None
    instruction: str
    input: str
    response: str
    ifd: float | None = None
    rifd: float | None = None
    losses: dict[str, float | None] = field(default_factory=dict)
    unscored: str | None = None


@dataclass(frozen=True)
class SampleView:
    """All that is known about one sample, in one run."""

    id: int
    dataset: str
    row: int
    state: State
    variants: list[VariantView]
    rewrites: dict[str, int]
    critiques: dict[str, str]
    endings: dict[str, str]
    decisions: dict[str, dict[str, Any]]
    reflections: dict[str, dict[str, Any]]
    outcome: dict[str, Any] | None
    stands: figures.Standing
    note: str
    flagged: bool

    @property
    def original(self) -> VariantView:
        return next(v for v in self.variants if v.kind == "original")

    @property
    def final(self) -> VariantView:
        """The text that would be trained on, or exported, now."""
        return self.variant(self.stands.variant_id) or self.original

    def variant(self, variant_id: int | None) -> VariantView | None:
        return next((v for v in self.variants if v.id == variant_id), None)


@dataclass(frozen=True)
class LiveView:
    """What a run's engine is doing, for one glance."""

    run: RunRow
    stages: dict[str, dict[str, Any]]
    live: dict[str, Any]
    heartbeat_at: float | None
    events: list[dict[str, Any]]


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
_ORDER = {
    "sample": ("b.sample_id", ()),
    "state": (_STATE, ("p", "o", "d2", "f2", "d1", "f1")),
    "instruction": (_INSTRUCTION, ("p", "pv", "d1")),
    "answer": (_ANSWER, ("p", "pv", "d2")),
    "ifd": ("i1.value", ("i1",)),
    "rifd": ("r1.value", ("r1",)),
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


class Views:
    """Reads for the screens. Opening migrates a store of an earlier srtui, and refuses a newer one's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not _is_current(path):
            Store(path).close()
        try:
            self.conn = open_read_only(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise explain(error, path) from error
        self.conn.row_factory = sqlite3.Row
        self.conn.execute("PRAGMA cache_size=-16384")
        self.conn.execute("PRAGMA temp_store=MEMORY")
        self.evaluations = EvaluationReads(self.conn)
        self._listed = 0

    def close(self) -> None:
        self.conn.close()

    def version(self) -> int:
        """Changes when another process has written."""
        return int(self.conn.execute("PRAGMA data_version").fetchone()[0])

    def interrupt(self) -> None:
        """Give up the query that is running, from any thread; it raises sqlite3.OperationalError."""
        self.conn.interrupt()

    def _rows(self, sql: str, parameters: Any = ()) -> list[sqlite3.Row]:
        return self.conn.execute(sql, parameters).fetchall()

    def _one(self, sql: str, parameters: Any = ()) -> Any:
        found = self.conn.execute(sql, parameters).fetchone()
        return None if found is None else found[0]

    # -- runs -------------------------------------------------------------------------------

    def runs(self) -> list[RunRow]:
        """All runs, the newest first."""
        return [
            self._run_row(r)
            for r in self._rows(
                "SELECT r.*, d.name AS dataset, p.done, p.total, l.pid, l.host, l.process, l.heartbeat_at, "
                "t.status AS trained, t.adapter "
                "FROM run r JOIN dataset d ON d.id = r.dataset_id LEFT JOIN lease l ON l.run_id = r.id "
                "LEFT JOIN training_run t ON t.run_id = r.id "
                "LEFT JOIN stage_progress p ON p.run_id = r.id AND p.stage = r.stage ORDER BY r.id DESC"
            )
        ]

    def _run_row(self, r: sqlite3.Row) -> RunRow:
        held = r["pid"] is not None and alive(r, time.time())
        recipe = stored(r, "run", "recipe")
        counts = figures.counts(self.conn, r["id"])
        return RunRow(
            id=r["id"],
            name=r["name"],
            state=state_now(r["status"], held),
            stage=r["stage"],
            done=r["done"] or 0,
            total=r["total"] or 0,
            samples=counts.samples,
            kept=counts.kept,
            kept_held_out=counts.kept_held_out,
            dataset=r["dataset"],
            student=recipe["student"]["model"],
            teacher=recipe["teacher"]["model"],
            created_at=r["created_at"],
            started_at=r["started_at"],
            finished_at=r["finished_at"],
            error=r["error"],
            pid=r["pid"] if held else None,
            host=r["host"] if held else None,
            recipe=recipe,
            recipe_path=r["recipe_path"],
            peak_memory_mb=r["peak_memory_mb"],
            trained=r["trained"],
            adapter=r["adapter"],
        )

    def datasets(self) -> list[tuple[str, int]]:
        """(name, samples) of each dataset."""
        return [
            (r[0], r[1])
            for r in self._rows(
                "SELECT d.name, (SELECT count(*) FROM sample s WHERE s.dataset_id = d.id) FROM dataset d ORDER BY d.id"
            )
        ]

    def seconds_a_sample(self, teacher: str, student: str) -> dict[str, float]:
        """By stage, what a sample (in training: a step) has cost here with this teacher, or this student."""
        return {
            r[0]: r[1]
            for r in self._rows(
                "SELECT p.stage, sum(p.seconds) / sum(p.done) FROM stage_progress p JOIN run r ON r.id = p.run_id "
                "WHERE p.done > 0 AND p.seconds > 0 AND CASE WHEN p.stage LIKE 'reflect-%' "
                "THEN json_extract(r.recipe, '$.teacher.model') = ? ELSE json_extract(r.recipe, '$.student.model') = ? END GROUP BY p.stage",
                (teacher, student),
            )
        }

    def memory_taken(self, teacher: str, student: str) -> float:
        """The most memory that an engine with these models has held here, in bytes; 0 where there was none."""
        return 1e6 * float(
            self._one(
                "SELECT max(peak_memory_mb) FROM run WHERE json_extract(recipe, '$.teacher.model') = ? "
                "AND json_extract(recipe, '$.student.model') = ?",
                (teacher, student),
            )
            or 0
        )

    def live(self, run_id: int, events: int = 40) -> LiveView | None:
        """What one run is doing now; None where there is no such run."""
        run = next((r for r in self.runs() if r.id == run_id), None)
        if run is None:
            return None
        lease = self.conn.execute(
            "SELECT run_id, live, heartbeat_at FROM lease WHERE run_id = ?", (run_id,)
        ).fetchone()
        stages = {
            r["stage"]: {**dict(r), "detail": stored(r, "stage_progress", "detail")}
            for r in self._rows("SELECT * FROM stage_progress WHERE run_id = ?", (run_id,))
        }
        return LiveView(
            run,
            stages,
            stored(lease, "lease", "live") if lease and run.pid else {},
            lease["heartbeat_at"] if lease else None,
            self.events(0, events, run_id),
        )

    def counts(self, run_id: int) -> figures.Counts:
        """How many samples came through each step, and why the others did not."""
        return figures.counts(self.conn, run_id)

    # -- events -----------------------------------------------------------------------------

    def count_events(self, run_id: int | None = None, worst: str | None = None) -> int:
        """How many events there are, of one run or of all, of one level or of all."""
        return int(
            self._one(
                "SELECT count(*) FROM event WHERE (:run IS NULL OR run_id = :run) AND (:level IS NULL OR level = :level)",
                {"run": run_id, "level": worst},
            )
        )

    def events(
        self, first: int, count: int, run_id: int | None = None, level: str | None = None
    ) -> list[dict[str, Any]]:
        """Events from the newest to the oldest, skipping ``first``."""
        return [
            dict(r)
            for r in self._rows(
                "SELECT e.id, e.at, e.level, e.message, r.name AS run FROM event e LEFT JOIN run r ON r.id = e.run_id "
                "WHERE (:run IS NULL OR e.run_id = :run) AND (:level IS NULL OR e.level = :level) "
                "ORDER BY e.id DESC LIMIT :count OFFSET :first",
                {"run": run_id, "level": level, "count": count, "first": first},
            )
        ]

    # -- the table of samples ---------------------------------------------------------------

    def list_samples(self, what: SampleFilter) -> int:
        """Lay out the samples that ``what`` leaves, in its order, for ``window``; returns how many."""
        if what.order not in _ORDER:
            raise UserError(f"Samples cannot be sorted by {what.order!r}.")
        joined: list[str] = []
        where: list[str] = []
        values: dict[str, Any] = {"run": what.run_id, "setting": self._setting(what.run_id)}
        if what.state:
            joined += ["p", "o", "d2", "f2", "d1", "f1"]
            where.append(f"{_STATE} = :state")
            values["state"] = STATES.index(what.state)
        if what.decision:
            test, table = _DECIDED[what.decision]
            joined.append(table)
            where.append(test)
        column, table = figures.MEASURES[what.measure]
        if what.both:
            test, needed = figures.both(what.measure)
            joined += needed
            where.append(test)
        for bound, sign in (("low", ">="), ("high", "<")):
            if getattr(what, bound) is not None:
                joined.append(table)
                where.append(f"{column} {sign} :{bound}")
                values[bound] = getattr(what, bound)
        for bound, sign in (("shortest", ">="), ("longest", "<=")):
            if getattr(what, bound) is not None:
                joined.append("v")
                where.append(f"length(v.response) {sign} :{bound}")
                values[bound] = getattr(what, bound)
        if what.flagged:
            where.append("b.sample_id IN (SELECT sample_id FROM flag)")
        if what.text.strip():
            test, values["text"] = _text_test(what.text)
            where.append(f"b.sample_id IN (SELECT t.sample_id FROM {test})")
        if what.run_id is not None:
            base = "run_sample b"
            where.append("b.run_id = :run")
        else:
            base = "(SELECT id AS sample_id FROM sample) b"
        order, tables = _ORDER[what.order]
        joined += tables
        direction = "DESC" if what.descending else "ASC"
        ending = f"{order} {direction}" + (" NULLS LAST, b.sample_id" if order != "b.sample_id" else "")
        condition = " WHERE " + " AND ".join(where) if where else ""
        self.conn.execute(
            "CREATE TEMP TABLE IF NOT EXISTS listing(position INTEGER PRIMARY KEY, sample_id INTEGER)"
        )
        self.conn.execute("BEGIN")
        try:
            self.conn.execute("DELETE FROM listing")
            made = self.conn.execute(
                f"INSERT INTO listing(sample_id) SELECT b.sample_id FROM {base} {joins(*joined)}{condition} ORDER BY {ending}",
                values,
            )
        except BaseException:
            if self.conn.in_transaction:  # an interrupt rolls back by itself
                self.conn.execute("ROLLBACK")
            raise
        self.conn.execute("COMMIT")
        self._listed = made.rowcount
        return self._listed

    def window(self, run_id: int | None, first: int, count: int) -> list[SampleRow]:
        """Rows ``first`` (from 0) and on of what ``list_samples`` laid out."""
        found = self._rows(
            f"SELECT b.sample_id, {_STATE} AS state, {_INSTRUCTION} AS part1, {_ANSWER} AS part2, "
            "i1.value AS ifd, r1.value AS rifd, length(v.response) AS length, "
            "EXISTS (SELECT 1 FROM flag g WHERE g.sample_id = b.sample_id) AS flagged, "
            "coalesce((SELECT n.text <> '' FROM note n WHERE n.sample_id = b.sample_id ORDER BY n.id DESC LIMIT 1), 0) "
            "AS noted, substr(v.instruction, 1, 400) AS text FROM temp.listing b "
            f"{joins('f1', 'f2', 'd1', 'd2', 'o', 'p', 'pv', 'v0', 'i1', 'r1', 'v')} "
            "WHERE b.position > :first AND b.position <= :last ORDER BY b.position",
            {"run": run_id, "setting": self._setting(run_id), "first": first, "last": first + count},
        )
        return [
            SampleRow(
                r["sample_id"],
                STATES[r["state"]],
                None if r["part1"] is None else _PARTS[r["part1"]],
                None if r["part2"] is None else _PARTS[r["part2"]],
                r["ifd"],
                r["rifd"],
                r["length"] or 0,
                bool(r["flagged"]),
                bool(r["noted"]),
                r["text"] or "",
            )
            for r in found
        ]

    def position_of(self, sample_id: int) -> int | None:
        """Where a sample stands in what ``list_samples`` laid out, from 0."""
        found = self._one("SELECT position - 1 FROM temp.listing WHERE sample_id = ?", (sample_id,))
        return None if found is None else int(found)

    def sample_at(self, position: int) -> int | None:
        """The sample that stands at ``position``, from 0."""
        found = self._one("SELECT sample_id FROM temp.listing WHERE position = ?", (position + 1,))
        return None if found is None else int(found)

    def unindexed(self) -> int:
        """Variants that a search does not see yet."""
        upto = self._one("SELECT variant_id FROM variant_text_upto")
        return int(self._one("SELECT count(*) FROM variant WHERE id > ?", (upto,)))

    def _setting(self, run_id: int | None) -> int:
        return int(self._one("SELECT setting_id FROM run WHERE id = ?", (run_id,)) or 0) if run_id else 0

    # -- one sample -------------------------------------------------------------------------

    def sample(self, run_id: int | None, sample_id: int) -> SampleView | None:
        """One sample with its texts, losses, scores, decisions and marks; None where it is gone."""
        row = self.conn.execute(
            "SELECT s.id, s.row, d.name AS dataset FROM sample s JOIN dataset d ON d.id = s.dataset_id WHERE s.id = ?",
            (sample_id,),
        ).fetchone()
        if row is None:
            return None
        at = (run_id, sample_id)
        decisions = {
            r["stage"]: {**dict(r), "compared": stored(r, "decision", "compared")}
            for r in self._rows("SELECT * FROM decision WHERE run_id = ? AND sample_id = ?", at)
        }
        reflections = {
            r["stage"]: dict(r)
            for r in self._rows("SELECT * FROM reflection WHERE run_id = ? AND sample_id = ?", at)
        }
        rewrites = self._rewrites(run_id, sample_id, decisions)
        shown = self._generations(rewrites, reflections)
        state = self._one(
            f"SELECT {_STATE} FROM (SELECT :sample AS sample_id) b {joins('p', 'o', 'd2', 'f2', 'd1', 'f1')}",
            {"run": run_id, "sample": sample_id},
        )
        outcome = self.conn.execute("SELECT * FROM outcome WHERE run_id = ? AND sample_id = ?", at).fetchone()
        return SampleView(
            id=row["id"],
            dataset=row["dataset"],
            row=row["row"],
            state=STATES[state],
            variants=self._variants(sample_id, self._setting(run_id)),
            rewrites=rewrites,
            critiques={stage: g["critique"] for stage, g in shown.items()},
            endings={stage: in_words(g) for stage, g in shown.items()},
            decisions=decisions,
            reflections=reflections,
            outcome=dict(outcome) if outcome else None,
            stands=figures.standing(self.conn, run_id, sample_id),
            note=self._one("SELECT text FROM note WHERE sample_id = ? ORDER BY id DESC LIMIT 1", (sample_id,))
            or "",
            flagged=bool(self._one("SELECT 1 FROM flag WHERE sample_id = ?", (sample_id,))),
        )

    def _rewrites(
        self, run_id: int | None, sample_id: int, decisions: dict[str, dict[str, Any]]
    ) -> dict[str, int]:
        """By stage the rewrite to show: the chosen one, else the first that was compared."""
        found: dict[str, int] = {}
        for r in self._rows(
            "SELECT stage, variant_id FROM candidate WHERE run_id = ? AND sample_id = ? ORDER BY stage, ordinal",
            (run_id, sample_id),
        ):
            found.setdefault(r["stage"], r["variant_id"])
        for stage, decision in decisions.items():
            if decision["reflected"]:
                found[stage] = decision["chosen_id"]
        return found

    def _generations(
        self, rewrites: dict[str, int], reflections: dict[str, dict[str, Any]]
    ) -> dict[str, sqlite3.Row]:
        """By stage the generation to show: the one that made the rewrite, else the last try."""
        found: dict[str, sqlite3.Row] = {}
        for stage, reflection in reflections.items():
            row = self.conn.execute(
                "SELECT id, critique, segments, finish FROM generation WHERE parent_variant_id = ? AND stage = ? "
                "ORDER BY variant_id IS ? DESC, id DESC LIMIT 1",
                (reflection["parent_variant_id"], stage, rewrites.get(stage)),
            ).fetchone()
            if row is not None:
                found[stage] = row
        return found

    def _variants(self, sample_id: int, setting: int) -> list[VariantView]:
        scores: dict[int, dict[str, sqlite3.Row]] = {}
        for r in self._rows(
            "SELECT s.variant_id, s.metric, s.value, s.reason, c.nll / c.tokens AS given, u.nll / u.tokens AS alone "
            "FROM variant v JOIN score s ON s.variant_id = v.id AND s.setting_id = ? "
            "LEFT JOIN span_loss c ON c.key = s.conditional_key LEFT JOIN span_loss u ON u.key = s.unconditional_key "
            "WHERE v.sample_id = ?",
            (setting, sample_id),
        ):
            scores.setdefault(r["variant_id"], {})[r["metric"]] = r
        found = []
        for v in self._rows("SELECT * FROM variant WHERE sample_id = ? ORDER BY id", (sample_id,)):
            by = scores.get(v["id"], {})
            ifd, rifd = by.get("ifd"), by.get("rifd")
            reasons = [r["reason"] for r in by.values() if r["value"] is None and r["reason"]]
            found.append(
                VariantView(
                    v["id"],
                    v["kind"],
                    v["origin"],
                    v["parent_id"],
                    v["instruction"],
                    v["input"],
                    v["response"],
                    ifd["value"] if ifd else None,
                    rifd["value"] if rifd else None,
                    {
                        "L(y|x)": ifd["given"] if ifd else None,
                        "L(y)": ifd["alone"] if ifd else None,
                        "L(x|y)": rifd["given"] if rifd else None,
                        "L(x)": rifd["alone"] if rifd else None,
                    },
                    reasons[0] if reasons else None,
                )
            )
        return found

    # -- scores -----------------------------------------------------------------------------

    def histogram(
        self, run_id: int, measure: Measure, width: float, bins: int
    ) -> tuple[list[int], float | None]:
        """Counts of one measure in ``bins`` steps of ``width`` from 0, the last one open; and the mean. Over the
        samples that have the score before as well as the final one, so that the two can be compared."""
        column = figures.MEASURES[measure][0]
        where, tables = figures.both(measure)
        counts, n, weighted = [0] * bins, 0, 0.0
        for r in self._rows(
            f"SELECT min(CAST({column} / :width AS INTEGER), :last) AS bin, count(*) AS n, sum({column}) AS total "
            f"FROM run_sample b {joins(*tables)} WHERE b.run_id = :run AND {where} GROUP BY 1",
            {"run": run_id, "setting": self._setting(run_id), "width": width, "last": bins - 1},
        ):
            counts[max(0, r["bin"])] += r["n"]
            n += r["n"]
            weighted += r["total"]
        return counts, weighted / n if n else None

    def score_pairs(self, run_id: int, limit: int = 4000) -> list[tuple[float, float, bool]]:
        """(IFD, r-IFD, kept) of final texts; of more than ``limit`` samples, evenly some."""
        step = max(1, figures.counts(self.conn, run_id).samples // limit)
        return [
            (r[0], r[1], bool(r[2]))
            for r in self._rows(
                f"SELECT i1.value, r1.value, {figures.KEPT} FROM run_sample b {joins('i1', 'r1', 'o')} "
                "WHERE b.run_id = :run AND b.sample_id % :step = 0 AND i1.value IS NOT NULL AND r1.value IS NOT NULL",
                {"run": run_id, "setting": self._setting(run_id), "step": step},
            )
        ]

    # -- training ---------------------------------------------------------------------------

    def trained(self) -> list[int]:
        """The runs that have a training, the newest first."""
        return [r[0] for r in self._rows("SELECT run_id FROM training_run ORDER BY run_id DESC")]

    def training(self, run_id: int) -> dict[str, Any] | None:
        """A run's training with its metrics as {name: [(step, value), ...]} and its checkpoints, by step; None where
        there is none."""
        found = figures.training(self.conn, run_id)
        if found is None:
            return None
        metrics: dict[str, list[tuple[int, float]]] = {}
        for r in self._rows(
            "SELECT name, step, value FROM training_metric WHERE training_run_id = ? ORDER BY name, step",
            (found["id"],),
        ):
            metrics.setdefault(r["name"], []).append((r["step"], r["value"]))
        checkpoints = [
            dict(r)
            for r in self._rows(
                "SELECT step, path, bytes, seconds, state, created_at FROM checkpoint "
                "WHERE training_run_id = ? ORDER BY step",
                (found["id"],),
            )
        ]
        return {**found, "metrics": metrics, "checkpoints": checkpoints}


def _text_test(words: str) -> tuple[str, str]:
    """The subquery that finds a text, as table ``t``, and the parameter to give it."""
    # Scripts without spaces are one long token to the index; those are looked for letter by letter.
    if any(
        "\u2e80" <= c <= "\u9fff" or "\u3040" <= c <= "\u30ff" or "\uac00" <= c <= "\ud7af" for c in words
    ):
        return (
            "variant t WHERE instr(t.instruction || ' ' || t.input || ' ' || t.response, :text)",
            words.strip(),
        )
    # Every word is quoted, so that nothing in it is an operator; the last one may be unfinished.
    quoted = ['"' + w.replace('"', '""') + '"' for w in words.split()]
    return "variant_text x JOIN variant t ON t.id = x.rowid WHERE variant_text MATCH :text", " ".join(
        quoted
    ) + "*"


def _is_current(path: Path) -> bool:
    """Whether a store has this version's tables already; looked up without loading sqlite-utils."""
    if not path.exists():
        raise UserError(f"{path}: there is no store yet; import a dataset or run a recipe first.")
    try:
        conn = open_read_only(path)
        try:
            names = [r[0] for r in conn.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
        finally:
            conn.close()
    except sqlite3.Error:
        return False
    return set(names) == set(NEEDED)


NEEDED = (
    "0001_initial",
    "0002_dashboard",
    "0003_evaluation",
    "0004_training",
    "0005_endings",
    "0006_template_version",
    "0007_safety",
    "0008_figures",
    "0009_given_up",
)
"""The migrations that these queries were written for."""
