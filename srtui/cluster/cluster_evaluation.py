"""An evaluation's models in workers: each scores, or writes, what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from srtui.cluster.dispatch import SUSPECT_AFTER, Task
from srtui.cluster.pool import Pool
from srtui.errors import UserError
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.judge_model import JudgeModel, JudgeQuestion, JudgeScores
from srtui.evaluation.writing import CPU_BATCH, GPU_BATCH, AnswerSettings, Turns, answer_key
from srtui.llama import Teacher

if TYPE_CHECKING:
    from srtui.store.evaluations import Answer

_AGAIN = "What was finished is stored; run the same command again."


class ClusterJudge:
    """See :class:`srtui.evaluation.evaluation_place.Judge`. Its workers are there while it is asked."""

    def __init__(
        self, model: JudgeModel, scorers: Callable[[], Pool], teacher: Callable[[], Teacher]
    ) -> None:
        """``scorers`` opens those that score, ``teacher`` what writes the judge's words."""
        self._model, self._scorers, self._teacher = model, scorers, teacher

    def scores(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[JudgeQuestion, JudgeScores | str, float, int]]:
        """See :meth:`srtui.evaluation.evaluation_place.Judge.scores`. Raises UserError where a question cannot be judged."""
        pool = self._scorers()
        try:
            pool.submit([Task(question, question, _length(question)) for question in questions])
            for task, _, result in pool.run(should_stop):
                if result is None:
                    raise UserError(
                        f"Item {task.key.item} cannot be judged: each worker that was at it died. {_AGAIN}"
                    )
                yield task.key, *result
        finally:
            pool.close()

    def write(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgeQuestion, str, int]]:
        """See :meth:`srtui.evaluation.evaluation_place.Judge.write`."""
        return self._model.write(questions, should_stop, teacher=self._teacher())


class ClusterWriter:
    """Students in workers that answer; see :class:`srtui.evaluation.writing.AnswerWriter`. Conversations of about one
    length go to a worker together, as they go through one student together."""

    def __init__(self, pool: Pool, contestant: Contestant, writing: AnswerSettings, on_gpu: bool) -> None:
        """What the contestant's students write.

        Args:
            pool: of them, open.
            contestant: whom they are.
            writing: how they write.
            on_gpu: whether each has a GPU.
        """
        self._pool, self._contestant, self._writing = pool, contestant, writing
        self._most = GPU_BATCH if on_gpu else CPU_BATCH

    def write(
        self, conversations: Sequence[Turns], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[int, Answer]]:
        """See :meth:`srtui.evaluation.writing.AnswerWriter.write`. Raises UserError where one cannot be continued."""
        order = sorted(range(len(conversations)), key=lambda n: -_characters(conversations[n]))
        size = max(1, min(self._most, -(-len(order) // max(1, self._pool.size))))

        def task(chosen: Sequence[int], deaths: int = 0) -> Task:
            some = [conversations[n] for n in chosen]
            return Task(some, chosen, sum(map(_characters, some)), deaths=deaths)

        self._pool.submit([task(order[n : n + size]) for n in range(0, len(order), size)])
        for done, _, result in self._pool.run(should_stop):
            chosen = done.key
            if result is None and len(chosen) == 1:
                raise UserError(
                    f"An answer of {self._contestant.name} cannot be written: each worker that was at it died. {_AGAIN}"
                )
            if result is None:  # one of them is what the workers died of
                half = len(chosen) // 2
                self._pool.submit([task(part, SUSPECT_AFTER) for part in (chosen[:half], chosen[half:])])
                continue
            for n, answer in zip(chosen, result, strict=True):
                # What it is found by is this process's word: a worker's files lie elsewhere.
                yield n, replace(answer, key=answer_key(self._contestant, self._writing, conversations[n]))

    def close(self) -> None:
        """End its workers."""
        self._pool.close()


def _characters(turns: Turns) -> int:
    return sum(len(part) for turn in turns for part in turn)


def _length(question: JudgeQuestion) -> int:
    return len(question.question) + sum(map(len, question.shown))
