"""The store's side of evaluations: cached answers, judgements with both answers, the human queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.evaluation.results import pairwise_result
from srtui.store import Store
from srtui.store.evaluations import Answer, Evaluation, Item, Judgement, NewEvaluation
from srtui.store.views import Views

NOTHING_JUDGED = pairwise_result([], [], {}, 0, 0.0)


def answer(text: str, **values: Any) -> Answer:
    given: dict[str, Any] = {
        "key": text.encode(), "origin": "file", "model": "m", "model_sha256": "", "adapter_sha256": None,
        "template": "", "sampler": {}, "seed": 0, "prompt": "", "text": text, "finish": "end",
    }  # fmt: skip
    return Answer(**(given | values))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store" / "s.sqlite")


def made(store: Store, fingerprint: str = "f", kind: Any = "pairwise") -> Evaluation:
    items = [Item(n, "math" if n % 2 else "writing", (f"question {n}",)) for n in range(4)]
    evaluation, _ = store.evaluations.prepare(
        NewEvaluation(
            kind, fingerprint, "A", {"model": "m"}, "p.jsonl", "sha", {"seed": 1}, "B", {}, items=items
        )
    )
    store.evaluations.add_answers(
        evaluation.id,
        [(n, side, 1, answer(f"{side} {n}")) for n in range(4) for side in ("a", "b")],  # type: ignore[misc]
    )
    return evaluation


def test_the_same_fingerprint_is_the_same_evaluation(store: Store) -> None:
    first = made(store)
    assert made(store).id == first.id
    assert made(store, "other").id != first.id
    assert store.value("SELECT count(*) FROM answer") == 8  # each text once
    assert len(store.evaluations.items(first.id)) == 4
    assert store.check() == []


def test_judgements_come_with_both_answers(store: Store) -> None:
    evaluation = made(store)
    answers = store.evaluations.answers(evaluation.id)
    ids = answers[1, "a", 1].id, answers[1, "b", 1].id
    said = [
        Judgement(1, order, key=order.encode(), answer_a_id=ids[0], answer_b_id=ids[1], score_a=7.5, score_b=3.0,
                  probabilities={"a": [0.1] * 10, "b": [0.1] * 10, "mass": [0.9, 0.8]}, words="A is better.")
        for order in ("ab", "ba")
    ]  # fmt: skip
    store.evaluations.add_judgements(evaluation.id, said)
    store.evaluations.add_judgements(evaluation.id, said)  # twice is harmless
    views = Views(store.path)
    pairs = views.evaluations.judged(evaluation.id)
    assert [p.judgement.ordering for p in pairs] == ["ab", "ba"]
    assert pairs[0].answer_a is not None and pairs[0].answer_a.text == "a 1"
    assert pairs[0].answer_b is not None and pairs[0].answer_b.text == "b 1"
    assert pairs[0].item.turns == ("question 1",)
    assert views.evaluations.judged(evaluation.id, category="writing") == []
    known = store.evaluations.known_judgement(b"ab")
    assert known is not None and known.score_a == 7.5
    assert store.evaluations.known_judgement(b"never") is None
    store.evaluations.delete(evaluation.id)
    assert store.value("SELECT count(*) FROM judgement") == 0
    assert store.value("SELECT count(*) FROM answer") == 8


def test_the_human_queue(store: Store) -> None:
    evaluation = made(store, kind="human")
    reads = store.evaluations
    assert [i.item for i in reads.unjudged_by(evaluation.id, "ada")] == [0, 1, 2, 3]
    reads.human_choice(evaluation.id, 2, "ada", "ba", "b", 4.5)
    reads.human_choice(evaluation.id, 2, "ada", "ab", "a")  # a change of mind
    reads.human_choice(evaluation.id, 0, "ada", "ab", "skip")
    assert [i.item for i in reads.unjudged_by(evaluation.id, "ada")] == [1, 3]
    assert len(reads.unjudged_by(evaluation.id, "ben")) == 4
    assert reads.annotators(evaluation.id) == {"ada": 2}
    assert [j.choice for j in reads.judgements(evaluation.id, annotator="ada")] == ["skip", "a"]
    assert reads.undo_human_choice(evaluation.id, "ada") == 0
    assert reads.undo_human_choice(evaluation.id, "ben") is None
    assert reads.annotators(evaluation.id) == {"ada": 1}
    with pytest.raises(UserError, match="needs a name"):
        reads.human_choice(evaluation.id, 1, " ", "ab", "a")
    with pytest.raises(UserError, match="not both answers"):
        reads.human_choice(evaluation.id, 99, "ada", "ab", "a")


def test_one_engine_at_a_time(store: Store) -> None:
    evaluation = made(store)
    lease = store.evaluations.acquire(evaluation.id)
    store.evaluations.update(evaluation.id, status="running")
    assert store.evaluations.get(evaluation.id).state == "running"
    with pytest.raises(UserError, match="is being worked on"):
        store.evaluations.acquire(evaluation.id)
    lease.release()
    assert store.evaluations.get(evaluation.id).state == "stopped"  # its engine is gone
    store.evaluations.update(evaluation.id, status="done", result=NOTHING_JUDGED)
    assert store.evaluations.get(evaluation.id).result == NOTHING_JUDGED
    assert [e.id for e in store.evaluations.all(kind="pairwise")] == [evaluation.id]
    assert store.evaluations.all(run_id=1) == []
    with pytest.raises(UserError, match="no evaluation 9"):
        store.evaluations.get(9)
