"""What each measure is worth with a student: its values for pairs whose better answer is known.

Every loss is stored as those of runs are, so a calibration that was stopped resumes, and a run that meets the same
texts has their losses already.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from srtui.errors import UserError
from srtui.evaluation.combination import Combination, fit_combination
from srtui.evaluation.known_pairs import KnownPair, Preferences
from srtui.evaluation.measure_calibration import calibrated
from srtui.hashing import key
from srtui.measures import (
    AT_LENGTH,
    MEASURES,
    Direction,
    informative_threshold,
    length_line,
    selective_ifd,
    token_difference,
)
from srtui.progress import Progress, Reporter, Stopped
from srtui.recipe.measure_weights import LENGTH, MeasureWeights
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.calibrations import Calibration

if TYPE_CHECKING:
    from srtui.evaluation.rater import Rater
    from srtui.pipeline.variants import PairLosses, VariantScorer
    from srtui.student.sentence_encoder import SentenceEncoder

STAGE = "calibrate"
_BLOCK = (
    32  # pairs scored together: what a kill may lose of shared beginnings, and how often progress is shown
)
_FORM = 2  # of the stored result: counts up when a figure of it gets another meaning
PAIRWISE = "teacher-preference"
"""What a rater prefers of two answers that it is shown in both orders: what the gate of a rater asks."""
_SHOWN = {PAIRWISE: "the rater's preference"}

Column = list["float | None"]
"""A measure's values, higher preferred, of one text after the other: answer 1 and 2 of the first pair, and so on."""


