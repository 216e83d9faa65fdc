"""A student that is done with hands its memory back, whoever still refers to it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srtui.models import memory
from srtui.student import Scorer, Span, Student
from tests.tiny_pair import VOCABULARY, small_tokenizer


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def wide_folder(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, with layers as wide as a block of NF4."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "student"
    torch.manual_seed(5)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape)).save_pretrained(folder)
    small_tokenizer(student_folder, folder)
    return folder


def _tensors(model: Any) -> list[weakref.ref[Any]]:
    """All that holds memory: weights, buffers, and the scales of quantized weights."""
    found = [*model.parameters(), *model.buffers()]
    found += [p.quant_state.absmax for p in model.parameters() if getattr(p, "quant_state", None) is not None]
    return [weakref.ref(t) for t in found]


def _alive(tensors: list[weakref.ref[Any]]) -> int:
    return sum(ref() is not None for ref in tensors)


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["nf4", "int8", "f32"])
def test_a_closed_student_is_gone_before_the_device_is_asked(
    wide_folder: Path, quantization: Any, monkeypatch: pytest.MonkeyPatch, no_collector: None
) -> None:
    student = Student.load(wide_folder, quantization, "cpu")
    scorer = Scorer(student)  # refers to the model, as a trainer does
    dict(scorer.score([Span(tuple(range(3, 12)), 4)]))
    tensors = _tensors(student.model)
    assert _alive(tensors) == len(tensors) > 10
    when_emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: when_emptied.append(_alive(tensors)))
    student.close()
    assert when_emptied == [0]
    student.close()  # closing twice is nothing


@pytest.mark.model
def test_a_student_with_an_adapter_is_gone_too(wide_folder: Path, no_collector: None) -> None:
    from peft import LoraConfig, get_peft_model

    student = Student.load(wide_folder, "nf4", "cpu")
    student.model = get_peft_model(
        student.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    kept = student.model
    tensors = _tensors(student.model)
    student.close()
    assert _alive(tensors) == 0
    assert kept is not None


@pytest.mark.model
def test_a_run_forgets_its_student_before_the_teacher_comes(
    wide_folder: Path, model_workspace: Any, monkeypatch: pytest.MonkeyPatch, no_collector: None
) -> None:
    """With a GPU, the teacher's layers are planned by what is free: the student has to be gone by then."""
    from srtui.pipeline import context as contexts
    from srtui.pipeline import import_file, place
    from srtui.pipeline.watch import Watch
    from srtui.recipe import parse
    from srtui.store import Store

    (model_workspace.models / "wide").symlink_to(wide_folder, target_is_directory=True)
    store = Store(model_workspace.store_path)
    recipe = parse(
        {
            "name": "r",
            "dataset": "d",
            "teacher": {"model": "smollm2-135m"},
            "student": {"model": "wide"},
        },
        "test",
    )
    (model_workspace.recipes / "d.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    import_file(store, model_workspace.recipes / "d.jsonl", "d")
    dataset = store.corpus.dataset_id("d")
    assert dataset is not None
    run = store.runs.create("r", dataset, "r.toml", recipe.model_dump_json(), "f", [])
    reporter: Any = SimpleNamespace(event=lambda *_: None, progress=lambda *_: None)
    watch = Watch(store, run.id, reporter, lambda: False)
    context = contexts.Context(model_workspace, store, run, watch)
    tensors = _tensors(context.variant_scorer().student.model)
    assert _alive(tensors) == len(tensors)
    alive: list[int] = []

    class Opened(Exception):
        pass

    def opens(*_: Any, **__: Any) -> Any:
        alive.append(_alive(tensors))
        raise Opened

    monkeypatch.setattr(place, "has_gpu", lambda: True)
    monkeypatch.setattr(place, "open_teacher", opens)
    with pytest.raises(Opened):
        context.teacher()
    assert alive == [0]


def test_letting_go_of_a_model_in_a_cycle(no_collector: None) -> None:
    layer = torch.nn.Linear(3, 3)
    layer.weight.owner = layer  # type: ignore[attr-defined]  # as bitsandbytes' 4-bit weights have it
    tensors = _tensors(layer)
    memory.drop_weights(layer)
    assert _alive(tensors) == 0
