"""The choices against the paper's rules, by cases and by properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.selection import (
    Ranked,
    ScoredText,
    best,
    choose_instruction,
    choose_response,
    keep,
    near_a_tie,
    quotas,
    seeded_random,
)

scores = st.one_of(st.none(), st.floats(0, 10, allow_nan=False))


def test_instruction_takes_the_higher_ifd() -> None:
    choice = choose_instruction(ScoredText(1, 0.62), [ScoredText(2, 0.71)])
    assert (choice.variant_id, choice.reflected) == (2, True)
    assert "0.7100 > 0.6200" in choice.reason


def test_response_takes_the_lower_rifd() -> None:
    choice = choose_response(ScoredText(1, 0.71), [ScoredText(2, 0.62)])
    assert (choice.variant_id, choice.reflected) == (2, True)
    assert "0.6200 < 0.7100" in choice.reason


def test_a_tie_keeps_the_unreflected() -> None:
    assert not choose_instruction(ScoredText(1, 0.5), [ScoredText(2, 0.5)]).reflected
    assert not choose_response(ScoredText(1, 0.5), [ScoredText(2, 0.5)]).reflected


def test_a_failed_score_never_wins() -> None:
    # The released scripts scored a failed forward pass 0, which is the lowest r-IFD there is.
    choice = choose_response(ScoredText(1, 0.9), [ScoredText(2, None, "non_finite")])
    assert not choice.reflected
    assert "non_finite" in choice.reason
    assert not choose_response(ScoredText(1, None, "empty"), [ScoredText(2, 0.1)]).reflected


def test_more_candidates_are_an_argmax() -> None:
    some = [ScoredText(2, 0.5), ScoredText(3, 0.9), ScoredText(4, None, "x"), ScoredText(5, 0.9)]
    assert choose_instruction(ScoredText(1, 0.6), some).variant_id == 3
    assert choose_response(ScoredText(1, 0.6), some).variant_id == 2


@given(scores, st.lists(scores, max_size=5))
def test_the_winner_is_best_or_the_original(before: float | None, rewrites: list[float | None]) -> None:
    original, others = ScoredText(0, before), [ScoredText(i + 1, s) for i, s in enumerate(rewrites)]
    for choose, winner, sign in ((choose_instruction, max, 1), (choose_response, min, -1)):
        choice = choose(original, others)
        valid = [s for s in rewrites if s is not None]
        won = before is not None and bool(valid) and sign * winner(valid) > sign * before
        assert choice.reflected == won
        assert choice.reflected == (choice.variant_id != 0)
        if won:
            assert rewrites[choice.variant_id - 1] == winner(valid)
        assert choice.reason


def test_the_paper_keeps_only_rewritten_responses() -> None:
    good = ScoredText(1, 0.5)
    assert keep("paper", True, good, good).kept
    assert not keep("paper", False, good, good).kept
    assert keep("keep", False, good, good).kept


@given(st.booleans(), scores, scores)
def test_nothing_at_or_above_one_is_kept(reflected: bool, ifd: float | None, rifd: float | None) -> None:
    for policy in ("paper", "keep"):
        outcome = keep(policy, reflected, ScoredText(1, ifd), ScoredText(1, rifd))  # type: ignore[arg-type]
        if outcome.kept:
            assert ifd is not None and rifd is not None and max(ifd, rifd) < 1
        elif policy == "keep":
            assert ifd is None or rifd is None or max(ifd, rifd) >= 1 or math.isnan(ifd)
        assert outcome.reason


@pytest.mark.parametrize(
    ("scores", "near"),
    [
        ([0.5, 0.9], False),
        ([0.5, 0.52], True),
        ([0.5, 0.9, 0.51], True),
        ([0.5, None], True),
        ([0.97], True),
        ([0.5], False),
        ([1.05], True),
        ([2.0], False),
    ],
)
def test_near_a_tie(scores: list[float | None], near: bool) -> None:
    assert near_a_tie(scores, 0.1) is near


def test_the_ablations_choose_as_they_are_called() -> None:
    before, rewrites = ScoredText(1, 0.3), [ScoredText(2, 0.2), ScoredText(3, 0.4)]
    assert choose_instruction(before, rewrites, "original").variant_id == 1
    assert choose_instruction(ScoredText(1, None), [ScoredText(2, None)], "reflected").variant_id == 2
    assert not choose_response(before, [], "reflected").reflected
    assert choose_instruction(before, rewrites, "perplexity").variant_id == 3
    assert choose_response(before, rewrites, "perplexity").variant_id == 2
    assert choose_response(before, rewrites, "ifd").variant_id == 3
    assert choose_instruction(before, rewrites, "rifd").variant_id == 2
    choice = choose_response(before, rewrites, "coherence")
    assert (choice.variant_id, choice.reason) == (3, "took the new answer: coherence 0.4000 > 0.3000")


def test_no_filter_means_no_filter() -> None:
    assert keep("all", False, ScoredText(1, None), ScoredText(1, 2.0)).kept


@given(st.integers(0, 1000), st.text())
def test_random_numbers_are_fair_and_their_own(seed: int, text: str) -> None:
    assert 0 <= seeded_random(seed, text) < 1
    assert seeded_random(seed, text) == seeded_random(seed, text) != seeded_random(seed + 1, text)


def test_random_numbers_are_uniform() -> None:
    drawn = sorted(seeded_random("uniform", n) for n in range(2000))
    assert max(abs(x - n / 2000) for n, x in enumerate(drawn)) < 0.04  # Kolmogorov-Smirnov, p about 0.003


SOME = [
    Ranked(1, 0.9, 0.9, length=10, random=0.1),
    Ranked(2, 0.8, 0.1, length=30, random=0.9),
    Ranked(3, 0.7, 0.2, length=20, random=0.5),
    Ranked(4, None, None, length=40, random=0.3),
]


def test_the_best_by_each_measure() -> None:
    assert best(SOME, 2) == {1, 2}
    assert best(SOME, 2, "both") == {2, 1} | best(SOME, 1, "both")
    assert best(SOME, 1, "both") == {2}
    assert best(SOME, 2, "length") == {4, 2}
    assert best(SOME, 2, "random") == {2, 3}
    assert best(SOME, 0) == {1}
    assert best([], 3) == set()


def test_what_a_person_chose_is_always_in() -> None:
    assert best([*SOME, Ranked(5, None, None, by_person=True)], 1) == {5}
    assert best([*SOME, *(Ranked(n, None, None, by_person=True) for n in (5, 6))], 1) == {5, 6}


@given(
    st.lists(st.tuples(st.floats(0.01, 2) | st.none(), st.floats(0.01, 2) | st.none()), max_size=20),
    st.integers(1, 20),
    st.sampled_from(["ifd", "both", "length", "random"]),
)
def test_the_best_are_as_many_as_asked_and_nested(
    scores: list[tuple[float | None, float | None]], count: int, by: str
) -> None:
    samples = [Ranked(n, *pair, length=n % 3, random=seeded_random(n)) for n, pair in enumerate(scores)]
    found = best(samples, count, by)  # type: ignore[arg-type]
    assert len(found) == min(count, len(samples))
    assert found <= best(samples, count + 1, by)  # type: ignore[arg-type]
    if by == "ifd":
        kept = [s.ifd for s in samples if s.sample_id in found]
        left = [s.ifd for s in samples if s.sample_id not in found and s.ifd is not None]
        assert all(k is not None and k >= x for k in kept for x in left)


def test_quotas_are_shares_of_the_groups_and_sum_to_the_count() -> None:
    groups = dict(enumerate("aaaaaabbbc"))
    assert quotas(groups, 5) == {"a": 3, "b": 2, "c": 0}
    assert quotas(groups, 10) == {"a": 6, "b": 3, "c": 1}
    assert quotas(groups, 99) == {"a": 6, "b": 3, "c": 1}
    assert quotas({}, 3) == {}


@given(st.dictionaries(st.integers(0, 500), st.sampled_from("abcdef"), min_size=1), st.integers(1, 600))
def test_no_group_has_more_than_it_holds(groups: dict[int, str], count: int) -> None:
    given_to = quotas(groups, count)
    assert sum(given_to.values()) == min(count, len(groups))
    for group, number in given_to.items():
        size = sum(1 for one in groups.values() if one == group)
        assert abs(number - size * min(count, len(groups)) / len(groups)) < 1
        assert 0 <= number <= size
