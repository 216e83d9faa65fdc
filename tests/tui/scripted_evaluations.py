"""Evaluations as engines and people leave them, made without a model; scores are drawn by a seed."""

from __future__ import annotations

import random

from srtui.evaluation.results import pairwise_result, turns_result
from srtui.evaluation.writing import file_answer
from srtui.store import Store
from srtui.store.evaluations import Item, Judgement, NewEvaluation, Ordering
from tests.tui.scripted_store import THEN, demo_pairs

CATEGORIES = ("writing", "explaining", "facts")


def items(count: int) -> list[Item]:
    pairs = demo_pairs()
    return [
        Item(n, CATEGORIES[n % 3], (f"{p.instruction}\n{p.input}".strip(),))
        for n, p in enumerate(pairs[:count])
    ]


def begin(store: Store, kind: str, count: int, b: str | None = "base:quickstart", **more: object) -> int:
    """A new evaluation of the finished run, with answers on both sides; returns its id."""
    run = store.runs.named("quickstart")
    asked = items(count)
    made, _ = store.evaluations.prepare(
        NewEvaluation(
            kind=kind,  # type: ignore[arg-type]
            fingerprint=f"{kind}-{count}",
            contestant_a="quickstart",
            identity_a={"kind": "student"},
            contestant_b=b,
            identity_b={"kind": "student"} if b else None,
            run_a_id=run.id,
            run_b_id=run.id if b else None,
            source="prompts.jsonl",
            source_sha256="0" * 64,
            settings={"seed": 7},
            items=asked,
            **more,  # type: ignore[arg-type]
        )
    )
    pairs = demo_pairs()
    store.evaluations.add_answers(
        made.id,
        [
            (i.item, side, 1, file_answer(text, name))  # type: ignore[misc]
            for i in asked
            for side, name, text in (
                ("a", "quickstart", f"In short: {pairs[i.item].response}"),
                ("b", "base:quickstart", pairs[i.item].response),
            )
            if b or side == "a"
        ],
    )
    return made.id


def judge(store: Store, evaluation_id: int, count: int, seed: int, alone: bool = False) -> list[Judgement]:
    """What a judge says of the first ``count`` items, in each order."""
    draw = random.Random(seed)
    answers = store.evaluations.answers(evaluation_id)
    said = []
    orderings: tuple[Ordering, ...] = ("a",) if alone else ("ab", "ba")
    for n in range(count):
        for ordering in orderings:
            rows = [[draw.random() ** 3 for _ in range(10)] for _ in range(1 if alone else 2)]
            rows = [[p / sum(row) for p in row] for row in rows]
            scores = [sum((k + 1) * p for k, p in enumerate(row)) for row in rows]
            parsed = n % 5 != 4
            said.append(
                Judgement(
                    n,
                    ordering,
                    answer_a_id=answers[n, "a", 1].id,
                    answer_b_id=None if alone else answers[n, "b", 1].id,
                    score_a=scores[0],
                    score_b=None if alone else scores[1],
                    probabilities={"a": rows[0], "b": rows[-1], "mass": [0.9, 0.8]},
                    words="Answer 1 is clear and complete; it names what the question asks for. Answer 1: 8/10"
                    if parsed
                    else "I cannot compare these.",
                    text_score_a=8.0 if parsed else None,
                    parsed="parsed" if parsed else "no_score",
                    seconds=1.5,
                )
            )
    store.evaluations.add_judgements(evaluation_id, said)
    return said


def add_evaluations(store: Store) -> None:
    """One of a judge that is done, one of scores by turn, one by people half-way, one that was stopped."""
    done = begin(store, "pairwise", 24, judge="smollm2-135m")
    said = judge(store, done, 24, 1)
    lengths = {n: (120 + n, 100 + n) for n in range(24)}
    result = pairwise_result(store.evaluations.items(done), said, lengths)
    store.evaluations.update(done, status="done", done=48, total=48, result=result)
    turns = begin(store, "turns", 9, None, judge="smollm2-135m")
    said = judge(store, turns, 9, 2, alone=True)
    result = turns_result(store.evaluations.items(turns), said)
    store.evaluations.update(turns, status="done", done=9, total=9, result=result)
    people = begin(store, "human", 6)
    store.evaluations.human_choice(people, 4, "ada", "ba", "tie", 12.0)
    store.evaluations.update(people, status="stopped", stage="people", done=1, total=6)
    stopped = begin(store, "pairwise", 30, judge="smollm2-135m")
    judge(store, stopped, 3, 3)
    store.evaluations.update(stopped, status="stopped", stage="judge", done=6, total=60)
    with store.transaction():
        store.conn.execute("UPDATE evaluation SET created_at = ? + 60 * id", (THEN,))