@dataclass(frozen=True)
class CalibrationRun:
    """One calibration at work. ``scorer`` is the student that scores; ``should_stop`` is asked often. ``rater`` and
    ``encoder`` add the measures that need them."""

    store: Store
    scorer: VariantScorer
    known: Preferences
    reporter: Reporter
    should_stop: Callable[[], bool] = lambda: False
    rater: Rater | None = None
    encoder: SentenceEncoder | None = None

    @property
    def digest(self) -> bytes:
        """The key of all that the result depends on."""
        return key(
            "calibration", form=_FORM, setting=self.scorer.setting_id, pairs=self.known.digest,
            student=self.scorer.student.id, rater=self.rater.identity if self.rater else None,
            encoder=self.encoder.identity if self.encoder else None,
        )  # fmt: skip

    def work(self) -> Calibration:
        """The stored result, computed where it is not there yet. Raises Stopped when asked to stop; what was
        scored by then is stored."""
        stored = self.store.calibrations.by_digest(self.digest)
        if (
            stored is not None
        ):  # by a file of another name, perhaps, which had other rows beside the same pairs
            return replace(
                stored,
                source=self.known.source,
                result={**stored.result, "skipped": dict(self.known.skipped)},
            )
        columns, names = self._columns()
        texts = texts_of(self.known.pairs)
        lengths = [len(t.response) for t in texts]
        combination = self._combined(columns, lengths)
        if not isinstance(combination, str):
            columns["combined"] = [
                None if levels is None else levels[side] for levels in combination.held_out for side in (0, 1)
            ]
            names["combined"] = MEASURES["combined"].label
        measures: dict[str, list[tuple[float, float] | None]] = {}
        shown: dict[str, str] = {}
        for name, column in columns.items():
            measures[name], shown[name] = _in_pairs(column), names[name]
            controlled, reason = at_length(column, lengths)
            if controlled is not None:
                measures[name + AT_LENGTH] = _in_pairs(controlled)
                shown[name + AT_LENGTH] = f"{names[name]} at equal length"
            else:
                self.reporter.event("info", f"{names[name]} has no length-controlled version: {reason}.")
        result = calibrated(self.known.pairs, measures, shown) | {
            "skipped": self.known.skipped,
            "student": self.scorer.student.name,
            "weights": None if isinstance(combination, str) else combination.weights,
            "no_weights": combination if isinstance(combination, str) else None,
            "rater": {"name": self.rater.name, "file": self.rater.file, **self.rater.identity}
            if self.rater
            else None,
            "encoder": {"name": self.encoder.name, "identity": self.encoder.identity}
            if self.encoder
            else None,
        }
        return self.store.calibrations.add(
            self.digest, self.scorer.setting_id, self.known.source, len(self.known.pairs), result
        )

    def _combined(self, columns: Mapping[str, Column], lengths: Sequence[int]) -> Combination | str:
        """The combination of all measures and of length, or why there is none."""
        logs: Column = [math.log(max(1, n)) for n in lengths]
        # A run can compute a measure for one text alone; a preference needs two.
        parts = {name: _in_pairs(column) for name, column in columns.items() if name in MEASURES}
        parts[LENGTH] = _in_pairs(logs)
        pairs = self.known.pairs
        return fit_combination([p.preferred for p in pairs], parts, questions=[p.question for p in pairs])

    def weights(self, finished: Calibration) -> MeasureWeights:
        """What a recipe's ``selection.weights`` takes, of a calibration. Raises UserError where there are none."""
        combination, setting = (
            finished.result.get("weights"),
            self.store.scores.setting_by_id(self.scorer.setting_id),
        )
        if not combination or setting is None:
            raise UserError(f"There are no weights to write: {finished.result.get('no_weights')}.")
        combined, length = (finished.result["measures"][name]["agreement"] for name in ("combined", LENGTH))
        return MeasureWeights(
            student=setting.student,
            student_id=setting.student_id,
            template=setting.template,
            template_version=setting.template_version,
            protocol=self.scorer.protocol,
            data=self.known.source,
            data_digest=self.known.digest.hex(),
            pairs=finished.result["decided"],
            accuracy=tuple(combined),
            length_accuracy=tuple(length),
            weights=combination,
            rater=self.rater.identity if self.rater is not None and "teacher-score" in combination else None,
            encoder=self.encoder.identity
            if self.encoder is not None and "coherence" in combination
            else None,
        )

    def _columns(self) -> tuple[dict[str, Column], dict[str, str]]:
        """By measure, the values of all texts, and what it is called."""
        forward, reverse = self._losses()
        of: dict[Direction, list[PairLosses]] = {"forward": forward, "reverse": reverse}
        differences = [token_difference(*pair) for pair in forward]
        present = [d for d in differences if d is not None]
        columns: dict[str, Column] = {}
        for name, measure in MEASURES.items():
            if measure.source == "losses":
                rows = zip(*(of[d] for d in measure.directions("response")), strict=True)
                values = [measure.value(*(loss for pair in row for loss in pair))[0] for row in rows]
            elif measure.source == "tokens" and present:
                threshold = informative_threshold(present)
                values = [None if d is None else selective_ifd(d, threshold) for d in differences]
            elif measure.source == "rater" and self.rater is not None:
                values = self._rated(self.rater)
            elif measure.source == "encoder" and self.encoder is not None:
                values = self.encoder.coherence(texts_of(self.known.pairs))
            else:
                continue
            columns[name] = [None if v is None else measure.preferred_level(v) for v in values]
        if self.rater is not None:
            columns[PAIRWISE] = self._preferred_by(self.rater)
        return columns, {name: _SHOWN.get(name) or MEASURES[name].label for name in columns}

    def _rated(self, rater: Rater) -> Column:
        """The rater's score of every text. Raises Stopped."""
        values = rater.scores(texts_of(self.known.pairs), self._share_reporter("rate"), self.should_stop)
        if self.should_stop():
            raise Stopped
        return [value for value, _ in values]

    def _preferred_by(self, rater: Rater) -> Column:
        """The probability with which the rater, shown both answers in both orders, prefers each. Raises Stopped."""
        pairs = [(Pair(p.instruction, p.input, p.answers[0]), p.answers[1]) for p in self.known.pairs]
        values = rater.preferences(pairs, self._share_reporter("rate-pairs"), self.should_stop)
        if self.should_stop():
            raise Stopped
        return [
            side for first, _ in values for side in ((None, None) if first is None else (first, 1 - first))
        ]

    def _share_reporter(self, stage: str) -> Callable[[int, float], None]:
        total, began, tokens = len(self.known.pairs), time.monotonic(), [0]

        def report_share(new_tokens: int, share: float) -> None:
            tokens[0] += new_tokens
            self.reporter.progress(
                Progress(stage, int(share * total), total, tokens[0], time.monotonic() - began)
            )

        return report_share

    def _losses(self) -> tuple[list[PairLosses], list[PairLosses]]:
        """Of every text, (L(y|x), L(y)) and (L(x|y), L(x)). Raises Stopped."""
        texts, total = texts_of(self.known.pairs), len(self.known.pairs)
        began, tokens = time.monotonic(), 0
        forward: list[PairLosses] = []
        reverse: list[PairLosses] = []
        for start in range(0, len(texts), 2 * _BLOCK):
            block = texts[start : start + 2 * _BLOCK]
            for half, (losses, metric, by_token) in enumerate(
                ((forward, "ifd", True), (reverse, "rifd", False))
            ):
                scoring = self.scorer.pair_losses(block, metric, self.should_stop, by_token)
                while True:
                    try:
                        new_tokens, share = next(scoring)
                    except StopIteration as end:
                        losses += end.value
                        break
                    tokens += new_tokens
                    finished = int((start + len(block) * (half + share) / 2) / 2)
                    self.reporter.progress(Progress(STAGE, finished, total, tokens, time.monotonic() - began))
                if self.should_stop():
                    raise Stopped
        self.reporter.progress(Progress(STAGE, total, total, tokens, time.monotonic() - began))
        return forward, reverse


def texts_of(pairs: Sequence[KnownPair]) -> list[Pair]:
    """Each question with its first answer, and then with its second."""
    return [Pair(p.instruction, p.input, answer) for p in pairs for answer in p.answers]


def at_length(column: Column, lengths: Sequence[int]) -> tuple[Column | None, str]:
    """A measure with length taken out: its residuals from a straight line in log characters, fitted on all texts that
    have a value; or None and why there is no line."""
    line = length_line([(v, n) for v, n in zip(column, lengths, strict=True) if v is not None])
    if isinstance(line, str):
        return None, line
    return [None if v is None else line.residual(v, n) for v, n in zip(column, lengths, strict=True)], ""


def _in_pairs(column: Column) -> list[tuple[float, float] | None]:
    return [
        None if a is None or b is None else (a, b) for a, b in zip(column[::2], column[1::2], strict=True)
    ]
