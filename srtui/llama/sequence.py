"""One answer on its way, from its prompt to its end: segments and their leads, stops, thinking.

A sequence is fed the tokens that the model draws and says what follows from each. A guided answer is one
sequence: when a segment ends, its last tokens are cut back to the text that is kept, the next lead's tokens
go in behind it, and the model writes on. Nothing is prompted twice.

Nothing here knows llama.cpp. What tokens spell is asked of a :class:`Vocabulary`; which tokens are in the KV
cache is a count that the engine keeps true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from srtui.chat_template import opens_thinking
from srtui.llama import Generation, Request, Segment, WrittenSegment

_THINK, _THINK_END = b"<think>", b"</think>"
_LOOP_EVERY = 8  # tokens between two looks for a loop, which reads the last few hundred


class Vocabulary(Protocol):
    """What a sequence has to know of a model's tokens."""

    @property
    def end_of_thinking(self) -> Sequence[int]:
        """The tokens that close a ``<think>`` block."""

    def tokenize(self, text: str) -> list[int]:
        """The ids of plain text; names of special tokens in it stay text."""

    def spelling(self, token: int) -> bytes:
        """What a token adds to the text: nothing, where it is a control token."""

    def ends_turn(self, token: int) -> bool:
        """Whether the assistant's turn is over with this token."""


@dataclass(eq=False)
class AnswerSequence:
    """One candidate of a request, from the queue to its end.

    ``tokens`` are all of them, in order, and the first ``cached`` are in the KV cache of ``slot`` (-1: it has
    none). ``room`` has the most tokens that each segment may have; ``budget`` is all that may come behind the
    prompt, leads and thinking included.
    """

    request: Request
    candidate: int
    prompt_text: str
    prompt: list[int]
    room: list[int]
    thinking_left: int
    budget: int
    vocabulary: Vocabulary
    slot: int = -1
    cached: int = 0
    tokens: list[int] = field(default_factory=list)
    segment: int = 0
    written: list[WrittenSegment] = field(default_factory=list)
    text: str = ""
    new_tokens: int = 0
    finished: bool = False
    was_set_back: bool = False
    _segment_start: int = 0  # where in ``tokens`` the segment's own begin
    _buffer: bytearray = field(default_factory=bytearray)
    _ends: list[int] = field(default_factory=list)  # length of the buffer after each token of the segment
    _thought: bytes = b""
    _thinks: bool = False  # it is in a <think> block
    _began_text: bool = False  # the segment begins with something else
    _borrowed: int = 0  # thinking that took from the segment's own tokens

    @property
    def size(self) -> int:
        """The most tokens that it can come to."""
        return len(self.prompt) + self.budget

    @property
    def left(self) -> int:
        """How many of its tokens are not in the cache yet."""
        return len(self.tokens) - self.cached

    @property
    def started(self) -> bool:
        """Whether it has had a slot."""
        return bool(self.tokens)

    @property
    def grammar(self) -> str | None:
        """The GBNF that the segment in hand is written under."""
        return self.request.segments[self.segment].grammar

    @property
    def seed(self) -> int:
        """What its draws begin with: each candidate has its own."""
        return self.request.seed + self.candidate

    @property
    def text_so_far(self) -> str:
        """What is written, the segment in hand included, for somebody who watches."""
        return self.text + bytes(self._buffer).decode("utf-8", "ignore")

    def start(self) -> None:
        """Put the prompt and the first lead in."""
        self.tokens = list(self.prompt)
        self._open_segment()

    def append(self, token: int) -> int:
        """Take the next token, which the model drew, and see what it ends.

        Returns how many of the cached tokens still hold; the others have to leave the cache. ``finished`` is
        true afterwards where this was the last.
        """
        self.new_tokens += 1
        segment = self.request.segments[self.segment]
        if self.vocabulary.ends_turn(token):
            if self._thinks:
                return self._end_thinking()
            return self._close_segment(len(self._buffer), "end")
        self.tokens.append(token)
        searched = len(self._buffer)
        self._buffer += self.vocabulary.spelling(token)
        self._ends.append(len(self._buffer))
        if self._in_thought():
            room = self.thinking_left or self.room[self.segment]
            if _THINK_END in self._buffer or len(self._ends) >= room:
                return self._end_thinking()
            return self.cached
        for stop in segment.stops:
            sign = stop.encode()
            start = self._buffer.find(sign, max(0, searched - len(sign) + 1))
            if start >= 0:
                return self._close_segment(start, f"stop:{stop}")
        if len(self._ends) % _LOOP_EVERY == 0:
            cut = loop_start(self.tokens[self._segment_start :])
            if cut is not None:
                return self._close_segment(self._ends[cut - 1] if cut else 0, "repetition")
        if len(self._ends) + self._borrowed >= self.room[self.segment]:
            return self._close_segment(len(self._buffer), "length")
        return self.cached

    def generation(self, seconds: float) -> Generation:
        """The finished answer."""
        return self._result(self.written, self.text, self._thought, self.new_tokens, seconds)

    def refusal(self, limit: int) -> Generation:
        """The answer of a sequence for which the ``limit`` of tokens is too low: none."""
        detail = (
            f"{len(self.prompt):,} prompt tokens and up to {self.budget:,} more; the context holds {limit:,}"
        )
        return self._result((), "", b"", 0, 0.0, refused="too_long", detail=detail)

    def _result(
        self,
        written: Sequence[WrittenSegment],
        text: str,
        thought: bytes,
        new_tokens: int,
        seconds: float,
        refused: str | None = None,
        detail: str = "",
    ) -> Generation:
        return Generation(
            key=self.request.key,
            candidate=self.candidate,
            seed=self.seed,
            written=tuple(written),
            text=text,
            thinking=thought.decode("utf-8", "ignore").strip(),
            prompt=self.prompt_text,
            prompt_tokens=len(self.prompt),
            new_tokens=new_tokens,
            seconds=seconds,
            refused=refused,
            detail=detail,
        )

    def _open_segment(self) -> None:
        """Put the segment's lead behind what is there."""
        lead = self.request.segments[self.segment].lead
        lead_tokens = self.vocabulary.tokenize(lead) if lead else []
        self.tokens += lead_tokens
        self.text += lead
        self._segment_start = len(self.tokens)
        self._buffer.clear()
        self._ends.clear()
        self._borrowed = 0
        self._thinks = self.segment == 0 and not lead_tokens and opens_thinking(self.prompt_text)
        self._began_text = False

    def _close_segment(self, keep: int, finish: str) -> int:
        """End the segment with the first ``keep`` bytes of what was written, and open the next one.

        Tokens beyond the kept text go; where the cut goes through a token, its kept beginning is tokenized
        anew. Returns how many of the cached tokens still hold.
        """
        kept = bytes(self._buffer[:keep])
        text, room = kept.decode("utf-8", "ignore"), self.room[self.segment]
        self.written.append(WrittenSegment(text, finish, len(self._ends), room))
        self.text += text
        useless = self.request.segments[self.segment].whole and finish in ("length", "repetition")
        if useless or self.segment + 1 == len(self.request.segments):
            self.finished = True
            return self.cached
        whole = sum(1 for end in self._ends if end <= keep)
        unfinished = kept[self._ends[whole - 1] if whole else 0 :].decode("utf-8", "ignore")
        length = self._segment_start + whole
        del self.tokens[length:]
        if unfinished:
            self.tokens += self.vocabulary.tokenize(unfinished)
        self.segment += 1
        self._open_segment()
        # With an empty lead right behind what is cached nothing would be left to feed: its last token again.
        return min(self.cached, length, len(self.tokens) - 1)

    def _in_thought(self) -> bool:
        """Whether the model is in a <think> block, which stands at the beginning of a segment."""
        if not self._thinks:
            start = bytes(self._buffer[:32]).lstrip()
            self._thinks = start.startswith(_THINK) and not self._began_text
            self._began_text = self._began_text or not _THINK.startswith(start[: len(_THINK)])
        return self._thinks

    def _end_thinking(self) -> int:
        """Leave the <think> block, and close it where the model has not.

        The thinking takes from the request's tokens for it, and where those are spent, or were never planned
        because nothing about the model speaks of thinking, from the segment's own. Returns how many of the
        cached tokens still hold.
        """
        thought, closed, behind = bytes(self._buffer).partition(_THINK_END)
        if not closed:
            self.tokens += self.vocabulary.end_of_thinking
        self._thought += thought.strip().removeprefix(_THINK).strip() + b"\n"
        used = len(self._ends)
        self._borrowed = max(0, used - self.thinking_left)
        self.thinking_left = max(0, self.thinking_left - used)
        self._thinks, self._began_text = False, True
        self._buffer[:] = behind
        self._ends = [len(behind)] if behind else []
        self._segment_start = len(self.tokens) - len(self._ends)
        if self._borrowed >= self.room[self.segment]:
            return self._close_segment(len(self._buffer), "length")
        return self.cached


