"""Embeddings of the student: what they are made of, that they are stored once, and a run that chooses by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from srtui.errors import UserError
from srtui.pipeline import import_file
from srtui.pipeline.train import trained_on
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
    ids = [store.corpus.variants_of(sample)[0].id for sample in store.corpus.sample_ids(1, 12)]
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


def test_what_is_stored_is_not_made_again(scored: tuple[Store, VariantScorer, list[int]]) -> None:
    store, judge, ids = scored
    list(judge.embed(ids[:6]))
    run = judge.tokens_run
    assert list(judge.embed(ids[:6])) == []
    assert judge.tokens_run == run
    assert store.embeddings.missing(ids, judge.setting_id) == ids[6:]
    list(judge.embed(ids))
    assert store.embeddings.missing(ids, judge.setting_id) == []


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
        assert training["examples"] == 3


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
