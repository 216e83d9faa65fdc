"""A training by several processes, for a test to start."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from srtui.recipe import TrainingSettings
from srtui.student import Student
from srtui.training import Listener, train
from srtui.training.ranks import Ranks, Together
from tests.training.conftest import make_examples

SETTINGS = TrainingSettings(
    epochs=3, batch_size=4, micro_batch_size=2, lora_rank=2, lora_dropout=0.0, checkpoint_steps=2, seed=11,
    learning_rate=5e-3,
)  # fmt: skip
"""Ten samples: every third step has two, and a rank one of them."""


class Hears(Listener):
    """Each step's figures to a file, at once; with ``die_at``, the process is gone in the middle of that step."""

    def __init__(self, path: Path, die_at: int = 0) -> None:
        self._path, self._die_at = path, die_at

    def metric(self, step: int, values: dict[str, float]) -> None:
        with self._path.open("a") as file:
            print(step, json.dumps(values), file=file, flush=True)
        if step == self._die_at:
            os._exit(9)


def main(
    folder: Path,
    out: Path,
    changed: dict[str, object],
    rank: int = 0,
    count: int = 1,
    port: int = 0,
    stop_rank_after: tuple[int, int] | None = None,
    die_at: int = 0,
) -> None:
    """Train the student in ``folder`` into ``out`` as rank ``rank`` of ``count``; ``stop_rank_after``: this rank alone
    is asked to stop, after so many of its passes."""
    import torch

    torch.set_num_threads(1)
    settings = SETTINGS.model_copy(update=changed)
    ranks = Together(rank, count, f"tcp://127.0.0.1:{port}", "gloo", 60) if count > 1 else Ranks()
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_rank_after is not None and stop_rank_after[0] == rank and asked > stop_rank_after[1]

    out.mkdir(parents=True, exist_ok=True)
    student = Student.load(folder, "f32", arithmetic="float32")
    held_out = {"original": make_examples(13)[10:]}
    result = train(
        folder, make_examples(), held_out, settings, out / "adapter", Hears(out / "steps", die_at), should_stop,
        student=student, ranks=ranks,
    )  # fmt: skip
    if result is not None and rank == 0:
        (out / "result").write_text(json.dumps({"held_out": result.held_out, "steps": result.steps}))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
