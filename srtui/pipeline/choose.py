"""A stage in which the student chooses, by IFD or by r-IFD, and at last what is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from srtui import selection
from srtui.errors import UserError
from srtui.gates import first_gate
from srtui.hashing import draw
from srtui.measures import (
    FILTERS,
    MEASURES,
    NOTHING_TO_SCORE,
    SCORE_OF,
    STORED,
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
from srtui.pipeline.ahead import in_pages
from srtui.pipeline.context import CHUNK, Context
from srtui.recipe.settings import SIDES
from srtui.recipe.weights import LENGTH, MeasureWeights
from srtui.sample import Pair, Target
from srtui.selection import seeded_random
from srtui.store.decisions import GatedRewrite

if TYPE_CHECKING:
    from srtui.pipeline.variants import PairLosses, VariantScorer

FITTED_ON = 512
"""Originals that a percentile, or a line over length, is fitted on, where a dataset has more."""

_Open = tuple[int, tuple[int, list[int]]]
"""A choice that is not made: sample, the variant that was reflected on, its rewrites."""
_ValuesOf = Callable[[Measure, Target, list[int], Callable[[float], None]], list[Value]]
"""(measure, target, variant ids, how much of the call is done) -> a value for each variant, in their order."""


@dataclass
class _ProxyTally:
    """What a proxy decided, and how often it was wrong where the student scored too."""

    decided: int = 0
    checked: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, checked: int, changed: int) -> None:
        self.checked[kind] = self.checked.get(kind, 0) + checked
        self.changed[kind] = self.changed.get(kind, 0) + changed

    @property
    def both(self) -> int:
        return sum(self.checked.values())

    def sentence(self, proxy: str) -> str:
        return (
            f"{proxy} scored {self.decided} decisions and the student {self.both} of them; where both did, "
            f"{proxy} alone would have changed {self.changed['near']} of {self.checked['near']} near a tie "
            f"and {self.changed['clear']} of {self.checked['clear']} that it found clear."
        )


class Choosing:
    """Scores what a choice needs, and stores the choice with its reason."""

    def __init__(self, context: Context) -> None:
        self._context, self._watch = context, context.watch
        self._store, self._run, self._recipe = context.store, context.run, context.recipe
        self._total = context.sample_count
        self._tokens = 0  # through the student in this stage, in this process
        self._tally = _ProxyTally()
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

    def instruction(self) -> None:
        """The variant with the higher IFD is taken further. Raises Stopped when asked to stop."""
        self._choose("instruction", self._recipe.selection.instruction_by, selection.choose_instruction, 1.0)
        self._report_proxy()

    def response(self) -> None:
        """The variant with the lower r-IFD is taken; then each sample's outcome, and the scores of what
        people wrote. Raises Stopped when asked to stop."""
        # Outcomes follow the choices, and take about half as long again.
        weight = 0.7
        taken = self._choose(
            "response", self._recipe.selection.response_by, selection.choose_response, weight
        )
        self._settle(weight, {"taken": taken})
        self._score_by_hand()
        self._report_proxy()

    def _choose(self, target: Target, by: str, choose: Callable[..., selection.Choice], weight: float) -> int:
        """Decide every sample that is not; how many rewrites have been taken so far."""
        decisions, run_id = self._store.decisions, self._run.id
        taken, done = decisions.taken(run_id, target), decisions.decided(run_id, target)
        if done >= self._total:
            return taken
        for page in in_pages(
            lambda after, size: list(decisions.to_decide(run_id, target, after, size).items()),
            CHUNK,
            lambda choice: choice[0],
        ):
            chunk, gated = self._past_gates(target, page)
            groups = [[before, *rewrites] for _, (before, rewrites) in chunk if rewrites]

            def report_share(
                share: float, before: int = done, size: int = len(chunk), taken: int = taken
            ) -> None:
                self._report(int(weight * (before + share * size)), {"taken": taken})

            scores, by_proxy = self._measure(
                target, by, groups, lambda g: choose(g[0], g[1:], by).variant_id, report_share
            )
            controlled = (
                self._recipe.selection.length_control and bool(scores) and MEASURES[by].source != "draw"
            )
            if controlled:
                scores = self._at_length(MEASURES[by], target, scores, report_share)
            with self._store.transaction():
                for sample_id, (before, rewrites) in chunk:
                    first = scores.get(before, selection.ScoredText(before, None))
                    others = [scores.get(r, selection.ScoredText(r, None)) for r in rewrites]
                    choice = choose(first, others, by, controlled)
                    beside = f" (by {self._recipe.scoring.proxy})" if before in by_proxy else ""
                    if stopped := gated.get(sample_id):
                        self._store.decisions.add_gated(self._run.id, sample_id, target, stopped)
                        why = "; ".join(one.reason for one in stopped)
                        beside += f" (not compared: {why})" if rewrites else f" to compare: {why}"
                    self._store.decisions.add(
                        self._run.id,
                        sample_id,
                        target,
                        choice.variant_id,
                        choice.reflected,
                        choice.reason + beside,
                        [(s.variant_id, s.score, s.reason) for s in (first, *others)],
                    )
                    taken += choice.reflected
            done += len(chunk)
            self._report(int(weight * done), {"taken": taken}, now=True)
        return taken

    def _past_gates(
        self, target: Target, chunk: list[_Open]
    ) -> tuple[list[_Open], dict[int, list[GatedRewrite]]]:
        """The open choices without the rewrites that a gate of the recipe stops, and these by sample."""
        active, by_rater = self._recipe.gates.active, self._recipe.gates.rater and target == "response"
        if not (active or by_rater):
            return chunk, {}
        texts = self._store.corpus.variants(v for _, (before, rewrites) in chunk for v in (before, *rewrites))
        gated: dict[int, list[GatedRewrite]] = {}
        passed: list[_Open] = []
        for sample_id, (before, rewrites) in chunk:
            kept = []
            for rewrite in rewrites:
                found = first_gate(texts[before].pair, texts[rewrite].pair, target, active)
                if found is None:
                    kept.append(rewrite)
                else:
                    gated.setdefault(sample_id, []).append(GatedRewrite(rewrite, *found))
            passed.append((sample_id, (before, kept)))
        return (self._past_rater(passed, gated) if by_rater else passed), gated

    def _past_rater(self, chunk: list[_Open], gated: dict[int, list[GatedRewrite]]) -> list[_Open]:
        """The open choices of answers without those that the rater prefers the old one to, which are added to
        ``gated``. What the rater could not be asked about (too long for its context) passes. Raises Stopped."""
        rater = self._context.rater()
        asked = [(sample_id, before, r) for sample_id, (before, rewrites) in chunk for r in rewrites]
        texts = self._store.corpus.variants(v for _, before, r in asked for v in (before, r))
        said = rater.preferences(
            [(texts[before].pair, texts[r].pair.response) for _, before, r in asked],
            should_stop=self._watch.should_stop,
        )
        self._watch.raise_if_stopped()
        stopped: set[int] = set()
        for (sample_id, _, rewrite), (old_is_better, _) in zip(asked, said, strict=True):
            if old_is_better is not None and old_is_better > 0.5:
                stopped.add(rewrite)
                why = f"the rater {rater.name} prefers the old answer ({old_is_better:.2f})"
                gated.setdefault(sample_id, []).append(GatedRewrite(rewrite, "rater", why))
        return [(s, (before, [r for r in rewrites if r not in stopped])) for s, (before, rewrites) in chunk]

    def _settle(self, weight: float, detail: dict[str, Any]) -> None:
        """Say of each sample whether it is trained on; scores only what that needs."""
        policy, total = self._recipe.selection.policy, self._total
        decisions, run_id = self._store.decisions, self._run.id
        done = decisions.settled(run_id)
        pages = in_pages(
            lambda after, size: decisions.undecided_outcomes(run_id, after, size),
            CHUNK,
            lambda settled: settled[0],
        )
        for chunk in pages if done < total else ():

            def report_share(share: float, before: int = done, size: int = len(chunk)) -> None:
                settled = (before + share * size) / total
                self._report(min(int(total * (weight + (1 - weight) * settled)), total - 1), detail)

            wanted = [
                [variant]
                for _, _, response, variant in chunk
                if policy == "keep" or (policy == "paper" and response)
            ]
            (ifd, by_proxy), (rifd, also_by_proxy) = (
                self._compare(
                    wanted, metric, lambda g: g[0].score is not None and g[0].score < 1, report_share
                )
                for metric in FILTERS
            )
            # One row has scores of one student: what the proxy found clear by one of them alone, the
            # student scores by that one too.
            for metric, scores, theirs, others in zip(
                FILTERS, (ifd, rifd), (by_proxy, also_by_proxy), (also_by_proxy, by_proxy), strict=True
            ):
                mixed = theirs - others
                if mixed:
                    scores |= self._score(self._context.judge(), mixed, metric, report_share)
            by_proxy &= also_by_proxy
            with self._store.transaction():
                for sample_id, _, response, variant in chunk:
                    none = selection.ScoredText(variant, None)
                    final = ifd.get(variant, none), rifd.get(variant, none)
                    outcome = selection.keep(policy, response, *final)
                    self._store.decisions.add_outcome(
                        self._run.id,
                        sample_id,
                        variant,
                        outcome.kept,
                        outcome.reason,
                        final[0].score,
                        final[1].score,
                        self._setting(variant, by_proxy) if variant in ifd else None,
                    )
            done += len(chunk)
        self._report(total, detail, now=True)

    def _setting(self, variant_id: int, by_proxy: set[int]) -> int:
        context = self._context
        return (context.proxy() if variant_id in by_proxy else context.judge()).setting_id

    def _score_by_hand(self) -> None:
        """What people wrote is scored like any other text; no choice waits for it."""
        wanted = self._store.scores.unscored_by_hand(self._run.id)
        if not wanted:
            return
        for metric in STORED:
            self._score(self._context.judge(), wanted, metric, lambda share: None)
        self._watch.event("info", f"Scored {len(wanted)} texts written by hand.")

    def _measure(
        self,
        target: Target,
        by: str,
        groups: list[list[int]],
        decide: Callable[[list[selection.ScoredText]], object],
        report_share: Callable[[float], None],
    ) -> tuple[dict[int, selection.ScoredText], set[int]]:
        """What the choice in each group is made by, and which of the values are a proxy's."""
        variant_ids = [v for group in groups for v in group]
        if by in SIDES or not variant_ids:
            return {}, set()
        measure = MEASURES[by]
        if measure.stored:
            return self._compare(groups, by, decide, report_share)
        values = self._values(measure, target, variant_ids, report_share)
        return {
            v: selection.ScoredText(v, *value) for v, value in zip(variant_ids, values, strict=True)
        }, set()

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
        return [(total, None if total is not None else NOTHING_TO_SCORE) for total in sums]

    def _weights(self) -> MeasureWeights:
        """The recipe's weights. Raises UserError where they were fitted with another student or template."""
        weights = self._recipe.selection.weights
        setting = self._store.scores.setting_by_id(self._context.judge().setting_id)
        assert weights is not None and setting is not None  # noqa: S101 - the recipe was checked, the student is open
        mine = (setting.student_id, setting.template, setting.template_version, self._recipe.scoring.protocol)
        if mine != (weights.student_id, weights.template, weights.template_version, weights.protocol):
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
        return weights

    def _from_losses(
        self, measure: Measure, target: Target, variant_ids: list[int], report_share: Callable[[float], None]
    ) -> list[Value]:
        """The measure's formula over the losses of each variant, which are scored where they are not stored."""
        judge = self._context.judge()
        directions = measure.directions(target)
        losses: dict[int, tuple[SpanLoss, ...]] = dict.fromkeys(variant_ids, ())
        for n, direction in enumerate(directions):
            metric = SCORE_OF[direction]

            def report_all(share: float, before: int = n) -> None:
                report_share((before + share) / len(directions))

            self._score(judge, variant_ids, metric, report_all)
            for v, pair in self._store.scores.losses_of(variant_ids, judge.setting_id, metric).items():
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
            there = [d for losses in originals if (d := token_difference(*losses)) is not None]
            if not there:
                raise UserError(
                    f"{measure.label} needs both passes over the same tokens of an original, and no original has them; "
                    'choose by another measure, or with scoring.protocol = "default".'
                )
            self._threshold = informative_threshold(there)
        threshold = self._threshold
        found = [
            token_difference(*losses) for losses in self._pair_losses(self._pairs(variant_ids), report_share)
        ]
        return [(None, NOTHING_TO_SCORE) if d is None else (selective_ifd(d, threshold), None) for d in found]

    def _some_originals(self) -> list[int]:
        """Originals to fit what a measure needs to know of the dataset: the same ones for the same seed."""
        originals = self._store.corpus.original_ids(self._run.id)
        return sorted(originals, key=lambda i: draw(self._recipe.seed, "fit", i))[:FITTED_ON]

    def _pair_losses(self, pairs: list[Pair], report_share: Callable[[float], None]) -> list[PairLosses]:
        """L(y|x) and L(y) of these texts, token by token. Raises Stopped when asked to stop."""
        scoring = self._context.judge().pair_losses(pairs, "ifd", self._watch.should_stop, by_token=True)
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

    def _compare(
        self,
        groups: list[list[int]],
        metric: Metric,
        decide: Callable[[list[selection.ScoredText]], object],
        report_share: Callable[[float], None],
    ) -> tuple[dict[int, selection.ScoredText], set[int]]:
        """Scores of the variants in ``groups``, each group one decision, and which of them are the
        proxy's: with one, the student itself only scores what lies near the decision, and some
        others to see how far the proxy can be trusted."""
        everything = [v for group in groups for v in group]
        if not everything:
            return {}, set()
        if not self._recipe.scoring.proxy:
            return self._score(self._context.judge(), everything, metric, report_share), set()
        quick = self._score(self._context.proxy(), everything, metric, report_share)
        margin = self._recipe.scoring.proxy_margin
        near: list[list[int]] = []
        clear: list[list[int]] = []
        for group in groups:
            scores = [quick[v].score for v in group]
            (near if selection.near_a_tie(scores, margin) else clear).append(group)
        clear.sort(key=lambda g: draw(self._recipe.seed, "proxy", g[0]))
        control = clear[: max(8, len(clear) // 10)]
        asked = [v for group in (*near, *control) for v in group]
        exact = self._score(self._context.judge(), asked, metric, report_share)
        for kind, some in (("near", near), ("clear", control)):
            changed = sum(decide([quick[v] for v in g]) != decide([exact[v] for v in g]) for g in some)
            self._tally.add(kind, len(some), changed)
        self._tally.decided += len(groups)
        return quick | exact, set(everything) - set(asked)

    def _score(
        self,
        judge: VariantScorer,
        variant_ids: Iterable[int],
        metric: Metric,
        report_share: Callable[[float], None],
    ) -> dict[int, selection.ScoredText]:
        """Bring the missing scores of these variants into the store, and read all of them.

        ``report_share`` gets how much of this call is done, from 0 to 1. Raises Stopped when asked to stop.
        """
        wanted = list(variant_ids)
        for tokens, share in judge.score(wanted, metric, self._watch.should_stop):
            self._tokens += tokens
            report_share(share)
        self._watch.raise_if_stopped()
        return {
            i: selection.ScoredText(i, value, reason)
            for i, (value, reason) in judge.scores(wanted, metric).items()
        }

    def _report(self, done: int, detail: dict[str, Any], now: bool = False) -> None:
        self._watch.report_progress(done, self._total, self._tokens, detail, now)

    def _report_proxy(self) -> None:
        if self._tally.both:
            self._watch.event("info", self._tally.sentence(self._recipe.scoring.proxy))
