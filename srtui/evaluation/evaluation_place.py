"""Where the models of an evaluation run: in this process, or in workers.

What runs them in workers (srtui.cluster) has the same methods; the evaluation does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from srtui.evaluation.contestants import Contestant
from srtui.evaluation.judge_model import JudgeModel, JudgeQuestion, JudgeScores
from srtui.evaluation.writing import AnswerSettings, AnswerWriter, open_writer
from srtui.progress import Report

if TYPE_CHECKING:
    from srtui.student import Student, StudentSource


class Judge(Protocol):
    """What :class:`srtui.evaluation.judge_model.JudgeModel` does with a model."""

    def scores(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[JudgeQuestion, JudgeScores | str, float, int]]:
        """See :meth:`srtui.evaluation.judge_model.JudgeModel.scores`; in any order."""

    def write(
        self, questions: Sequence[JudgeQuestion], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgeQuestion, str, int]]:
        """See :meth:`srtui.evaluation.judge_model.JudgeModel.write`."""


class EvaluationPlace(Protocol):
    """Runs models for one evaluation; ``report`` gets (level, sentence)."""

    def writer(self, contestant: Contestant, writing: AnswerSettings, report: Report) -> AnswerWriter:
        """What writes a contestant's answers; loads it."""

    def judge(self, model: JudgeModel, report: Report) -> Judge:
        """``model`` where it runs; loads nothing yet."""

    def student(self, source: StudentSource, report: Report) -> tuple[Student, Any]:
        """The student of ``source`` and its scorer."""


class OwnProcess:
    """This process."""

    def writer(self, contestant: Contestant, writing: AnswerSettings, report: Report) -> AnswerWriter:
        """See :meth:`EvaluationPlace.writer`."""
        return open_writer(contestant, writing)

    def judge(self, model: JudgeModel, report: Report) -> Judge:
        """See :meth:`EvaluationPlace.judge`."""
        return model

    def student(self, source: StudentSource, report: Report) -> tuple[Student, Any]:
        """See :meth:`EvaluationPlace.student`."""
        from srtui.student import Student, open_scorer

        student = Student.load(
            source.path,
            source.quantization,
            adapter=source.adapter,
            report_line=lambda line: report("warning", line),
        )
        return student, open_scorer(student, source.batch_tokens)
