"""The figures of a run: what each is, what it is called, and the one place where it is computed.

Every face (``srtui status``, ``scores``, ``show``, ``export``, the dashboard, the report) takes them from
here; docs/figures.md lists them. What stands for a sample is its *final text*: the one that a person
took, else the one that the student chose, else the original. *Kept* is what an export writes.

Counts are kept by the store itself (``tally``, by triggers), and a person's overrulings are added to
them here. Sums over samples are taken once over the student's choices and stored under a stamp of all
that they depend on; an overruled sample's share of them is exchanged when they are read.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from srtui.measures import MEASURES, STORED
from srtui.store._query import fetch_value
from srtui.store.connection import checkpoint
from srtui.store.corpus import teach_code
from srtui.store.endings import ENDINGS, endings

if TYPE_CHECKING:
    from srtui.store import Store

TARGETS = ("instruction", "response")

# -- what stands for a sample -------------------------------------------------------------------

FINAL = "coalesce(p.variant_id, d2.chosen_id, d1.chosen_id, v0.id)"
"""The variant that stands for sample ``b``; needs the joins p, d2, d1 and v0."""
KEPT = "(o.kept = 1 OR (o.kept = 0 AND p.id IS NOT NULL))"
"""Whether it is kept: selected by the student, or taken by a person; needs o and p."""
SELECTED = (
    "SELECT o.sample_id, coalesce(p.variant_id, o.variant_id) AS variant_id, p.id IS NOT NULL AS by_person, rs.held_out, "
    "o.ifd, o.rifd "
    "FROM outcome o JOIN run_sample rs ON rs.run_id = o.run_id AND rs.sample_id = o.sample_id "
    "LEFT JOIN overrule p ON p.run_id = o.run_id AND p.sample_id = o.sample_id AND p.undone_at IS NULL "
    f"WHERE o.run_id = :run AND {KEPT} ORDER BY o.sample_id"
)
"""The query of what is kept, with the text that stands; its parameter is ``run``."""
_BY_THE_STUDENT = "coalesce(d2.chosen_id, d1.chosen_id, v0.id)"

_SCORE = "LEFT JOIN score {0} ON {0}.variant_id = {1} AND {0}.setting_id = :setting AND {0}.metric = '{2}'"
_JOINS = {
    "f1": "LEFT JOIN reflection f1 ON f1.run_id = :run AND f1.sample_id = b.sample_id AND f1.stage = 'instruction'",
    "f2": "LEFT JOIN reflection f2 ON f2.run_id = :run AND f2.sample_id = b.sample_id AND f2.stage = 'response'",
    "d1": "LEFT JOIN decision d1 ON d1.run_id = :run AND d1.sample_id = b.sample_id AND d1.stage = 'instruction'",
    "d2": "LEFT JOIN decision d2 ON d2.run_id = :run AND d2.sample_id = b.sample_id AND d2.stage = 'response'",
    "o": "LEFT JOIN outcome o ON o.run_id = :run AND o.sample_id = b.sample_id",
    "p": "LEFT JOIN overrule p ON p.run_id = :run AND p.sample_id = b.sample_id AND p.undone_at IS NULL",
    "v0": "LEFT JOIN variant v0 ON v0.sample_id = b.sample_id AND v0.kind = 'original'",
    "pv": "LEFT JOIN variant pv ON pv.id = p.variant_id LEFT JOIN variant pp ON pp.id = pv.parent_id",
    "v": f"LEFT JOIN variant v ON v.id = {FINAL}",
}
_STANDS = ("p", "d2", "d1", "v0")
_NEEDS = {"v": _STANDS, "pv": ("p",)}
ScoreName = str
"""A stored measure's name for the score of the final text, and that with " before" for the text that it is shown
beside: ``ifd``, ``ifd before``."""
SCORES: dict[ScoreName, tuple[str, str]] = {}
"""By score, its column and the join that it needs."""
_BEFORE = {"original": ("v0.id", "v0"), "response": ("f2.parent_variant_id", "f2")}
for _name in STORED:
    _id, _table = _BEFORE[MEASURES[_name].before or "original"]
    _JOINS[f"{_name}0"] = _SCORE.format(f"{_name}0", _id, _name)
    _JOINS[f"{_name}1"] = _SCORE.format(f"{_name}1", FINAL, _name)
    _NEEDS |= {f"{_name}0": (_table,), f"{_name}1": _STANDS}
    SCORES[f"{_name} before"] = f"{_name}0.value", f"{_name}0"
    SCORES[_name] = f"{_name}1.value", f"{_name}1"


def joins(*names: str) -> str:
    """The SQL that joins these tables to ``b``, whose ``sample_id`` names the sample; in need of the
    parameters ``run`` and ``setting``."""
    needed: dict[str, None] = {}
    for name in names:
        for before in _NEEDS.get(name, ()):
            needed[before] = None
        needed[name] = None
    return " ".join(_JOINS[name] for name in needed)


def both(score: ScoreName) -> tuple[str, tuple[str, str]]:
    """The condition that a sample has a score before and a final one, and the joins that it needs:
    means and histograms of before and after are over the same samples."""
    metric = score.removesuffix(" before")
    (before, first), (after, last) = SCORES[f"{metric} before"], SCORES[metric]
    return f"{before} IS NOT NULL AND {after} IS NOT NULL", (first, last)


def setting_id_of(conn: sqlite3.Connection, run_id: int | None) -> int:
    """The id of the way in which a run's student scores; 0, which none has, before there is one."""
    return int(fetch_value(conn, "SELECT setting_id FROM run WHERE id = ?", (run_id,)) or 0)


