"""Prompt-lookup drafting: a rewrite copies much of what it rewrites, so the tokens that stood behind the last few
where these stood before are guesses at the next ones (Saxena 2023, "Prompt Lookup Decoding").

A decode evaluates the guesses beside the token that is fed anyway. Then tokens are drawn one after the other, each
from the logits behind what was really written, as without guesses: by the same sampler, with the same random
numbers. A guess that is not the token that was drawn ends the draft, and it and what is behind it leave the cache.
So the distribution is that of drawing without drafts (Leviathan et al. 2023, for a draft that is certain of itself),
and the texts are the same where the arithmetic is.

Nothing here knows llama.cpp: what a decode of more tokens costs is handed in, and what came of a draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from srtui.llama.sequence import AnswerSequence

LENGTHS = (2, 4, 8)
"""The tokens that may be guessed at a time."""
_GRAMS = (4, 3, 2)  # how many tokens have to have stood before, the most first
_WORTH = 1.05  # what drafting has to promise where its cost was measured: a measurement of a few decodes is not exact
_AGAIN = 64  # decodes without a draft, after which one is tried where it may pay by what it costs
_PRIOR, _PRIOR_WEIGHT = 0.5, 8.0  # the share of guesses that hold, before any was seen, as so many of them
_MEMORY = 512.0  # guesses that a share looks back over

Costs = Mapping[int, Mapping[int, float]]
"""By the number of sequences, and the number of tokens that are guessed of each: how many times as long as a decode
without guesses one with them takes."""


@dataclass
class DraftingCounts:
    """``steps`` are decodes with drafts, ``sequence_steps`` the sequences that had one in them, ``guessed`` their
    tokens, and ``accepted`` those that were then drawn."""

    steps: int = 0
    sequence_steps: int = 0
    guessed: int = 0
    accepted: int = 0

    @property
    def accepted_a_step(self) -> float:
        """Accepted tokens of a sequence for each decode that it had a draft in; NaN where there was none."""
        return self.accepted / self.sequence_steps if self.sequence_steps else float("nan")


class Lookup:
    """Where the n-grams of one sequence stood last."""

    def __init__(self) -> None:
        self._behind: dict[tuple[int, ...], int] = {}
        self._read = self._segment = 0

    def continuation(self, sequence: AnswerSequence, count: int) -> list[int]:
        """The ``count`` tokens that stood behind the sequence's last ones where these stood before; none where
        they did not. A continuation that reaches the end continues with itself, as a text in a loop does."""
        tokens = sequence.tokens
        self._read_on(sequence)
        for size in _GRAMS:
            place = self._behind.get(tuple(tokens[-size:])) if len(tokens) > size else None
            if place is None or place >= len(tokens) or tokens[place - size : place] != tokens[-size:]:
                continue  # the last: it stood there before a segment was cut
            guess = tokens[place : place + count]
            while len(guess) < count:
                guess.append(guess[len(guess) - (len(tokens) - place)])
            return guess
        return []

    def _read_on(self, sequence: AnswerSequence) -> None:
        tokens = sequence.tokens
        if sequence.segment != self._segment:  # its end was cut, and a lead put in behind what is left
            self._segment, self._read = sequence.segment, min(self._read, len(sequence.prompt))
        for end in range(max(1, min(self._read, len(tokens))), len(tokens)):
            for size in _GRAMS:
                if end >= size:
                    self._behind[tuple(tokens[end - size : end])] = end
        self._read = len(tokens)


@dataclass
class _Share:
    """Of the guesses at one place of a draft, all before which held: how many hold themselves."""

    tried: float = 0.0
    held: float = 0.0

    def note(self, held: bool) -> None:
        if self.tried >= _MEMORY:
            self.tried, self.held = self.tried / 2, self.held / 2
        self.tried += 1
        self.held += held

    @property
    def value(self) -> float:
        return (self.held + _PRIOR * _PRIOR_WEIGHT) / (self.tried + _PRIOR_WEIGHT)


@dataclass
class Drafter:
    """Guesses in each step, or leaves it, and counts what comes of it.

    How many guesses hold is counted by segment: a critique copies little, a rewrite much. ``costs`` of None drafts
    whenever there is a guess, as many tokens as there is room for.
    """

    costs: Costs | None = None
    counts: DraftingCounts = field(default_factory=DraftingCounts)
    _lookups: dict[AnswerSequence, Lookup] = field(default_factory=dict)
    _shares: dict[int, list[_Share]] = field(default_factory=dict)  # by segment, by place
    _passed_over: int = 0

    def drafts(self, sequences: Sequence[AnswerSequence], most: int) -> list[list[int]]:
        """Guesses for a decode of the next token of these sequences, as many for each, ``most`` at most; an empty
        list for one that there is no guess for. No lists at all where guessing is not worth it."""
        lengths = [length for length in LENGTHS if length <= most]
        if not lengths or self._is_hopeless(len(sequences), lengths):
            return []
        guesses = [
            self._lookups.setdefault(sequence, Lookup()).continuation(sequence, lengths[-1])
            for sequence in sequences
        ]
        guessed = [sequence for sequence, guess in zip(sequences, guesses, strict=True) if guess]
        length = self._length(guessed, len(sequences), lengths) if guessed else 0
        if not length:
            return []
        self.counts.steps += 1
        return [guess[:length] for guess in guesses]

    def note(self, segment: int, guessed: int, accepted: int) -> None:
        """Of a draft of ``guessed`` tokens in this segment, the first ``accepted`` were drawn."""
        self.counts.sequence_steps += 1
        self.counts.guessed += guessed
        self.counts.accepted += accepted
        shares = self._of_segment(segment)
        for place in range(min(guessed, accepted + 1)):
            shares[place].note(place < accepted)

    def forget(self, sequence: AnswerSequence) -> None:
        """The sequence is finished."""
        self._lookups.pop(sequence, None)

    def _length(self, guessed: Sequence[AnswerSequence], count: int, lengths: Sequence[int]) -> int:
        """How many tokens to guess; 0 where a decode without guesses is the better one."""
        if self.costs is None:
            return lengths[-1]

        def worth(length: int) -> float:
            tokens = count + sum(self._expected(sequence.segment, length) for sequence in guessed)
            return tokens / count / self._cost(count, length)

        best = max(lengths, key=worth)
        if worth(best) > _WORTH:
            self._passed_over = 0
            return best
        self._passed_over += 1
        if self._passed_over < _AGAIN or 1 + best * len(guessed) / count <= self._cost(count, best):
            return 0
        self._passed_over = 0
        return best

    def _is_hopeless(self, count: int, lengths: Sequence[int]) -> bool:
        """Whether drafts cost more than they could give if every guess held: then none is even looked up."""
        return self.costs is not None and all(self._cost(count, n) * _WORTH >= 1 + n for n in lengths)

    def _cost(self, count: int, length: int) -> float:
        """That of the next larger number of sequences that was measured: more sequences, dearer drafts."""
        costs = self.costs or {}
        measured = min((n for n in costs if n >= count), default=None)
        return inf if measured is None else costs[measured].get(length, inf)

    def _expected(self, segment: int, length: int) -> float:
        """How many of so many guesses are likely to be drawn."""
        total, so_far = 0.0, 1.0
        for share in self._of_segment(segment)[:length]:
            so_far *= share.value
            total += so_far
        return total

    def _of_segment(self, segment: int) -> list[_Share]:
        return self._shares.setdefault(segment, [_Share() for _ in range(LENGTHS[-1])])
