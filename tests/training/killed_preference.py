"""A training on pairs in a process of its own, for a test to kill: python killed_preference.py STUDENT OUT LOSSES."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student
from srtui.training import Listener, train
from srtui.training.training_pair import TrainingPair
from srtui.workspace import go_offline

CONFIG = TrainingSettings(
    method="dpo", epochs=6, batch_size=2, micro_batch_size=2, lora_rank=2, checkpoint_steps=2, learning_rate=1e-3,
    seed=11,
)  # fmt: skip


def make_pairs(count: int) -> list[TrainingPair]:
    """Of different lengths and, for a random model, arbitrary tokens; both texts of a pair begin alike."""
    pairs = []
    for n in range(count):
        prompt = tuple((7 * n + 13 * place) % 900 + 5 for place in range(4 + n))
        one, other = (
            tuple((step * place + n) % 900 + 5 for place in range(size))
            for step, size in ((11, 5 + n), (17, 9 - n % 4))
        )
        pairs.append(TrainingPair(Span(prompt + one, len(one)), Span(prompt + other, len(other))))
    return pairs


def with_reference(student: Student, pairs: list[TrainingPair]) -> list[TrainingPair]:
    """These pairs with the log-probabilities by the student as it is."""
    spans = [span for pair in pairs for span in (pair.chosen, pair.rejected)]
    nlls = {n: loss.nll for n, loss in Scorer(student).score(spans)}
    return [replace(pair, reference=(-nlls[2 * n], -nlls[2 * n + 1])) for n, pair in enumerate(pairs)]  # type: ignore[operator]


class Writes(Listener):
    """Each step's loss and margin, at once, to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def metric(self, step: int, values: dict[str, float]) -> None:
        self._file.write(f"{step} {values['loss']!r} {values['grad_norm']!r} {values['reward_margin']!r}\n")
        self._file.flush()


def main(folder: Path, out: Path, losses: Path) -> None:
    student = Student.load(folder, "nf4", arithmetic="float32")
    pairs = with_reference(student, make_pairs(6))
    train(folder, pairs, {}, CONFIG, out, Writes(losses), student=student)


if __name__ == "__main__":
    go_offline()
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
