"""Evaluations: who was compared on what, their answers, and what judges and people said of them.

Reads need a connection only, so the dashboard's views and the store share them; ``store.evaluations`` is
``evaluation_writes.Evaluations``, which adds what engines and people store.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from srtui.errors import UserError
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.leases import alive
from srtui.store.stored import stored

Kind = Literal["pairwise", "winrate", "turns", "choice", "calibration", "human"]
Side = Literal["a", "b"]
Ordering = Literal["ab", "ba", "a"]
Choice = Literal["a", "b", "tie", "bad", "skip"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHOICES: tuple[Choice, ...] = get_args(Choice)


@dataclass(frozen=True)
class Item:
    """One thing that is asked. ``turns`` are the user's texts; ``reference`` is what the source says of
    it: reference answers, the right choice, or known scores."""

    item: int
    category: str
    turns: tuple[str, ...]
    reference: Any = None
    external_id: str | None = None


@dataclass(frozen=True)
class Answer:
    """One text of a contestant and all that determined it. ``finish`` says how it ended, or why there is
    none; ``id`` is 0 before it is stored."""

    key: bytes
    origin: Literal["model", "file"]
    model: str
    model_sha256: str
    adapter_sha256: str | None
    template: str
    sampler: dict[str, Any]
    seed: int
    prompt: str
    text: str
    finish: str
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Judgement:
    """What a judge, or a person (``annotator``), said of one item in one order.

    ``score_a`` and ``choice`` are always of contestant A, whichever answer was shown first.
    ``parsed`` is ``parsed``, ``not asked``, or why there is nothing.
    """

    item: int
    ordering: Ordering
    turn: int = 1
    annotator: str = ""
    key: bytes | None = None
    answer_a_id: int | None = None
    answer_b_id: int | None = None
    score_a: float | None = None
    score_b: float | None = None
    probabilities: dict[str, Any] | None = None
    words: str = ""
    text_score_a: float | None = None
    text_score_b: float | None = None
    parsed: str = "parsed"
    choice: Choice | None = None
    seconds: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. ``state`` is what is so now: one whose engine died is not running. ``result``
    is None until there is one; docs/evaluation.md lists its keys by kind."""

    id: int
    kind: Kind
    fingerprint: str
    contestant_a: str
    contestant_b: str | None
    identity_a: dict[str, Any]
    identity_b: dict[str, Any] | None
    run_a_id: int | None
    run_b_id: int | None
    judge: str | None
    judge_identity: dict[str, Any] | None
    source: str
    source_sha256: str
    settings: dict[str, Any]
    state: str
    stage: str | None
    done: int
    total: int
    error: str | None
    result: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class NewEvaluation:
    """What an evaluation is, before it has an id."""

    kind: Kind
    fingerprint: str
    contestant_a: str
    identity_a: Mapping[str, Any]
    source: str
    source_sha256: str
    settings: Mapping[str, Any]
    contestant_b: str | None = None
    identity_b: Mapping[str, Any] | None = None
    run_a_id: int | None = None
    run_b_id: int | None = None
    judge: str | None = None
    judge_identity: Mapping[str, Any] | None = None
    items: Sequence[Item] = field(default=())


@dataclass(frozen=True)
class JudgedPair:
    """A judgement with its item and both answers, for a drill-down. ``answer_b`` is None for a single
    answer."""

    judgement: Judgement
    item: Item
    answer_a: Answer | None
    answer_b: Answer | None