@dataclass(frozen=True)
class Standing:
    """What stands for one sample in a run. ``kept`` is None while it is not settled; ``reason`` says why it
    was dropped. Scores are ratios of perplexities, None where the student has not scored the text."""

    variant_id: int
    overruled: bool
    kept: bool | None
    reason: str
    ifd_before: float | None
    ifd: float | None
    rifd_before: float | None
    rifd: float | None


def standing(conn: sqlite3.Connection, run_id: int | None, sample_id: int) -> Standing:
    """What stands for this sample now; without a run, the dataset's text. The sample must be there."""
    row = conn.execute(
        f"SELECT {FINAL}, p.id IS NOT NULL, {KEPT}, o.reason, ifd0.value, ifd1.value, rifd0.value, rifd1.value "
        f"FROM (SELECT :sample AS sample_id) b {joins('o', 'p', 'ifd0', 'ifd1', 'f2', 'rifd0', 'rifd1')}",
        {"run": run_id, "sample": sample_id, "setting": setting_id_of(conn, run_id)},
    ).fetchone()
    settled = row[3] is not None
    return Standing(
        row[0], bool(row[1]), bool(row[2]) if settled else None, row[3] or "", row[4], row[5], row[6], row[7]
    )


# -- counts -------------------------------------------------------------------------------------


@dataclass
class TargetCounts:
    """Samples by one target: what became of the teacher's rewrites, and what the student chose.

    ``choices`` is how many had a rewrite to choose, ``taken`` how many rewrites the student took. ``gated`` counts
    rewrites, by gate: those that were not compared.
    """

    asked: int = 0
    first_try: int = 0
    after_retries: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    decided: int = 0
    choices: int = 0
    taken: int = 0
    gated: dict[str, int] = field(default_factory=dict)


@dataclass
class Counts:
    """A run in whole numbers. ``kept`` and ``dropped`` (by reason) are of the samples that are settled, and
    with those still on their way make up all ``samples``; ``overruled`` are those of the kept that a
    person took a text for."""

    samples: int = 0
    held_out: int = 0
    kept: int = 0
    kept_held_out: int = 0
    overruled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    targets: dict[str, TargetCounts] = field(default_factory=lambda: {s: TargetCounts() for s in TARGETS})

    @property
    def on_their_way(self) -> int:
        """Samples that are not settled yet."""
        return self.samples - self.kept - sum(self.dropped.values())


def counts(conn: sqlite3.Connection, run_id: int) -> Counts:
    """All counts of a run, exact, from some dozen rows and the person's overrulings."""
    c = Counts()
    for counted, stage, detail, flags, n in conn.execute(
        "SELECT what, stage, detail, flags, n FROM tally WHERE run_id = ?", (run_id,)
    ):
        if counted == "sample":
            c.samples += n
            c.held_out += n if flags else 0
        elif counted == "outcome":
            _settle(c, detail, flags & 1, flags & 2, n)
        elif counted == "reflection":
            of_target = c.targets[stage]
            of_target.asked += n
            if detail != "parsed":
                of_target.failed[detail] = of_target.failed.get(detail, 0) + n
            elif flags:
                of_target.after_retries += n
            else:
                of_target.first_try += n
        elif counted == "gated":
            c.targets[stage].gated[detail] = n
        else:
            of_target = c.targets[stage]
            of_target.decided += n
            of_target.taken += n if flags & 1 else 0
            of_target.choices += n if flags & 2 else 0
    for kept, reason, held_out, n in conn.execute(
        "SELECT o.kept, o.reason, rs.held_out, count(*) FROM overrule p "
        "JOIN outcome o ON o.run_id = p.run_id AND o.sample_id = p.sample_id "
        "JOIN run_sample rs ON rs.run_id = p.run_id AND rs.sample_id = p.sample_id "
        "WHERE p.run_id = ? AND p.undone_at IS NULL GROUP BY 1, 2, 3",
        (run_id,),
    ):
        _settle(c, reason, kept, held_out, -n)
        _settle(c, "", 1, held_out, n)
        c.overruled += n
    c.dropped = _most_first(c.dropped)
    for of_target in c.targets.values():
        of_target.failed = _most_first(of_target.failed)
        of_target.gated = _most_first(of_target.gated)
    return c


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason: n for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n}


