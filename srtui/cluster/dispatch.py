"""Which worker has which piece of work; nothing is lost, and nothing counts twice.

A task goes to one worker at a time and stays known until all of its results have come. What a worker had when it was
lost goes to others, and what it still sends afterwards, or sends twice, is not taken. A task that was in the hands of
several workers as they died may be what kills them: it is given to a worker that has nothing else, and if that one
dies too, the task is given up and not the workers. Only a worker that has not just failed itself is trusted with that.

All of this is arithmetic over tickets: it knows no Ray, and no model.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Any

SUSPECT_AFTER = 2
"""Workers that died with a task in their hands, after which it runs by itself."""


@dataclass(eq=False)
class Task:
    """``payload`` is what a worker is given and ``key`` the caller's own. ``parts`` results are expected, by number;
    ``missing`` has not come yet. ``deaths``: workers that were lost while they had it."""

    payload: Any
    key: Any
    size: int
    parts: int = 1
    ticket: int = -1
    missing: set[int] = field(default_factory=set)
    deaths: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what its workers died of."""
        return self.deaths >= SUSPECT_AFTER


class Dispatcher:
    """Tasks that wait, the longest first, and tasks that workers have. Workers are known by number."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Task]] = []  # a heap: the largest first, then the oldest
        self._suspects: list[Task] = []
        self._held: dict[int, dict[int, Task]] = {}
        self._tickets = count()

    @property
    def waiting(self) -> int:
        """Tasks that no worker has."""
        return len(self._waiting) + len(self._suspects)

    @property
    def outstanding(self) -> int:
        """Tasks that workers have."""
        return sum(map(len, self._held.values()))

    def held(self, worker: int) -> int:
        """How many tasks a worker has."""
        return len(self._held.get(worker, ()))

    def add(self, task: Task) -> None:
        """Queue a task."""
        task.ticket, task.missing = next(self._tickets), set(range(task.parts))
        self._put(task)

    def _put(self, task: Task) -> None:
        if task.is_suspect:
            self._suspects.append(task)
        else:
            heapq.heappush(self._waiting, (-task.size, task.ticket, task))

    def hand_out(self, worker: int, window: int, workers: int, *, trusted: bool = True) -> list[Task]:
        """What a worker is given now, so that it has ``window`` tasks at most; towards the end no more than its share
        of what is left among so many ``workers``, for the last tasks to run side by side.

        Args:
            worker: which.
            window: tasks that it has at most.
            workers: how many there are.
            trusted: whether it may have a task that others died with.
        """
        held = self._held.setdefault(worker, {})
        if any(task.is_suspect for task in held.values()):
            return []
        if self._suspects and trusted and (not held or not self._waiting):
            if held:
                return []  # it is soon free for one
            return [self._take(worker, self._suspects.pop())]
        share = max(1, -(-(len(self._waiting) + self.outstanding) // max(1, workers)))
        room = min(window, share) - len(held)
        handed_out: list[Task] = []
        while self._waiting and len(handed_out) < room:
            handed_out.append(self._take(worker, heapq.heappop(self._waiting)[2]))
        return handed_out

    def take(self, worker: int, ticket: int, part: int) -> Task | None:
        """A result has come: its task, or None where it is not wanted (any more) from this worker."""
        held = self._held.get(worker, {})
        task = held.get(ticket)
        if task is None or part not in task.missing:
            return None
        task.missing.discard(part)
        if not task.missing:
            del held[ticket]
        return task

    def lost(self, worker: int, *, died: bool = True) -> list[Task]:
        """A worker is gone: its tasks go to others. Returns those that are given up, since a worker that had nothing
        else died of them; not ``died``, nobody is to blame (a node was taken away)."""
        held = self._held.pop(worker, {})
        given_up = []
        for task in held.values():
            alone = task.is_suspect
            task.deaths += died
            if alone and died:
                given_up.append(task)
            else:
                self._put(task)
        return given_up

    def find(self, ticket: int) -> Task | None:
        """A task that a worker has."""
        return next((held[ticket] for held in self._held.values() if ticket in held), None)

    def clear(self) -> None:
        """Forget all tasks; what workers still send of them is not taken."""
        self._waiting.clear()
        self._suspects.clear()
        self._held.clear()

    def _take(self, worker: int, task: Task) -> Task:
        self._held[worker][task.ticket] = task
        return task
