"""benchmarks/evidence on a tiny pair and made-up answers: what it compares, keeps, resumes and refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence.__main__ import Lines, main, open_workspace, parsed, report
from benchmarks.evidence.arms import ARMS, ORIGINAL, arms_of
from benchmarks.evidence.data import ORIGINALS, PAIRS, STRONG, THIRD, read_prompts, write_tasks
from benchmarks.evidence.results import Part, Results
from benchmarks.evidence.table import difference, markdown, rows_of
from benchmarks.evidence.work import Evidence
from srtui.errors import UserError
from srtui.gates import TEXT_GATES
from srtui.measures import MEASURES
from srtui.progress import Stopped
from srtui.recipe.gates import GateSettings
from srtui.store import Store
from tests.sql import sql_value

WORDS = ["about", "other", "which", "there", "their", "would", "these", "people", "first", "water"]
PROMPTS = 90


def answers(folder: Path, count: int = PROMPTS) -> Path:
    """AlpacaEval's files in small: the third answer is about as long as the original for every other prompt."""
    draws = random.Random(3)

    def say(size: int) -> str:
        return " ".join(draws.choices(WORDS, k=size))

    rows: dict[str, list[dict[str, object]]] = {name: [] for name in (ORIGINALS, STRONG, THIRD, PAIRS)}
    for n in range(count):
        prompt = {"instruction": f"Write of {n}.", "dataset": ("a", "b")[n % 2]}
        original, mixed = say(6), say(draws.choice((4, 9)))
        for name, text in ((ORIGINALS, original), (STRONG, say(14)), (THIRD, say(6 + 8 * (n % 2)))):
            rows[name].append(prompt | {"output": text})
        better = 1 if len(mixed) > len(original) else 2
        rows[PAIRS].append(prompt | {"answer_1": mixed, "answer_2": original, "preference": better})
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


def test_prompts_are_trained_on_or_held_out_and_half_of_these_are_of_like_length(tmp_path: Path) -> None:
    prompts = read_prompts(answers(tmp_path), 30, 12, 64)
    trained, held_out = ({p.instruction for p in some} for some in (prompts.trained, prompts.held_out))
    assert (len(trained), len(held_out)) == (30, 12) and trained.isdisjoint(held_out)
    assert sum(p.like_length for p in prompts.held_out) == 6
    assert read_prompts(tmp_path, 30, 12, 64) == prompts
    short = read_prompts(tmp_path, 10, 12, 30)
    assert all(len(p.instruction) + len(p.strong) <= 96 for p in short.trained)
    assert any(len(p.instruction) + len(p.strong) > 96 for p in prompts.trained)
    with pytest.raises(UserError, match="fit into 5 tokens"):
        read_prompts(tmp_path, 10, 12, 5)
    tasks = write_tasks(tmp_path / "tasks", prompts.held_out, lambda instruction: f"Q: {instruction}\n")
    rows = [json.loads(line) for line in (tasks / "matching.jsonl").read_text().splitlines()]
    assert [row["choices"][row["answer"]] for row in rows] == [p.third for p in prompts.held_out]
    assert all(len(set(row["choices"])) == 4 for row in rows) and len({row["answer"] for row in rows}) > 1


def test_what_is_missing_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no data"), "--keep", str(tmp_path / "kept")]) == 2
    said = capsys.readouterr().err
    assert ORIGINALS in said and "is not there" in said and said.count("\n") == 1
    with pytest.raises(UserError, match="lower --prompts or --held-out"):
        read_prompts(answers(tmp_path), PROMPTS, 12, 64)


def test_every_measure_of_two_answers_is_an_arm() -> None:
    by = {arm.measure for arm in ARMS}
    # A draw is the arm random; an encoder is not at hand; a perplexity of x chooses as r-IFD, whose numerator it is.
    expected = {name for name, m in MEASURES.items() if m.source not in ("draw", "encoder")} - {"perplexity"}
    assert expected <= by and {f"{name}-at-length" for name in expected} <= by
    assert {"rewrites", "random", "text-gates", "half-longest", "half-facility"} <= {arm.name for arm in ARMS}
    assert [a.name for a in arms_of("strong", ["ifd"])] == [ORIGINAL, "ifd"]
    assert "known" in [a.name for a in arms_of("mixed", [])]
    assert "known" not in [a.name for a in arms_of("strong", [])]


def test_the_arm_of_gates_asks_those_of_texts_alone() -> None:
    """Another gate asks a model, and a number among the section's keys is no gate."""
    (gated,) = (arm for arm in ARMS if arm.gated)
    settings = GateSettings.model_validate(gated.gates)
    assert settings.active == settings.of_texts == TEXT_GATES
    assert settings.coherence_percent == GateSettings().coherence_percent


def test_a_torn_line_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = (
        Part(key, "s", {"steps": 1}, "strong", ORIGINAL, "steps", 0, losses=[1.0, None]) for key in "ab"
    )
    Results(path).add(first)
    with path.open("ab") as file:
        file.write(b'{"key": "b", "stud')
    again = Results(path)
    assert list(again) == [first] and "b" not in again
    again.add(second)
    assert list(Results(path)) == [first, second]


def part(arm: str, seed: int, losses: list[float]) -> Part:
    return Part(
        f"{arm}{seed}", "s", {}, "strong", arm, "steps", seed, 8, 100, 4, 2, None, 10.0, list(losses), {}
    )


