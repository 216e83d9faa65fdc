"""A run that is trained on the pairs of its choices, from the adapter of the run before it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.pipeline.prepare import prepare
from srtui.recipe import load
from srtui.store import Store
from srtui.store.training import StoredTraining
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows, sql_value

pytestmark = pytest.mark.model

DPO = (
    "name=preferred", "training.method=dpo", "training.from_run=small", "training.learning_rate=0.001",
    "training.checkpoint_steps=1",
)  # fmt: skip


def run(workspace: Workspace, path: Path, *changes: str, **how: Any) -> Any:
    return srtui(workspace, "run", str(path), *(w for c in changes for w in ("--set", c)), **how)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> tuple[Workspace, Path]:
    """With the run "small", which learned the answers that were taken."""
    workspace = make_workspace(tmp_path_factory.mktemp("preferred") / "ws", pair_folder)
    path = small_recipe(workspace, 14, training={"held_out": 0.3}, selection={"policy": "keep"})
    first = run(workspace, path)
    assert first.returncode == 0, first.stderr
    return workspace, path


def result_of(workspace: Workspace, name: str) -> tuple[StoredTraining, dict[str, list[float]]]:
    with Store(workspace.store_path, read_only=True) as store:
        row = store.training.of_run(store.runs.named(name).id)
        assert row is not None and row.status == "done", row
        metrics: dict[str, list[float]] = {}
        for r in sql_rows(
            store,
            "SELECT name, value FROM training_metric WHERE training_run_id = ? ORDER BY step",
            (row.id,),
        ):
            metrics.setdefault(r["name"], []).append(r["value"])
    return row, metrics


def test_sft_and_then_dpo_on_the_pairs(trained: tuple[Workspace, Path]) -> None:
    workspace, path = trained
    with Store(workspace.store_path, read_only=True) as store:
        written, losses = (sql_value(store, f"SELECT count(*) FROM {t}") for t in ("generation", "span_loss"))
    done = run(workspace, path, *DPO)
    assert done.returncode == 0, done.stderr
    row, metrics = result_of(workspace, "preferred")
    pairs = srtui(workspace, "export", "preferred", "--format", "preference", "--out", "-")
    records = [json.loads(line) for line in pairs.stdout.splitlines()]
    held = row.result["rewards"]["accuracy"]["n"]
    assert row.examples + held == len(records) >= 8 and held >= 1
    assert metrics["loss"][0] == pytest.approx(
        math.log(2), abs=2e-3
    )  # the reference is the student it starts as
    assert len(metrics["reward_margin"]) == row.steps > 1
    margin = row.result["rewards"]["margin"]
    assert margin["n"] == held and margin["value"] == pytest.approx(margin["value"])
    assert {"original", "selected", "preference"} >= row.result["held_out"].keys() >= {"preference"}
    with Store(workspace.store_path, read_only=True) as store:
        assert sql_value(store, "SELECT count(*) FROM generation") == written  # nothing is asked again
        assert (
            sql_value(store, "SELECT count(*) FROM span_loss") > losses
        )  # the reference's, of the tuned student
        ours, theirs = (store.decisions.of_run(store.runs.named(name).id) for name in ("preferred", "small"))
        assert ours == theirs
    # Every face says what it was trained on, and what the held-out pairs say of it.
    shown = srtui(workspace, "status", "preferred").stdout
    assert f"{row.examples} pairs" in " ".join(shown.split())
    assert "reward margin" in shown and f"n = {held})" in shown and "held-out pairs" in shown
    assert srtui(workspace, "report", "preferred", "--out", "report.html").returncode == 0
    html = (workspace.root / "report.html").read_text(encoding="utf-8")
    assert "reward margin" in html and f"n = {held})" in html and "preference is the chooser" in html


def test_a_killed_run_resumes_exactly(trained: tuple[Workspace, Path]) -> None:
    """With its reference log-probabilities as they were stored."""
    workspace, path = trained
    calm = run(workspace, path, *DPO, "name=calm")
    assert calm.returncode == 0, calm.stderr
    killed = run(workspace, path, *DPO, "name=rough", kill_at=("commit", 30))
    assert killed.returncode == -9
    resumed = run(workspace, path, *DPO, "name=rough")
    assert resumed.returncode == 0, resumed.stderr
    (one, first), (other, second) = (result_of(workspace, name) for name in ("calm", "rough"))
    assert first["loss"] == second["loss"] and first["reward_margin"] == second["reward_margin"]
    adapters = [
        (workspace.root / row.adapter / "adapter_model.safetensors").read_bytes() for row in (one, other)
    ]
    assert adapters[0] == adapters[1]


def test_another_adapter_under_the_same_name_is_another_run(
    tmp_path: Path, trained: tuple[Workspace, Path]
) -> None:
    """And what a person took in the run before is said to be of that run."""
    root = tmp_path / "ws"
    shutil.copytree(trained[0].root, root, symlinks=True)
    workspace = Workspace(root)
    path = root / trained[1].relative_to(trained[0].root)
    assert run(workspace, path, *DPO, "name=second").returncode == 0
    with Store(workspace.store_path) as store:
        earlier = store.runs.named("second")
        again, is_new = prepare(workspace, store, load(path, [*DPO, "name=second"]), path)
        assert (again.id, is_new) == (earlier.id, False)
        store.runs.delete(store.runs.named("small").id)
    assert run(workspace, path, "training.learning_rate=0.01").returncode == 0  # another "small"
    with Store(workspace.store_path) as store:
        sample, decision = next(
            (sample, made["response"])
            for sample in store.runs.sample_ids(store.runs.named("small").id)
            if len(
                (made := store.decisions.of_sample(store.runs.named("small").id, sample))["response"].compared
            )
            > 1
        )
        other = next(v for v, *_ in decision.compared if v != decision.chosen_id)
        store.marks.overrule(store.runs.named("small").id, sample, other)
    done = run(workspace, path, *DPO, "name=second")
    assert done.returncode == 0, done.stderr
    with Store(workspace.store_path, read_only=True) as store:
        assert {"second", "second-2"} <= {r.name for r in store.runs.all()}
        said = [
            r["message"]
            for r in sql_rows(
                store, "SELECT message FROM event WHERE run_id = ?", (store.runs.named("second-2").id,)
            )
        ]
    assert any("A person took 1 texts in run small and none in this one" in line for line in said), said
    (one, _), (two, _) = (result_of(workspace, name) for name in ("second", "second-2"))
    weights = [(root / row.adapter / "adapter_model.safetensors").read_bytes() for row in (one, two)]
    assert weights[0] != weights[1]
    with Store(workspace.store_path) as store:
        second = store.runs.named("second").id
        sample = next(
            sample
            for sample in store.runs.sample_ids(second)
            if len(store.decisions.of_sample(second, sample)["response"].compared) > 1
        )
        decision = store.decisions.of_sample(second, sample)["response"]
        store.marks.overrule(
            second, sample, next(v for v, *_ in decision.compared if v != decision.chosen_id)
        )
    stale = srtui(workspace, "retrain", "second")
    assert stale.returncode == 2 and "was begun from another adapter" in " ".join(stale.stderr.split())
    with Store(workspace.store_path) as store:
        adapter = store.training.of_run(store.runs.named("small").id)
        assert adapter is not None
        (root / (adapter.adapter or "") / "adapter_model.safetensors").unlink()
        with pytest.raises(UserError, match="is not there any more"):
            prepare(workspace, store, load(path, [*DPO, "name=second"]), path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("training.from_run=nobody",), "nobody"),
        (("training.lora_rank=3",), "its adapter has lora_rank = 8; set training.lora_rank"),
        (("student.quantization=f32",), "its student is tiny in nf4"),
        (("prompt.template=vicuna",), "trained under the template 'alpaca'"),
        (("selection.top_percent=50",), "training.min_margin takes the clear ones"),
    ],
)
def test_what_it_cannot_start_from_is_said_before_the_run(
    trained: tuple[Workspace, Path], changes: tuple[str, ...], sentence: str
) -> None:
    workspace, path = trained
    with Store(workspace.store_path) as store:
        before = len(store.runs.all())
        with pytest.raises(UserError, match=sentence):
            prepare(workspace, store, load(path, [*DPO, "name=refused", *changes]), path)
        assert len(store.runs.all()) == before


def test_a_template_of_the_same_name_with_other_words_is_refused(
    tmp_path: Path, trained: tuple[Workspace, Path]
) -> None:
    workspace, path = trained
    words = tmp_path / "words.toml"
    words.write_text(
        '[templates.alpaca]\nwith_input = "Q: {instruction} {input}\\nA:"\nwithout_input = "Q: {instruction}\\nA:"\n'
    )
    with (
        Store(workspace.store_path) as store,
        pytest.raises(UserError, match="has other words for the template"),
    ):
        prepare(workspace, store, load(path, [*DPO, "name=refused", f"prompts={words}"]), path)


def test_random_choices_give_no_pairs(trained: tuple[Workspace, Path]) -> None:
    workspace, path = trained
    done = run(workspace, path, *DPO, "name=by-chance", "selection.response_by=random")
    assert done.returncode == 0, done.stderr
    with Store(workspace.store_path, read_only=True) as store:
        row = store.training.of_run(store.runs.named("by-chance").id)
    assert row is not None and "skipped: no choice gives a pair" in row.status


def test_an_ablation_has_arms_without_preferences(trained: tuple[Workspace, Path]) -> None:
    workspace, path = trained
    done = srtui(workspace, "ablate", str(path), *(w for c in DPO for w in ("--set", c)))
    assert done.returncode == 2 and 'Set training.method = "sft"' in done.stderr


def test_what_a_proxy_chose_alone_is_its_preference(trained: tuple[Workspace, Path]) -> None:
    """And has its margin; the student's are those that it was asked about."""
    workspace, path = trained
    proxy = (
        "name=proxied",
        "scoring.proxy=tiny",
        "scoring.proxy_quantization=f32",
        "scoring.proxy_margin=1e-6",
    )
    done = run(workspace, path, *proxy, "training.enabled=false")
    assert done.returncode == 0, done.stderr
    exported = srtui(workspace, "export", "proxied", "--format", "preference", "--out", "-")
    records = [json.loads(line) for line in exported.stdout.splitlines()]
    counts = [sum(r["chosen_by"] == who for r in records) for who in ("student", "proxy")]
    assert min(counts) > 0 and sum(counts) == len(records)
    assert f"Chosen: {counts[1]:,} by the proxy, {counts[0]:,} by the student." in exported.stderr
    with Store(workspace.store_path, read_only=True) as store:
        scores = {
            (r[0], r[1]): r[2]
            for r in sql_rows(
                store,
                "SELECT g.quantization, s.variant_id, s.value FROM score s JOIN scoring_setting g ON g.id = s.setting_id "
                "WHERE s.metric = 'rifd'",
            )
        }
        run_id = store.runs.named("proxied").id
    for record in records:
        by = "f32" if record["chosen_by"] == "proxy" else "nf4"
        chosen, rejected = (scores[by, record[f"{side}_variant"]] for side in ("chosen", "rejected"))
        assert record["margin"] == pytest.approx(math.log(rejected) - math.log(chosen))
    # A text of a person's own is scored by the student, and has no margin over what the proxy compared.
    record = next(r for r in records if r["chosen_by"] == "proxy")
    with Store(workspace.store_path) as store:
        pair = store.corpus.variants([record["chosen_variant"]])[record["chosen_variant"]].pair
        own = pair._replace(response=f"{pair.response} Indeed.")
        by_hand, _ = store.marks.write_variant(record["sample"], record["chosen_variant"], own)
        store.marks.overrule(run_id, record["sample"], by_hand)
    assert srtui(workspace, "resume", "proxied").returncode == 0
    exported = srtui(workspace, "export", "proxied", "--format", "preference", "--out", "-")
    again = [json.loads(line) for line in exported.stdout.splitlines()]
    own_pairs = [r for r in again if r["sample"] == record["sample"]]
    assert len(own_pairs) == 2 and all((r["chosen_by"], r["margin"]) == ("person", None) for r in own_pairs)