def _settle(c: Counts, reason: str, kept: int, held_out: int, n: int) -> None:
    if kept:
        c.kept += n
        c.kept_held_out += n if held_out else 0
    else:
        c.dropped[reason] = c.dropped.get(reason, 0) + n


# -- sums over samples --------------------------------------------------------------------------

_FORM = 2  # of the stored sums: counts up when one of them gets another meaning
_SUMS = {
    "ifd_n": "count(ifd0.value + ifd1.value)",
    "ifd_before": "total(CASE WHEN ifd1.value IS NOT NULL THEN ifd0.value END)",
    "ifd_after": "total(CASE WHEN ifd0.value IS NOT NULL THEN ifd1.value END)",
    "rifd_n": "count(rifd0.value + rifd1.value)",
    "rifd_before": "total(CASE WHEN rifd1.value IS NOT NULL THEN rifd0.value END)",
    "rifd_after": "total(CASE WHEN rifd0.value IS NOT NULL THEN rifd1.value END)",
    "kept_ifd_n": "count(CASE WHEN {kept} THEN ifd1.value END)",
    "kept_ifd": "total(CASE WHEN {kept} THEN ifd1.value END)",
    "kept_rifd_n": "count(CASE WHEN {kept} THEN rifd1.value END)",
    "kept_rifd": "total(CASE WHEN {kept} THEN rifd1.value END)",
    "texts": "count(v0.id)",
    "length": "total(length(v0.response))",
    "code": "total(has_code(v0.response))",
    "kept_texts": "count(CASE WHEN {kept} THEN v.id END)",
    "kept_length": "total(CASE WHEN {kept} THEN length(v.response) END)",
    "kept_code": "total(CASE WHEN {kept} THEN has_code(v.response) END)",
    "truncated": "total(CASE WHEN o.run_id IS NOT NULL THEN (SELECT truncated FROM span_loss l "
    "WHERE l.key = ifd1.conditional_key) END)",
}
_SUMMED = ("o", "p", "ifd0", "ifd1", "f2", "rifd0", "rifd1", "v")
_OVERRULED = " AND b.sample_id IN (SELECT sample_id FROM overrule WHERE run_id = :run AND undone_at IS NULL)"


def sums_query(by_the_student: bool, only: str = "") -> str:
    """The query of all sums, over the student's choices or over what stands now."""
    tables = joins(*_SUMMED)
    if by_the_student:
        tables = tables.replace(FINAL, _BY_THE_STUDENT)
    kept = "o.kept = 1" if by_the_student else KEPT
    columns = ", ".join(f"{sql.format(kept=kept)} AS {name}" for name, sql in _SUMS.items())
    return f"SELECT {columns} FROM run_sample b {tables} WHERE b.run_id = :run{only}"


def _sums(store: Store, run_id: int, setting: int) -> dict[str, float]:
    """Sums over what stands now for each sample of a run."""
    conn = store.conn
    teach_code(conn)
    stamp, of = _stamp(conn, run_id, setting), {"run": run_id, "setting": setting}
    sums = _kept_sums(conn, run_id, stamp)
    if sums is None:
        sums = _by_the_student(conn, run_id, setting)
        _keep_sums(store, run_id, stamp, sums)
    if conn.execute("SELECT 1 FROM overrule WHERE run_id = ? AND undone_at IS NULL", (run_id,)).fetchone():
        original_sums = {
            **conn.execute(sums_query(True, _OVERRULED), of).fetchone(),
            **endings(conn, run_id, False),
        }
        now = {**conn.execute(sums_query(False, _OVERRULED), of).fetchone(), **endings(conn, run_id, True)}
        sums = {name: value - original_sums[name] + now[name] for name, value in sums.items()}
    return sums


def sums_and_again(store: Store, run_id: int) -> tuple[dict[str, float] | None, dict[str, float]]:
    """The sums over the student's choices that are kept (None where they are not of today's rows), and the
    same summed anew, which reads every sample."""
    conn, setting = store.conn, setting_id_of(store.conn, run_id)
    teach_code(conn)
    kept = _kept_sums(conn, run_id, _stamp(conn, run_id, setting))
    return kept, _by_the_student(conn, run_id, setting) if kept is not None else {}


