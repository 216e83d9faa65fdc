"""The answers that a run compared: of each sample those to one instruction, with what they were compared by."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from srtui.sample import Pair
from srtui.store._query import fetch_rows
from srtui.store.conversations import histories
from srtui.store.figures import setting_id_of
from srtui.store.stored import stored

_BATCH = 256  # samples whose texts are in memory together


class ComparedAnswer(NamedTuple):
    """A text that was compared, and its score, None where it has none."""

    variant_id: int
    pair: Pair
    score: float | None


class AnswerComparison(NamedTuple):
    """What the choice of a sample's answer compared.

    ``answers`` has the text before the stage first, then its rewrites; ``chosen_id`` is the student's choice,
    ``person`` the text that a person took in its place, with its score where it has one that compares. ``ifd`` and
    ``rifd`` are the outcome's. ``by_proxy``: the scores are a proxy's, which chose alone.
    """

    sample_id: int
    held_out: bool
    answers: list[ComparedAnswer]
    chosen_id: int
    person: ComparedAnswer | None
    ifd: float | None
    rifd: float | None
    by_proxy: bool = False


def answer_comparisons(
    conn: sqlite3.Connection,
    run_id: int,
    metric: str = "",
    *,
    held_out: bool | None = None,
    by_person: bool | None = None,
) -> Iterator[AnswerComparison]:
    """Each answer that a run has chosen, in the order of its samples, read as they are asked for.

    Args:
        conn: of the store.
        run_id: of the run.
        metric: ``ifd`` or ``rifd``: the score that a person's own text is read with.
        held_out: only samples that are held out, or that are not.
        by_person: only samples for which a person has taken a text, or has not.

    Raises UserError where what was compared is damaged.
    """
    condition = "" if held_out is None else f"AND rs.held_out = {int(held_out)} "
    condition += "" if by_person is None else f"AND p.id IS {'NOT ' if by_person else ''}NULL "
    rows = conn.execute(
        "SELECT d.run_id, d.sample_id, d.stage, d.chosen_id, d.compared, d.by_proxy, rs.held_out, "
        # A text of a person's own is scored by the student: that does not compare with a proxy's scores.
        "p.variant_id AS person_id, CASE WHEN NOT d.by_proxy THEN s.value END AS person_score, o.ifd, o.rifd FROM decision d "
        "JOIN run_sample rs ON rs.run_id = d.run_id AND rs.sample_id = d.sample_id "
        "LEFT JOIN overrule p ON p.run_id = d.run_id AND p.sample_id = d.sample_id AND p.undone_at IS NULL "
        "LEFT JOIN score s ON s.variant_id = p.variant_id AND s.setting_id = :setting AND s.metric = :metric "
        "LEFT JOIN outcome o ON o.run_id = d.run_id AND o.sample_id = d.sample_id "
        f"WHERE d.run_id = :run AND d.stage = 'response' {condition}ORDER BY d.sample_id",
        {"run": run_id, "setting": setting_id_of(conn, run_id), "metric": metric},
    )
    while batch := rows.fetchmany(_BATCH):
        compared = [stored(row, "decision", "compared") for row in batch]
        variant_ids = {answer[0] for of_sample in compared for answer in of_sample}
        texts = _texts(conn, [*variant_ids, *(r["person_id"] for r in batch if r["person_id"] is not None)])
        for row, of_sample in zip(batch, compared, strict=True):
            person = row["person_id"]
            scores = {variant: score for variant, score, _ in of_sample}
            yield AnswerComparison(
                row["sample_id"],
                bool(row["held_out"]),
                [ComparedAnswer(v, texts[v], score) for v, score in scores.items() if v in texts],
                row["chosen_id"],
                None
                if person is None
                else ComparedAnswer(person, texts[person], scores.get(person, row["person_score"])),
                row["ifd"],
                row["rifd"],
                bool(row["by_proxy"]),
            )


def _texts(conn: sqlite3.Connection, ids: list[int]) -> dict[int, Pair]:
    texts: dict[int, Pair] = {}
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        marks = ",".join("?" * len(chunk))
        rows = fetch_rows(
            conn,
            f"SELECT id, sample_id, instruction, input, response FROM variant WHERE id IN ({marks})",
            chunk,
        )
        before = histories(conn, {row[1] for row in rows})
        texts |= {row[0]: Pair(row[2], row[3], row[4], before.get(row[1], ())) for row in rows}
    return texts
