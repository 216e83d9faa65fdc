"""Training on its device: the optimizer's state through a checkpoint, half precision beside float32 adapters, what
does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.errors import UserError
from srtui.models.memory import free_bytes
from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student
from srtui.training import Listener, preflight, train, trainer
from tests.training.conftest import make_examples

SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=2,
    micro_batch_size=1,
    lora_rank=4,
    lora_dropout=0.0,
    learning_rate=1e-2,
    checkpoint_steps=2,
    checkpoints_kept=20,
    seed=1,
)


class Losses(Listener):
    def __init__(self) -> None:
        self.by_step: dict[int, float] = {}

    def metric(self, step: int, values: dict[str, float]) -> None:
        self.by_step[step] = values["loss"]


def go(
    folder: Path, out: Path, device: str, stop_after: int | None = None, **changes: Any
) -> dict[int, float]:
    """Losses by step, until it is asked to stop."""
    heard = Losses()
    student = Student.load(folder, "nf4", device)
    settings = SETTINGS.model_copy(update=changes)
    stop = (lambda: len(heard.by_step) >= stop_after) if stop_after else (lambda: False)
    train(folder, make_examples(), {}, settings, out / "adapter", heard, student=student, should_stop=stop)
    student.close()
    return heard.by_step


def optimizers(device: str) -> list[str]:
    return ["paged_adamw_8bit", "adamw"] if device == "cuda" else ["adamw"]


def test_a_resumed_training_is_the_undisturbed_one(tiny_folder: Path, tmp_path: Path, device: str) -> None:
    """With the paged 8-bit optimizer's state out of and into a checkpoint. On a GPU attention's gradient is added
    up in another order each time, so losses are equal to some digits."""
    for optimizer in optimizers(device):
        whole = go(tiny_folder, tmp_path / f"{optimizer}-whole", device, optimizer=optimizer)
        assert len(whole) == 15
        assert whole[15] < whole[1]
        first = go(tiny_folder, tmp_path / f"{optimizer}-cut", device, stop_after=7, optimizer=optimizer)
        rest = go(tiny_folder, tmp_path / f"{optimizer}-cut", device, optimizer=optimizer)
        assert len(first) == 7 and min(rest) in (7, 8), "it began anew"
        exactly = {"rel": 0.0, "abs": 0.0} if device == "cpu" else {"rel": 2e-2}
        assert {step: rest[step] for step in rest} == pytest.approx(
            {step: whole[step] for step in rest}, **exactly
        )


def test_adapters_stay_in_float32(tiny_folder: Path, tmp_path: Path, device: str) -> None:
    """Under autocast products are bfloat16; what is trained is not, so that small updates are not lost."""
    made: list[Any] = []
    init = trainer.Trainer.__init__

    def noted(self: Any, *arguments: Any, **settings: Any) -> None:
        init(self, *arguments, **settings)
        made.append(self)

    trainer.Trainer.__init__ = noted  # type: ignore[method-assign]
    try:
        go(tiny_folder, tmp_path, device, learning_rate=1e-6, epochs=1)
    finally:
        trainer.Trainer.__init__ = init  # type: ignore[method-assign]
    # Before Ampere bfloat16 is only imitated, and then not used.
    assert made[0]._half == (device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    parameters = made[0]._parameters
    assert parameters and all(p.dtype == torch.float32 for p in parameters)
    # Of each pair of matrices the first is drawn and the second begins as zeros; an update of 1e-6 shows in it.
    assert (
        sum(bool((p != 0).any()) and float(p.abs().max()) < 1e-3 for p in parameters) >= len(parameters) // 2
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_computed_twice_have_the_same_losses(
    tiny_folder: Path, tmp_path: Path, device: str, checkpointing: bool
) -> None:
    plain = go(tiny_folder, tmp_path / "plain", device, gradient_checkpointing=False, epochs=1)
    again = go(tiny_folder, tmp_path / "again", device, gradient_checkpointing=checkpointing, epochs=1)
    assert again == pytest.approx(plain, rel=2e-2)


def test_what_does_not_fit_is_said_with_what_would(
    tiny_folder: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the estimate; on a GPU by the device itself, too, where the estimate was too low."""
    monkeypatch.setattr(preflight, "free_bytes", lambda place: 100_000)
    advice = r"Training does not fit: it takes about .* GB of memory and 0\.0 GB are free; (set|choose)"
    with pytest.raises(UserError, match=advice):
        go(tiny_folder, tmp_path, device)
    if device == "cpu":
        return
    monkeypatch.undo()
    monkeypatch.setattr(preflight, "needed_bytes", lambda *_, **__: 1)
    student = Student.load(tiny_folder, "nf4", device)
    dict(Scorer(student).score(make_examples()))  # what libraries keep for themselves is taken by now
    filler = torch.empty(free_bytes(student.device) - 96 * 2**20, dtype=torch.uint8, device=device)
    long = [Span(e.ids * 4, e.target) for e in make_examples() * 60]
    settings = SETTINGS.model_copy(
        update={"batch_size": 600, "micro_batch_size": 600, "gradient_checkpointing": False}
    )
    with pytest.raises(UserError, match=r"Training does not fit: the GPU's memory ran out; (set|choose)"):
        train(tiny_folder, long, {}, settings, tmp_path / "adapter", Losses(), student=student)
    del filler
