"""What a student's weights take, before they are loaded: experts are no linear layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from srtui.errors import UserError
from srtui.student import Student
from srtui.student import model as student
from srtui.student.weights import plan_weights, weigh

SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def _save(model: Any, tokenizer: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def mixture(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = t.MixtralConfig(**SHAPE, num_local_experts=32)
    return _save(t.MixtralForCausalLM(config), student_folder, tmp_path_factory.mktemp("m") / "mixture")


@pytest.fixture(scope="module")
def dense(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = t.LlamaConfig(**SHAPE)
    return _save(t.LlamaForCausalLM(config), student_folder, tmp_path_factory.mktemp("d") / "dense")


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_plan_is_what_is_loaded(mixture: Path, dense: Path, quantization: Any) -> None:
    for folder in (mixture, dense):
        loaded = Student.load(folder, quantization, "cpu")
        element = loaded.model.get_input_embeddings().weight.element_size()
        plan = plan_weights(folder, quantization, element)
        assert plan is not None
        held = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
        assert plan.size == pytest.approx(held, rel=0.02)
        assert weigh(loaded.model, "f32", element).parameters > 0
        loaded.close()


@pytest.mark.model
def test_experts_that_stay_wide_are_said_before_loading(mixture: Path, dense: Path) -> None:
    said: list[str] = []
    Student.load(mixture, "nf4", "cpu", report_line=said.append).close()
    (sentence,) = said
    assert sentence.startswith("mixture: 5")
    assert "no linear layer (experts, usually), and nf4 leaves those in" in sentence
    said.clear()
    Student.load(dense, "nf4", "cpu", report_line=said.append).close()
    Student.load(mixture, "f32", "cpu", report_line=said.append).close()
    assert said == []


@pytest.mark.model
def test_a_student_that_does_not_fit_is_refused_before_it_is_read(
    mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(student, "free_bytes", lambda device: 10**6)

    def reads(*_: Any, **__: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(t.AutoModelForCausalLM, "from_pretrained", reads)
    with pytest.raises(
        UserError, match=r"mixture does not fit the GPU's memory in nf4: its weights take about 0.0 GB"
    ):
        Student.load(mixture, "nf4", "cuda")
