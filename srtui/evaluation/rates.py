"""What an evaluation's stored judgements amount to, by its kind and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.evaluation.judge_calibration import calibration_result
from srtui.evaluation.length_control import Anchors, LengthItem
from srtui.evaluation.people import human_result
from srtui.evaluation.results import (
    HALF_STEP,
    Lengths,
    judged_rows,
    pairwise_result,
    shares,
    turns_result,
    winrate_result,
)
from srtui.store import Store
from srtui.store.evaluations import Answer, Evaluation

if TYPE_CHECKING:
    from srtui.evaluation.judge_model import JudgeModel


def figures(
    store: Store,
    evaluation: Evaluation,
    skipped: Mapping[str, int] | None = None,
    anchors: Anchors | None = None,
) -> dict[str, Any]:
    """The result of an evaluation as its stored judgements give it now.

    Args:
        store: with its judgements.
        evaluation: which.
        skipped: by reason, what could not be asked; as it is stored if None.
        anchors: for the length control, where there are any.
    """
    rows, seed = store.evaluations, int(evaluation.settings.get("seed", 0))
    items, judgements = rows.items(evaluation.id), rows.judgements(evaluation.id)
    if evaluation.kind == "human":
        return human_result(items, judgements, rows.blank_answers(evaluation.id))
    if evaluation.kind == "turns":
        return turns_result(items, judgements, seed) | _calibrated(store, evaluation)
    if evaluation.kind == "calibration":
        return calibration_result(items, judgements, skipped or {}, seed)
    lengths = _lengths(store, evaluation)
    margin = _margin(evaluation)
    if evaluation.kind == "winrate":
        rated = winrate_result(items, judgements, lengths, seed, margin, anchors)
    else:
        rated = pairwise_result(items, judgements, lengths, seed, margin)
    return rated | _calibrated(store, evaluation)


def rows_of(store: Store, evaluation: Evaluation) -> list[LengthItem]:
    """What a win rate's length control is fitted on; raises UserError for another kind of evaluation, or one
    that is not done."""
    if evaluation.kind != "winrate" or evaluation.state != "done":
        raise UserError(
            f"Evaluation {evaluation.id} is no win rate that is done ({evaluation.kind}, {evaluation.state}); "
            "srtui eval list shows which are."
        )
    rows = store.evaluations
    items, judgements = rows.items(evaluation.id), rows.judgements(evaluation.id)
    return judged_rows(items, judgements, _lengths(store, evaluation))


def outcomes(store: Store, evaluation: Evaluation) -> dict[int, float]:
    """A's share of each item of a comparison that is decided: 1 won, 1/2 a tie, 0 lost."""
    rows = store.evaluations
    items, judgements = rows.items(evaluation.id), rows.judgements(evaluation.id)
    return shares(items, judgements, _lengths(store, evaluation), _margin(evaluation))


def _margin(evaluation: Evaluation) -> float:
    """Evaluations of before the margin was kept have none."""
    return float(evaluation.settings.get("tie_margin", {"value": 0.0})["value"])


def _lengths(store: Store, evaluation: Evaluation) -> Lengths:
    answers = store.evaluations.answers(evaluation.id)
    items = store.evaluations.items(evaluation.id)
    return {i.item: (_length(answers[i.item, "a", 1]), _length(answers[i.item, "b", 1])) for i in items}


def _length(answer: Answer) -> int:
    """Characters; 0 for an answer of nothing but space, which is none."""
    return len(answer.text) if answer.text.strip() else 0


def margin_of(store: Store, judge: JudgeModel, stated: float | None) -> dict[str, Any]:
    """The tie margin of a judge, and where it is from: stated, its last calibration with this prompt, or half
    a step of the scale."""
    if stated is not None:
        return {"value": stated, "from": "stated"}
    for other in store.evaluations.all(kind="calibration"):
        by, result = other.judge_identity or {}, other.result or {}
        is_this_judge = (by.get("sha256"), by.get("prompt_version")) == (
            judge.sha256,
            judge.prompt.prompt_version,
        )
        if is_this_judge and result.get("tie_margin") is not None:
            return {"value": float(result["tie_margin"]), "from": f"calibration {other.id}"}
    return {"value": HALF_STEP, "from": "half a step of the scale"}


def _calibrated(store: Store, evaluation: Evaluation) -> dict[str, Any]:
    """The last calibration of this very judge, for a reader who asks what it is worth."""
    sha256 = (evaluation.judge_identity or {}).get("sha256")
    for other in store.evaluations.all(kind="calibration"):
        if other.result and (other.judge_identity or {}).get("sha256") == sha256:
            keep = ("judged", "kappa", "agreement", "better_than_chance")
            return {"calibration": {"evaluation": other.id, **{k: other.result[k] for k in keep}}}
    return {"calibration": None}
