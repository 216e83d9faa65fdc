"""Heads with layers of their own (BERT's family): adapters go where the loss has a gradient, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srtui.recipe import TrainingSettings
from srtui.student import Student
from srtui.training import Listener, train
from tests.training.conftest import make_examples

_SMALL: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "is_decoder": True,
}  # fmt: skip


class _NoTokenizer:
    def save_pretrained(self, folder: str) -> None: ...


class _Hears(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("Roberta", "lm_head.dense"),
        ("RoFormer", "cls.predictions.transform.dense"),
        ("Llama", ""),
    ],
)
def test_every_adapter_is_trained(tmp_path: Path, name: str, left_out: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**_SMALL)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    hears = _Hears()
    settings = TrainingSettings(epochs=1, batch_size=2, micro_batch_size=2, lora_rank=2, lora_dropout=0.0)
    student = Student(name, name, "f32", model, _NoTokenizer())
    result = train(tmp_path, make_examples(6), {}, settings, tmp_path / "adapter", hears, student=student)
    assert result is not None and result.changed
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    outputs = {key: bool(t.any()) for key, t in tensors.items() if "lora_B" in key}
    assert outputs
    assert [key for key, moved in outputs.items() if not moved] == []
    assert len(outputs) == 2 * (7 if name == "Llama" else 6)  # all linear layers of the body
    said = [note for note in hears.notes if "no adapter" in note]
    assert len(said) == bool(left_out)
    assert left_out in "".join(said)
