"""What engines and people add to evaluations: items, answers, judgements, and the lease of who works on one.

Answers and judgements carry keys of all that determines them, so that what is stored is never asked
again. What they are, and what reads them, is in ``evaluations``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.store import leases
from srtui.store._query import fetch_rows, fetch_value
from srtui.store.evaluations import (
    Answer,
    Choice,
    Evaluation,
    EvaluationReads,
    Item,
    Judgement,
    NewEvaluation,
    Ordering,
    Side,
    as_judgement,
)
from srtui.store.leases import Lease

if TYPE_CHECKING:
    from srtui.store import Store


class Evaluations(EvaluationReads):
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
            made = store.conn.execute(
                "INSERT INTO evaluation(kind, fingerprint, contestant_a, contestant_b, identity_a, identity_b, "
                "run_a_id, run_b_id, judge, judge_identity, source, source_sha256, settings, status, created_at) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,'new',?)",
                (
                    new.kind, new.fingerprint, new.contestant_a, new.contestant_b, _json(new.identity_a),
                    _json(new.identity_b), new.run_a_id, new.run_b_id, new.judge, _json(new.judge_identity),
                    new.source, new.source_sha256, _json(new.settings), time.time(),
                ),
            )  # fmt: skip
            evaluation_id = int(made.lastrowid or 0)
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
                        _json(list(i.turns)),
                        _json(i.reference),
                    )
                    for i in items
                ],
            )

    def update(self, evaluation_id: int, **values: Any) -> None:
        """Set columns of an evaluation: status, stage, done, total, error, result (as a dict), times."""
        if "result" in values:
            values["result"] = _json(values["result"])
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

    # -- answers ----------------------------------------------------------------------------

    def known_answers(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Ids of the answers that are stored, by key."""
        answer_ids: dict[bytes, int] = {}
        for key in keys:
            answer_id = fetch_value(self._conn, "SELECT id FROM answer WHERE key = ?", (key,))
            if answer_id is not None:
                answer_ids[key] = int(answer_id)
        return answer_ids

    def answer(self, answer_id: int) -> Answer:
        """The answer of this id, which must be there."""
        return self._answers_by_id([answer_id])[answer_id]

    def add_answers(self, evaluation_id: int, answers: Iterable[tuple[int, Side, int, Answer]]) -> None:
        """Store answers of (item, side, turn), each text once, and say whose they are."""
        with self._store.transaction():
            for item, side, turn, a in answers:
                self._store.conn.execute(
                    "INSERT OR IGNORE INTO answer(key, origin, model, model_sha256, adapter_sha256, template, sampler, "
                    "seed, prompt, text, finish, prompt_tokens, new_tokens, seconds, created_at) "
                    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        a.key, a.origin, a.model, a.model_sha256, a.adapter_sha256, a.template, _json(a.sampler),
                        a.seed, a.prompt, a.text, a.finish, a.prompt_tokens, a.new_tokens, a.seconds, time.time(),
                    ),
                )  # fmt: skip
                answer_id = fetch_value(self._conn, "SELECT id FROM answer WHERE key = ?", (a.key,))
                self.use_answer(evaluation_id, item, side, turn, int(answer_id))

    def use_answer(self, evaluation_id: int, item: int, side: Side, turn: int, answer_id: int) -> None:
        """A stored answer serves this evaluation too.

        Args:
            evaluation_id: of the evaluation.
            item: from 0, in the order of its source.
            side: a or b.
            turn: from 1.
            answer_id: of the stored answer.
        """
        with self._store.transaction():
            self._store.conn.execute(
                "INSERT OR REPLACE INTO evaluation_answer(evaluation_id, item, side, turn, answer_id) "
                "VALUES (?,?,?,?,?)",
                (evaluation_id, item, side, turn, answer_id),
            )

    # -- judgements -------------------------------------------------------------------------

    def known_judgement(self, *keys: bytes | None) -> Judgement | None:
        """What the same judge said of the same answers in the same order before, in any evaluation, under
        the first of these keys that one has."""
        for key in filter(None, keys):
            rows = fetch_rows(self._conn, "SELECT * FROM judgement WHERE key = ? ORDER BY id LIMIT 1", (key,))
            if rows:
                return as_judgement(rows[0])
        return None

    def add_judgements(self, evaluation_id: int, judgements: Iterable[Judgement]) -> None:
        """Store judgements; a person's second word on an item takes the place of the first, in any order."""
        with self._store.transaction():
            for j in judgements:
                if j.annotator:
                    self._store.conn.execute(
                        "DELETE FROM judgement WHERE evaluation_id = ? AND item = ? AND annotator = ?",
                        (evaluation_id, j.item, j.annotator),
                    )
                self._store.conn.execute(
                    "INSERT OR REPLACE INTO judgement(evaluation_id, item, turn, ordering, annotator, key, answer_a_id, "
                    "answer_b_id, score_a, score_b, probabilities, words, text_score_a, text_score_b, parsed, choice, "
                    "seconds, created_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        evaluation_id, j.item, j.turn, j.ordering, j.annotator, j.key, j.answer_a_id, j.answer_b_id,
                        j.score_a, j.score_b, _json(j.probabilities), j.words, j.text_score_a, j.text_score_b,
                        j.parsed, j.choice, j.seconds, time.time(),
                    ),
                )  # fmt: skip

    def human_choice(
        self,
        evaluation_id: int,
        item: int,
        annotator: str,
        ordering: Ordering,
        choice: Choice,
        seconds: float = 0.0,
    ) -> None:
        """A person's choice, already turned to A and B; ``ordering`` says which was shown first.

        Raises UserError for an empty name, or an item that has not both answers.

        Args:
            evaluation_id: of the evaluation.
            item: from 0, in the order of its source.
            annotator: who chose.
            ordering: ab or ba.
            choice: a, b, tie, bad or skip.
            seconds: that the person took.
        """
        if not annotator.strip():
            raise UserError("A person's judgement needs a name; give one with --annotator NAME.")
        rows = fetch_rows(
            self._conn,
            "SELECT side, answer_id FROM evaluation_answer WHERE evaluation_id = ? AND item = ? AND turn = 1",
            (evaluation_id, item),
        )
        ids = {r["side"]: int(r["answer_id"]) for r in rows}
        if set(ids) != {"a", "b"}:
            raise UserError(f"Item {item} of evaluation {evaluation_id} has not both answers yet.")
        self.add_judgements(
            evaluation_id,
            [
                Judgement(
                    item, ordering, annotator=annotator, answer_a_id=ids["a"], answer_b_id=ids["b"],
                    choice=choice, seconds=seconds,
                )
            ],
        )  # fmt: skip

    def undo_human_choice(self, evaluation_id: int, annotator: str) -> int | None:
        """Take back this person's last choice; returns its item, or None where there is none."""
        with self._store.transaction():
            rows = fetch_rows(
                self._conn,
                "SELECT id, item FROM judgement WHERE evaluation_id = ? AND annotator = ? ORDER BY id DESC LIMIT 1",
                (evaluation_id, annotator),
            )
            if not rows:
                return None
            self._store.conn.execute("DELETE FROM judgement WHERE id = ?", (rows[0]["id"],))
        return int(rows[0]["item"])


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
