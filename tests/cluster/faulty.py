"""Jobs whose worker fails in one way or another, once or again and again; else they are what they are derived from.

What has happened already is kept in a file, for the process that failed does not know it any more.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtui.cluster.placement import Seat
from srtui.cluster.pool import Pool
from srtui.cluster.scorer_job import ScorerJob
from srtui.cluster.teacher_job import TeacherJob
from srtui.errors import UserError


def times(file: str) -> int:
    """How often ``happened`` was called with this file."""
    return Path(file).stat().st_size if Path(file).exists() else 0


def happened(file: str) -> None:
    with Path(file).open("a") as opened:
        opened.write("x")


@dataclass
class Fails:
    """``fault`` happens after ``after`` results, ``most`` times in all workers together."""

    fault: str = ""
    file: str = ""
    after: int = 3
    most: int = 1
    other: str = ""
    times: int = 0

    def before_result(self, count: int) -> None:
        if not self.fault or count < self.after or times(self.file) >= self.most:
            return
        happened(self.file)
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "stopped":  # alive, and as still as a process can be
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.fault == "hangs":
            time.sleep(3600)
        elif self.fault == "memory":
            held = resource.getrlimit(resource.RLIMIT_AS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, held[1]))
            try:
                bytearray(2**30)  # MemoryError
            finally:
                resource.setrlimit(resource.RLIMIT_AS, held)
        elif self.fault == "waits":  # for others to have failed so often; a minute or two at most
            until = time.monotonic() + 120
            while times(self.other) < self.times and time.monotonic() < until:
                time.sleep(0.05)
        elif self.fault == "refuses":
            raise UserError("This worker's own memory is too small for the teacher's context")


FAULT = Fails()
"""What the jobs of a test have; set by the test, and sent along with each job."""


class _Faulty:
    """In front of a job: the fault of the test happens between its results."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.fails = Fails(**vars(FAULT))

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        results = super().run(should_stop)  # type: ignore[misc]
        self.count = getattr(self, "count", 0)
        for result in results:
            self.count += 1
            self.fails.before_result(self.count)
            yield result


class FaultyTeacher(_Faulty, TeacherJob):
    pass


def only_on(number: int, fault: Fails, others: Fails | None = None) -> Callable[..., None]:
    """Pool.__init__ of teachers of which the one on seat ``number`` has ``fault``, and the others another or none."""
    begin = Pool.__init__

    def begins(self: Pool, session: Any, kind: str, seats: Any, job_of: Any, *rest: Any) -> None:
        def job(seat: Seat) -> FaultyTeacher:
            made = FaultyTeacher(**vars(job_of(seat)))
            made.fails = fault if seat.number == number else others or Fails()
            return made

        begin(self, session, kind, seats, job, *rest)

    return begins


class FaultyScorer(_Faulty, ScorerJob):
    pass


@dataclass
class DeadlyText(TeacherJob):
    """Each worker dies of a text that has ``word`` in it, whenever it is given one."""

    word: str = "She don't have no brother"

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        given = list(tasks)
        if any(self.word in m.content for _, request in given for m in request.messages):
            os.kill(os.getpid(), signal.SIGKILL)
        super().add(given)
