"""Answers: texts of contestants, each stored once with all that determined it, and which evaluations they serve."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from srtui.store._query import fetch_rows, fetch_value
from srtui.store.stored import as_json, stored

if TYPE_CHECKING:
    from srtui.store import Store

Side = Literal["a", "b"]


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


class AnswerReads:
    """Reads over one connection whose rows are ``sqlite3.Row``."""

    _conn: sqlite3.Connection

    def answers(self, evaluation_id: int) -> dict[tuple[int, Side, int], Answer]:
        """The answers of an evaluation by (item, side, turn); those not made yet are absent."""
        rows = fetch_rows(
            self._conn,
            "SELECT ea.item, ea.side, ea.turn, a.* FROM evaluation_answer ea JOIN answer a ON a.id = ea.answer_id "
            "WHERE ea.evaluation_id = ?",
            (evaluation_id,),
        )
        return {(r["item"], r["side"], r["turn"]): _answer(r) for r in rows}

    def blank_answers(self, evaluation_id: int) -> dict[int, frozenset[Side]]:
        """Who of A and B has an answer of nothing but space (or none) to the first turn, by item; items
        with both answers are absent."""
        blank: dict[int, frozenset[Side]] = {}
        for (item, side, turn), answer in self.answers(evaluation_id).items():
            if turn == 1 and not answer.text.strip():
                blank[item] = blank.get(item, frozenset()) | {side}
        return blank

    def answers_by_id(self, ids: Iterable[int]) -> dict[int, Answer]:
        """The answers of these ids."""
        rows = fetch_rows(
            self._conn,
            "SELECT * FROM answer WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted(ids)),),
        )
        return {r["id"]: _answer(r) for r in rows}


class Answers(AnswerReads):
    """The writes of engines. Answers carry keys of all that determines them, so that none is asked for again."""

    _store: Store

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
        return self.answers_by_id([answer_id])[answer_id]

    def add_answers(self, evaluation_id: int, answers: Iterable[tuple[int, Side, int, Answer]]) -> None:
        """Store answers of (item, side, turn), each text once, and say whose they are."""
        with self._store.transaction():
            for item, side, turn, a in answers:
                self._store.conn.execute(
                    "INSERT OR IGNORE INTO answer(key, origin, model, model_sha256, adapter_sha256, template, sampler, "
                    "seed, prompt, text, finish, prompt_tokens, new_tokens, seconds, created_at) "
                    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        a.key, a.origin, a.model, a.model_sha256, a.adapter_sha256, a.template, as_json(a.sampler),
                        a.seed, a.prompt, a.text, a.finish, a.prompt_tokens, a.new_tokens, a.seconds, time.time(),
                    ),
                )  # fmt: skip
                answer_id = fetch_value(self._conn, "SELECT id FROM answer WHERE key = ?", (a.key,))
                self.use_answer(evaluation_id, item, side, turn, int(answer_id))

    def use_answer(self, evaluation_id: int, item: int, side: Side, turn: int, answer_id: int) -> None:
        """A stored answer serves this evaluation too.

        Args:
            evaluation_id: of the evaluation.
            item: number of the item, from 0, in the order of its source.
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
