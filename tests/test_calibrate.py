"""`srtui choose calibrate`, from pairs to what a run says of its measures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from srtui.measures import informative_threshold, selective_ifd
from srtui.pipeline import prepare
from srtui.pipeline.recipe_models import open_variant_scorer
from srtui.pipeline.variants import VariantScorer
from srtui.recipe import Recipe, load
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.summary import summarise
from srtui.student import Student
from srtui.wording import measures_words
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe
from tests.sql import sql_value

pytestmark = pytest.mark.model


def pairs_file(workspace: Workspace, count: int = 24) -> Path:
    """The longer answer, of words that the tiny student writes, is the better one three times in four."""
    words = ["about", "other", "which", "there", "their", "would", "these", "people", "first", "water"]
    rows = []
    for n in range(count):
        short, long = (" ".join(words[(n + k) % 10] for k in range(size)) for size in (4 + n % 3, 7 + n % 5))
        swapped = n % 2 == 0
        better = 1 if swapped == (n % 4 != 3) else 2
        first, second = (long, short) if swapped else (short, long)
        rows.append(
            {"instruction": f"Write {n} words.", "answer_1": first, "answer_2": second, "preference": better}
        )
    path = workspace.root / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def judged_by(store: Store, workspace: Workspace) -> VariantScorer:
    recipe = Recipe.model_validate({"name": "c", "dataset": "d", "student": {"model": "tiny"}})
    path = workspace.models / "tiny"
    return open_variant_scorer(store, recipe, path, "tiny", "nf4", student=Student.load(path, "nf4"))


def test_the_whole_way(pair_workspace: Workspace) -> None:
    """The result's form, its values against those made one by one, nothing computed twice, and the run's summary."""
    file = pairs_file(pair_workspace)
    recipe = small_recipe(pair_workspace, 4, training={"enabled": False})
    done = srtui(pair_workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "r-IFD was never calibrated with tiny" in said and "srtui choose calibrate FILE" in said

    words = ("choose", "calibrate", str(file), "--recipe", str(recipe), "--json")
    first = srtui(pair_workspace, *words)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["pairs"] == 24
    for name in ("length", "ifd", "rifd", "likelihood", "s-ifd", "ifd-at-length"):
        m = result["measures"][name]
        value, low, high = m["agreement"]
        assert 0 <= low <= value <= high <= 1 and m["n"] == 24
        assert m["verdict"] in ("better than chance", "no better than length", "no better than chance")
    assert result["measures"]["length"]["agreement"][0] == 0.75

    with Store(pair_workspace.store_path) as store:
        losses = sql_value(store, "SELECT count(*) FROM span_loss")
        tokens = sql_value(store, "SELECT sum(length(nll)) FROM token_loss")
        # Half a float for each token of both passes over every answer, and nothing else.
        assert tokens == 2 * sql_value(
            store, "SELECT sum(tokens) FROM span_loss WHERE key IN (SELECT key FROM token_loss)"
        )
        assert store.check() == []
    copied = file.rename(file.with_name("copied.jsonl"))
    with copied.open("a", encoding="utf-8") as rows:
        rows.write('{"instruction": "q", "answer_1": "a", "answer_2": "b", "preference": null}\n')
    again = srtui(pair_workspace, "choose", "calibrate", str(copied), *words[3:])
    # It says where these pairs are from, and not where they were first read from.
    assert json.loads(again.stdout) == result | {
        "source": str(copied),
        "skipped": {"without a preference": 1},
    }
    with Store(pair_workspace.store_path) as store:
        assert sql_value(store, "SELECT count(*) FROM span_loss") == losses

    status = " ".join(srtui(pair_workspace, "status", "small").stdout.split())
    assert result["measures"]["rifd"]["sentence"] in status and "never calibrated" not in status
    summary = json.loads(srtui(pair_workspace, "status", "small", "--json").stdout)
    assert summary["measures"]["response"]["verdict"] == result["measures"]["rifd"]["verdict"]
    report = srtui(pair_workspace, "report", "small", "--markdown", "r.md")
    assert report.returncode == 0, report.stderr
    text = " ".join((pair_workspace.root / "r.md").read_text(encoding="utf-8").replace("\\", "").split())
    doubtful = result["measures"]["rifd"]["verdict"] != "better than chance"
    assert (result["measures"]["rifd"]["sentence"] in text) == doubtful

    table = srtui(pair_workspace, "choose", "calibrate", str(copied), "--recipe", str(recipe)).stdout
    assert "verdict" in table and "same choice as" in table


def test_a_kill_loses_no_loss_that_was_stored(pair_workspace: Workspace) -> None:
    file = pairs_file(pair_workspace, 80)
    words = ("choose", "calibrate", str(file), "--student", "tiny", "--json")
    killed = srtui(pair_workspace, *words, kill_at=("commit", 4))
    assert killed.returncode == -9
    with Store(pair_workspace.store_path) as store:
        before = sql_value(store, "SELECT count(*) FROM span_loss")
        assert before > 0 and not sql_value(store, "SELECT count(*) FROM calibration")
    resumed = srtui(pair_workspace, *words)
    assert resumed.returncode == 0, resumed.stderr
    whole = json.loads(resumed.stdout)
    assert whole["pairs"] == 80 and whole["measures"]["ifd"]["unscored"] == 0


def test_tokens_losses_sum_to_their_span_s(pair_workspace: Workspace) -> None:
    """Beside other texts and alone, in torch; half a float keeps a thousandth of each."""
    texts = [Pair(f"Say {n}.", "", "about other which there " * (n + 1)) for n in range(5)]
    with Store(pair_workspace.store_path) as store:
        scorer = judged_by(store, pair_workspace)

        def losses(by_token: bool) -> Any:
            scoring = scorer.pair_losses(texts, "ifd", by_token=by_token)
            while True:
                try:
                    next(scoring)
                except StopIteration as end:
                    return end.value

        before = losses(False)
        assert all(c.by_token is None for c, _ in before)
        found = losses(True)  # what was stored without its tokens is run again, and keeps its sum
        for (c, u), (c0, u0) in zip(found, before, strict=True):
            assert (c.nll, u.nll) == (c0.nll, u0.nll)
            assert len(c.by_token) == c.tokens == u.tokens == len(u.by_token)
            assert float(c.by_token.sum()) == pytest.approx(c.nll, rel=1e-3)
            difference = c.by_token - u.by_token
            assert selective_ifd(difference, -1.0) == pytest.approx(math.exp(c.mean - u.mean), rel=2e-3)
        scorer.close()


def test_a_gguf_student_gives_the_tokens_losses_too(pair_workspace: Workspace) -> None:
    from srtui.student.scorer import open_scorer
    from srtui.student.spans import Span

    student = Student.load(pair_workspace.models / "tiny.F16.gguf", "gguf")
    scorer = open_scorer(student)
    spans = [Span(tuple(range(5, 5 + n)), n - 2) for n in (6, 11)]
    for index, loss in scorer.score(spans, by_token=True):
        assert len(loss.by_token) == spans[index].target
        assert float(loss.by_token.sum()) == pytest.approx(loss.nll, rel=1e-5)
    student.close()


def test_what_is_wrong_is_said_in_a_sentence(pair_workspace: Workspace) -> None:
    file = pairs_file(pair_workspace, 3)
    for words, sentence in (
        ((str(file),), "Which student?"),
        (("nothing.jsonl", "--student", "tiny"), "nothing.jsonl"),
        (("7", "--student", "tiny"), "There is no evaluation 7"),
        ((str(file), "--student", "tiny", "--set", "prompt.tempalte=alpaca"), "template"),
        (
            (str(file), "--student", "tiny", "--fit", "w.json"),
            "There are 3 decided pairs, and weights take 50",
        ),
    ):
        done = srtui(pair_workspace, "choose", "calibrate", *words)
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_the_percentile_is_of_all_tokens() -> None:
    import numpy as np

    differences = [np.array([0.1, -0.2]), np.array([3.0, -4.0])]
    threshold = informative_threshold(differences)
    assert 0.2 < threshold < 3.0
    assert selective_ifd(differences[0], threshold) == 1.0
    assert selective_ifd(differences[1], threshold) == pytest.approx(math.exp(-0.5))


def test_weights_with_coherence_need_an_encoder() -> None:
    """Which is said before a teacher has worked."""
    weights = {
        "student": "s", "student_id": "s", "template": "alpaca", "template_version": "1", "protocol": "default",
        "data": "d", "data_digest": "", "pairs": 60, "accuracy": [0.7, 0.6, 0.8], "length_accuracy": [0.7, 0.6, 0.8],
        "weights": {"coherence": 1.0}, "rater": None,
    }  # fmt: skip
    selection = {"response_by": "combined", "weights": weights}
    words = {"name": "c", "dataset": "d", "selection": selection}
    with pytest.raises(ValueError, match=r"needs selection\.encoder"):
        Recipe.model_validate(words)
    Recipe.model_validate(words | {"selection": selection | {"encoder": "minilm"}})


JUDGE = {"name": "judge", "file": "judge", "model": "ab"}
TINY = {"name": "tiny.F16", "file": "tiny.F16", "model": "cd"}


def calibrated(store: Store, setting: int, number: int, **of: Any) -> int:
    """A stored calibration of every measure, that found each no better than length; ``of`` is what it says it rests on."""
    found = {
        "agreement": [0.7, 0.6, 0.8], "like_length": [0.5, 0.4, 0.6], "verdict": "no better than length",
        "sentence": f"By {number}.",
    }  # fmt: skip
    result = {
        "pairs": 60, "decided": 60, "ties": 0, "like_length": 20, "skipped": {}, "student": "tiny", "between": {},
        "measures": dict.fromkeys(("ifd", "combined", "teacher-score", "coherence"), found), **of,
    }  # fmt: skip
    return store.calibrations.add(bytes([number]), setting, "p.jsonl", 60, result).id


@pytest.mark.parametrize(
    ("selection", "first", "second"),
    [
        ({"response_by": "combined"}, {"weights": {"ifd": 1.0}}, {"weights": {"ifd": -1.0}}),
        ({"response_by": "teacher-score", "rater": "models/judge.gguf"}, {"rater": JUDGE}, {"rater": TINY}),
        (
            {"response_by": "coherence", "encoder": "models/minilm"},
            {"encoder": {"name": "minilm", "identity": "a"}}, {"encoder": {"name": "bge", "identity": "b"}},
        ),
    ],
)  # fmt: skip
def test_a_run_quotes_the_calibration_of_what_it_chose_by(
    pair_workspace: Workspace, selection: dict[str, str], first: dict[str, Any], second: dict[str, Any]
) -> None:
    """And not a newer one of other weights, another rater or another encoder."""
    weights = {
        "student": "tiny", "student_id": "s", "template": "alpaca", "template_version": "1", "protocol": "default",
        "data": "p.jsonl", "data_digest": "", "pairs": 60, "accuracy": [0.7, 0.6, 0.8],
        "length_accuracy": [0.75, 0.6, 0.8], "weights": {"ifd": 1.0}, "rater": None,
    }  # fmt: skip
    recipe = load(small_recipe(pair_workspace, 2, training={"enabled": False}))
    chosen = selection | ({"weights": weights} if selection["response_by"] == "combined" else {})
    recipe = Recipe.model_validate(
        recipe.model_dump(mode="json") | {"selection": {"instruction_by": "original", **chosen}}
    )
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipe, pair_workspace.recipes / "small.toml")
        setting = store.scores.setting("tiny", "s", "alpaca", "1", "default", 64)
        store.runs.update(run.id, setting_id=setting)
        calibrated(store, setting, 2, **second)
        before = summarise(store, run.id).measures["response"]
        assert before.verdict is None and before.calibration is None
        said = " ".join(measures_words(summarise(store, run.id), doubtful=True))
        if "weights" in chosen:
            assert "No calibration in this store has the weights" in said
            assert (
                "70.0% (60.0% to 80.0%) of 60 pairs of p.jsonl, and taking the longer answer in 75.0%" in said
            )
        else:
            assert "was never calibrated with tiny" in said
        own = calibrated(store, setting, 1, **first)
        calibrated(store, setting, 3, **second)
        after = summarise(store, run.id).measures["response"]
        assert (after.calibration, after.sentence) == (own, "By 1.")
        assert store.check() == []
