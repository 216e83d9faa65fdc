"""A worker's job that takes the time of a GPU and none of its work; in a module of its own, since each of 64 processes
imports it."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from srtui.cluster.worker_messages import WorkDone, WorkerFacts
from srtui.hashing import digest
from srtui.llama import Generation, TeacherIdentity, WrittenSegment

SLOTS = 16
TOKENS = (300, 900)  # of a text with its critique: evenly between these
_WORDS = (
    "A clear answer names what was asked, says why it holds, and gives one example that a reader can check. "
)


@dataclass
class SleepingTeacher:
    """A worker's job: texts as long as real ones, after the time that a GPU would take; ``tokens_a_second`` 0 for none."""

    tokens_a_second: float
    device: str = "stand-in"
    _queue: list[tuple[int, int, Any]] = field(default_factory=list)
    _running: list[tuple[float, int, Any, int]] = field(default_factory=list)
    _tokens: int = 0

    def open(self, node: str) -> WorkerFacts:
        identity = TeacherIdentity("stand-in", "0" * 64, "none", 1, "none", 8192)
        return WorkerFacts(node, os.getpid(), self.device, identity, {}, 2 * SLOTS)

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        for ticket, request in tasks:
            heapq.heappush(self._queue, (ticket, ticket, request))

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        while self._queue or self._running:
            now = time.monotonic()
            while self._queue and len(self._running) < SLOTS:
                _, ticket, request = heapq.heappop(self._queue)
                drawn = int.from_bytes(digest(request.messages[-1].content, request.seed)[:4], "little")
                tokens = TOKENS[0] + drawn % (TOKENS[1] - TOKENS[0])
                takes = tokens * SLOTS / self.tokens_a_second if self.tokens_a_second else 0.0
                heapq.heappush(self._running, (now + takes, ticket, request, tokens))
            if should_stop():
                break
            ends, ticket, request, tokens = self._running[0]
            if ends > now:
                time.sleep(min(ends - now, 0.2))
                continue
            heapq.heappop(self._running)
            self._tokens += tokens
            yield ticket, 0, self._text(ticket, request, tokens)
        self._queue.clear()
        self._running.clear()

    def _text(self, ticket: int, request: Any, tokens: int) -> Generation:
        each = tokens // len(request.segments)
        words = _WORDS * (1 + each * 4 // len(_WORDS))
        written = tuple(
            WrittenSegment(f"{words[: each * 4]} {ticket}.{n}", "stop:[End]", each, 512)
            for n, _ in enumerate(request.segments)
        )
        prompt = "".join(m.content for m in request.messages)
        text = "".join(s.lead + w.text for s, w in zip(request.segments, written, strict=True))
        return Generation(
            ticket, 0, request.seed, written, text, "", prompt, len(prompt) // 4, tokens, tokens / 125
        )

    def done(self) -> WorkDone:
        return WorkDone(
            self._tokens, 0, 0, self._tokens, SLOTS, min(SLOTS, len(self._running)), len(self._queue)
        )

    def ask(self, name: str, given: Any) -> Any:
        return [512] * len(given.segments)
