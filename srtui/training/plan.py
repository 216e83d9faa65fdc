"""What is trained, with which settings, and in which order: all of it known before the first step."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from srtui.hashing import key
from srtui.recipe import TrainingSettings
from srtui.student import Span
from srtui.training.training_pair import TrainingPair

# A checkpoint may be shared whatever these are: they are for safety alone, or are no part of the loop.
_NO_PART = ("enabled", "held_out", "checkpoint_steps", "checkpoints_kept")


def fingerprint(
    settings: TrainingSettings, student_id: str, examples: Sequence[Span | TrainingPair], held_out: str
) -> str:
    """Of all that the weights after a step depend on: equal ones may share a checkpoint.

    Args:
        settings: how it is trained; those at their defaults are left out, so that a setting that a later
            version adds changes no training that was begun.
        student_id: ``Student.id`` of the student before training.
        examples: what is trained on, in the order in which they were selected.
        held_out: stands for what early stopping looks at.

    Returns:
        The key of the training, in hexadecimal digits.
    """
    fields = type(settings).model_fields
    changed = {
        name: value
        for name, value in settings.model_dump(exclude=set(_NO_PART)).items()
        if value != fields[name].default
    }
    if not settings.seed:
        changed.pop("seed", None)  # 0 is what is drawn by where no seed is given
    digest = key(
        "training",
        student=student_id,
        settings=changed,
        examples=[e.digest for e in examples],
        held_out=held_out,
    )
    return digest.hex()


def evaluation_interval(settings: TrainingSettings, steps_an_epoch: int) -> int:
    """Held-out losses are measured every so many steps; 0 for only before and after training.

    By default four times an epoch where early stopping needs them.
    """
    if settings.evaluation_steps != "auto":
        return settings.evaluation_steps
    return max(1, steps_an_epoch // 4) if settings.early_stopping else 0


def steps_an_epoch(examples: int, settings: TrainingSettings) -> int:
    """Optimizer steps in which each of ``examples`` is seen once; the last one may be smaller."""
    return math.ceil(examples / settings.batch_size)


def planned_steps(examples: int, settings: TrainingSettings) -> int:
    """Optimizer steps that ``train`` will take."""
    if settings.steps is not None:
        return settings.steps if examples else 0
    return math.ceil(steps_an_epoch(examples, settings) * settings.epochs)


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate of ``step``, from 1 to ``steps``.

    It rises in equal parts to the full rate, which the last step of the warm-up has, and falls from
    there, by a line or half a cosine, to what would be 0 after the last step. transformers' schedules
    begin one step earlier, at 0, so that a first step changes nothing.
    """
    warmup = math.ceil(steps * settings.warmup_ratio)
    if step <= warmup:
        return settings.learning_rate * step / warmup
    share = (step - 1 - warmup) / max(1, steps - warmup)
    rest_of = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
    return settings.learning_rate * rest_of[settings.scheduler]


def plan_steps(
    lengths: Sequence[int], settings: TrainingSettings, *, packed: bool, ranks: int = 1
) -> list[list[list[int]]]:
    """The whole training: steps, their micro-batches, indices into ``lengths`` (tokens).

    Each epoch is a permutation by the seed, cut into optimizer steps of ``batch_size``: how a step is
    cut into micro-batches changes only rounding. Packed ones are made about equally long, so that the
    memory of the largest is low; padded ones hold samples of like length, so that little is padded.

    Args:
        lengths: of the examples, in tokens.
        settings: [training] of a recipe.
        packed: whether the examples of a micro-batch lie end to end.
        ranks: how many processes train together; each gets as many micro-batches, as far as there are examples.
    """
    steps: list[list[list[int]]] = []
    steps_wanted = planned_steps(len(lengths), settings)
    epoch = 0
    while len(steps) < steps_wanted:
        order = list(range(len(lengths)))
        random.Random(f"{settings.seed or 0} {epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
        for begin in range(0, len(order), settings.batch_size):
            batch = sorted(order[begin : begin + settings.batch_size], key=lambda i: -lengths[i])
            steps.append(_cut(batch, settings.micro_batch_size, packed=packed, ranks=ranks))
        epoch += 1
    return steps[:steps_wanted]


def set_apart(step: Sequence[Sequence[int]], alone: Sequence[bool]) -> list[list[int]]:
    """A step's micro-batches, those that must run ``alone`` in one of their own."""
    together = [[i for i in micro if not alone[i]] for micro in step]
    return [micro for micro in together if micro] + [[i] for micro in step for i in micro if alone[i]]


def _cut(batch: Sequence[int], size: int, *, packed: bool, ranks: int = 1) -> list[list[int]]:
    """``batch``, longest first, in micro-batches of at most ``size``, as many for each of ``ranks``."""
    count = math.ceil(len(batch) / size)
    if ranks > 1:
        count = min(len(batch), math.ceil(count / ranks) * ranks)
    if not packed and ranks > 1:
        bounds = [len(batch) * n // count for n in range(count + 1)]
        return [list(batch[begin:end]) for begin, end in pairwise(bounds)]
    if not packed:
        return [list(batch[n * size : (n + 1) * size]) for n in range(count)]
    piles: list[list[int]] = [[] for _ in range(count)]
    for n, sample in enumerate(batch):  # dealt there and back, so that no pile gets the long ones
        turn, place = divmod(n, count)
        piles[place if turn % 2 == 0 else count - 1 - place].append(sample)
    return piles
