"""The order of the data: every sample once an epoch, the same for the same seed, whatever the passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.recipe import TrainingSettings
from srtui.student import Span
from srtui.training import planned_steps
from srtui.training.plan import evaluation_interval, fingerprint, learning_rate, plan_steps


@pytest.mark.parametrize(
    ("examples", "epochs", "batch", "micro", "steps"),
    [(10, 1, 4, 2, 3), (10, 2, 4, 4, 6), (1, 3, 16, 4, 3), (0, 3, 16, 4, 0), (17, 0.5, 4, 4, 3)],
)
def test_planned_steps(examples: int, epochs: float, batch: int, micro: int, steps: int) -> None:
    config = TrainingSettings(epochs=epochs, batch_size=batch, micro_batch_size=micro)
    assert planned_steps(examples, config) == steps
    assert len(plan_steps([9] * examples, config, packed=True)) == steps


def test_a_given_number_of_steps_counts_whatever_the_epochs() -> None:
    config = TrainingSettings(epochs=1, batch_size=4, micro_batch_size=2, steps=7)
    assert planned_steps(5, config) == 7
    assert len(plan_steps([3] * 5, config, packed=False)) == 7
    assert plan_steps([], config, packed=True) == []


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    batch=st.integers(1, 5),
    micro=st.integers(1, 4),
    seed=st.integers(0, 9),
    packed=st.booleans(),
)
def test_each_epoch_has_every_sample_once(
    lengths: list[int], batch: int, micro: int, seed: int, packed: bool
) -> None:
    config = TrainingSettings(epochs=2, batch_size=batch * micro, micro_batch_size=micro, seed=seed)
    steps = plan_steps(lengths, config, packed=packed)
    half = len(steps) // 2
    for epoch in (steps[:half], steps[half:]):
        assert sorted(i for step in epoch for part in step for i in part) == list(range(len(lengths)))
    assert all(1 <= len(part) <= micro for step in steps for part in step)
    assert all(len(step) <= batch for step in steps)
    assert plan_steps(lengths, config, packed=packed) == steps
    # How a step is cut does not change which samples it is made of.
    other = plan_steps(lengths, config, packed=not packed)
    assert [{i for p in s for i in p} for s in steps] == [{i for p in s for i in p} for s in other]


def test_padded_passes_hold_like_lengths_and_packed_ones_like_sums() -> None:
    lengths = [100, 10, 90, 20, 80, 30, 70, 40]
    config = TrainingSettings(epochs=1, batch_size=8, micro_batch_size=2)
    (padded,), (packed,) = (plan_steps(lengths, config, packed=p) for p in (False, True))
    assert [[lengths[i] for i in part] for part in padded] == [[100, 90], [80, 70], [40, 30], [20, 10]]
    assert {sum(lengths[i] for i in part) for part in packed} == {110}


def test_the_fingerprint_tells_trainings_apart() -> None:
    one = [Span((1, 2, 3), 1)]
    config = TrainingSettings()
    known = fingerprint(config, "student", one, "")
    assert fingerprint(config, "student", one, "") == known
    assert fingerprint(TrainingSettings(checkpoint_steps=3, checkpoints_kept=9), "student", one, "") == known
    others = [
        fingerprint(TrainingSettings(learning_rate=1e-5), "student", one, ""),
        fingerprint(config, "other", one, ""),
        fingerprint(config, "student", [Span((1, 2, 3), 2)], ""),
        fingerprint(config, "student", [*one, *one], ""),
        fingerprint(config, "student", one, "watched"),
    ]
    assert len({known, *others}) == 6


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, "02bbaefca4d2c8aebd68a95c57799078af"),
        ({"seed": 0}, "02bbaefca4d2c8aebd68a95c57799078af"),
        ({"seed": 5}, "02705b14d116f39e8c386f63cfab9656ac"),
        (
            {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 2},
            "02e1dc7555c07e92e34c8f81fe1c8937a0",
        ),
        (
            {"steps": 7, "packing": False, "dora": True, "rslora": True, "neftune_alpha": 5},
            "02b80bbc17af98df3b8351372764258dbf",
        ),
    ],
)
def test_a_training_begun_by_an_earlier_version_is_resumed(changes: dict[str, Any], known: str) -> None:
    """Where this fails, the checkpoints of a training that was stopped are refused."""
    spans = [Span((1, 2, 3), 1), Span((5, 6, 7, 8), 2)]
    assert fingerprint(TrainingSettings(**changes), "s", spans, "h") == known


def test_evaluations_are_made_where_early_stopping_needs_them() -> None:
    assert evaluation_interval(TrainingSettings(), 100) == 0
    assert evaluation_interval(TrainingSettings(early_stopping=2), 100) == 25
    assert evaluation_interval(TrainingSettings(early_stopping=2), 1) == 1
    assert evaluation_interval(TrainingSettings(evaluation_steps=7), 100) == 7


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_learning_rate_is_never_0_and_rises_and_falls(scheduler: str, steps: int) -> None:
    config = TrainingSettings(learning_rate=1.0, warmup_ratio=0.1, scheduler=scheduler)  # type: ignore[arg-type]
    rates = [learning_rate(step, steps, config) for step in range(1, steps + 1)]
    top = math.ceil(steps * 0.1)
    assert rates[:top] == pytest.approx([(n + 1) / top for n in range(top)])
    assert max(rates) == rates[top - 1] == 1.0
    assert min(rates) > 0
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if scheduler == "constant":
        assert set(rates[top:]) <= {1.0}
