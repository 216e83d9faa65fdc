"""The gate on coherence: what it measures, its limit, and a run in which it stops rewrites."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from srtui.errors import UserError
from srtui.pipeline import import_file
from srtui.pipeline.coherence import Coherence
from srtui.pipeline.gate_trial import coherence_of, try_gates
from srtui.pipeline.rederive import faults
from srtui.pipeline.variants import VariantScorer
from srtui.recipe import parse
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.store.summary import summarise
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe

SUBJECTS = ["bees", "rivers", "bread", "moons", "trees", "cats"]


class Bags:
    """Embeds a text as the counts of the subjects in it."""

    setting_id = 1

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        return [
            np.array([t.count(word) for word in SUBJECTS], dtype=np.float16) if t.strip() else None
            for t in texts
        ]


def about(question: str, answer: str) -> Pair:
    return Pair(f"Say something of {question}.", "", f"Of {answer} much can be said.")


ORIGINALS = [about(word, word) for word in SUBJECTS for _ in range(10)]
OFF = [about("bees", "bread"), about("rivers", "cats")]


def gate(originals: Sequence[Pair], percent: float) -> Coherence:
    return Coherence(Bags(), originals, percent)  # type: ignore[arg-type]


def test_it_is_the_cosine_of_question_and_answer_around_the_means_of_the_originals() -> None:
    asked = np.array([[t.instruction.count(w) for w in SUBJECTS] for t in ORIGINALS + OFF], dtype=float)
    answered = np.array([[t.response.count(w) for w in SUBJECTS] for t in ORIGINALS + OFF], dtype=float)
    x, y = asked - asked.mean(axis=0), answered - answered.mean(axis=0)
    cosines = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    made = gate(ORIGINALS + OFF, 10)
    assert made.values(ORIGINALS + OFF) == pytest.approx(cosines.tolist(), abs=1e-3)
    assert made.limit == pytest.approx(float(np.quantile(cosines, 0.1)), abs=1e-3)
    assert made.values([Pair("Say it.", "", "  ")]) == [None]


def test_what_is_below_the_limit_and_below_its_own_text_before_is_stopped() -> None:
    made = gate(ORIGINALS + OFF, 3)
    assert made.limit is not None
    assert 0 < made.limit < 0.95
    good, bad = about("moons", "moons"), about("moons", "cats")
    assert made.reasons([(good, bad)])[0].startswith("coherence -0.")
    assert "and 3 % of the dataset's own are below 0." in made.reasons([(good, bad)])[0]
    assert made.reasons([(good, about("cats", "cats"))]) == [""]
    assert made.reasons([(bad, bad._replace(response=f"{bad.response} So it is."))]) == [
        ""
    ]  # so it was before
    assert made.reasons([(good, Pair("Say it.", "", ""))]) == [""]  # nothing to compare is another gate's
    assert made.reasons([(Pair("Say it.", "", ""), bad)])[0]
    assert made.reasons([]) == []


def test_a_limit_needs_originals() -> None:
    made = gate(ORIGINALS[:19], 10)
    assert made.limit is None
    assert made.reasons([(about("bees", "bees"), about("bees", "cats"))]) == [""]


def test_of_a_conversation_the_turn_before_is_part_of_what_is_asked() -> None:
    made = gate(ORIGINALS + OFF, 10)
    go_on = Pair(
        "Go on.", "", "Of cats much can be said.", (Turn("user", "x"), Turn("assistant", "Of cats."))
    )
    assert made.values([go_on])[0] == pytest.approx(made.values([about("cats", "cats")])[0], abs=0.05)


@pytest.fixture
def rewritten(pair_workspace: Workspace, tmp_path: Path) -> Workspace:
    """Thirty samples of the quickstart's data, each with another sample's answer as its rewrite."""
    small_recipe(pair_workspace, 30)
    data = pair_workspace.recipes / "small.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rewrites = [{**row, "output": rows[n - 7]["output"] + " So it is."} for n, row in enumerate(rows)]
    file = tmp_path / "rewrites.json"
    file.write_text(json.dumps(rewrites), encoding="utf-8")
    with Store(pair_workspace.store_path) as store:
        import_file(store, data, "small")
        import_file(store, file, "small", as_variant="response_reflected")
    return pair_workspace


def test_a_run_stops_counts_and_explains_what_is_incoherent(rewritten: Workspace) -> None:
    recipe = small_recipe(
        rewritten,
        30,
        reflection={"source": "store"},
        selection={"instruction_by": "original", "response_by": "reflected", "policy": "all"},
        training={"enabled": False},
        gates={"coherence": True, "coherence_percent": 40},
    )
    done = srtui(rewritten, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(rewritten.store_path) as store:
        run = store.runs.named("small")
        summary = summarise(store, run.id)
        stopped = summary.gated["response"]["coherence"]
        assert 0 < stopped < 30
        assert summary.accepted["response"].taken == 30 - stopped
        judge = VariantScorer(
            store, rewritten.models / "tiny", run.recipe["student"]["quantization"], name="tiny",
            template_name=run.recipe["prompt"]["template"], max_length=run.recipe["prompt"]["max_length"],
        )  # fmt: skip
        tokens = judge.tokens_run
        again = coherence_of(store, run, judge)
        trials = try_gates(store, run, 2, again)
        assert judge.tokens_run == tokens  # every text's embedding is stored
        assert {trial.gate: trial.stopped for trial in trials.gates}["coherence"] == stopped
        assert again.limit is not None
        for rewrite in store.generations.rewrites(run.id):
            before, after = again.values([rewrite.before, rewrite.after])
            assert before is not None
            assert after is not None
            gated = store.decisions.gated_of(run.id, rewrite.sample_id)
            assert bool(gated) == (after < again.limit and after < before)
            if gated:
                assert gated["response"][0].gate == "coherence"
                assert gated["response"][0].reason.startswith("an answer to something else: coherence")
        assert not list(faults(store))
    status = " ".join(srtui(rewritten, "status", "small").stdout.split())
    assert f"{stopped} rewrites, not compared: {stopped} an answer to something else" in status
    printed = json.loads(srtui(rewritten, "data", "gates", "small", "--coherence", "--json").stdout)
    assert {gate["gate"]: gate["stopped"] for gate in printed["gates"]}["coherence"] == stopped
    without = json.loads(srtui(rewritten, "data", "gates", "small", "--json").stdout)
    assert "coherence" not in {gate["gate"] for gate in without["gates"]}


def test_a_gguf_student_is_refused() -> None:
    recipe = {
        "name": "r", "dataset": "d", "student": {"quantization": "gguf"}, "training": {"enabled": False},
        "gates": {"coherence": True},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"gates\.coherence = true needs a student of safetensors"):
        parse(recipe, "test")
    with pytest.raises(UserError, match=r"needs selection\.encoder"):
        parse({**recipe, "selection": {"embedded_by": "encoder"}}, "test")
    parse({**recipe, "selection": {"embedded_by": "encoder", "encoder": "some"}}, "test")
