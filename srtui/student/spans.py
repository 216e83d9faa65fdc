"""Spans: token ids, and which of them are scored, or trained on."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from srtui.hashing import Keys, digest, scheme_1


@lru_cache(16)
def loss_keys(student_id: str) -> Keys:
    """The keys of a student's losses, by the address of the ids and the number of those that are the target."""
    return Keys("loss", ("ids", "target"), student=student_id)


@dataclass(frozen=True)
class Span:
    """Token ``ids`` whose last ``target`` ones are scored, or trained on; ``truncated`` where max_length
    cut some. The first ``history`` ones are those of a history, which other spans may begin with too: that
    decides no loss. ``also`` are earlier targets, (first, end) each, that are trained on along with the last:
    spans that are scored have none."""

    ids: tuple[int, ...]
    target: int
    truncated: bool = False
    history: int = 0
    also: tuple[tuple[int, int], ...] = ()

    @property
    def targets(self) -> list[int]:
        """The positions that are trained on, in order."""
        last = (len(self.ids) - self.target, len(self.ids))
        return [place for first, end in (*self.also, last) for place in range(first, end)]

    def key(self, student_id: str, protocol: str) -> bytes:
        """Address of this loss in the store. The ids decide it, so a response that occurs in three
        variants is scored once, and both protocols share what is equal in both."""
        return loss_keys(student_id).key(digest(self._bytes()), self.target)

    @property
    def digest(self) -> bytes:
        """16-byte content address, by which a training knows its samples again."""
        return digest(self._bytes(), self.target, *(place for run in self.also for place in run))

    def ended(self, end_of_turn: Sequence[int], max_length: int) -> Span:
        """What is trained of a scored span: its tokens, and behind them the end of the turn, from which a
        student learns to stop. A protocol may score without it; one that scores it has it already.

        An answer that was cut at ``max_length`` gets no end, since it does not end there; one that leaves
        no room for its end counts as cut.
        """
        end = tuple(end_of_turn)
        if self.truncated or self.ids[-len(end) :] == end:
            return self
        if len(self.ids) + len(end) > max_length:
            return replace(self, truncated=True)
        return replace(self, ids=(*self.ids, *end), target=self.target + len(end))

    def _bytes(self) -> bytes:
        """The ids, 32 bits each, the lowest byte first on every machine."""
        ids = array("i", self.ids)
        if sys.byteorder == "big":
            ids.byteswap()
        return ids.tobytes()

    def first_key(self, student_id: str) -> bytes:
        """The key that this loss has where it was stored before keys had a scheme."""
        return scheme_1(student_id, array("i", self.ids).tobytes(), self.target)


def as_one(spans: Sequence[Span]) -> list[Span]:
    """The spans of one conversation with as few sequences as there can be: a span whose ids another begins with is
    no sequence of its own, but one more target of that one, where no token of it sees anything else than by itself.
    They are in the order of the sequences' first span."""
    kept: list[tuple[int, Span]] = []
    for n in sorted(range(len(spans)), key=lambda i: -len(spans[i].ids)):
        span = spans[n]
        end = len(span.ids)
        for position, (first, longer) in enumerate(kept):
            targets = {*longer.also, (end - span.target, end)}
            if longer.ids[:end] == span.ids and len(longer.ids) - longer.target >= end:
                kept[position] = (min(first, n), replace(longer, also=tuple(sorted(targets))))
                break
        else:
            kept.append((n, span))
    return [span for _, span in sorted(kept, key=lambda place: place[0])]


@dataclass(frozen=True)
class Invalid:
    """Why a target cannot be scored."""

    reason: str
