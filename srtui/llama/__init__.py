"""The teacher: what a reflection asks of a language model, and what comes back.

Nothing outside this package knows llama.cpp. Another backend is one more file that fills in
:class:`Teacher`, and a line in :func:`open_teacher`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from srtui.errors import UserError
from srtui.recipe import SamplingSettings

_BY_DEFAULT = SamplingSettings()
WORKERS_DIED = "workers_died"
"""Why a request has no answer where several processes write: each that was at it died."""
ASKED_AGAIN = ("too_long", WORKERS_DIED)
"""Refusals that say what a teacher's machine had then, which may be more another time."""


@dataclass(frozen=True)
class Sampler:
    """How the next token is drawn. ``temperature`` 0 is greedy. The defaults are a recipe's; keys leave them
    out, so they may never change. ``repeat_window`` is how many of the last tokens the penalty looks at."""

    temperature: float = _BY_DEFAULT.temperature
    top_p: float = _BY_DEFAULT.top_p
    top_k: int = _BY_DEFAULT.top_k
    min_p: float = _BY_DEFAULT.min_p
    repeat_penalty: float = _BY_DEFAULT.repeat_penalty
    repeat_window: int = 256


@dataclass(frozen=True)
class Message:
    """One chat message; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class Segment:
    """One stretch of guided writing in the assistant's turn.

    ``lead`` is text that the engine itself puts into the sequence; then the model writes until one
    of ``stops`` (which is cut off), its end of turn, or ``max_tokens``. ``grammar`` is GBNF. Where the
    model's context is too short for ``max_tokens``, there may be fewer, down to ``least_tokens``. A text
    that is of no use when it is cut is ``whole``: where it ends by length or repetition, so does the
    sequence.
    """

    lead: str = ""
    max_tokens: int = 512
    stops: tuple[str, ...] = ()
    grammar: str | None = None
    least_tokens: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Request:
    """One sequence to write: a chat prompt and the segments of its answer.

    ``key`` is the caller's and comes back untouched. With ``candidates`` > 1 the prompt is
    evaluated once and n answers are sampled from it, with seeds ``seed .. seed + n - 1``. Requests whose
    ``begins`` is the same begin with much the same words: they run one after the other, and what one has in
    the cache while the next begins is not evaluated again.

    A reasoning model may think for ``thinking_tokens``, once over, beside what its segments have; then
    its ``<think>`` is closed for it. A first segment with a lead leaves no room to think in: a
    ``<think>`` that the template opens is closed before the lead.
    """

    key: object
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    seed: int
    sampler: Sampler = Sampler()
    candidates: int = 1
    thinking_tokens: int = 1024
    begins: object = None

    @property
    def characters(self) -> int:
        """Of its messages."""
        return sum(len(message.content) for message in self.messages)


@dataclass(frozen=True)
class WrittenSegment:
    """What the model wrote in one segment, without its lead and without the stop.

    ``finish`` is ``stop:<the stop string>``, ``end`` (end of turn), ``length`` or ``repetition``. ``room``
    is the most tokens that it could have had, fewer than asked where the context was too short.
    """

    text: str
    finish: str
    tokens: int
    room: int | None = None


@dataclass(frozen=True)
class Generation:
    """One finished answer. ``refused`` is None, or a reason such as ``too_long`` with ``detail``.

    ``text`` is the whole assistant turn: leads and writing in order, without thinking. ``prompt``
    is the rendered prompt; ``prompt_tokens`` counts it, ``new_tokens`` counts sampled tokens.
    """

    key: object
    candidate: int
    seed: int
    written: tuple[WrittenSegment, ...]
    text: str
    thinking: str
    prompt: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    refused: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class TeacherIdentity:
    """What a stored generation must carry to be made again. ``date`` is what the chat template writes as
    today's, where it writes one. ``endpoint`` is the address of a server's model, whose weights cannot be hashed:
    ``sha256`` is then of what the server reports."""

    name: str
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    context: int
    adapter_sha256: str | None = None
    date: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class SlotProgress:
    """What one slot is writing: whose request (``key`` is the caller's), the text so far, and how much of the tokens
    that it may have it has taken."""

    key: object
    text: str
    tokens: int
    room: int


@dataclass(frozen=True)
class TeacherProgress:
    """A cheap look at the engine, for progress displays. Token counts are since it was opened."""

    slots: int
    slots_in_use: int
    waiting: int
    prompt_tokens: int
    prompt_tokens_saved: int
    new_tokens: int
    live_key: object | None
    live_text: str
    slots_now: tuple[SlotProgress, ...] = ()
    """What each slot writes, where the teacher runs in this process."""


@dataclass(frozen=True)
class Prepared:
    """A request whose prompt is laid out and cut into tokens; ``work`` is its teacher's own."""

    request: Request
    work: object


class Teacher(Protocol):
    """A batch writer of :class:`Generation` objects."""

    identity: TeacherIdentity

    @property
    def window(self) -> int:
        """How many requests it wants to have at a time, waiting and running: enough to fill its slots and to
        write the longest first, and so few that they take no memory worth mentioning."""

    def prepare(self, request: Request) -> Prepared:
        """Lay the prompt out and cut it into tokens. May be called by another thread, also during :meth:`run`."""

    def submit(self, requests: Sequence[Request | Prepared]) -> None:
        """Queue requests. May be called while :meth:`run` is being iterated (for retries)."""

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """Yield generations as they finish, until the queue is empty or ``should_stop()``.

        ``should_stop`` is asked once per decode step; unfinished sequences are then dropped.
        """

    def room(self, request: Request) -> Sequence[int]:
        """The most tokens that each segment of ``request`` can have in this teacher's context."""

    def progress(self) -> TeacherProgress:
        """What is running and waiting, and how many tokens there were."""

    def close(self) -> None:
        """Give the memory back. Nothing can be asked afterwards."""


def refuse_if_died(generation: Generation) -> None:
    """Raises UserError where each worker that was at a text died, where there is no later try of it."""
    if generation.refused == WORKERS_DIED:
        raise UserError(
            "A text cannot be written: each worker that was at it died. What was finished is stored; the same command "
            "asks again."
        )


def open_teacher(path: Path, **settings: Any) -> Teacher:
    """The teacher in the file at ``path``; ``settings`` are those of :class:`LlamaTeacher`."""
    from srtui.llama.batching import LlamaTeacher

    return LlamaTeacher(path, **settings)
