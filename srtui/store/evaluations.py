"""Evaluations: who was compared on what, and who works on it. Their answers are in ``answers``, what judges and people
said of them in ``judgements``.

Reads need a connection only, so the dashboard's views and the store share them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from srtui.errors import UserError
from srtui.store import leases
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.answers import Answer, AnswerReads, Answers, Side
from srtui.store.judgements import (
    CHOICES,
    Choice,
    Judgement,
    JudgementReads,
    Judgements,
    Ordering,
    as_judgement,
)
from srtui.store.leases import Lease, alive
from srtui.store.stored import as_json, stored

if TYPE_CHECKING:
    from srtui.store import Store

__all__ = [
    "CHOICES", "KINDS", "Answer", "Choice", "Evaluation", "EvaluationReads", "Evaluations", "Item", "JudgedPair",
    "Judgement", "Kind", "NewEvaluation", "Ordering", "Side",
]  # fmt: skip

Kind = Literal["pairwise", "winrate", "turns", "choice", "calibration", "human"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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


class EvaluationReads(AnswerReads, JudgementReads):
    """Reads over one connection whose rows are ``sqlite3.Row``: of evaluations, their answers and judgements."""

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
        is_storable = abs(evaluation_id) < 2**63
        rows = (
            fetch_rows(self._conn, f"{_EVALUATION} WHERE e.id = ?", (evaluation_id,)) if is_storable else []
        )
        if not rows:
            highest = fetch_value(self._conn, "SELECT max(id) FROM evaluation")
            advice = (
                f"ids go up to {highest}; srtui eval list shows them"
                if highest
                else "there is none yet; srtui eval --help shows how to make one"
            )
            raise UserError(f"There is no evaluation {evaluation_id}; {advice}.")
        return _evaluation(rows[0])

    def items(self, evaluation_id: int) -> list[Item]:
        """What was asked, in order."""
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM evaluation_item WHERE evaluation_id = ? ORDER BY item",
            (evaluation_id,),
        )
        return [_item(r) for r in rows]

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
        answers = self.answers_by_id(
            {r[side] for r in rows for side in ("answer_a_id", "answer_b_id") if r[side] is not None}
        )
        return [
            JudgedPair(
                as_judgement(r), _item(r), answers.get(r["answer_a_id"]), answers.get(r["answer_b_id"])
            )
            for r in rows
        ]

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


class Evaluations(EvaluationReads, Answers, Judgements):
    """``store.evaluations``: the reads, and the writes of engines and people."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.conn)
        self._store = store

    def prepare(self, new: NewEvaluation, first_fingerprint: str = "") -> tuple[Evaluation, bool]:
        """The evaluation of this fingerprint, or of the one that an earlier srtui gave it, and whether it
        is new; its items are stored with it."""
        store = self._store
        with store.transaction():
            earlier = fetch_value(
                self._conn,
                "SELECT max(id) FROM evaluation WHERE fingerprint IN (?, ?)",
                (new.fingerprint, first_fingerprint or new.fingerprint),
            )
            if earlier is not None:
                return self.get(earlier), False
            cursor = store.conn.execute(
                "INSERT INTO evaluation(kind, fingerprint, contestant_a, contestant_b, identity_a, identity_b, "
                "run_a_id, run_b_id, judge, judge_identity, source, source_sha256, settings, status, created_at) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,'new',?)",
                (
                    new.kind, new.fingerprint, new.contestant_a, new.contestant_b, as_json(new.identity_a),
                    as_json(new.identity_b), new.run_a_id, new.run_b_id, new.judge, as_json(new.judge_identity),
                    new.source, new.source_sha256, as_json(new.settings), time.time(),
                ),
            )  # fmt: skip
            evaluation_id = int(cursor.lastrowid or 0)
            self.add_items(evaluation_id, new.items)
        return self.get(evaluation_id), True

    def add_items(self, evaluation_id: int, items: Iterable[Item]) -> None:
        """Store items; those that are there already stay as they are."""
        with self._store.transaction():
            self._store.conn.executemany(
                "INSERT OR IGNORE INTO evaluation_item(evaluation_id, item, external_id, category, turns, reference) "
                "VALUES (?,?,?,?,?,?)",
                [
                    (
                        evaluation_id,
                        i.item,
                        i.external_id,
                        i.category,
                        as_json(list(i.turns)),
                        as_json(i.reference),
                    )
                    for i in items
                ],
            )

    def update(self, evaluation_id: int, **values: Any) -> None:
        """Set columns of an evaluation: status, stage, done, total, error, result (as a dict), times."""
        if "result" in values:
            values["result"] = as_json(values["result"])
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._store.transaction():
            self._store.conn.execute(
                f"UPDATE evaluation SET {columns} WHERE id = ?", (*values.values(), evaluation_id)
            )

    def delete(self, evaluation_id: int) -> None:
        """Forget an evaluation and its judgements; its answers stay, for they may serve others."""
        with self._store.transaction():
            self._store.conn.execute("DELETE FROM evaluation WHERE id = ?", (evaluation_id,))

    def acquire(self, evaluation_id: int) -> Lease:
        """Take the evaluation for this process, as ``Runs.acquire`` takes a run."""
        with self._store.transaction():
            held = leases.holder(self._store, "evaluation", evaluation_id)
            if held is not None:
                raise UserError(
                    f"Evaluation {evaluation_id} is being worked on by process {held.pid} on {held.host}; "
                    "wait for it, or stop it there with Ctrl-C."
                )
            lease = Lease(self._store, evaluation_id, "evaluation")
        return lease.start()


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
