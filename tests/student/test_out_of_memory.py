"""A GPU that runs out, simulated where torch says so: in the model's forward."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from srtui.errors import UserError
from srtui.student import Scorer, Span
from tests.student.test_packing import tiny

START = tuple(range(30, 62))


class SmallDevice:
    """Passes of more than ``most`` tokens, and those that ``refuses`` says, run out of memory."""

    def __init__(self, model: Any, most: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.most, self.passes, self.refused, self.error = most, 0, 0, error
        self.held: list[weakref.ref[Any]] = []
        self.alive_when_asked_again: list[int] = []
        model.model.layers[1].register_forward_pre_hook(self._look)

    def _look(self, module: Any, given: Any) -> None:
        self.passes += 1
        assert self.passes < 400, "it tries for ever"
        if self.held:
            self.alive_when_asked_again.append(sum(ref() is not None for ref in self.held))
            self.held.clear()
        if given[0].shape[0] * given[0].shape[1] > self.most:
            self.refused += 1
            self.held.append(weakref.ref(given[0]))
            raise self.error("CUDA error: CUBLAS_STATUS_ALLOC_FAILED, out of memory.")


@pytest.mark.parametrize(
    ("most", "error"),
    [
        (20, torch.OutOfMemoryError),
        (33, torch.OutOfMemoryError),
        (45, torch.OutOfMemoryError),
        (20, RuntimeError),
    ],
)
def test_a_student_that_leaves_no_memory_is_said_to_be_too_large(
    most: int, error: type[RuntimeError]
) -> None:
    """And not to be no causal model, or one whose texts cannot be packed; by PyTorch, or by cuBLAS beneath it."""
    model = tiny("llama")
    SmallDevice(model.model, most, error)
    with pytest.raises(UserError, match=r"leaves no memory on the device for even a short text"):
        Scorer(model)


def _spans(count: int, tail: int = 10) -> list[Span]:
    return [Span((*START, *((n + 3 * i) % 28 + 1 for i in range(tail))), 5) for n in range(count)]


def _alone(spans: list[Span]) -> list[float]:
    scorer = Scorer(tiny("llama"), 1)
    return [next(iter(scorer.score([s])))[1].nll for s in spans]


def _scored(scorer: Scorer, spans: list[Span]) -> list[Any]:
    found = dict(scorer.score(spans))
    return [found[n] for n in range(len(spans))]


def test_memory_that_runs_out_inside_a_shared_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning is longer than any pass may be: no KeyError, a reason."""
    student = tiny("llama")
    scorer = Scorer(student, 400)
    SmallDevice(student.model, 20)
    losses = _scored(scorer, _spans(12))
    assert {loss.reason for loss in losses} == {"out_of_memory"}


def test_memory_that_runs_out_once_in_a_shared_beginning() -> None:
    student = tiny("llama")
    scorer = Scorer(student, 400)
    device = SmallDevice(student.model, 20)

    def more(*_: Any) -> None:  # others have gone from the device by then
        if device.refused:
            device.most = 1000

    student.model.model.register_forward_pre_hook(more)
    spans = _spans(12)
    assert [loss.nll for loss in _scored(scorer, spans)] == pytest.approx(_alone(spans), rel=1e-5)
    assert device.refused == 1


def test_the_batch_shrinks_until_it_fits_with_shared_beginnings() -> None:
    """What is halved is what was run: the beginnings, which were not, made the half as much as before."""
    student = tiny("llama")
    scorer = Scorer(student, 10_000)
    device = SmallDevice(student.model, 40)
    spans = _spans(64)
    losses = _scored(scorer, spans)
    assert scorer.tokens_saved > 0
    assert [loss.nll for loss in losses] == pytest.approx(_alone(spans), rel=1e-5)
    assert 0 < device.refused <= 6  # 640 tokens, halved


def test_what_did_not_fit_is_gone_before_the_next_try() -> None:
    """An exception in hand holds every tensor of the pass that failed, and the cache cannot be emptied."""
    student = tiny("llama")
    scorer = Scorer(student, 400)
    device = SmallDevice(student.model, 100)
    gc.disable()
    try:
        _scored(scorer, _spans(40))
    finally:
        gc.enable()
    assert device.refused
    assert device.alive_when_asked_again
    assert not any(device.alive_when_asked_again)
