"""What a training is measured on and does not learn from: sets of spans, and preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student

if TYPE_CHECKING:
    from srtui.training.preference import Rewards, TrainingPair

PREFERENCE = "preference"
"""The name of the pairs among the sets."""
_WATCHED = (PREFERENCE, "selected", "original")


class HeldOut:
    """``rewards`` are those of the pairs at the last measurement; None without pairs, or before the first."""

    def __init__(
        self,
        student: Student,
        scorer: Scorer,
        spans: Mapping[str, Sequence[Span]],
        pairs: Sequence[TrainingPair],
        settings: TrainingSettings,
    ) -> None:
        self._student, self._scorer, self._settings = student, scorer, settings
        self._spans, self._pairs = spans, pairs
        self.rewards: Rewards | None = None

    def __bool__(self) -> bool:
        return bool(self._spans or self._pairs)

    @property
    def sets(self) -> dict[str, Sequence[Any]]:
        """The examples of each set, by its name."""
        return {**self._spans, **({PREFERENCE: self._pairs} if self._pairs else {})}

    def losses(self) -> dict[str, float]:
        """By set, the mean over samples of the mean NLL of their targets, nats a token, by the scorer; of the pairs,
        whose ``rewards`` are renewed, the mean loss. NaN where no sample of a set has a finite loss."""
        self._student.model.eval()
        losses = {}
        for name, samples in self._spans.items():
            means = [loss.mean for _, loss in self._scorer.score(samples) if loss.reason is None]
            losses[name] = sum(means) / len(means) if means else math.nan
        if self._pairs:
            from srtui.training.preference import held_out_rewards

            self.rewards = held_out_rewards(self._scorer, self._pairs, self._settings)
            losses[PREFERENCE] = self.rewards.loss if self.rewards else math.nan
        return losses


def watched_loss(losses: Mapping[str, float]) -> float:
    """The loss that early stopping goes by, of what is trained on: the pairs', or that of the responses that were
    selected; of the original ones where there are none, NaN where there is no set at all."""
    return next((losses[name] for name in _WATCHED if name in losses), math.nan)