class EvaluationReads:
    """Reads over one connection whose rows are ``sqlite3.Row``."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def all(self, run_id: int | None = None, kind: Kind | None = None) -> list[Evaluation]:
        """Evaluations with their results, the newest first; of a run, those where it is A or B."""
        rows = fetch_rows(
            self._conn,
            f"{_EVALUATION} WHERE (:run IS NULL OR e.run_a_id = :run OR e.run_b_id = :run) "
            "AND (:kind IS NULL OR e.kind = :kind) ORDER BY e.id DESC",
            {"run": run_id, "kind": kind},
        )
        return [_evaluation(r) for r in rows]

    def get(self, evaluation_id: int) -> Evaluation:
        """Raises UserError where there is none of that id."""
        # Beyond 64 bits no id can be, and SQLite takes no such number.
        known = abs(evaluation_id) < 2**63
        rows = fetch_rows(self._conn, f"{_EVALUATION} WHERE e.id = ?", (evaluation_id,)) if known else []
        if not rows:
            highest = fetch_value(self._conn, "SELECT max(id) FROM evaluation")
            there = f"ids go up to {highest}; srtui eval list shows them" if highest else "there is none yet"
            raise UserError(f"There is no evaluation {evaluation_id}; {there}.")
        return _evaluation(rows[0])

    def items(self, evaluation_id: int) -> list[Item]:
        """What was asked, in order."""
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM evaluation_item WHERE evaluation_id = ? ORDER BY item",
            (evaluation_id,),
        )
        return [_item(r) for r in rows]

    def answers(self, evaluation_id: int) -> dict[tuple[int, Side, int], Answer]:
        """The answers of an evaluation by (item, side, turn); those not made yet are absent."""
        rows = fetch_rows(
            self._conn,
            "SELECT ea.item, ea.side, ea.turn, a.* FROM evaluation_answer ea JOIN answer a ON a.id = ea.answer_id "
            "WHERE ea.evaluation_id = ?",
            (evaluation_id,),
        )
        return {(r["item"], r["side"], r["turn"]): _answer(r) for r in rows}

    def judgements(self, evaluation_id: int, *, annotator: str | None = None) -> list[Judgement]:
        """Judgements by item, turn and order; only one person's where ``annotator`` is given."""
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM judgement WHERE evaluation_id = ? AND (? IS NULL OR annotator = ?) "
            "ORDER BY item, turn, ordering, annotator",
            (evaluation_id, annotator, annotator),
        )
        return [as_judgement(r) for r in rows]

    def judged(
        self, evaluation_id: int, *, category: str | None = None, limit: int = -1, offset: int = 0
    ) -> list[JudgedPair]:
        """Judgements with item and both answers, in order, a page of them; one category if named.

        Args:
            evaluation_id: of the evaluation.
            category: one of its items'; None for all.
            limit: of the page.
            offset: where the page begins, from 0.
        """
        rows = fetch_rows(
            self._conn,
            "SELECT j.*, i.category, i.turns, i.reference, i.external_id FROM judgement j "
            "JOIN evaluation_item i ON i.evaluation_id = j.evaluation_id AND i.item = j.item "
            "WHERE j.evaluation_id = ? AND (? IS NULL OR i.category = ?) "
            "ORDER BY j.item, j.turn, j.ordering, j.annotator LIMIT ? OFFSET ?",
            (evaluation_id, category, category, limit, offset),
        )
        answers = self._answers_by_id(
            {r[side] for r in rows for side in ("answer_a_id", "answer_b_id") if r[side] is not None}
        )
        return [
            JudgedPair(
                as_judgement(r), _item(r), answers.get(r["answer_a_id"]), answers.get(r["answer_b_id"])
            )
            for r in rows
        ]

    def blank_answers(self, evaluation_id: int) -> dict[int, frozenset[Side]]:
        """Who of A and B has an answer of nothing but space (or none) to the first turn, by item; items
        with both answers are absent."""
        blank: dict[int, frozenset[Side]] = {}
        for (item, side, turn), answer in self.answers(evaluation_id).items():
            if turn == 1 and not answer.text.strip():
                blank[item] = blank.get(item, frozenset()) | {side}
        return blank

    def annotators(self, evaluation_id: int) -> dict[str, int]:
        """People who judged in a human evaluation, with how many items each has done (skips too)."""
        rows = fetch_rows(
            self._conn,
            "SELECT annotator, count(*) AS n FROM judgement WHERE evaluation_id = ? AND annotator != '' "
            "GROUP BY annotator ORDER BY annotator",
            (evaluation_id,),
        )
        return {r["annotator"]: int(r["n"]) for r in rows}

    def unjudged_by(self, evaluation_id: int, annotator: str) -> list[Item]:
        """The human queue: items where both answers are there and this person has said nothing yet, in
        the source's order. srtui.evaluation.people.blind_order says in which order, and which side first."""
        rows = fetch_rows(
            self._conn,
            "SELECT i.* FROM evaluation_item i WHERE i.evaluation_id = ? "
            "AND (SELECT count(*) FROM evaluation_answer ea JOIN answer a ON a.id = ea.answer_id "
            "     WHERE ea.evaluation_id = i.evaluation_id AND ea.item = i.item AND ea.turn = 1 AND trim(a.text, char(32, 9, 10, 13)) != '') = 2 "
            "AND NOT EXISTS (SELECT 1 FROM judgement j WHERE j.evaluation_id = i.evaluation_id "
            "     AND j.item = i.item AND j.annotator = ?) ORDER BY i.item",
            (evaluation_id, annotator),
        )
        return [_item(r) for r in rows]

    def _answers_by_id(self, ids: Iterable[int]) -> dict[int, Answer]:
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM answer WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(ids)),),
        )
        return {r["id"]: _answer(r) for r in rows}


