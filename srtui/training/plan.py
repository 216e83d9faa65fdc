"""What is trained, with which settings, and in which order: all of it known before the first step."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from srtui.hashing import key
from srtui.student import Span


@dataclass(frozen=True)
class TrainingConfig:
    """QLoRA's knobs; ``batch_size`` samples make one optimizer step, ``micro_batch_size`` at most one
    pass. ``steps``, where it is given, is how many are taken, whatever ``epochs`` says.
    srtui.recipe.Training says what the others are."""

    epochs: float = 3.0
    learning_rate: float = 2e-4
    batch_size: int = 16
    micro_batch_size: int = 4
    warmup_ratio: float = 0.03
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    rslora: bool = False
    dora: bool = False
    neftune_alpha: float = 0.0
    packing: Literal["auto"] | bool = "auto"
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    checkpoint_steps: Literal["auto"] | int = "auto"
    checkpoints_kept: int = 2
    evaluation_steps: Literal["auto"] | int = "auto"
    early_stopping: int = 0
    seed: int = 0
    steps: int | None = None

    def fingerprint(self, student_id: str, examples: Sequence[Span], held_out: str) -> str:
        """Of all that the weights after a step depend on: equal ones may share a checkpoint.

        ``held_out`` stands for what early stopping looks at.
        """
        settings = asdict(self)
        for name in ("checkpoint_steps", "checkpoints_kept"):
            settings.pop(name)
        changed = {n: v for n, v in settings.items() if v != getattr(TrainingConfig, n)}
        made = key(
            "training",
            student=student_id,
            settings=changed,
            examples=[e.digest for e in examples],
            held_out=held_out,
        )
        return made.hex()

    def evaluations(self, steps_an_epoch: int) -> int:
        """Held-out losses are measured every so many steps; 0 for only before and after training.

        By default four times an epoch where early stopping needs them.
        """
        if self.evaluation_steps != "auto":
            return self.evaluation_steps
        return max(1, steps_an_epoch // 4) if self.early_stopping else 0


def steps_an_epoch(examples: int, config: TrainingConfig) -> int:
    return math.ceil(examples / config.batch_size)


def planned_steps(examples: int, config: TrainingConfig) -> int:
    """Optimizer steps that ``train`` will take."""
    if config.steps is not None:
        return config.steps if examples else 0
    return math.ceil(steps_an_epoch(examples, config) * config.epochs)


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """The learning rate of ``step``, from 1 to ``steps``.

    It rises in equal parts to the full rate, which the last step of the warm-up has, and falls from
    there, by a line or half a cosine, to what would be 0 after the last step. transformers' schedules
    begin one step earlier, at 0, so that a first step changes nothing.
    """
    warmup = math.ceil(steps * config.warmup_ratio)
    if step <= warmup:
        return config.learning_rate * step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * left[config.scheduler]


def plan_steps(lengths: Sequence[int], config: TrainingConfig, *, packed: bool) -> list[list[list[int]]]:
    """The whole training: steps, their micro-batches, indices into ``lengths`` (tokens).

    Each epoch is a permutation by the seed, cut into optimizer steps of ``batch_size``: how a step is
    cut into micro-batches changes only rounding. Packed ones are made about equally long, so that the
    memory of the largest is low; padded ones hold samples of like length, so that little is padded.
    """
    steps: list[list[list[int]]] = []
    wanted = planned_steps(len(lengths), config)
    epoch = 0
    while len(steps) < wanted:
        order = list(range(len(lengths)))
        random.Random(f"{config.seed} {epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
        for at in range(0, len(order), config.batch_size):
            batch = sorted(order[at : at + config.batch_size], key=lambda i: -lengths[i])
            steps.append(_cut(batch, config.micro_batch_size, packed=packed))
        epoch += 1
    return steps[:wanted]


def set_apart(step: Sequence[Sequence[int]], alone: Sequence[bool]) -> list[list[int]]:
    """A step's micro-batches, those that must run ``alone`` in one of their own."""
    together = [[i for i in micro if not alone[i]] for micro in step]
    return [micro for micro in together if micro] + [[i] for micro in step for i in micro if alone[i]]


def _cut(batch: Sequence[int], size: int, *, packed: bool) -> list[list[int]]:
    """``batch``, longest first, in micro-batches of at most ``size``."""
    count = math.ceil(len(batch) / size)
    if not packed:
        return [list(batch[n * size : (n + 1) * size]) for n in range(count)]
    piles: list[list[int]] = [[] for _ in range(count)]
    for n, sample in enumerate(batch):  # dealt there and back, so that no pile gets the long ones
        turn, place = divmod(n, count)
        piles[place if turn % 2 == 0 else count - 1 - place].append(sample)
    return piles
