"""Embeddings of the student: what they are made of, that they are stored once, and a run that chooses by them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from srtui.cluster.cluster_scorer import ClusterScorer
from srtui.cluster.scorer_job import PassResult, ScorerJob
from srtui.errors import UserError
from srtui.pipeline import import_file
from srtui.pipeline.neighbours import duplicates_by_meaning, neighbours
from srtui.pipeline.ranking import trained_on
from srtui.pipeline.variants import VariantScorer
from srtui.recipe import parse
from srtui.store import Store
from srtui.student import Invalid
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe


@pytest.fixture
def scored(pair_workspace: Workspace) -> tuple[Store, VariantScorer, list[int]]:
    store = Store(pair_workspace.store_path)
    import_file(store, pair_workspace.recipes / "quickstart.jsonl", "q")
    judge = VariantScorer(store, pair_workspace.models / "tiny", "f32", name="tiny", template_name="alpaca")
    ids = [store.corpus.variants_of(sample)[0].id for sample in store.corpus.each_sample_id(1, 12)]
    return store, judge, ids


def test_it_is_the_position_weighted_mean_of_the_last_hidden_states(
    scored: tuple[Store, VariantScorer, list[int]],
) -> None:
    store, judge, ids = scored
    assert list(judge.embed(ids))[-1] == 1.0
    there, vectors = store.embeddings.load(ids, judge.setting_id)
    assert there == ids
    for variant_id, vector in zip(ids, vectors, strict=True):
        span = judge.spans.forward(store.corpus.variants([variant_id])[variant_id].pair)[0]
        assert not isinstance(span, Invalid)
        with torch.inference_mode():
            states = judge.student.model(
                input_ids=torch.tensor([span.ids]), output_hidden_states=True
            ).hidden_states[-1][0]
        weights = torch.arange(1, len(span.ids) + 1, dtype=torch.float32)
        expected = (states.float() * weights[:, None]).sum(0) / weights.sum()
        assert np.allclose(vector.astype(np.float32), expected.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("why_padded", ["", "to try it"], ids=["packed", "padded"])
def test_the_pass_that_scores_ifd_makes_the_same_ones_and_runs_no_token_more(
    pair_workspace: Workspace, why_padded: str
) -> None:
    """Twelve prompts begin alike, so that packed their beginning runs once, and is in every embedding all the same."""
    with Store(pair_workspace.store_path) as store:
        import_file(store, pair_workspace.recipes / "quickstart.jsonl", "q")
        ids = [store.corpus.variants_of(sample)[0].id for sample in store.corpus.each_sample_id(1, 12)]
        vectors, tokens = {}, {}
        for embeds in (False, True):
            judge = VariantScorer(
                store, pair_workspace.models / "tiny", "f32", name="tiny", template_name="alpaca", embeds=embeds,
                max_length=512 + embeds,  # another way of scoring
            )  # fmt: skip
            judge._scorer.why_padded = why_padded
            if why_padded:
                judge._scorer.batches = replace(judge._scorer.batches, how="padded")
            judge.student.losses_id += str(embeds)  # what the first has stored is no loss of the second
            list(judge.score(ids, "ifd"))
            tokens[embeds] = judge.tokens_run
            assert bool(judge.tokens_saved["prefix"]) == (not why_padded)
            assert len(store.embeddings.missing(ids, judge.setting_id)) == (0 if embeds else 12)
            list(judge.embed(ids))
            vectors[embeds] = store.embeddings.load(ids, judge.setting_id)[1].astype(np.float32)
        assert tokens[True] == tokens[False]
        assert np.allclose(vectors[True], vectors[False], rtol=2e-3, atol=2e-3)


class OneWorker:
    """A pool whose only worker is this process, with a student that is loaded already."""

    def __init__(self, scorer: Any) -> None:
        self._job = ScorerJob(None, "f32", "auto", None)  # type: ignore[arg-type]
        self._job._scorer, self._job._block = scorer, -1
        self.facts = [SimpleNamespace(more={"tokens": scorer.batches.tokens})]
        self._tasks: list[Any] = []

    def submit(self, tasks: list[Any]) -> None:
        self._tasks += tasks

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[Any, int, PassResult]]:
        while self._tasks and not should_stop():
            task = self._tasks.pop(0)
            yield task, 0, PassResult(self._job._values(task.payload), 0, 0)


def test_a_worker_s_pass_gives_losses_and_embeddings(scored: tuple[Store, VariantScorer, list[int]]) -> None:
    store, judge, ids = scored
    cut = [judge.spans.forward(v.pair)[0] for v in store.corpus.variants(ids).values()]
    spans = [span for span in cut if not isinstance(span, Invalid)]
    here: dict[int, Any] = {}
    losses = dict(judge._scorer.score(spans, embedded=here.__setitem__))
    batches = judge._scorer.batches
    facts = SimpleNamespace(how=batches.how, alone_beyond=batches.alone_beyond)
    there: dict[int, Any] = {}
    cluster = ClusterScorer(OneWorker(judge._scorer), facts)  # type: ignore[arg-type]
    assert dict(cluster.score(spans, embedded=there.__setitem__)) == losses
    assert sorted(there) == sorted(here) == list(range(len(spans)))
    for n, both in here.items():
        assert np.array_equal(both.whole, there[n].whole)
        assert np.array_equal(both.target, there[n].target)
    assert dict(cluster.score(spans)) == losses


def test_what_is_stored_is_not_made_again(scored: tuple[Store, VariantScorer, list[int]]) -> None:
    store, judge, ids = scored
    list(judge.embed(ids[:6]))
    run = judge.tokens_run
    assert list(judge.embed(ids[:6])) == []
    assert judge.tokens_run == run
    assert store.embeddings.missing(ids, judge.setting_id) == ids[6:]
    list(judge.embed(ids))
    assert store.embeddings.missing(ids, judge.setting_id) == []


def test_what_half_a_float_cannot_hold_is_left_out(workspace: Workspace, tmp_path: Path) -> None:
    """One vector that is not finite would make the mean of all no number, and nothing would be like anything."""
    data = tmp_path / "d.json"
    data.write_text(
        json.dumps([{"instruction": f"Say {n}.", "output": "It."} for n in range(3)]), encoding="utf-8"
    )
    with Store(workspace.store_path) as store:
        import_file(store, data, "d")
        setting = store.scores.setting("s", "id", "nf4", "alpaca", "default", 512)
        ids = [v for _, v in store.corpus.original_ids_of(1, 0, 9)]
        made = [np.full(4, value, dtype=np.float32) for value in (1.0, 1e6, np.nan)]
        store.embeddings.add(setting, zip(ids, made, strict=True))
        store.embeddings.add_texts(zip((b"a", b"b", b"c"), made, strict=True))
        assert store.embeddings.load(ids, setting)[0] == ids[:1]
        assert list(store.embeddings.texts([b"a", b"b", b"c"])) == [b"a"]


def test_a_run_trains_on_a_subset_by_facility_location(pair_workspace: Workspace, tmp_path: Path) -> None:
    recipe = small_recipe(
        pair_workspace,
        8,
        selection={
            "instruction_by": "original", "response_by": "original", "policy": "all", "top_by": "facility", "top_count": 3,
        },
        training={"held_out": 0.0},
    )  # fmt: skip
    done = srtui(pair_workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        this = store.runs.named("small")
        chosen = trained_on(store, this)
        assert len(chosen) == 3
        assert trained_on(store, this) == chosen
        training = store.training.of_run(this.id)
        assert training is not None
        assert training.examples == 3


def test_a_gguf_student_has_none() -> None:
    with pytest.raises(UserError, match="needs a student of safetensors"):
        parse(
            {
                "name": "r",
                "dataset": "d",
                "student": {"quantization": "gguf"},
                "training": {"enabled": False},
                "selection": {"top_by": "facility"},
            },
            "test",
        )


def test_groups_give_the_same_share_each(pair_workspace: Workspace) -> None:
    """Half of what is kept, by a field of the rows, by clusters, and by facility location within them."""
    small_recipe(pair_workspace, 12)
    data = pair_workspace.recipes / "small.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for n, row in enumerate(rows):
        row["kind"] = "code" if n < 8 else "math"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for group, by in (("field:kind", "length"), ("clusters:3", "random"), ("field:kind", "facility")):
        recipe = small_recipe(
            pair_workspace,
            12,
            selection={
                "instruction_by": "original", "response_by": "original", "policy": "all", "top_by": by, "top_count": 6,
                "group": group,
            },
            training={"held_out": 0.0},
        )  # fmt: skip
        data.write_text(text, encoding="utf-8")
        done = srtui(pair_workspace, "run", str(recipe), "--set", f'name="{group.partition(":")[0]}-{by}"')
        assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        for name in ("field-length", "field-facility"):
            kinds = Counter(
                store.corpus.field([s for s, _ in trained_on(store, store.runs.named(name))], "kind").values()
            )
            assert kinds == {"code": 4, "math": 2}
        assert len(trained_on(store, store.runs.named("clusters-random"))) == 6
        assert store.corpus.field([1], "output")
        assert store.corpus.field([1], "nothing") == {}


def test_what_means_the_same_is_found_by_embeddings(pair_workspace: Workspace, tmp_path: Path) -> None:
    """Neighbours and near-duplicates are those of the cosines of the stored vectors around their mean."""
    with Store(pair_workspace.store_path) as store:
        import_file(store, pair_workspace.recipes / "quickstart.jsonl", "q")
        with pytest.raises(UserError, match="have no embeddings"):
            duplicates_by_meaning(store, "q", 1)
        setting = store.scores.setting("s", "i", "f32", "alpaca", "default", 64, "v", None)
        random = np.random.default_rng(1)
        variants = store.corpus.original_variants(store.corpus.each_sample_id(1))
        vectors = random.normal(size=(len(variants), 16)).astype(np.float32)
        vectors[5] = vectors[2] + 0.01
        vectors[9] = vectors[2] - 0.01
        store.embeddings.add(setting, zip(variants.values(), vectors, strict=True))
        samples = list(variants)
        found = duplicates_by_meaning(store, "q", 1)
        assert (found.duplicates, len(found.groups)) == (2, 1)
        assert found.groups[0].kept == [samples[2]]
        assert {one.sample_id for one in found.found()} == {samples[5], samples[9]}
        near = neighbours(store, samples[2], 3)
        centred = vectors - vectors.mean(axis=0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        cosines = centred @ centred[2]
        expected = [samples[n] for n in np.argsort(-cosines)[1:4]]
        assert [one.sample_id for one in near] == expected
        assert near[0].cosine == pytest.approx(float(np.sort(cosines)[-2]), abs=1e-3)
        with pytest.raises(UserError, match="There is no sample 999"):
            neighbours(store, 999, 3)
    printed = " ".join(srtui(pair_workspace, "data", "dedup", "q", "--by", "meaning").stdout.split())
    assert "their embeddings are at least 0.95 alike" in printed
    printed = json.loads(srtui(pair_workspace, "data", "neighbours", str(samples[2]), "--json").stdout)
    assert [one["sample_id"] for one in printed["neighbours"]][:2] == expected[:2]
