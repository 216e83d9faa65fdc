"""A worker's teacher: the GGUF file of this node, opened as one process opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from srtui import today
from srtui.cluster.worker_messages import ModelFiles, ShippedFolder, WorkDone, WorkerFacts
from srtui.llama import Request, Teacher, open_teacher
from srtui.llama.tuning import tuned

_SLOTS = 16  # of a window, where the teacher chooses its slots itself


@dataclass
class TeacherJob:
    """``settings`` are those of [teacher] that :func:`srtui.llama.open_teacher` takes, ``threads`` among them;
    ``day`` is what chat templates take for today."""

    model: ModelFiles
    name: str
    settings: dict[str, Any]
    adapter: ShippedFolder | None
    day: str
    device: str = ""

    def open(self, node: str) -> WorkerFacts:
        """See :class:`srtui.cluster.worker.Job`."""
        import os

        today.freeze(self.day)
        path = self.model.find(node)
        settings = dict(self.settings)
        measured = tuned(path) if settings["slots"] == "auto" else None
        if measured:
            settings["slots"] = measured.slots
        adapter = self.adapter and next(self.adapter.unpack().iterdir())
        self._teacher: Teacher = open_teacher(
            path, name=self.name, sha256=dict(self.model.sha256)[""], adapter=adapter, **settings
        )
        slots = settings["slots"] if settings["slots"] != "auto" else max(_SLOTS, self._teacher.window // 16)
        # As many again as it has slots: what follows is there when a text ends, and little is held by a slow one.
        return WorkerFacts(
            node, os.getpid(), self.device, self._teacher.identity, {"slots": slots}, window=2 * slots
        )

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        """See :class:`srtui.cluster.worker.Job`."""
        self._teacher.submit([replace(request, key=ticket) for ticket, request in tasks])

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        """See :class:`srtui.cluster.worker.Job`."""
        for generation in self._teacher.run(should_stop):
            yield int(generation.key), generation.candidate, generation  # type: ignore[call-overload]

    def done(self) -> WorkDone:
        """See :class:`srtui.cluster.worker.Job`."""
        progress = self._teacher.progress()
        return WorkDone(
            moved=progress.prompt_tokens + progress.new_tokens,
            prompt_tokens=progress.prompt_tokens,
            saved_tokens=progress.prompt_tokens_saved,
            new_tokens=progress.new_tokens,
            slots=progress.slots,
            slots_in_use=progress.slots_in_use,
            waiting=progress.waiting,
            live_ticket=progress.live_key if isinstance(progress.live_key, int) else None,
            live_text=progress.live_text[-2000:],
        )

    def ask(self, name: str, given: Any) -> Any:
        """``room`` of a request."""
        if name != "room" or not isinstance(given, Request):
            raise ValueError(name)
        return list(self._teacher.room(given))