def sequences_of(
    request: Request,
    prompt_text: str,
    prompt: list[int],
    vocabulary: Vocabulary,
    *,
    limit: int,
    may_think: bool,
) -> list[AnswerSequence]:
    """A sequence for each candidate of a request.

    Args:
        request: what is asked for.
        prompt_text: its chat, as the template lays it out.
        prompt: the tokens of that.
        vocabulary: of the model that is to answer.
        limit: the most tokens that a sequence may have. Segments are shortened to it as far as they allow;
            where they do not, a sequence's ``size`` is above it.
        may_think: whether tokens have to be planned for thinking.
    """
    leads = sum(len(vocabulary.end_of_thinking) + len(vocabulary.tokenize(s.lead)) for s in request.segments)
    thinking = request.thinking_tokens if may_think else 0
    room = fitted(request.segments, limit - len(prompt) - leads - thinking)
    budget = leads + sum(room) + thinking
    return [
        AnswerSequence(request, candidate, prompt_text, prompt, room, thinking, budget, vocabulary)
        for candidate in range(request.candidates)
    ]


def fitted(segments: Sequence[Segment], there_is: int) -> list[int]:
    """The most tokens of each segment, where there is room for ``there_is`` in all: the last ones give up
    first, none more than its least."""
    room = [s.max_tokens for s in segments]
    for n in range(len(room) - 1, -1, -1):
        least = segments[n].least_tokens
        if least is not None:
            room[n] = max(min(least, room[n]), min(room[n], room[n] + there_is - sum(room)))
    return room


def loop_start(tokens: list[int], *, longest: int = 64, least: int = 48) -> int | None:
    """Where a sequence that repeats itself may be cut so that what it repeats stands once.

    A loop is a period of up to ``longest`` tokens, at the end of the sequence, at least four times
    over and at least ``least`` tokens in all. Returns the index to cut at, or None.
    """
    for period in range(1, min(longest, len(tokens) // 4) + 1):
        count = period
        while count < len(tokens) and tokens[-count - 1] == tokens[-count - 1 + period]:
            count += 1
        if count >= max(least, 4 * period):
            return len(tokens) - count + period
    return None
