"""What a measure is worth: the figures against other implementations, the verdicts on measures of known worth."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.evaluation.known_pairs import KnownPair
from srtui.evaluation.measure_calibration import area, calibrated, partial_correlation, sign_flips

_questions = itertools.count()


def pair(first: int, second: int, preferred: Any) -> KnownPair:
    """To a question of its own."""
    return KnownPair(f"q {next(_questions)}", "", ("a" * first, "b" * second), preferred)


def made(count: int, longer_wins: float, seed: int = 1, like: bool = False) -> list[KnownPair]:
    """Pairs of which the longer answer is the better one with this probability."""
    draws = random.Random(seed)
    pairs = []
    for _ in range(count):
        low = draws.randrange(100, 300)
        sizes = [low, int(low * (draws.uniform(1.02, 1.45) if like else draws.uniform(1.02, 3)))]
        draws.shuffle(sizes)
        better = 1 if (sizes[0] > sizes[1]) == (draws.random() < longer_wins) else 2
        pairs.append(pair(*sizes, better))
    return pairs


def knowing(pairs: list[KnownPair], right: float, seed: int = 2) -> list[tuple[float, float] | None]:
    """A measure that prefers the better answer with this probability, whatever its length."""
    draws = random.Random(seed)
    return [(1.0, 0.0) if (p.preferred == 1) == (draws.random() < right) else (0.0, 1.0) for p in pairs]


def test_a_measure_that_knows_more_than_length_is_better_than_chance() -> None:
    pairs = made(400, 0.6)
    found = calibrated(pairs, {"good": knowing(pairs, 0.8)})["measures"]["good"]
    assert found["verdict"] == "better than chance"
    assert found["agreement"][0] == pytest.approx(0.8, abs=0.06)
    assert found["against_length"]["all"]["p"] < 0.025
    assert "better than chance and than taking the longer answer" in found["sentence"]


def test_length_by_another_name_is_no_better_than_length() -> None:
    pairs = made(400, 0.7)
    same = [(float(len(p.answers[0])), float(len(p.answers[1]))) for p in pairs]
    result = calibrated(pairs, {"disguised": same})
    found = result["measures"]["disguised"]
    assert found["verdict"] == "no better than length"
    assert found["agreement"] == result["measures"]["length"]["agreement"]
    assert result["measures"]["length"]["verdict"] == "better than chance"
    assert found["with_length"][0] == pytest.approx(1.0, abs=0.1)
    assert result["between"]["disguised"]["length"] == 1.0


def test_a_measure_that_draws_lots_is_no_better_than_chance_and_so_is_one_that_is_always_wrong() -> None:
    pairs = made(300, 0.7)
    found = calibrated(pairs, {"chance": knowing(pairs, 0.5), "wrong": knowing(pairs, 0.1)})["measures"]
    assert found["chance"]["verdict"] == found["wrong"]["verdict"] == "no better than chance"
    assert "prefers the worse answer" in found["wrong"]["sentence"]
    assert "prefers the worse answer" not in found["chance"]["sentence"]


def test_few_pairs_show_nothing() -> None:
    pairs = made(12, 0.5)
    found = calibrated(pairs, {"perfect": knowing(pairs, 1.0)})["measures"]["perfect"]
    assert found["agreement"][0] == 1.0 and found["verdict"] == "no better than chance"
    assert "too few pairs" in found["sentence"]


def test_ties_and_answers_without_a_value_are_left_out_and_counted() -> None:
    pairs = [pair(100, 200, 2), pair(100, 200, 0), pair(100, 110, 1), pair(100, 140, 1)]
    result = calibrated(pairs, {"m": [(0.0, 1.0), (5.0, 0.0), None, (1.0, 1.0)]})
    assert (result["pairs"], result["decided"], result["ties"], result["like_length"]) == (4, 3, 1, 2)
    found = result["measures"]["m"]
    assert (found["n"], found["unscored"], found["like_length_n"]) == (2, 1, 1)
    assert found["agreement"][0] == 0.75  # one right, one that prefers neither
    assert found["like_length"][0] == 0.5


def test_nothing_decided_has_no_figures() -> None:
    found = calibrated([pair(1, 2, 0)], {"m": [(0.0, 1.0)]})["measures"]["m"]
    assert found["agreement"] == [None, None, None] and "nothing is known" in found["sentence"]


@settings(deadline=None)  # the first one imports scikit-learn
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=60))
def test_the_area_is_scikit_learn_s(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    score, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    found = area(score, positive)
    if positive.all() or not positive.any():
        assert found["value"] is None
        return
    assert found["value"] == pytest.approx(roc_auc_score(positive, score))
    if found["low"] is not None and found["high"] is not None:
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_the_area_s_interval_holds_the_truth() -> None:
    """Normal scores one deviation apart have an area of Phi(1 / sqrt 2) = 0.7602."""
    generator, inside = np.random.default_rng(3), 0
    for _ in range(300):
        positive = np.arange(120) < 50
        found = area(generator.normal(size=120) + positive, positive)
        assert found["low"] is not None and found["high"] is not None
        inside += found["low"] <= 0.7602 <= found["high"]
    assert 0.91 <= inside / 300 <= 0.98


def test_partial_correlation_takes_out_what_is_held() -> None:
    generator = np.random.default_rng(4)
    common = generator.normal(size=3000)
    x, y = common + generator.normal(size=3000), common + generator.normal(size=3000)
    plain, held = partial_correlation(x, y), partial_correlation(x, y, common)
    from scipy.stats import rankdata, spearmanr

    assert plain["value"] == pytest.approx(spearmanr(x, y).statistic)
    ranks = np.column_stack([rankdata(c) for c in (x, y, common)])
    inverse = np.linalg.inv(
        np.corrcoef(ranks, rowvar=False)
    )  # partial correlations are in the precision matrix
    assert held["value"] == pytest.approx(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert plain["low"] is not None and plain["low"] > 0.3
    assert (
        held["low"] is not None and held["high"] is not None and held["low"] < 0.03 and held["high"] > -0.03
    )
    assert partial_correlation(common, common, common)["value"] is None


def test_mcnemar_is_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    pairs = made(200, 0.6)
    against = calibrated(pairs, {"m": knowing(pairs, 0.7)})["measures"]["m"]["against_length"]["all"]
    table = [[0, against["alone_right"]], [against["length_alone_right"], 0]]
    assert against["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_every_figure_is_what_other_implementations_give() -> None:
    """scipy's Wilson interval and Mann-Whitney's U, DeLong's variance by its definition, partial correlations by
    statsmodels' regressions of ranks; on a measure that knows a little, and length a little."""
    import statsmodels.api as sm
    from scipy.stats import binomtest, mannwhitneyu, pearsonr, rankdata

    pairs = made(180, 0.7, seed=5)
    draws = np.random.default_rng(6)
    values = [
        (float(a), float(b))
        for p in pairs
        for a, b in [
            (
                draws.normal(size=2)
                + np.log([len(x) for x in p.answers])
                + [p.preferred == 1, p.preferred == 2]
            )
        ]
    ]
    result = calibrated(pairs, {"m": values})
    found = result["measures"]["m"]

    first = np.array([p.preferred == 1 for p in pairs])
    sign = np.where(first, 1, -1)
    ahead = np.array([a - b for a, b in values])
    longer = np.array([math.log(len(a)) - math.log(len(b)) for a, b in (p.answers for p in pairs)])
    like = np.array([max(map(len, p.answers)) <= 1.5 * min(map(len, p.answers)) for p in pairs])
    for name, some in (("agreement", like | True), ("like_length", like)):
        right, n = int((ahead * sign > 0)[some].sum()), int(some.sum())
        interval = binomtest(right, n).proportion_ci(method="wilson")
        assert found[name] == pytest.approx([right / n, interval.low, interval.high])

    better, worse = ahead[first], ahead[~first]
    u = mannwhitneyu(better, worse).statistic / (len(better) * len(worse))
    wins = np.array([[float(a > b) + (a == b) / 2 for b in worse] for a in better])
    by_better, by_worse = wins.mean(axis=1), wins.mean(axis=0)
    spread = np.sqrt(by_better.var(ddof=1) / len(better) + by_worse.var(ddof=1) / len(worse))
    assert found["auc"] == pytest.approx([u, u - 1.959964 * spread, u + 1.959964 * spread])

    def partial(x: Any, y: Any, held: Any) -> list[float]:
        left = [sm.OLS(rankdata(c), sm.add_constant(rankdata(held))).fit().resid for c in (x, y)]
        r = pearsonr(*left).statistic
        half = 1.959964 / np.sqrt(len(x) - 3 - 1)
        return [r, np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)]

    assert found["with_length"] == pytest.approx(partial(ahead * sign, longer * sign, sign))
    assert found["with_position"] == pytest.approx(partial(ahead * sign, sign, longer * sign))
    assert found["beyond_length"] == pytest.approx(partial(ahead, sign, longer))
    assert result["between"]["m"]["length"] == pytest.approx(np.mean((ahead > 0) == (longer > 0)))


