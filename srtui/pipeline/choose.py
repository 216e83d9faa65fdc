"""A stage in which the student chooses, by IFD or by r-IFD, and at last what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from srtui import selection
from srtui.gates import GATES, first_gate
from srtui.hashing import draw
from srtui.measures import FILTERS, MEASURES, STORED, Metric
from srtui.pipeline.ahead import in_pages, with_next
from srtui.pipeline.coherence import LEAST_ORIGINALS, Coherence
from srtui.pipeline.context import Context
from srtui.pipeline.values import MeasureValues
from srtui.recipe.settings import SIDES
from srtui.sample import Pair, Target
from srtui.store.decisions import GatedRewrite, NewDecision, StoredOutcome

_WORTH_A_WARNING = 0.02  # share of choices that could not be made
_SHOWN, _SENTENCE = 24, 300  # of the last decisions, and characters of each, that faces are shown

_Open = tuple[int, tuple[int, list[int]]]
"""A choice that is not made: sample, the variant that was reflected on, its rewrites."""


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


def _no_value(before: selection.ScoredText, rewrites: list[selection.ScoredText]) -> str | None:
    """Why a choice cannot be made by the values of its texts; None where it can."""
    if before.score is None:
        return before.reason or "unscored"
    return None if any(r.score is not None for r in rewrites) else rewrites[0].reason or "unscored"


class Choosing(MeasureValues):
    """Scores what a choice needs, and stores the choice with its reason."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._total = context.sample_count
        self._reused = 0  # decisions made from stored scores alone
        self._tally = _ProxyTally()
        self._coherence_gate: Coherence | None = None

    def instruction(self) -> None:
        """The variant with the higher IFD is taken further. Raises Stopped when asked to stop."""
        self._choose("instruction", self._recipe.selection.instruction_by, selection.choose_instruction, 1.0)
        self._report_proxy()

    def response(self) -> None:
        """The variant with the lower r-IFD is taken; then each sample's outcome, and the scores of what
        people wrote. Raises Stopped when asked to stop."""
        # Outcomes follow the choices, and take about half as long again.
        weight = 0.7
        accepted = self._choose(
            "response", self._recipe.selection.response_by, selection.choose_response, weight
        )
        self._settle(weight, {"taken": accepted, "reused": self._reused})
        self._score_by_hand()
        self._report_proxy()

    def _choose(self, target: Target, by: str, choose: Callable[..., selection.Choice], weight: float) -> int:
        """Decide every sample that is not; how many rewrites have been taken so far."""
        decisions, run_id = self._store.decisions, self._run.id
        accepted, decided = decisions.taken(run_id, target), decisions.decided(run_id, target)
        earlier = self._store.runs.stages(run_id).get(f"choose-{target}")
        self._reused = earlier.reused if earlier else 0
        if decided >= self._total:
            return accepted
        uncompared, compared = Counter[str](), 0
        pages = in_pages(
            lambda after, size: list(decisions.to_decide(run_id, target, after, size).items()),
            self._context.chunk,
            lambda choice: choice[0],
        )
        for page, following in with_next(pages):
            chunk, gated = self._past_gates(target, page)
            groups = [[before, *rewrites] for _, (before, rewrites) in chunk if rewrites]

            def report_share(
                share: float, before: int = decided, size: int = len(chunk), accepted: int = accepted
            ) -> None:
                self._report(
                    int(weight * (before + share * size)), {"taken": accepted, "reused": self._reused}
                )

            self._reused += len(chunk) - self._unscored(by, groups)
            scores, by_proxy = self._measure(
                target, by, groups, lambda g: choose(g[0], g[1:], by).variant_id, report_share
            )
            controlled = (
                self._recipe.selection.length_control and bool(scores) and MEASURES[by].source != "draw"
            )
            if controlled:
                scores = self._at_length(MEASURES[by], target, scores, report_share)
            if following is not None:
                self._expect(by, following)
            new_decisions: list[NewDecision] = []
            with self._store.transaction():
                for sample_id, (before, rewrites) in chunk:
                    first = scores.get(before, selection.ScoredText(before, None))
                    scored_rewrites = [scores.get(r, selection.ScoredText(r, None)) for r in rewrites]
                    choice = choose(first, scored_rewrites, by, controlled)
                    if rewrites and by in MEASURES:
                        compared += 1
                        if why_not := _no_value(first, scored_rewrites):
                            uncompared[why_not] += 1
                    by_whom = f" (by {self._recipe.scoring.proxy})" if before in by_proxy else ""
                    if stopped := gated.get(sample_id):
                        self._store.decisions.add_gated(self._run.id, sample_id, target, stopped)
                        why = "; ".join(stop.reason for stop in stopped)
                        by_whom += f" (not compared: {why})" if rewrites else f" to compare: {why}"
                    new_decisions.append(
                        NewDecision(
                            sample_id,
                            choice.variant_id,
                            choice.reflected,
                            choice.reason + by_whom,
                            [(s.variant_id, s.score, s.reason) for s in (first, *scored_rewrites)],
                            before in by_proxy,
                        )
                    )
                    accepted += choice.reflected
                decisions.add_all(run_id, target, new_decisions)
            self._watch.show(
                decided=[
                    {"sample": d.sample_id, "taken": bool(d.reflected), "reason": d.reason[:_SENTENCE]}
                    for d in new_decisions[-_SHOWN:]
                ]
            )
            decided += len(chunk)
            self._report(int(weight * decided), {"taken": accepted, "reused": self._reused}, now=True)
        self._say_what_was_not_compared(by, uncompared, compared)
        return accepted

    def _say_what_was_not_compared(self, by: str, uncompared: Counter[str], of: int) -> None:
        """A share of rewrites that were taken says nothing of a measure that could not be asked."""
        count = uncompared.total()
        if not count:
            return
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in uncompared.most_common())
        length = self._recipe.prompt.max_length
        advice = (
            f" prompt.max_length = {length} cuts what is to be scored: set it higher."
            if "target_truncated" in uncompared
            else ""
        )
        self._watch.event(
            "warning" if count >= _WORTH_A_WARNING * of else "info",
            f"{count:,} of {of:,} rewrites could not be compared by {MEASURES[by].label}, so the text before stayed: "
            f"{reasons}.{advice}",
        )

    def _expect(self, by: str, page: list[_Open]) -> None:
        """The next page's texts are cut into tokens while this one's choices are stored. Only where it is known which
        they are: a gate stops some, and a proxy is asked first."""
        gates = self._recipe.gates
        if by in STORED and not self._recipe.scoring.proxy and not (gates.active or gates.rater):
            groups = ([before, *rewrites] for _, (before, rewrites) in page if rewrites)
            self._context.variant_scorer().expect((v for group in groups for v in group), by)

    def _unscored(self, by: str, groups: list[list[int]]) -> int:
        """How many of these decisions need a text read by a student, and are not made from stored scores alone."""
        if by not in STORED or self._recipe.scoring.proxy or not groups:
            return len(groups)
        scores = self._context.variant_scorer().scores((v for group in groups for v in group), by)
        return sum(not all(v in scores for v in group) for group in groups)

    def _past_gates(
        self, target: Target, chunk: list[_Open]
    ) -> tuple[list[_Open], dict[int, list[GatedRewrite]]]:
        """The open choices without the rewrites that a gate of the recipe stops, and these by sample. A model is only
        asked of what passed the gates that look at the texts. Raises Stopped."""
        gates = self._recipe.gates
        gated: dict[int, list[GatedRewrite]] = {}
        if not gates.active:
            return chunk, gated
        texts = self._store.corpus.variants(v for _, (before, rewrites) in chunk for v in (before, *rewrites))
        open_choices = [
            (sample_id, before, rewrite) for sample_id, (before, rewrites) in chunk for rewrite in rewrites
        ]
        stopped: set[int] = set()

        def stop(failing: Iterable[tuple[int, int, str, str]]) -> None:
            for sample_id, rewrite, gate, reason in failing:
                stopped.add(rewrite)
                gated.setdefault(sample_id, []).append(GatedRewrite(rewrite, gate, reason))

        def passing() -> list[tuple[int, Pair, Pair, int]]:
            return [
                (sample_id, texts[before].pair, texts[rewrite].pair, rewrite)
                for sample_id, before, rewrite in open_choices
                if rewrite not in stopped
            ]

        stop(
            (sample_id, rewrite, *sign)
            for sample_id, before, after, rewrite in passing()
            if (sign := first_gate(before, after, target, gates.of_texts)) is not None
        )
        if gates.coherence:
            stop(self._incoherent(passing()))
        if gates.rater and target == "response":
            stop(self._worse_by_rater(passing()))
        return [
            (s, (before, [r for r in rewrites if r not in stopped])) for s, (before, rewrites) in chunk
        ], gated

    def _incoherent(self, asked: list[tuple[int, Pair, Pair, int]]) -> Iterator[tuple[int, int, str, str]]:
        """Of (sample, pair before, pair after, rewrite): (sample, rewrite, gate, why) of those whose answer is about
        something else than what is asked. Raises Stopped."""
        reasons = self._coherence().reasons([(before, after) for _, before, after, _ in asked])
        self._watch.raise_if_stopped()
        for (sample_id, _, _, rewrite), why in zip(asked, reasons, strict=True):
            if why:
                yield sample_id, rewrite, "coherence", f"{GATES['coherence'].words}: {why}"

    def _coherence(self) -> Coherence:
        """The gate, with the limit that the dataset's own pairs give it. Raises Stopped."""
        if self._coherence_gate is None:
            originals = self._pairs(self._some_originals())
            self._coherence_gate = Coherence(
                self._context.embedder(),
                originals,
                self._recipe.gates.coherence_percent,
                self._watch.should_stop,
            )
            self._watch.raise_if_stopped()
            if self._coherence_gate.limit is None:
                self._watch.event(
                    "warning",
                    f"gates.coherence stops nothing: its limit is taken from the dataset's own pairs, and fewer than "
                    f"{LEAST_ORIGINALS} of them have both sides.",
                )
        else:
            # Another model may have taken the embedder's place since.
            self._coherence_gate.embedder = self._context.embedder()
        return self._coherence_gate

    def _worse_by_rater(
        self, asked: list[tuple[int, Pair, Pair, int]]
    ) -> Iterator[tuple[int, int, str, str]]:
        """As :meth:`_incoherent`, the rewrites that the rater prefers the old answer to. What it could not be asked
        about (too long for its context) passes. Raises Stopped."""
        rater = self._context.rater()
        preferences = rater.preferences(
            [(before, after.response) for _, before, after, _ in asked], should_stop=self._watch.should_stop
        )
        self._watch.raise_if_stopped()
        for (sample_id, _, _, rewrite), (old_is_better, _) in zip(asked, preferences, strict=True):
            if old_is_better is not None and old_is_better > 0.5:
                why = f"the rater {rater.name} prefers the old answer ({old_is_better:.2f})"
                yield sample_id, rewrite, "rater", why

    def _settle(self, weight: float, detail: dict[str, Any]) -> None:
        """Say of each sample whether it is trained on; scores only what that needs."""
        policy, total = self._recipe.selection.policy, self._total
        decisions, run_id = self._store.decisions, self._run.id
        settled_count = decisions.settled(run_id)
        pages = in_pages(
            lambda after, size: decisions.undecided_outcomes(run_id, after, size),
            self._context.chunk,
            lambda settled: settled[0],
        )
        for chunk in pages if settled_count < total else ():

            def report_share(share: float, before: int = settled_count, size: int = len(chunk)) -> None:
                settled = (before + share * size) / total
                self._report(min(int(total * (weight + (1 - weight) * settled)), total - 1), detail)

            scored_pairs = [
                [variant]
                for _, _, response, variant in chunk
                if policy == "keep" or (policy == "paper" and response)
            ]
            (ifd, ifd_by_proxy), (rifd, rifd_by_proxy) = (
                self._compare(
                    scored_pairs, metric, lambda g: g[0].score is not None and g[0].score < 1, report_share
                )
                for metric in FILTERS
            )
            # One row has scores of one student: what the proxy found clear by one of them alone, the
            # student scores by that one too.
            for metric, scores, by_proxy, by_proxy_there in zip(
                FILTERS,
                (ifd, rifd),
                (ifd_by_proxy, rifd_by_proxy),
                (rifd_by_proxy, ifd_by_proxy),
                strict=True,
            ):
                mixed = by_proxy - by_proxy_there
                if mixed:
                    scores |= self._score(self._context.variant_scorer(), mixed, metric, report_share)
            ifd_by_proxy &= rifd_by_proxy
            outcomes: list[StoredOutcome] = []
            for sample_id, _, response, variant in chunk:
                none = selection.ScoredText(variant, None)
                final = ifd.get(variant, none), rifd.get(variant, none)
                outcome = selection.keep(policy, response, *final)
                setting = self._setting(variant, ifd_by_proxy) if variant in ifd else None
                outcomes.append(
                    StoredOutcome(
                        run_id,
                        sample_id,
                        variant,
                        int(outcome.kept),
                        outcome.reason,
                        final[0].score,
                        final[1].score,
                        setting,
                    )
                )
            with self._store.transaction():
                decisions.add_outcomes(outcomes)
            settled_count += len(chunk)
        self._report(total, detail, now=True)

    def _setting(self, variant_id: int, by_proxy: set[int]) -> int:
        context = self._context
        return (context.proxy() if variant_id in by_proxy else context.variant_scorer()).setting_id

    def _score_by_hand(self) -> None:
        """What people wrote is scored like any other text; no choice waits for it."""
        unscored = self._store.scores.unscored_by_hand(self._run.id)
        if not unscored:
            return
        for metric in STORED:
            self._score(self._context.variant_scorer(), unscored, metric, lambda share: None)
        self._watch.event("info", f"Scored {len(unscored)} texts written by hand.")

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
            return self._score(self._context.variant_scorer(), everything, metric, report_share), set()
        quick = self._score(self._context.proxy(), everything, metric, report_share)
        margin = self._recipe.scoring.proxy_margin
        near_ties: list[list[int]] = []
        clear_choices: list[list[int]] = []
        for group in groups:
            scores = [quick[v].score for v in group]
            (near_ties if selection.near_a_tie(scores, margin) else clear_choices).append(group)
        clear_choices.sort(key=lambda g: draw(self._recipe.seed, "proxy", g[0]))
        control = clear_choices[: max(8, len(clear_choices) // 10)]
        variant_ids = [v for group in (*near_ties, *control) for v in group]
        exact = self._score(self._context.variant_scorer(), variant_ids, metric, report_share)
        for kind, members in (("near", near_ties), ("clear", control)):
            changed = sum(decide([quick[v] for v in g]) != decide([exact[v] for v in g]) for g in members)
            self._tally.add(kind, len(members), changed)
        self._tally.decided += len(groups)
        return quick | exact, set(everything) - set(variant_ids)

    def _report(self, finished: int, detail: dict[str, Any], now: bool = False) -> None:
        self._watch.report_progress(finished, self._total, self._tokens, detail, now)

    def _report_proxy(self) -> None:
        if self._tally.both:
            self._watch.event("info", self._tally.sentence(self._recipe.scoring.proxy))
