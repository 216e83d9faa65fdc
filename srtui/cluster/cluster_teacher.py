"""A teacher that is many: each worker writes with a model of its own, as one process does with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from srtui.cluster.dispatch import Task
from srtui.cluster.pool import Pool
from srtui.llama import WORKERS_DIED, Generation, Prepared, Request, TeacherIdentity, TeacherProgress

_LEAST_WINDOW, _WINDOWS = 512, 2  # requests; and how often the workers' own windows are there to follow


class ClusterTeacher:
    """See :class:`srtui.llama.Teacher`. Prompts are laid out and cut into tokens by the workers."""

    def __init__(self, pool: Pool, identity: TeacherIdentity) -> None:
        """``pool``: of teachers, open."""
        self._pool, self.identity = pool, identity

    @property
    def window(self) -> int:
        """What the workers hold, and as much again."""
        return max(_LEAST_WINDOW, _WINDOWS * sum(facts.window for facts in self._pool.facts))

    def prepare(self, request: Request) -> Prepared:
        """See :meth:`srtui.llama.Teacher.prepare`; how long it is, is told by its characters."""
        size = request.characters // 4 + sum(segment.max_tokens for segment in request.segments)
        # The key stays here: a worker knows a request by its ticket.
        return Prepared(request, Task(replace(request, key=None), request.key, size, request.candidates))

    def submit(self, requests: Sequence[Request | Prepared]) -> None:
        """See :meth:`srtui.llama.Teacher.submit`."""
        ready = [r if isinstance(r, Prepared) else self.prepare(r) for r in requests]
        self._pool.submit([cast("Task", r.work) for r in ready])

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
        """See :meth:`srtui.llama.Teacher.run`. Raises UserError where no worker is left."""
        for task, part, result in self._pool.run(should_stop):
            if result is None:
                yield self._given_up(task, part)
            else:
                yield replace(cast("Generation", result), key=task.key)

    def _given_up(self, task: Task, part: int) -> Generation:
        request = cast("Request", task.payload)
        detail = f"{task.deaths} workers died while they wrote it"
        return Generation(
            task.key,
            part,
            request.seed + part,
            (),
            "",
            "",
            "",
            0,
            0,
            0.0,
            refused=WORKERS_DIED,
            detail=detail,
        )

    def room(self, request: Request) -> Sequence[int]:
        """See :meth:`srtui.llama.Teacher.room`; a worker is asked."""
        return cast("list[int]", self._pool.ask("room", replace(request, key=None)))

    def progress(self) -> TeacherProgress:
        """See :meth:`srtui.llama.Teacher.progress`."""
        totals = self._pool.done()
        live = self._pool.held_by(totals.live_ticket)
        return TeacherProgress(
            slots=totals.slots,
            slots_in_use=totals.slots_in_use,
            waiting=totals.waiting,
            prompt_tokens=totals.prompt_tokens,
            prompt_tokens_saved=totals.saved_tokens,
            new_tokens=totals.new_tokens,
            live_key=live.key if live else None,
            live_text=totals.live_text if live else "",
        )

    def close(self) -> None:
        """See :meth:`srtui.llama.Teacher.close`."""
        self._pool.close()
