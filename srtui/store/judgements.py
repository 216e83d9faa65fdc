"""Judgements: what judge models and people said of answers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from srtui.errors import UserError
from srtui.store._query import fetch_rows
from srtui.store.stored import as_json, stored

if TYPE_CHECKING:
    from srtui.store import Store

Ordering = Literal["ab", "ba", "a"]
Choice = Literal["a", "b", "tie", "bad", "skip"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


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


class JudgementReads:
    """Reads over one connection whose rows are ``sqlite3.Row``."""

    _conn: sqlite3.Connection

    def judgements(self, evaluation_id: int, *, annotator: str | None = None) -> list[Judgement]:
        """Judgements by item, turn and order; only one person's where ``annotator`` is given."""
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM judgement WHERE evaluation_id = ? AND (? IS NULL OR annotator = ?) "
            "ORDER BY item, turn, ordering, annotator",
            (evaluation_id, annotator, annotator),
        )
        return [as_judgement(r) for r in rows]

    def annotators(self, evaluation_id: int) -> dict[str, int]:
        """People who judged in a human evaluation, with how many items each has done (skips too)."""
        rows = fetch_rows(
            self._conn,
            "SELECT annotator, count(*) AS n FROM judgement WHERE evaluation_id = ? AND annotator != '' "
            "GROUP BY annotator ORDER BY annotator",
            (evaluation_id,),
        )
        return {r["annotator"]: int(r["n"]) for r in rows}


class Judgements(JudgementReads):
    """The writes of engines and people. Judgements carry keys of all that determines them, so that none is asked for
    again."""

    _store: Store

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
                        j.score_a, j.score_b, as_json(j.probabilities), j.words, j.text_score_a, j.text_score_b,
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
            raise UserError(
                f"Item {item} of evaluation {evaluation_id} has not both answers yet; run its command again, which writes them."
            )
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
