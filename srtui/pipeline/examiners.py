"""Arms of an ablation compared beside their losses: by a judge over prompts, and by multiple choice.

Each comparison is an evaluation like any other: stored, shown by ``srtui eval list``, asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from srtui.errors import UserError
from srtui.evaluation.contestants import find_contestant, same_weights
from srtui.evaluation.evaluation_place import EvaluationPlace
from srtui.evaluation.evaluator import Evaluator
from srtui.evaluation.fingerprint import prepare, settings_of
from srtui.evaluation.judge_model import JudgeModel
from srtui.evaluation.rates import margin_of, outcomes
from srtui.evaluation.sources import Questions
from srtui.evaluation.writing import AnswerSettings
from srtui.pipeline.ablate import ArmResult, paired_interval
from srtui.progress import Reporter
from srtui.store import Store
from srtui.store.evaluations import Evaluation
from srtui.store.runs import Run
from srtui.workspace import Workspace


@dataclass(frozen=True)
class JudgeExaminer:
    """Each run of an arm against the full method's of the same seed, by a judge, in both orders."""

    workspace: Workspace
    store: Store
    source: Questions
    judge: JudgeModel
    reporter: Reporter
    writing: AnswerSettings
    tie_margin: float | None = None
    should_stop: Callable[[], bool] = lambda: False
    place: EvaluationPlace | None = None

    def examine(self, row: ArmResult, runs: Sequence[Run], full: Sequence[Run]) -> ArmResult:
        """``judged`` is the arm's win rate less one half, a tie as half; over items judged for every seed."""
        if row.arm == "full":
            return row
        evaluations = [self._pairwise(run, other) for run, other in zip(runs, full, strict=True)]
        shares = [outcomes(self.store, e) for e in evaluations]
        items = sorted(set.intersection(*(set(s) for s in shares)))
        if not items:
            raise UserError(
                f"The judge {self.judge.name} could judge nothing of arm {row.arm}; srtui eval list names the evaluations, srtui eval show ID says why."
            )
        win_shares = np.array([[s[item] for item in items] for s in shares])
        judged = paired_interval(win_shares, np.full_like(win_shares, 0.5)).within(0.5)
        return replace(row, judged=judged, evaluations=[*row.evaluations, *(e.id for e in evaluations)])

    def _pairwise(self, arm: Run, full: Run) -> Evaluation:
        contestants = [find_contestant(self.workspace, self.store, run.name) for run in (arm, full)]
        margin = margin_of(self.store, self.judge, self.tie_margin)
        settings = settings_of(self.writing, self.writing.seed, tie_margin=margin)
        evaluation, _ = prepare(self.store, "pairwise", self.source, contestants, self.judge, settings)
        if evaluation.state == "done":
            return evaluation
        self.reporter.event("info", f"{arm.name} against {full.name}, by {self.judge.name}")
        warnings = same_weights(self.workspace, self.store, self.judge.name, self.judge.sha256, contestants)
        sides: Any = {"a": contestants[0], "b": contestants[1]}
        return Evaluator(
            self.store, evaluation, self.source, sides, self.judge, self.reporter, self.should_stop,
            warnings=warnings, place=self.place,
        ).work()  # fmt: skip


@dataclass(frozen=True)
class ChoiceExaminer:
    """Each run's accuracy on the same multiple-choice questions."""

    workspace: Workspace
    store: Store
    tasks: Path
    reporter: Reporter
    limit: int | None = None
    shots: int | None = None
    should_stop: Callable[[], bool] = lambda: False
    place: EvaluationPlace | None = None

    def examine(self, row: ArmResult, runs: Sequence[Run], full: Sequence[Run]) -> ArmResult:
        """``accuracy``, and ``choice``, the accuracy less the full method's question by question."""
        evaluations = [self._choice(run) for run in runs]
        right = np.array([self._right(e) for e in evaluations])
        result = replace(
            row, accuracy=float(right.mean()), evaluations=[*row.evaluations, *(e.id for e in evaluations)]
        )
        if row.arm == "full":
            return result
        reference = np.array([self._right(self._choice(run)) for run in full])
        return replace(result, choice=paired_interval(right, reference).within(1.0))

    def _choice(self, run: Run) -> Evaluation:
        from srtui.evaluation import multiple_choice

        contestant = find_contestant(self.workspace, self.store, run.name)
        return multiple_choice.evaluate(
            self.store,
            contestant,
            self.tasks,
            self.limit,
            self.shots,
            self.reporter,
            self.should_stop,
            self.place,
        )

    def _right(self, evaluation: Evaluation) -> list[float]:
        return [j.score_a or 0.0 for j in self.store.evaluations.judgements(evaluation.id)]
