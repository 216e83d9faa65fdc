"""The pilot's arithmetic and its rules, by properties and against independent computations."""

from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.evaluation.statistics import no_estimate
from srtui.pilot.forecast import for_the_rest, together
from srtui.pilot.limits import Limit, quantile_of_lengths
from srtui.pilot.strata import stratified
from srtui.pilot.verdict import FEWEST, Findings, judge


def order(sample_id: int) -> bytes:
    return sha256(str(sample_id).encode()).digest()


# -- which samples


ROWS = st.lists(st.tuples(st.sampled_from(["plain", "input", "code"]), st.integers(0, 5000)), max_size=300)


@settings(deadline=None)
@given(ROWS, st.integers(1, 60))
def test_every_stratum_has_its_share(rows: list[tuple[str, int]], count: int) -> None:
    samples = [(7 * n, kind, length) for n, (kind, length) in enumerate(rows)]
    strata = stratified(samples, count, order)
    by_id = {i: (kind, length) for i, kind, length in samples}
    chosen = [i for s in strata for i in s.chosen]
    assert len(chosen) == len(set(chosen)) == min(count, len(samples))
    assert sum(s.of for s in strata) == len(samples)
    for s in strata:
        assert all(by_id[i][0] == s.kind and s.shortest <= by_id[i][1] <= s.longest for i in s.chosen)
        assert abs(len(s.chosen) - min(count, len(samples)) * s.of / len(samples)) < 1
    assert strata == stratified(samples, count, order)


def test_another_seed_draws_others_and_a_larger_pilot_keeps_those_of_a_smaller_one_mostly() -> None:
    samples = [(n, "plain", n % 97) for n in range(1000)]
    first = {i for s in stratified(samples, 24, order) for i in s.chosen}
    other = {
        i for s in stratified(samples, 24, lambda i: sha256(f"1{i}".encode()).digest()) for i in s.chosen
    }
    more = {i for s in stratified(samples, 48, order) for i in s.chosen}
    assert first != other
    assert first <= more  # nothing of the first is wasted


# -- what the rest takes


@settings(deadline=None)
@given(
    st.floats(0.01, 1e5), st.integers(2, 200), st.lists(st.floats(1, 1e4), min_size=2, max_size=50),
    st.integers(0, 10**6),
)  # fmt: skip
def test_a_forecast_scales_and_holds_its_own_mean(
    cost: float, fresh: int, weights: list[float], left: int
) -> None:
    e = for_the_rest(cost, fresh, weights, left)
    assert e["value"] == pytest.approx(left * cost / fresh)
    assert e["low"] is not None and e["high"] is not None
    assert 0 <= e["low"] <= e["value"] + 1e-9 <= e["high"] + 2e-9
    both = together([e, e], fixed=3.0)
    assert both["value"] == pytest.approx(2 * e["value"] + 3)
    assert both["low"] >= 3


def test_it_covers_the_true_total_19_times_in_20() -> None:
    draw = random.Random(3)
    population = [draw.lognormvariate(5, 0.6) for _ in range(5000)]
    held = 0
    for _ in range(600):
        some = draw.sample(population, 24)
        e = for_the_rest(0.01 * sum(some), 24, some, 5000)
        held += e["low"] <= 0.01 * sum(population) <= e["high"]
    assert 0.90 <= held / 600 <= 0.99


def test_what_was_not_measured_has_no_value() -> None:
    assert for_the_rest(0.0, 0, [1, 2], 100)["value"] is None
    one = for_the_rest(2.0, 1, [5], 100)
    assert (one["value"], one["low"], one["high"]) == (200, None, None)
    assert together([one, no_estimate()])["value"] is None


# -- limits


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 4000)), min_size=1, max_size=200))
def test_the_quantile_is_numpys_with_cut_texts_as_the_longest(lengths: list[int | None]) -> None:
    found = quantile_of_lengths(lengths)
    whole = [np.inf if x is None else x for x in lengths]
    wanted = float(np.quantile(whole, 0.95, method="inverted_cdf"))
    assert found["value"] == (None if np.isinf(wanted) else wanted)
    if found["high"] is None and None not in lengths:
        assert len(lengths) < 72
    if found["low"] is not None and found["value"] is not None:
        assert found["low"] <= found["value"] <= (found["high"] or np.inf)


def test_its_bounds_hold_19_times_in_20() -> None:
    draw = random.Random(11)
    held = sum(
        (e["low"] or 0) <= 950 <= (e["high"] or np.inf)
        for e in (quantile_of_lengths([draw.randint(1, 1000) for _ in range(120)]) for _ in range(500))
    )
    assert held / 500 >= 0.93


