"""What a training is measured on and does not learn from: sets of spans, and preference pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student
from srtui.training.ranks import Ranks

if TYPE_CHECKING:
    from srtui.training.preference_loss import Rewards
    from srtui.training.training_pair import TrainingPair

PREFERENCE = "preference"
"""The name of the pairs among the sets."""
_WATCHED = (PREFERENCE, "selected", "original")


class HeldOutSets:
    """``rewards`` are those of the pairs at the last measurement; None without pairs, or before the first."""

    def __init__(
        self,
        student: Student,
        scorer: Scorer,
        spans: Mapping[str, Sequence[Span]],
        pairs: Sequence[TrainingPair],
        settings: TrainingSettings,
        ranks: Ranks,
    ) -> None:
        """Each of ``ranks`` measures its share of the spans.

        Args:
            student: that is trained.
            scorer: of the same student.
            spans: by set.
            pairs: of preferences.
            settings: of the training.
            ranks: the processes that train together.
        """
        self._student, self._scorer, self._settings, self._ranks = student, scorer, settings, ranks
        self._spans, self._pairs = spans, pairs
        self.rewards: Rewards | None = None

    def __bool__(self) -> bool:
        return bool(self._spans or self._pairs)

    @property
    def sets(self) -> dict[str, Sequence[Any]]:
        """The examples of each set, by its name."""
        return held_out_sets(self._spans, self._pairs)

    def losses(self) -> dict[str, float]:
        """By set, the mean over samples of the mean NLL of their targets, nats a token, by the scorer; of the pairs,
        whose ``rewards`` are renewed, the mean loss. NaN where no sample of a set has a finite loss."""
        self._student.model.eval()
        losses = {}
        for name, samples in self._spans.items():
            scored = self._scorer.score(self._ranks.share(samples))
            own = [loss.mean for _, loss in scored if loss.reason is None]
            means = [mean for part in self._ranks.everybody(own) for mean in part]
            losses[name] = sum(means) / len(means) if means else math.nan
        if self._pairs:
            from srtui.training.preference_loss import held_out_rewards

            self.rewards = held_out_rewards(self._scorer, self._pairs, self._settings)
            losses[PREFERENCE] = self.rewards.loss if self.rewards else math.nan
        return losses


def held_out_sets(
    spans: Mapping[str, Sequence[Span]], pairs: Sequence[TrainingPair]
) -> dict[str, Sequence[Any]]:
    """The examples of each set, by its name: spans, and pairs where there are any."""
    return {**spans, **({PREFERENCE: pairs} if pairs else {})}


def watched_loss(losses: Mapping[str, float]) -> float:
    """The loss that early stopping goes by, of what is trained on: the pairs', or that of the responses that were
    selected; of the original ones where there are none, NaN where there is no set at all."""
    return next((losses[name] for name in _WATCHED if name in losses), math.nan)
