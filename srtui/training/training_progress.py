"""How far a training is: what a checkpoint keeps beside the trainer's own state, and when early stopping ends it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

_LOSSES = 132  # of the last steps: what preflight.diverged looks at


@dataclass
class TrainingProgress:
    """``seconds`` are those of training, over all its processes; ``losses`` in nats a target token, or of a pair;
    ``before`` the held-out losses before the first step; ``worse`` counts evaluations since the best one."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    first_loss: float = math.nan
    before: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = math.inf
    worse: int = 0

    @classmethod
    def from_json(cls, text: str) -> TrainingProgress:
        """As :meth:`to_json` wrote it."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Its fields, for a checkpoint."""
        return json.dumps(asdict(self))

    def record(self, step: int, seconds: float, loss: float) -> None:
        """A step was taken; ``seconds`` are those of all so far."""
        self.step, self.seconds = step, seconds
        self.losses = [*self.losses[-_LOSSES + 1 :], loss]
        if math.isnan(self.first_loss):
            self.first_loss = loss

    def is_best(self, loss: float) -> bool:
        """Whether the held-out loss after the last step is better than all before; counts those that are not."""
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = loss, self.step, 0
            return True
        self.worse += 1
        return False

    def has_ended(self, patience: int) -> bool:
        """Whether early stopping has seen ``patience`` evaluations without a better loss; 0 never stops."""
        return 0 < patience <= self.worse