def test_a_suggestion_holds_what_was_seen() -> None:
    lengths: list[int | None] = [*range(400, 423), 630]
    limit = Limit("reflection.answer_tokens", 256, 24, 24, quantile_of_lengths(lengths), 768)
    assert limit.tokens["value"] == 422
    assert limit.suggested == 448
    assert replace(limit, now=512).suggested is None
    cut = replace(limit, tokens=quantile_of_lengths([None, None, *range(400, 422)]))
    assert cut.suggested == 768  # a third try had that room, and did not hold it: at least that
    assert replace(cut, most=256).suggested == 512


# -- verdicts

GOOD = Findings(
    samples=24, asked=48, unread=2, cut=0, rewrites=23, talk=0, scored=24, over_one=1, settled=24, kept=12
)


def test_go_says_what_it_cannot_know() -> None:
    verdict = judge(GOOD)
    assert (verdict.word, verdict.set, verdict.sure) == ("go", [], True)
    assert verdict.sentence.startswith("go: 46 of 48 came to a rewrite and 12 of 24 would be kept.")
    assert "fewer than 12% of the samples may not have been drawn" in verdict.sentence  # 1 - 0.05^(1/24)


def test_the_sentences_of_the_faults() -> None:
    worse = judge(replace(GOOD, rewrites=24, talk=14, larger="big.Q4_K_M"))
    assert worse.word == "worse"
    assert worse.sentence.startswith(
        "this teacher makes your data worse: 14 of 24 rewrites talk about the task (39% to 76% with 95 %)"
    )
    assert worse.set == ["teacher.model=big.Q4_K_M", "gates.about_the_task=true"]
    gated = judge(replace(GOOD, rewrites=24, gates={"refusal": 12, "language": 1}))
    assert (gated.word, gated.set, gated.sure) == ("change", ["gates.refusal=true"], True)
    assert judge(replace(GOOD, rewrites=24, gates={"refusal": 12}, active=("refusal",))).word == "go"
    limit = Limit("reflection.answer_tokens", 256, 24, 12, quantile_of_lengths([*range(600, 624)]), 256)
    cut = judge(replace(GOOD, unread=0, cut=20, limits=(limit,)))
    assert cut.sentence.startswith("raise answer_tokens to 640 first: 20 of 48 reflections were cut off")
    assert (cut.word, cut.set, cut.sure) == ("change", ["reflection.answer_tokens=640"], True)
    template = judge(replace(GOOD, over_one=20))
    assert (template.word, template.set) == ("change", ["prompt.template=chat"])
    assert judge(replace(GOOD, kept=0)).set == ["selection.policy=keep"]
    assert judge(replace(GOOD, unread=30, why="no_answer", mode="free")).set == ["reflection.mode=guided"]
    nothing_came = judge(replace(GOOD, unread=48, kept=0, why="no_answer"))
    assert (nothing_came.word, nothing_came.also) == ("worse", [])
    assert "48 of 48 came to no rewrite, most often 'no_answer'" in nothing_came.sentence


COUNTS = st.integers(0, 24)


@st.composite
def findings(draw: st.DrawFn) -> Findings:
    samples = draw(st.integers(1, 24))
    cut = draw(st.integers(0, samples))
    return Findings(
        samples=samples,
        asked=2 * samples,
        cut=cut,
        unread=draw(st.integers(0, 2 * samples - cut)),
        rewrites=(rewrites := draw(st.integers(0, samples))),
        talk=draw(st.integers(0, rewrites)),
        scored=(scored := draw(st.integers(0, samples))),
        over_one=draw(st.integers(0, scored)),
        settled=samples,
        kept=draw(st.integers(0, samples)),
        mode=draw(st.sampled_from(["guided", "free"])),
        policy=draw(st.sampled_from(["paper", "keep"])),
    )


@settings(deadline=None)
@given(findings())
def test_a_verdict_claims_no_more_than_it_holds(f: Findings) -> None:
    verdict = judge(f)
    assert verdict.sentence.count("\n") == 0
    if verdict.word == "go":
        assert f.samples >= FEWEST
        assert max(f.talk, f.over_one, f.cut) < 2 or f.samples > 2
    if f.samples < FEWEST:
        assert verdict.word != "go"
        assert not (verdict.sure and verdict.word == "unknown")
    if not verdict.sure:
        assert any(
            words in verdict.sentence
            for words in ("may be chance", "too few", "left to train on", "came to no")
        )
    for words in verdict.set:
        assert "=" in words


@settings(deadline=None)
@given(findings(), st.sampled_from(["talk", "over_one", "cut", "unread"]))
def test_worse_findings_never_turn_a_fault_into_go(f: Findings, which: str) -> None:
    most = {"talk": f.rewrites, "over_one": f.scored, "cut": f.asked - f.unread, "unread": f.asked - f.cut}
    worse = replace(f, **{which: min(most[which], getattr(f, which) + 1)})
    if judge(f).word in ("change", "worse"):
        assert judge(worse).word in ("change", "worse")
