"""What a training on preferences is made of: a pair of spans. Pure, for the plan counts it."""

from __future__ import annotations

from dataclasses import dataclass

from srtui.hashing import digest
from srtui.student import Span


@dataclass(frozen=True)
class TrainingPair:
    """Two spans with one prompt. ``reference`` has the log-probabilities of their targets by the reference, in nats,
    chosen and rejected; (0, 0) where the method asks none. ``sample`` is whose answers they are, None for a pair of
    its own. Seen as one example it is both spans, end to end."""

    chosen: Span
    rejected: Span
    reference: tuple[float, float] = (0.0, 0.0)
    sample: int | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Of both spans."""
        return (*self.chosen.ids, *self.rejected.ids)

    @property
    def targets(self) -> list[int]:
        """The positions in ``ids`` that are trained on."""
        first = len(self.chosen.ids)
        return [*self.chosen.targets, *(first + place for place in self.rejected.targets)]

    @property
    def truncated(self) -> bool:
        """Whether one of the spans was cut."""
        return self.chosen.truncated or self.rejected.truncated

    @property
    def digest(self) -> bytes:
        """16-byte content address, by which a training knows its pairs again."""
        return digest(self.chosen.digest, self.rejected.digest)

    @property
    def padded(self) -> Span:
        """What the pair takes in a pass where both are padded to one length."""
        longer = max(self.chosen, self.rejected, key=lambda span: len(span.ids))
        return Span(longer.ids * 2, len(self.targets))
