"""What a training reports: while it works, to a listener, and what came of it at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srtui.recipe import TrainingSettings
    from srtui.student import Span
    from srtui.training.checkpoints import WrittenCheckpoint
    from srtui.training.preference_loss import Rewards
    from srtui.training.preflight import Preflight
    from srtui.training.training_pair import TrainingPair


@dataclass(frozen=True)
class TrainingData:
    """What a training is given: ``examples`` in the order in which they were selected, spans for ``sft`` and pairs
    otherwise; the recipe's ``settings``; by set, spans whose loss is measured (``held_out``); and pairs whose rewards
    are (``held_out_pairs``)."""

    examples: Sequence[Span] | Sequence[TrainingPair]
    settings: TrainingSettings
    held_out: Mapping[str, Sequence[Span]]
    held_out_pairs: Sequence[TrainingPair] = ()


@dataclass(frozen=True)
class TrainingResult:
    """``tokens`` went through the model, padding not counted; losses are means in nats a token.

    ``held_out`` maps a set's name to samples, before and after. ``kept_step`` is the step whose weights
    were kept: the last, or the best one where early stopping looked for it. ``changed`` is false where
    the adapter is still what it was made with: the student is then the untuned one. ``arithmetic`` is
    the type that the student computed in. ``memory`` is the most that was in use while it trained, in bytes.
    """

    adapter_dir: Path
    steps: int
    kept_step: int
    first_loss: float
    last_loss: float
    tokens: int
    seconds: float
    arithmetic: str
    changed: bool
    memory: int = 0
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    rewards: Rewards | None = None
    """What the kept weights make of the held-out preference pairs."""


class Listener:
    """What ``train`` reports while it works; each does nothing unless overridden."""

    def planned(self, facts: Preflight) -> None:
        """Before the first step."""

    def begins(self, step: int, tokens: int) -> None:
        """It resumes after this step (0: from the start), and after so many tokens; what was reported of
        later steps is reported again."""

    def metric(self, step: int, values: dict[str, float]) -> None:
        """After each step: loss, learning_rate, grad_norm, tokens and seconds so far, memory_mb; and
        held_out_NAME after an evaluation."""

    def saved(self, written: WrittenCheckpoint) -> None:
        """A checkpoint is on the disk."""

    def removed(self, step: int) -> None:
        """A checkpoint made room for newer ones."""

    def refused(self, step: int, why: str) -> None:
        """A checkpoint could not be used."""

    def note(self, message: str) -> None:
        """Something that a person may want to know."""
