"""The length-controlled rate: against what was put in, against scikit-learn, against published figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from srtui.errors import UserError
from srtui.evaluation import length_control
from srtui.evaluation.anchors import check_anchors, difficulties, read_anchors, write_anchors
from srtui.evaluation.length_control import (
    Anchors,
    LengthItem,
    alpaca_rows,
    controlled_rate,
    fit_l1,
    fit_l1_cv,
    is_extreme,
    raw_rate,
)
from tests.conftest import ROOT

ALPACA_EVAL = ROOT.parent / "shared" / "data" / "alpaca_eval"
PUBLISHED = {
    "1_alpaca-7b": (26.46, 26.29),
    "1_recycled-wizardlm-7b-v2.0": (83.48, 51.10),
    "2_alpaca-7b": (2.59, 5.88),
    "2_Mixtral-8x7B-Instruct-v0.1_concise": (13.74, 22.96),
}


def annotated(name: str) -> list[LengthItem]:
    path = ALPACA_EVAL / f"judged_{name}.jsonl"
    if not path.exists():
        pytest.skip("AlpacaEval's annotations are not at hand")
    return alpaca_rows([json.loads(line) for line in path.read_text().splitlines()])


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


HARD = dict(enumerate(np.random.default_rng(0).normal(0, 1.5, 400).tolist()))


def judged(
    theta: float, phi: float, longer: float, psi: float = 1.0, seed: int = 100, *, drawn: bool = True
) -> list[LengthItem]:
    """Rows of a model whose answers are ``longer`` characters longer on the mean; preferences are draws, or
    the probabilities themselves."""
    random = np.random.default_rng(seed)
    reference, difference = random.integers(400, 900, 400), random.normal(longer, 150, 400).round()
    scaled = difference / difference.std(ddof=1)
    rows = []
    for n in range(400):
        p = logistic(theta + phi * math.tanh(scaled[n]) + psi * HARD[n])
        length = int(reference[n] + difference[n])
        said = float(random.random() < p) if drawn else p
        rows.append(LengthItem(n, said, length, int(reference[n])))
    return rows


def gamed(phi: float) -> Anchors:
    """Anchors as AlpacaEval makes them, with the difficulties that were put in."""
    p, d, h = [], [], []
    for seed, longer in ((7, -400), (8, 300)):
        rows = judged(0.0, phi, longer, seed=seed, drawn=False)
        spread = np.std([r.length_reference - r.length_model for r in rows], ddof=1)
        p += [float(r.preference or 0) for r in rows]
        d += [float((r.length_reference - r.length_model) / spread) for r in rows]
        h += [HARD[r.item] for r in rows]
    return Anchors(HARD, tuple(p), tuple(d), tuple(h), 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_raw_rates_are_the_published_ones(name: str) -> None:
    rate = raw_rate(annotated(name))
    assert rate is not None and 100 * rate == pytest.approx(PUBLISHED[name][0], abs=0.005)


def test_without_anchors_a_rate_is_near_the_published_one_or_refused() -> None:
    """What a plain fit gave: 25.7, 40.2, 19.8 and 37.5."""
    found = {name: controlled_rate(annotated(name)) for name in PUBLISHED}
    fair = found.pop("1_alpaca-7b")
    assert fair["win_rate"]["value"] == pytest.approx(0.2629, abs=0.01)
    assert fair["slope"]["low"] is not None and 1 < fair["slope"]["low"] < fair["slope"]["value"] < 4
    assert all(f["win_rate"]["value"] is None for f in found.values())
    assert "2.7% of the answers are as long" in str(found["2_alpaca-7b"]["reason"])
    assert "2.0% of the answers are as short" in str(found["1_recycled-wizardlm-7b-v2.0"]["reason"])
    mixtral = found["2_Mixtral-8x7B-Instruct-v0.1_concise"]
    assert "from 13.7% to 37.5%" in str(mixtral["reason"]) and mixtral["slope"]["value"] is not None


@pytest.fixture
def four_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are chosen on tables of this size, and their neighbours: the others take most of the time."""
    monkeypatch.setattr(length_control, "STRENGTHS", length_control.STRENGTHS[3:7])


def test_anchors_give_what_was_put_in_where_a_plain_fit_cannot() -> None:
    rows = judged(theta=-1.0, phi=2.0, longer=-400, drawn=False)
    truth = np.mean([logistic(-1.0 + h) for h in HARD.values()])
    assert controlled_rate(rows)["win_rate"]["value"] is None  # hardly any answer is as long as the reference
    found = controlled_rate(rows, gamed(2.0), draws=40)
    low, value, high = (found["win_rate"][k] for k in ("low", "value", "high"))  # type: ignore[literal-required]
    assert value == pytest.approx(truth, abs=0.001) and low - 1e-4 < value < high + 1e-4
    assert found["raw"] is not None and found["raw"] < truth - 0.15
    assert found["slope"]["value"] == pytest.approx(2.0, abs=0.2)
    assert found["difficulty"] == pytest.approx(1.0, abs=0.1) and found["strength"] is not None
    assert controlled_rate(rows, gamed(2.0), draws=40) == found  # the same draws for the same seed


def test_a_missing_answer_is_lost_and_says_nothing_of_length() -> None:
    rows = judged(0.0, 1.0, 50)
    gone = [LengthItem(r.item, 0.0, 0, r.length_reference, failed=True) if r.item < 100 else r for r in rows]
    without, some = (controlled_rate(r, gamed(1.0)) for r in (rows[100:], gone))
    assert without["win_rate"]["value"] is not None and without["slope"] == {**some["slope"], "n": 300}
    assert some["win_rate"]["value"] == pytest.approx(0.75 * without["win_rate"]["value"])
    low, high = without["win_rate"]["low"], without["win_rate"]["high"]
    assert low is not None and high is not None and low < np.mean([logistic(h) for h in HARD.values()]) < high
    assert some["raw"] == pytest.approx(0.75 * (raw_rate(rows[100:]) or 0))


