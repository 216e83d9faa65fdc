"""A combination of measures: the fit against scikit-learn's, and what it makes of what it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.errors import UserError
from srtui.evaluation.combination import LEAST_PAIRS, Combination, fit_combination, fit_logistic
from srtui.recipe.measure_weights import MeasureWeights, read_weights, weights_text

WEIGHTS = MeasureWeights(
    student="s", student_id="id", template="alpaca", template_version="v", protocol="default", data="d.jsonl",
    data_digest="00", pairs=100, accuracy=(0.7, 0.6, 0.8), length_accuracy=(0.6, 0.5, 0.7), weights={"ifd": 1.5, "length": -0.25},
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.1, 1.0, 10.0]))
def test_the_fit_is_scikit_learn_s(seed: int, measures: int, ridge: float) -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(seed)
    x = generator.normal(size=(80, measures)) * 10.0 ** generator.integers(-3, 3, measures)
    y = (generator.random(80) < 1 / (1 + np.exp(-x[:, 0] / np.abs(x[:, 0]).mean()))).astype(float)
    if len(set(y)) < 2:
        return
    scale = np.sqrt((x**2).mean(axis=0))
    reference = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        x / scale, y
    )
    assert fit_logistic(x, y, ridge) * scale == pytest.approx(reference.coef_[0], abs=1e-4)


def test_what_tells_wins_from_losses_wholly_has_finite_weights() -> None:
    x = np.linspace(-1, 1, 60)[:, None] * np.array([[1.0, 0.0]])
    weights = fit_logistic(x, (x[:, 0] > 0).astype(float))
    assert np.isfinite(weights).all() and weights[0] > 0 and weights[1] == 0


def planted(count: int, seed: int = 1) -> tuple[list[int], dict[str, list[tuple[float, float] | None]]]:
    """``good`` and ``also`` each know something of the preference, ``same`` is ``good`` on another scale."""
    generator = np.random.default_rng(seed)
    preferred = [int(p) for p in generator.integers(1, 3, count)]
    columns: dict[str, list[tuple[float, float] | None]] = {"good": [], "same": [], "also": [], "noise": []}
    for p in preferred:
        lead = 1.0 if p == 1 else -1.0
        good, also, noise = (generator.normal(size=2) for _ in range(3))
        good[0] += lead
        also[0] += lead
        columns["good"].append((float(good[0]), float(good[1])))
        columns["same"].append((-3 * float(good[0]), -3 * float(good[1])))
        columns["also"].append((float(also[0]), float(also[1])))
        columns["noise"].append((float(noise[0]), float(noise[1])))
    return preferred, columns


def right(values: list[tuple[float, float] | None], preferred: list[int]) -> float:
    return sum(
        v is not None and (v[0] > v[1]) == (p == 1) for v, p in zip(values, preferred, strict=True)
    ) / len(preferred)


def test_it_is_better_than_its_parts_on_what_it_has_not_seen() -> None:
    preferred, columns = planted(600)
    found = fit_combination(preferred, columns)
    assert isinstance(found, Combination) and set(found.weights) == {"good", "also", "noise"}
    best = max(right(columns[name], preferred) for name in columns)
    assert right(found.held_out, preferred) > best + 0.03
    assert abs(found.weights["noise"]) < 0.3 < found.weights["good"]
    assert found == fit_combination(preferred, columns)


def test_of_noise_it_learns_nothing() -> None:
    """Fitted on itself it would be right in 60 % and more of 60 pairs; held out it is at chance."""
    shares = []
    for seed in range(20):
        preferred, _columns = planted(60, seed)
        generator = np.random.default_rng(seed)
        noise = {n: [tuple(map(float, generator.normal(size=2))) for _ in preferred] for n in "abcdef"}
        found = fit_combination(preferred, noise)  # type: ignore[arg-type]
        assert isinstance(found, Combination)
        shares.append(right(found.held_out, preferred))
    assert 0.44 < sum(shares) / len(shares) < 0.56


def test_pairs_without_a_value_and_ties_are_left_out() -> None:
    preferred, columns = planted(LEAST_PAIRS + 2)
    preferred[0], columns["good"][1] = 0, None
    found = fit_combination(preferred, columns)
    assert isinstance(found, Combination)
    assert found.held_out[0] is None and found.held_out[1] is None and found.held_out[2] is not None
    preferred[2] = 0
    assert "it takes 50" in str(fit_combination(preferred, columns))


def test_the_file_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_text(weights_text(WEIGHTS), encoding="utf-8")
    assert read_weights(file) == WEIGHTS and WEIGHTS.measures == ["ifd"]
    for change, sentence in (
        ({"weights": {"nothing": 1.0}}, r"weights\.nothing is no measure"),
        ({"weights": {"combined": 1.0}}, r"weights\.combined is no measure"),
        ({"weights": {}}, "weights"),
        ({"student": 3}, "student"),
    ):
        file.write_text(json.dumps(json.loads(weights_text(WEIGHTS)) | change), encoding="utf-8")
        with pytest.raises(UserError, match=sentence):
            read_weights(file)


def test_pairs_of_one_question_are_held_out_together() -> None:
    """They may share an answer: weights that saw one of them are not held against another."""
    preferred, columns = planted(120)
    questions = [n % 30 for n in range(120)]
    found = fit_combination(preferred, {"good": columns["good"]}, questions=questions)
    assert isinstance(found, Combination)
    weight_of: dict[int, set[float]] = {}
    for question, out, own in zip(questions, found.held_out, columns["good"], strict=True):
        assert out is not None
        assert own is not None
        weight_of.setdefault(question, set()).add(round(out[0] / own[0], 9))
    assert all(len(weights) == 1 for weights in weight_of.values())
    assert len(set().union(*weight_of.values())) == 5
    alone = fit_combination(preferred, {"good": columns["good"]}, questions=list(range(120)))
    assert alone == fit_combination(preferred, {"good": columns["good"]})
    assert fit_combination(preferred, columns, questions=[0] * 120) == (
        "the pairs are of 1 questions, and it takes 5 to hold some out"
    )