def test_pairs_of_one_question_are_not_as_many_facts() -> None:
    """Four answers that say the same as the first make no interval narrower, nor a probability less."""
    pairs = [KnownPair(f"q {n}", "", p.answers, p.preferred) for n, p in enumerate(made(60, 0.6))]
    values = knowing(pairs, 0.7)
    four = [KnownPair(p.instruction, "", p.answers, p.preferred) for p in pairs for _ in range(4)]
    alone = calibrated(pairs, {"m": values})
    together = calibrated(four, {"m": [v for v in values for _ in range(4)]})
    assert (together["pairs"], together["questions"], alone["questions"]) == (240, 60, 60)
    one, many = (r["measures"]["m"] for r in (alone, together))
    assert many["n"] == 240 and many["agreement"] == pytest.approx(one["agreement"], abs=0.005)
    assert many["against_length"]["all"]["p"] == pytest.approx(one["against_length"]["all"]["p"])
    agreeing = [(1.0, 0.0) if p.preferred == 1 else (0.0, 1.0) for p in four]
    whole = calibrated(four, {"m": agreeing})["measures"]["m"]["agreement"]
    assert whole == pytest.approx(calibrated(pairs, {"m": agreeing[::4]})["measures"]["m"]["agreement"])


def test_the_interval_holds_what_it_should_where_answers_are_shared() -> None:
    """Six pairs of four answers, and a measure that knows nothing: the interval of independent pairs held one half in
    91 of 100."""
    draws = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        pairs, values = [], list[tuple[float, float] | None]()
        for question in range(40):
            worth, said = draws.permutation(4), draws.permutation(4)
            for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
                answers = (f"answer {a}", f"answer {b}")
                pairs.append(KnownPair(f"q {question}", "", answers, 1 if worth[a] > worth[b] else 2))
                values.append((float(said[a]), float(said[b])))
        low, high = calibrated(pairs, {"m": values})["measures"]["m"]["agreement"][1:]
        held += low <= 0.5 <= high
    assert held >= 186


@given(st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), max_size=9))
def test_sign_flips_are_counted_one_by_one(differences: list[int]) -> None:
    total = abs(sum(differences))
    sums = [
        abs(sum(d if bits >> n & 1 else -d for n, d in enumerate(differences)))
        for bits in range(2 ** len(differences))
    ]
    assert sign_flips(differences) == pytest.approx(sum(s >= total for s in sums) / len(sums))
