"""A worker's part of an evaluation: a judge that scores, or a student that writes."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from srtui import today
from srtui.cluster.worker_messages import ModelFiles, ShippedFolder, WorkDone, WorkerFacts
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.judge_model import JudgeModel, JudgeQuestion
from srtui.evaluation.writing import AnswerSettings, Turns

if TYPE_CHECKING:
    from srtui.store.evaluations import Answer

_WINDOW = 4  # questions to a judge that a worker has at a time


@dataclass
class JudgeJob:
    """Scores a question a task: (scores or why there are none, seconds, tokens run)."""

    model: ModelFiles
    judge: JudgeModel
    threads: int
    device: str = ""
    _queue: deque[tuple[int, JudgeQuestion]] = field(default_factory=deque)

    def open(self, node: str) -> WorkerFacts:
        """See :class:`srtui.cluster.worker.Job`."""
        from srtui.llama.losses import LlamaLosses

        path = self.model.find(node)
        self.judge = replace(self.judge, path=path)
        self._losses = LlamaLosses(path, self.threads)
        return WorkerFacts(node, os.getpid(), self.device, self.judge.identity, {}, _WINDOW)

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        """See :class:`srtui.cluster.worker.Job`."""
        self._queue.extend(tasks)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        """See :class:`srtui.cluster.worker.Job`."""
        while self._queue and not should_stop():
            ticket, question = self._queue.popleft()
            began, before = time.monotonic(), self._losses.tokens_run
            scored = self.judge.scored(self._losses, question)
            yield ticket, 0, (scored, time.monotonic() - began, self._losses.tokens_run - before)
        self._queue.clear()

    def done(self) -> WorkDone:
        """See :class:`srtui.cluster.worker.Job`."""
        run = self._losses.tokens_run
        return WorkDone(moved=run, prompt_tokens=run, slots=1, slots_in_use=1, waiting=len(self._queue))

    def ask(self, name: str, given: Any) -> Any:
        """Nothing is asked of a judge."""
        raise ValueError(name)


@dataclass
class WriterJob:
    """Continues a few conversations a task, those that go through the student together: their answers, in order.
    ``day`` is what chat templates take for today."""

    model: ModelFiles
    adapter: ShippedFolder | None
    contestant: Contestant
    writing: AnswerSettings
    day: str
    threads: int
    device: str = ""
    _queue: deque[tuple[int, Sequence[Turns]]] = field(default_factory=deque)
    _moved: int = 0
    _tokens: int = 0

    def open(self, node: str) -> WorkerFacts:
        """See :class:`srtui.cluster.worker.Job`."""
        import torch

        from srtui.evaluation.writing import StudentWriter
        from srtui.workspace import go_offline

        go_offline()
        today.freeze(self.day)
        if self.threads:
            torch.set_num_threads(self.threads)
        here = replace(
            self.contestant,
            path=self.model.find(node),
            adapter=self.adapter.unpack() if self.adapter else None,
        )
        self._writer = StudentWriter(here, self.writing)
        student = self._writer.student
        return WorkerFacts(node, os.getpid(), self.device, (student.id, student.arithmetic), {}, window=2)

    def add(self, tasks: Iterable[tuple[int, Any]]) -> None:
        """See :class:`srtui.cluster.worker.Job`."""
        self._queue.extend(tasks)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int, Any]]:
        """See :class:`srtui.cluster.worker.Job`."""

        def looked() -> bool:
            self._moved += 1  # asked at each token
            return should_stop()

        while self._queue and not should_stop():
            ticket, conversations = self._queue.popleft()
            answers: dict[int, Answer] = {}
            for n, answer in self._writer.write(conversations, looked):
                answers[n] = answer
                self._tokens += answer.prompt_tokens + answer.new_tokens
            if len(answers) == len(conversations):  # else it was stopped
                yield ticket, 0, [answers[n] for n in range(len(conversations))]
        self._queue.clear()

    def done(self) -> WorkDone:
        """See :class:`srtui.cluster.worker.Job`."""
        return WorkDone(
            moved=self._moved, new_tokens=self._tokens, slots=1, slots_in_use=1, waiting=len(self._queue)
        )

    def ask(self, name: str, given: Any) -> Any:
        """Nothing is asked of a writer."""
        raise ValueError(name)