def test_differences_are_paired() -> None:
    """The same prompts in both arms: what they differ in among themselves is not in the interval."""
    draws = np.random.default_rng(1)
    base = draws.normal(3, 2, size=40)
    reference = np.stack([base + draws.normal(0, 0.01, 40) for _ in range(3)])
    arm = reference - 0.1 + draws.normal(0, 0.01, size=(3, 40))
    found = difference(arm, reference)
    assert found is not None and (found.seeds, found.prompts) == (3, 40)
    for low, high in ((found.interval.low, found.interval.high), found.bootstrap):
        assert low < found.interval.mean < high and low > -0.12 and high < -0.08
    arm[0, 7] = np.nan  # what has no loss under one seed is left out of all
    fewer = difference(arm, reference)
    assert fewer is not None and fewer.prompts == 39
    assert difference(arm[:, :1], reference[:, :1]) is None


def test_the_bootstrap_is_scipys() -> None:
    from scipy.stats import bootstrap

    each = np.random.default_rng(2).normal(0.2, 1, size=(1, 50))
    found = difference(each, np.zeros_like(each))
    theirs = bootstrap((each[0],), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert found is not None and found.bootstrap == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_a_table_of_a_part_of_the_work_says_what_it_rests_on() -> None:
    draws = np.random.default_rng(4)
    alike = [n % 2 == 0 for n in range(20)]
    losses = draws.normal(2, 1, 20).tolist()
    parts = [part(ORIGINAL, 0, losses), part(ORIGINAL, 1, losses)]
    parts.append(part("rewrites", 0, [x - 0.3 + 0.01 * n for n, x in enumerate(losses)]))
    known = {"ifd": {"agreement": [0.7, 0.6, 0.8]}}
    original, rewrites = rows_of(parts, alike, known)
    assert original.loss is None and original.seeds == 2
    assert rewrites.loss is not None and rewrites.like_length is not None
    assert (rewrites.loss.seeds, rewrites.loss.prompts, rewrites.like_length.prompts) == (1, 20, 10)
    assert rewrites.loss.interval.mean == pytest.approx(-0.3 + 0.01 * 9.5)
    shown = markdown([original, rewrites], None)
    assert f"({np.mean(losses):.4f})" in shown and "-0.2050 (-0.23" in shown and " *" in shown


@pytest.mark.model
def test_the_whole_way_stopped_and_resumed(
    tmp_path: Path, pair_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part is kept as it comes, nothing is trained twice, and what GPT-4 said is followed by the arm that knows.
    Equal tokens are asked for first, which are reckoned by the equal steps."""
    words = [
        str(answers(tmp_path / "data")), "--keep", str(tmp_path / "kept"), "--models", str(pair_folder),
        "--students", "tiny", "--quantization", "f32", "--rater", "", "--replays", "mixed", "--seeds", "1",
        "--arms", "known", "combined", "--budgets", "tokens", "steps",
        "--prompts", "12", "--held-out", "8", "--pairs", "60", "--max-length", "256", "--steps", "3",
        "--batch-size", "2", "--questions", "2", "--lora-rank", "2",
    ]  # fmt: skip
    plan, models, keep, only_table = parsed(words)
    assert not only_table and plan.size.prompts == 12
    workspace = open_workspace(keep, models)
    with Store(workspace.store_path) as store:
        results = Results(keep / "results.jsonl")
        stopping = Evidence(plan, workspace, store, results, Lines(), lambda: len(list(results)) == 3)
        with pytest.raises(Stopped):
            stopping.work()
        assert len(list(results)) == 3
    with Store(workspace.store_path) as store:
        results = Results(keep / "results.jsonl")
        evidence = Evidence(plan, workspace, store, results, Lines())
        evidence.work()
        parts = {(p.arm, p.budget): p for p in results}
        arms = [ORIGINAL, "known", "combined"]
        assert parts.keys() == {
            ("untuned", "steps"),
            *((arm, b) for b in ("steps", "tokens") for arm in arms),
        }
        runs = sql_value(store, "SELECT count(*) FROM training_run WHERE status = 'done'")
        assert runs == len(parts) - 1
        before = (keep / "results.jsonl").read_bytes()
        evidence.work()  # nothing is left to do
        assert (keep / "results.jsonl").read_bytes() == before
        capsys.readouterr()
        report(plan, evidence, results)
    better = sum(bool(p.better) for p in evidence.prompts.trained)
    original, known = parts[ORIGINAL, "steps"], parts["known", "steps"]
    assert (known.taken, known.right, known.samples) == (better, 12, 12)
    assert (original.taken, original.right) == (0, 12 - better)
    assert parts["combined", "steps"].taken > 0
    for p in parts.values():
        assert len(p.losses) == 8 and None not in p.losses
        assert set(p.choices) == ({"everyday", "matching"} if p.budget == "steps" else set())
    assert known.losses != original.losses
    # As many tokens as the original's arm, to the nearest step.
    for arm in arms:
        same, whole = parts[arm, "tokens"], parts[arm, "steps"]
        assert abs(same.tokens - original.tokens) <= max(whole.tokens / whole.steps, same.tokens / same.steps)
    said = capsys.readouterr().out
    figures = json.loads(said.splitlines()[-1])
    assert [t["budget"] for t in figures["tables"]] == ["tokens", "steps"]
    assert "12 prompts are trained on and 8 held out, 4 of these" in said