def test_the_rule_for_extreme_changes_is_theirs() -> None:
    assert not is_extreme(0.20, 0.39) and is_extreme(0.20, 0.41) and is_extreme(0.20, 0.09)
    assert is_extreme(0.50, 0.37) and is_extreme(0.50, 0.63) and not is_extreme(0.50, 0.38)


@pytest.mark.parametrize("strength", [0.05, 1.0, 100.0])
def test_the_fit_is_liblinears(strength: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(3)
    x = np.column_stack([random.normal(size=(200, 2)), np.ones(200)])
    y, weights = random.random(200), random.choice([0.1, 1.0], 200)
    model = linear.LogisticRegression(
        l1_ratio=1.0,
        C=strength,
        solver="liblinear",
        fit_intercept=False,
        tol=1e-8,
        max_iter=5000,
        random_state=1,
    )
    both = np.concatenate([weights * y, weights * (1 - y)])
    model.fit(np.vstack([x, x]), np.repeat([1, 0], 200), sample_weight=both)
    assert fit_l1(x, y, weights, strength) == pytest.approx(model.coef_[0], abs=1e-4)


def test_cross_validation_drops_what_says_nothing() -> None:
    random = np.random.default_rng(4)
    x = random.normal(size=(100, 6))
    strength, b = fit_l1_cv(x, random.random(100), np.ones(100))
    assert strength < 1 and np.abs(b).max() < 0.2


def test_difficulties_are_found_again_and_kept_in_a_file(tmp_path: Path, four_strengths: None) -> None:
    models = {
        f"m{n}": judged(theta, 1.5, longer, seed=20 + n)[:120]
        for n, (theta, longer) in enumerate([(-1, -50), (-0.5, 50), (0.5, 100), (1, -100)] * 2)
    }
    found = difficulties(models)
    shared = np.corrcoef([HARD[i] for i in found], list(found.values()))[0, 1]
    assert len(found) == 120 and shared > 0.75
    questions = {n: f"Question {n}?" for n in range(120)}
    table = write_anchors(tmp_path / "anchors.csv", models, ["m1", "m3"], questions)
    assert table.models == 2 and len(table.preference) == 240
    assert table.difficulty == pytest.approx(found) and table == read_anchors(tmp_path / "anchors.csv")
    check_anchors(table, {n: questions[n] for n in range(10)}, 120)
    with pytest.raises(UserError, match="row 4 is another question"):
        check_anchors(table, {3: "Another?"}, 120)
    with pytest.raises(UserError, match="at least two models"):
        difficulties({"m1": models["m1"]})


def test_tables_are_read_as_published(tmp_path: Path) -> None:
    file = tmp_path / "df_gamed.csv"
    head = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    file.write_text(head + "v,0.25,0,-1.5,0.5,False\nv,1.0,1,0.5,-0.5,False\nc,0.0,0,2.5,0.5,False\n")
    table = read_anchors(file)
    assert (table.models, table.preference, table.length) == (2, (0.25, 1.0, 0.0), (-1.5, 0.5, 2.5))
    assert table.difficulty == {0: 0.5, 1: -0.5} and table.gamed_difficulty == (0.5, -0.5, 0.5)
    with pytest.raises(UserError, match="2 items and the file of prompts 805 rows"):
        check_anchors(table, {0: "q"}, 805)
    with pytest.raises(UserError, match="no difficulty for item 2"):
        controlled_rate([LengthItem(n, n % 2, 10 + n, 12) for n in range(20)], table)
    file.write_text(",instruction_difficulty\n0,0.5\n1,0.25\n")
    assert read_anchors(file).difficulty == {0: 0.5, 1: 0.25} and not read_anchors(file).preference
    for text, message in (
        ("a,b\n1,2\n", "not a table of anchors"),
        (head + "v,2.0,0,0,0,False\n", "line 2: preference must be from 0 to 1"),
        (head + "v,0.5,0,x,0,False\n", "line 2: std_delta_len must be a number"),
        (head + "v,0.5,0,0,0,False\nv,0.5,0,0,1,False\n", "line 3: item 0 has two difficulties"),
        (head, "no rows"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_anchors(file)
    with pytest.raises(UserError, match=r"absent\.csv"):
        read_anchors(tmp_path / "absent.csv")


def test_it_says_why_there_is_no_rate() -> None:
    assert controlled_rate([LengthItem(0, 1.0, 3, 2)])["reason"] == "fewer than 10 judged items"
    same = [LengthItem(n, 1.0, 3, 2) for n in range(20)]
    assert controlled_rate(same)["reason"] == "all length differences are equal"
    apart = [LengthItem(n, float(n >= 20), 100 + n, 120) for n in range(40)]
    assert "separated" in str(controlled_rate(apart)["reason"])


def test_a_table_of_anchors_is_read_as_csv_is(tmp_path: Path) -> None:
    head = "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    path = tmp_path / "df_gamed.csv"
    path.write_text(
        f'{head}"a\u2028model",0,0.5,0.1,0.2,False\r\n"two\nlines",1,0.5,0.1,0.3,False\n', encoding="utf-8"
    )
    assert read_anchors(path).difficulty == {0: 0.2, 1: 0.3} and read_anchors(path).models == 2
    path.write_text(f'{head}"m"odel,0,0.5,0.1,0.2,False\n')
    with pytest.raises(UserError, match="line 2 is not CSV"):
        read_anchors(path)