_EVALUATION = (
    "SELECT e.*, l.pid, l.host, l.process, l.heartbeat_at FROM evaluation e "
    "LEFT JOIN evaluation_lease l ON l.evaluation_id = e.id"
)


def _evaluation(r: sqlite3.Row) -> Evaluation:
    held = r["pid"] is not None and alive(r, time.time())
    state = r["status"]
    if state == "running" and not held:
        state = "stopped"
    return Evaluation(
        id=r["id"],
        kind=r["kind"],
        fingerprint=r["fingerprint"],
        contestant_a=r["contestant_a"],
        contestant_b=r["contestant_b"],
        identity_a=stored(r, "evaluation", "identity_a"),
        identity_b=stored(r, "evaluation", "identity_b"),
        run_a_id=r["run_a_id"],
        run_b_id=r["run_b_id"],
        judge=r["judge"],
        judge_identity=stored(r, "evaluation", "judge_identity"),
        source=r["source"],
        source_sha256=r["source_sha256"],
        settings=stored(r, "evaluation", "settings"),
        state=state,
        stage=r["stage"],
        done=r["done"],
        total=r["total"],
        error=r["error"],
        result=stored(r, "evaluation", "result"),
        created_at=r["created_at"],
        started_at=r["started_at"],
        finished_at=r["finished_at"],
    )


def _item(r: sqlite3.Row) -> Item:
    turns, reference = (stored(r, "evaluation_item", name) for name in ("turns", "reference"))
    return Item(r["item"], r["category"], tuple(turns), reference, r["external_id"])


def _answer(r: sqlite3.Row) -> Answer:
    return Answer(
        key=bytes(r["key"]),
        origin=r["origin"],
        model=r["model"],
        model_sha256=r["model_sha256"],
        adapter_sha256=r["adapter_sha256"],
        template=r["template"],
        sampler=stored(r, "answer", "sampler"),
        seed=r["seed"],
        prompt=r["prompt"],
        text=r["text"],
        finish=r["finish"],
        prompt_tokens=r["prompt_tokens"],
        new_tokens=r["new_tokens"],
        seconds=r["seconds"],
        id=r["id"],
    )


def as_judgement(r: sqlite3.Row) -> Judgement:
    """A row of the table of judgements. Raises UserError where its JSON is damaged."""
    return Judgement(
        item=r["item"],
        ordering=r["ordering"],
        turn=r["turn"],
        annotator=r["annotator"],
        key=bytes(r["key"]) if r["key"] is not None else None,
        answer_a_id=r["answer_a_id"],
        answer_b_id=r["answer_b_id"],
        score_a=r["score_a"],
        score_b=r["score_b"],
        probabilities=stored(r, "judgement", "probabilities"),
        words=r["words"],
        text_score_a=r["text_score_a"],
        text_score_b=r["text_score_b"],
        parsed=r["parsed"],
        choice=r["choice"],
        seconds=r["seconds"],
        id=r["id"],
    )
