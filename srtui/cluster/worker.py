"""A worker: a process that holds one model, and works off what it is given.

Ray makes an actor of :class:`Worker`. Its model runs in a thread of its own; calls of the engine's process hand over
tasks and bring back what has come of earlier ones, so each answer is also a sign of life. Between two steps the model
waits where no such call has come for a while: the engine is paused, or gone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from srtui import __version__
from srtui.cluster.ray_inside import needs_token
from srtui.cluster.worker_messages import Reply, Whereabouts, WorkDone, WorkerFacts
from srtui.errors import UserError

BEAT = 0.4
"""Seconds that results are gathered before they are sent, where the worker has enough to do meanwhile."""
HEARTBEAT = 2.0
"""Seconds after which a call returns whether or not anything has come."""
_ALONE = 10.0  # seconds without a call after which the model waits for one
_LOOK = 0.2  # seconds between two looks at how much is done


class Job(Protocol):
    """What a worker's model does. All but ``open`` and ``ask`` is called by the model's thread."""

    def open(self, node: str) -> WorkerFacts:
        """Check the files and load the model. Raises UserError with one sentence where that cannot be."""

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        """Queue (ticket, payload)."""

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        """Results (ticket, part, result) as they come, until nothing is queued or ``should_stop()``, which may add;
        what is queued then is forgotten."""

    def done(self) -> WorkDone:
        """How much was done so far."""

    def ask(self, name: str, given: Any) -> Any:
        """Answer a question beside the work; called by any thread."""


class Worker:
    """See the module. A *round* is one run of the engine's: what is left of an earlier one is forgotten."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._changed = threading.Condition()
        self._inbox: list[tuple[int, Any]] = []
        self._outbox: list[tuple[int, int, Any]] = []
        self._error: tuple[str, bool] | None = None
        self._round = 0
        self._dropped = False  # what the job has is of an earlier round
        self._idle = True
        self._window = 1
        self._done, self._looked_at = WorkDone(), 0.0
        self._calls, self._called_at = 0, time.monotonic()

    def where(self) -> Whereabouts:
        """Answered at once, before anything is loaded."""
        return Whereabouts(node_name(), os.getpid(), __version__, needs_token())

    def open(self) -> WorkerFacts | str:
        """Load the model and begin to wait for work; a sentence where that cannot be, now or later."""
        try:
            facts = self._job.open(node_name())
        except UserError as error:
            return str(error)
        self._window = facts.window
        threading.Thread(target=self._work, name="srtui-model", daemon=True).start()
        return facts

    def exchange(self, this_round: int, tasks: list[tuple[int, Any]]) -> Reply:
        """Take ``tasks`` and hand back what has come of those before, once something has, or after HEARTBEAT."""
        began = time.monotonic()
        with self._changed:
            self._calls += 1
            self._called_at = began
            self._begin_round(this_round)
            self._inbox += tasks
            self._changed.notify_all()
            while not self._is_time(time.monotonic() - began):
                self._changed.wait(0.05)
            results, self._outbox = self._outbox, []
            self._calls -= 1
            self._called_at = time.monotonic()
            error, final = self._error or (None, False)
            return Reply(results, self._done, error, final)

    def ask(self, name: str, given: Any) -> Any:
        """A question to the model's job, beside its work."""
        return self._job.ask(name, given)

    def drop(self, before_round: int) -> None:
        """Forget all tasks of earlier rounds, those that are being worked on too."""
        with self._changed:
            self._begin_round(before_round)
            self._changed.notify_all()

    def _begin_round(self, this_round: int) -> None:
        if this_round > self._round:
            self._round, self._dropped = this_round, True
            self._inbox, self._outbox = [], []

    def _is_time(self, waited: float) -> bool:
        if self._error is not None or waited >= HEARTBEAT:
            return True
        if not self._outbox:
            return False
        return waited >= BEAT or 2 * len(self._outbox) >= self._window or (self._idle and not self._inbox)

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._idle = True
                    while not self._inbox:
                        self._changed.notify_all()
                        self._changed.wait()
                    self._idle = self._dropped = False
                    self._job.add(self._emptied())
                for result in self._job.run(self._between_steps):
                    with self._changed:
                        if not self._dropped:
                            self._outbox.append(result)
                            self._changed.notify_all()
                self._done = self._job.done()
        except BaseException as error:
            with self._changed:
                self._error = _sentence(error)
                self._changed.notify_all()

    def _between_steps(self) -> bool:
        """Whether to stop, asked between two steps; takes what has come, and waits where nobody listens."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK:
            self._done, self._looked_at = self._job.done(), now
        with self._changed:
            while not self._calls and not self._dropped and time.monotonic() - self._called_at > _ALONE:
                self._changed.wait(0.5)
            if self._dropped:
                return True
            if self._inbox:
                self._job.add(self._emptied())
        return False

    def _emptied(self) -> list[tuple[int, Any]]:
        tasks, self._inbox = self._inbox, []
        return tasks


def node_name() -> str:
    """This machine's, as sentences have it."""
    return socket.gethostname()


def _sentence(error: BaseException) -> tuple[str, bool]:
    """What a model's thread ended with, in words; and whether it would end so again."""
    if isinstance(error, UserError):
        return str(error), True
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "its memory ran out", False
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first_line[:300]}", False
