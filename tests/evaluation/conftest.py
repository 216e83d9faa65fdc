"""A run with a trained adapter, without the training: its weights are drawn, and large enough to show."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from srtui.pipeline import import_file
from srtui.recipe import parse
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace


@pytest.fixture(scope="session")
def drawn_adapter(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    from srtui.scoring import Student

    torch.manual_seed(0)
    student = Student.load(student_folder, "nf4")
    model = get_peft_model(
        student.model,
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("drawn") / "adapter"
    model.save_pretrained(str(folder), safe_serialization=True)
    return folder


@pytest.fixture
def tuned(model_workspace: Workspace, drawn_adapter: Path) -> tuple[Workspace, Store, Run]:
    """A workspace with a finished run called "tuned"."""
    workspace = model_workspace
    store = Store(workspace.store_path)
    import_file(store, workspace.recipes / "quickstart.jsonl", "q")
    recipe = parse({"name": "tuned", "dataset": "q", "student": {"model": "smollm2-135m"}}, "test")
    dataset_id = store.corpus.dataset_id("q")
    assert dataset_id is not None
    run = store.runs.create("tuned", dataset_id, "r.toml", recipe.model_dump_json(), "f", [])
    place = workspace.runs / "tuned" / "adapter"
    place.parent.mkdir(parents=True)
    place.symlink_to(drawn_adapter, target_is_directory=True)
    training = store.runs.start_training(run.id, 1, 1)
    store.runs.finish_training(training, "done", 1, 1.0, str(place.relative_to(workspace.root)), {})
    store.runs.update(run.id, status="done", finished_at=time.time())
    return workspace, store, run