def _by_the_student(conn: sqlite3.Connection, run_id: int, setting: int) -> dict[str, float]:
    of = {"run": run_id, "setting": setting}
    return {**conn.execute(sums_query(True), of).fetchone(), **endings(conn, run_id)}


def _kept_sums(conn: sqlite3.Connection, run_id: int, stamp: str) -> dict[str, float] | None:
    row = conn.execute("SELECT sums FROM run_sums WHERE run_id = ? AND stamp = ?", (run_id, stamp)).fetchone()
    try:
        sums = json.loads(row[0]) if row else None
    except (ValueError, TypeError, RecursionError):
        return None  # damaged: they are summed anew
    if not isinstance(sums, dict) or sums.keys() != {*_SUMS, *ENDINGS}:
        return None
    return sums if all(isinstance(v, int | float) for v in sums.values()) else None


def _keep_sums(store: Store, run_id: int, stamp: str, sums: Mapping[str, float]) -> None:
    """For the next reading, by readers too; where the store cannot be written, that one takes as long."""
    insert = "INSERT OR REPLACE INTO run_sums VALUES (?,?,?)", (run_id, stamp, json.dumps(sums))
    with contextlib.suppress(sqlite3.Error):
        if store.read_only:
            with contextlib.closing(sqlite3.connect(store.path, timeout=0.2, isolation_level=None)) as conn:
                conn.execute(*insert)
                checkpoint(conn, 0.2)
        else:
            with store.transaction():
                store.conn.execute(*insert)


def _stamp(conn: sqlite3.Connection, run_id: int, setting: int) -> str:
    """All that the sums over the student's choices depend on: rows are only ever added to these tables,
    so that as many rows are the same rows."""
    rows = conn.execute(
        "SELECT what, stage, sum(n) FROM tally WHERE run_id = ?1 GROUP BY 1, 2 UNION ALL "
        "SELECT 'score', '', coalesce(sum(n), 0) FROM score_bin WHERE run_id = ?1",
        (run_id,),
    )
    return json.dumps([_FORM, setting, [list(r) for r in rows]])


@dataclass(frozen=True)
class MeanChange:
    """Mean score before and of the final text, over the same ``samples``: those that have both."""

    samples: int
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Means:
    """Means over samples; lengths are in characters, ``code`` is the share of answers with code."""

    ifd: MeanChange
    rifd: MeanChange
    kept_ifd: float | None
    kept_rifd: float | None
    length: float | None
    kept_length: float | None
    code: float | None
    kept_code: float | None
    truncated: int
    endings: dict[str, int]
    """How the rewrites that are kept ended: :func:`srtui.store.endings.endings`."""


def means(store: Store, run_id: int) -> Means:
    """The means of a run, over what stands now. The first call after something was scored or decided
    reads every sample, and keeps the sums for the next one."""
    setting = setting_id_of(store.conn, run_id)
    s = _sums(store, run_id, setting)

    def mean(total: str, n: str) -> float | None:
        return s[total] / s[n] if s[n] else None

    return Means(
        ifd=MeanChange(int(s["ifd_n"]), mean("ifd_before", "ifd_n"), mean("ifd_after", "ifd_n")),
        rifd=MeanChange(int(s["rifd_n"]), mean("rifd_before", "rifd_n"), mean("rifd_after", "rifd_n")),
        kept_ifd=mean("kept_ifd", "kept_ifd_n"),
        kept_rifd=mean("kept_rifd", "kept_rifd_n"),
        length=mean("length", "texts"),
        kept_length=mean("kept_length", "kept_texts"),
        code=mean("code", "texts"),
        kept_code=mean("kept_code", "kept_texts"),
        truncated=int(s["truncated"]),
        endings={how: int(s[how]) for how in ENDINGS},
    )


def pairs(conn: sqlite3.Connection, run_id: int, metric: str) -> list[tuple[float, float]]:
    """(score before, score of the final text) of each sample that has both, in the samples' order."""
    where, tables = both(metric)
    setting = setting_id_of(conn, run_id)
    before, after = SCORES[f"{metric} before"][0], SCORES[metric][0]
    scores = conn.execute(
        f"SELECT {before}, {after} FROM run_sample b {joins(*tables)} WHERE b.run_id = :run AND {where} "
        "ORDER BY b.sample_id",
        {"run": run_id, "setting": setting},
    )
    return [(r[0], r[1]) for r in scores]
