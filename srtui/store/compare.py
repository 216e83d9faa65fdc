"""Two runs beside each other: how their recipes differ, which samples they decided otherwise, and what of their
trainings can be compared at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from srtui.store._query import fetch_row, fetch_rows, fetch_value
from srtui.store.stored import stored


class RecipeDifference(NamedTuple):
    """A key that two runs have otherwise; a value is None where it is not set."""

    key: str
    a: Any
    b: Any


class DecidedOtherwise(NamedTuple):
    """A sample of both runs of which another text was taken, or that one of them keeps and the other does not.
    ``stage`` is instruction, response, or outcome; reasons are as they were stored."""

    sample: int
    stage: str
    a_variant: int
    b_variant: int
    a_reason: str
    b_reason: str


class HeldOut(NamedTuple):
    """Held-out samples: of both runs, and of one of them alone. Losses on them compare where none is of one alone."""

    both: int
    only_a: int
    only_b: int

    @property
    def same(self) -> bool:
        """Whether both runs held out the same samples, and any at all."""
        return bool(self.both) and not self.only_a and not self.only_b


@dataclass(frozen=True)
class RunsCompared:
    """Counts of two runs: samples of both, of each alone; how many of those of both were decided otherwise, by stage;
    how many each keeps of those of both."""

    a: str
    b: str
    recipe: list[RecipeDifference]
    shared: int
    only_a: int
    only_b: int
    otherwise: dict[str, int]
    kept_a: int
    kept_b: int
    held_out: HeldOut


def held_out_of(conn: sqlite3.Connection, a: int, b: int) -> HeldOut:
    """Which held-out samples two runs have in common."""
    row = fetch_row(
        conn,
        "WITH a AS (SELECT sample_id FROM run_sample WHERE run_id = ?1 AND held_out = 1), "
        "b AS (SELECT sample_id FROM run_sample WHERE run_id = ?2 AND held_out = 1) "
        "SELECT (SELECT count(*) FROM a JOIN b USING (sample_id)), (SELECT count(*) FROM a), (SELECT count(*) FROM b)",
        (a, b),
    )
    in_both, of_a, of_b = row if row is not None else (0, 0, 0)
    return HeldOut(in_both, of_a - in_both, of_b - in_both)


def compare_runs(conn: sqlite3.Connection, a: int, b: int) -> RunsCompared:
    """Two runs in counts. Samples are matched by id: two runs of other datasets share none."""
    names, recipes, samples = [], [], []
    for run_id in (a, b):
        row = fetch_row(conn, "SELECT id, name, recipe FROM run WHERE id = ?", (run_id,))
        assert row is not None  # noqa: S101 - the caller has looked the run up
        names.append(str(row["name"]))
        recipes.append(stored(row, "run", "recipe"))
        samples.append(int(fetch_value(conn, "SELECT count(*) FROM run_sample WHERE run_id = ?", (run_id,))))
    shared, kept_a, kept_b = fetch_row(
        conn,
        "SELECT count(*), coalesce(sum(oa.kept), 0), coalesce(sum(ob.kept), 0) FROM run_sample ra "
        "JOIN run_sample rb ON rb.run_id = ?2 AND rb.sample_id = ra.sample_id "
        "LEFT JOIN outcome oa ON oa.run_id = ?1 AND oa.sample_id = ra.sample_id "
        "LEFT JOIN outcome ob ON ob.run_id = ?2 AND ob.sample_id = ra.sample_id WHERE ra.run_id = ?1",
        (a, b),
    ) or (0, 0, 0)
    return RunsCompared(
        a=names[0],
        b=names[1],
        recipe=list(_recipe_differences(*recipes)),
        shared=shared,
        only_a=samples[0] - shared,
        only_b=samples[1] - shared,
        otherwise={
            r[0]: r[1]
            for r in fetch_rows(conn, f"SELECT stage, count(*) FROM ({_OTHERWISE}) GROUP BY stage", (a, b))
        },
        kept_a=kept_a,
        kept_b=kept_b,
        held_out=held_out_of(conn, a, b),
    )


def decided_otherwise(conn: sqlite3.Connection, a: int, b: int, limit: int = -1) -> list[DecidedOtherwise]:
    """Samples of both runs that were decided otherwise, in the samples' order.

    Args:
        conn: of the store.
        a: id of the one run.
        b: id of the other.
        limit: at most so many; -1 for all.
    """
    return [
        DecidedOtherwise(*r) for r in fetch_rows(conn, f"{_OTHERWISE} ORDER BY 1, 2 LIMIT ?3", (a, b, limit))
    ]


_OTHERWISE = (
    "SELECT da.sample_id, da.stage AS stage, da.chosen_id, db.chosen_id, da.reason, db.reason FROM decision da "
    "JOIN decision db ON db.run_id = ?2 AND db.sample_id = da.sample_id AND db.stage = da.stage "
    "WHERE da.run_id = ?1 AND da.chosen_id <> db.chosen_id "
    "UNION ALL SELECT oa.sample_id, 'outcome', oa.variant_id, ob.variant_id, "
    "CASE WHEN oa.kept THEN 'kept' ELSE oa.reason END, CASE WHEN ob.kept THEN 'kept' ELSE ob.reason END "
    "FROM outcome oa JOIN outcome ob ON ob.run_id = ?2 AND ob.sample_id = oa.sample_id "
    "WHERE oa.run_id = ?1 AND oa.kept <> ob.kept"
)


def _recipe_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], within: str = ""
) -> Iterator[RecipeDifference]:
    """Keys of two recipes whose values differ; names and descriptions say nothing."""
    for key in dict.fromkeys((*a, *b)):
        if not within and key in ("name", "description"):
            continue
        value, other = a.get(key), b.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _recipe_differences(value, other, f"{within}{key}.")
        elif value != other:
            yield RecipeDifference(f"{within}{key}", value, other)
