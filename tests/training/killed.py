"""A training for a test to kill."""

from __future__ import annotations

from pathlib import Path

from srtui.recipe import TrainingSettings
from srtui.student import Student
from srtui.training import Listener, train
from tests.training.conftest import make_examples

CONFIG = TrainingSettings(
    epochs=6, batch_size=4, micro_batch_size=2, lora_rank=2, lora_dropout=0.1, checkpoint_steps=2, seed=11
)


class Writes(Listener):
    """Each step's loss, at once, to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def metric(self, step: int, values: dict[str, float]) -> None:
        self._file.write(f"{step} {values['loss']!r} {values['grad_norm']!r} {values['learning_rate']!r}\n")
        self._file.flush()


def main(student: Path, quantization: str, arithmetic: str, out: Path, losses: Path) -> None:
    """Train the student of ``make_examples`` into ``out``, with each step's figures in ``losses``."""
    student_model = Student.load(student, quantization, arithmetic=arithmetic)  # type: ignore[arg-type]
    train(student, make_examples(), {}, CONFIG, out, Writes(losses), student=student_model)
