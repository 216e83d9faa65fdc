"""What each measure says of variants, from whichever source it is computed: a run's student, its tokens' losses, a
sentence encoder, a rater, other measures, a random number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import TYPE_CHECKING

from srtui import selection
from srtui.errors import UserError
from srtui.hashing import draw
from srtui.measures import (
    MEASURES,
    NOTHING_TO_SCORE,
    SCORE_OF,
    LengthLine,
    Measure,
    Metric,
    Source,
    SpanLoss,
    Value,
    informative_threshold,
    length_line,
    selective_ifd,
    token_difference,
)
from srtui.pipeline.context import Context
from srtui.recipe.measure_weights import LENGTH, MeasureWeights
from srtui.sample import Pair, Target
from srtui.selection import seeded_random

if TYPE_CHECKING:
    from srtui.pipeline.variants import PairLosses, VariantScorer
    from srtui.store import Store

FITTED_ON = 512
"""Originals that a percentile, or a line over length, is fitted on, where a dataset has more."""

_ValuesOf = Callable[[Measure, Target, list[int], Callable[[float], None]], list[Value]]
"""(measure, target, variant ids, how much of the call is done) -> a value for each variant, in their order."""


def fitted_on(store: Store, run_id: int, seed: int) -> list[int]:
    """Originals of a run to fit what a measure or a gate needs to know of the dataset: the same ones for the same seed."""
    return nsmallest(
        FITTED_ON, store.corpus.each_original_id(run_id), key=lambda variant: draw(seed, "fit", variant)
    )


def _finite(value: float | None) -> Value:
    """A value, or why there is none: weights are a file, which may say anything, and infinity is no value to choose by."""
    if value is None:
        return None, NOTHING_TO_SCORE
    return (value, None) if math.isfinite(value) else (None, "non_finite")


class MeasureValues:
    """Values of measures for variants of a run. What a measure needs to know of the dataset is fitted on its own
    originals when it is first asked, and is the same after a kill."""

    def __init__(self, context: Context) -> None:
        self._context, self._watch = context, context.watch
        self._store, self._run, self._recipe = context.store, context.run, context.recipe
        self._tokens = 0  # through the student or the rater in this stage, in this process
        self._threshold: float | None = None
        self._lines: dict[Target, LengthLine] = {}
        self._sources: dict[Source, _ValuesOf] = {
            "losses": self._from_losses,
            "tokens": self._from_tokens,
            "encoder": self._by_encoder,
            "rater": self._by_rater,
            "combination": self._from_measures,
            "draw": self._drawn,
        }

    def _values(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """What the measure says of each variant, whether it is stored as a score or not."""
        return self._sources[measure.source](measure, target, variant_ids, report_share)

    def _at_length(
        self,
        measure: Measure,
        target: Target,
        scores: dict[int, selection.ScoredText],
        report_share: Callable[[float], None],
    ) -> dict[int, selection.ScoredText]:
        """The scores with length taken out: residuals from the measure's line over the dataset's own originals."""
        line = self._lines.get(target)
        if line is None:
            originals = self._some_originals()
            values = self._values(measure, target, originals, report_share)
            sizes = [len(pair.response) for pair in self._pairs(originals)]
            rows = [(measure.level(v), n) for (v, _), n in zip(values, sizes, strict=True) if v is not None]
            fitted = length_line(rows)
            if isinstance(fitted, str):
                raise UserError(
                    f"selection.length_control: there is no line of {measure.label} over the originals' lengths, since "
                    f"{fitted}; set it to false, or take more samples."
                )
            self._lines[target] = line = fitted
            self._watch.event(
                "info",
                f"{measure.label} over length: {line.slope:+.3f} for each e-fold of characters, fitted on {len(rows)} "
                "originals; choices are made by what is left.",
            )
        ids = list(scores)
        return {
            v: scores[v]
            if (value := scores[v].score) is None
            else selection.ScoredText(v, line.residual(measure.level(value), len(pair.response)))
            for v, pair in zip(ids, self._pairs(ids), strict=True)
        }

    def _from_measures(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """The weighted sum of other measures' levels, as the file of weights has them; they were fitted on
        responses, so each is what it is where a response is chosen."""
        weights = self._weights()
        pairs = self._pairs(variant_ids)
        sums: list[float | None] = [0.0] * len(pairs)
        for n, (name, weight) in enumerate(weights.weights.items()):

            def report_all(share: float, before: int = n) -> None:
                report_share((before + share) / len(weights.weights))

            if name == LENGTH:
                levels: list[float | None] = [math.log(max(1, len(pair.response))) for pair in pairs]
            else:
                part = MEASURES[name]
                levels = [
                    None if value is None else part.preferred_level(value)
                    for value, _ in self._values(part, "response", variant_ids, report_all)
                ]
            sums = [
                None if total is None or level is None else total + weight * level
                for total, level in zip(sums, levels, strict=True)
            ]
        return [_finite(total) for total in sums]

    def _weights(self) -> MeasureWeights:
        """The recipe's weights. Raises UserError where they were fitted with another student or template."""
        weights = self._recipe.selection.weights
        setting = self._store.scores.setting_by_id(self._context.variant_scorer().setting_id)
        assert weights is not None and setting is not None  # noqa: S101 - the recipe was checked, the student is open
        setting_now = (
            setting.student_id,
            setting.template,
            setting.template_version,
            self._recipe.scoring.protocol,
        )
        if setting_now != (weights.student_id, weights.template, weights.template_version, weights.protocol):
            raise UserError(
                f"selection.weights were fitted with {weights.student} under the {weights.template!r} template, and this "
                f"run's student is {setting.student} under {setting.template!r} (or its weights, quantization, device, "
                "template or protocol are not the same); fit them anew with srtui choose calibrate --fit."
            )
        if weights.rater is not None and weights.rater != self._context.rater().identity:
            raise UserError(
                f"selection.weights were fitted with the scores of another rater than {self._context.rater().name}; name "
                "that one as selection.rater, or fit them anew with srtui choose calibrate --rater --fit."
            )
        if weights.encoder is not None and weights.encoder != self._context.encoder().identity:
            raise UserError(
                f"selection.weights were fitted with another sentence encoder than {self._context.encoder().name}; name "
                "that one as selection.encoder, or fit them anew with srtui choose calibrate --fit."
            )
        return weights

    def _from_losses(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """The measure's formula over the losses of each variant, which are scored where they are not stored."""
        scorer = self._context.variant_scorer()
        directions = measure.directions(target)
        losses: dict[int, tuple[SpanLoss, ...]] = dict.fromkeys(variant_ids, ())
        for n, direction in enumerate(directions):
            metric = SCORE_OF[direction]

            def report_all(share: float, before: int = n) -> None:
                report_share((before + share) / len(directions))

            self._score(scorer, variant_ids, metric, report_all)
            for v, pair in self._store.scores.losses_of(variant_ids, scorer.setting_id, metric).items():
                losses[v] += pair
        return [
            measure.value(*losses[v]) if len(losses[v]) == 2 * len(directions) else (None, NOTHING_TO_SCORE)
            for v in variant_ids
        ]

    def _from_tokens(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """S-IFD of each variant; which tokens are informative is decided by the dataset's own originals."""
        if self._threshold is None:
            originals = self._pair_losses(self._pairs(self._some_originals()), report_share)
            present = [d for losses in originals if (d := token_difference(*losses)) is not None]
            if not present:
                raise UserError(
                    f"{measure.label} needs both passes over the same tokens of an original, and no original has them; "
                    'choose by another measure, or with scoring.protocol = "default".'
                )
            self._threshold = informative_threshold(present)
        threshold = self._threshold
        values = [
            token_difference(*losses) for losses in self._pair_losses(self._pairs(variant_ids), report_share)
        ]
        return [
            (None, NOTHING_TO_SCORE) if d is None else (selective_ifd(d, threshold), None) for d in values
        ]

    def _some_originals(self) -> list[int]:
        return fitted_on(self._store, self._run.id, self._recipe.seed)

    def _pair_losses(self, pairs: list[Pair], report_share: Callable[[float], None]) -> list[PairLosses]:
        """L(y|x) and L(y) of these texts, token by token. Raises Stopped when asked to stop."""
        scoring = self._context.variant_scorer().pair_losses(
            pairs, "ifd", self._watch.should_stop, by_token=True
        )
        while True:
            try:
                tokens, share = next(scoring)
            except StopIteration as end:
                self._watch.raise_if_stopped()
                losses: list[PairLosses] = end.value
                return losses
            self._tokens += tokens
            report_share(share)

    def _by_encoder(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """The cosine of each variant's instruction and response."""
        values = self._context.encoder().coherence(self._pairs(variant_ids))
        return [(value, None if value is not None else NOTHING_TO_SCORE) for value in values]

    def _by_rater(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """The rater's expected score of each variant's response, 1 to 10."""

        def report_all(tokens: int, share: float) -> None:
            self._tokens += tokens
            report_share(share)

        values = self._context.rater().scores(self._pairs(variant_ids), report_all, self._watch.should_stop)
        self._watch.raise_if_stopped()
        return values

    def _drawn(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """A number for each variant that the recipe's seed, the target and the text decide."""
        return [
            (seeded_random(self._recipe.seed, target, *pair.texts), None) for pair in self._pairs(variant_ids)
        ]

    def _pairs(self, variant_ids: list[int]) -> list[Pair]:
        variants = self._store.corpus.variants(variant_ids)
        return [variants[v].pair for v in variant_ids]

    def _score(
        self,
        scorer: VariantScorer,
        variant_ids: Iterable[int],
        metric: Metric,
        report_share: Callable[[float], None],
    ) -> dict[int, selection.ScoredText]:
        """Bring the missing scores of these variants into the store, and read all of them.

        ``report_share`` gets how much of this call is done, from 0 to 1. Raises Stopped when asked to stop.
        """
        to_score = list(variant_ids)
        for tokens, share in scorer.score(to_score, metric, self._watch.should_stop):
            self._tokens += tokens
            report_share(share)
        self._watch.raise_if_stopped()
        return {
            i: selection.ScoredText(i, value, reason)
            for i, (value, reason) in scorer.scores(to_score, metric).items()
        }
