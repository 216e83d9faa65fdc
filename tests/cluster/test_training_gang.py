"""Workers that train together: the losses of one process, also where one of them is killed on the way."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtui.cluster.training_worker import TrainingWorker
from srtui.student import Student, StudentSource
from srtui.training import Listener, TrainingData, TrainingResult, WrittenCheckpoint, train
from srtui.training.ranks import Together
from tests.training.conftest import make_examples, tiny_folder
from tests.training.ranked import SETTINGS

__all__ = ["tiny_folder"]
pytestmark = pytest.mark.model
HELD_OUT = {"original": make_examples(13)[10:]}


class Hears(Listener):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: dict[int, dict[str, float]] = {}
        self.begun: list[int] = []
        self.notes: list[str] = []
        self.saved_steps: list[int] = []

    def begins(self, step: int, tokens: int) -> None:
        self.begun.append(step)

    def metric(self, step: int, values: dict[str, float]) -> None:
        self.steps.append(step)
        self.values[step] = values

    def saved(self, written: WrittenCheckpoint) -> None:
        assert (written.path / "manifest.json").is_file()
        self.saved_steps.append(written.step)

    def note(self, message: str) -> None:
        self.notes.append(message)


def in_one_process(folder: Path, out: Path, steps: int | None = None) -> tuple[Hears, TrainingResult | None]:
    hears = Hears()
    result = train(
        folder,
        make_examples(),
        HELD_OUT,
        SETTINGS,
        out,
        hears,
        lambda: steps is not None and len(hears.steps) >= steps,
        student=Student.load(folder, "f32", arithmetic="float32"),
    )
    return hears, result


def elsewhere(
    there: Any, folder: Path, out: Path, hears: Hears, should_stop: Callable[[], bool] = lambda: False
) -> TrainingResult | None:
    student = Student.load(folder, "f32")
    data = TrainingData(make_examples(), SETTINGS, HELD_OUT)
    result: TrainingResult | None = there.train(
        student, StudentSource(folder, "f32"), data, out, hears, should_stop
    )
    assert student.model is None  # it made room
    return result


def same(one: Hears, other: Hears) -> None:
    assert one.values.keys() == other.values.keys()
    for step, values in one.values.items():
        for name in ("loss", "grad_norm", "learning_rate"):
            assert other.values[step][name] == pytest.approx(values[name], abs=1e-4, rel=1e-4), (step, name)


def dies_at_step(number: int, once: Path, after: Path) -> type[TrainingWorker]:
    """Training workers the second of which is killed (-9) as it adds up the gradients of step ``number``, the first time;
    not before the engine has the checkpoint ``after``, for what it fetches is fetched late on a busy machine. The class
    goes to the workers with this function's values in it."""

    class Dies(TrainingWorker):
        def begin(self, task: Any, rank: int, *rest: Any) -> None:
            if rank == 1 and not once.exists():
                add_up, steps = Together.add_up, itertools.count(1)

                def dies(ranks: Together, parameters: Any) -> None:
                    if next(steps) == number:
                        until = time.monotonic() + 120
                        while not after.exists() and time.monotonic() < until:
                            time.sleep(0.02)
                        once.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    add_up(ranks, parameters)

                Together.add_up = dies  # type: ignore[method-assign]
            super().begin(task, rank, *rest)

    return Dies


def test_a_worker_killed_in_training_costs_no_more_than_the_steps_since_the_checkpoint(
    tiny_folder: Path, tmp_path: Path, place: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, result = in_one_process(tiny_folder, tmp_path / "one" / "adapter")
    assert result is not None
    there = place(workers=2)
    killed, checkpoint = tmp_path / "killed", tmp_path / "two" / "checkpoints" / "step-0000004"
    monkeypatch.setattr("srtui.cluster.training_gang.TrainingWorker", dies_at_step(5, killed, checkpoint))
    hears = Hears()
    out = tmp_path / "two" / "adapter"
    together = elsewhere(there, tiny_folder, out, hears)
    assert together is not None and killed.exists()
    same(one, hears)
    assert hears.begun[0] == 0 and hears.begun[1] in (4, 6) and len(hears.begun) == 2
    assert sorted(set(hears.steps)) == list(range(1, 10))
    assert sum("start anew from the last checkpoint" in note for note in hears.notes) == 1
    assert together.steps == result.steps and together.adapter_dir == out
    assert (out / "adapter_model.safetensors").is_file() and (out / "tokenizer.json").is_file()
    kept = sorted(p.name for p in (tmp_path / "two" / "checkpoints").iterdir())
    assert kept == ["step-0000008", "step-0000009"]
    for moment in ("before", "after"):
        assert together.held_out["original"][moment] == pytest.approx(
            result.held_out["original"][moment], abs=1e-4
        )


@pytest.mark.slow
def test_a_training_goes_on_elsewhere_than_it_began(
    tiny_folder: Path, tmp_path: Path, place: Callable[..., Any]
) -> None:
    """One process, then two workers, which are stopped, then one process again: the same steps, each taken once."""
    one, _ = in_one_process(tiny_folder, tmp_path / "one" / "adapter")
    out = tmp_path / "two" / "adapter"
    first, result = in_one_process(tiny_folder, out, steps=3)
    assert result is None
    hears = Hears()
    assert elsewhere(place(workers=2), tiny_folder, out, hears, lambda: len(hears.steps) >= 2) is None
    assert hears.begun == [3]
    last, result = in_one_process(tiny_folder, out)
    assert result is not None
    whole = Hears()
    whole.values = {**first.values, **hears.values, **last.values}
    same(one, whole)
    assert first.steps + hears.steps + last.steps == list(range(1, 10))
