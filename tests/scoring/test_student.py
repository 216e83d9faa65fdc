"""A damaged student folder is one clear sentence; a quantized one has the weights that were asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srtui.errors import UserError
from srtui.scoring import Student


@pytest.fixture
def tiny(tmp_path: Path, student_folder: Path) -> Path:
    """A two-layer Llama with random weights and the real tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(student_folder / name, folder / name)
    vocabulary = json.loads((student_folder / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["f32", "nf4"])
def test_a_whole_folder_loads(tiny: Path, quantization: str) -> None:
    student = Student.load(tiny, quantization, "cpu")  # type: ignore[arg-type]
    assert student.id.split(":")[1] == quantization


def test_weights_cut_short(tiny: Path) -> None:
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match=r"tiny: its weights are damaged or incomplete .*; get the model"):
        Student.load(tiny, "f32", "cpu")


@pytest.mark.parametrize("quantization", ["f32", "nf4"])
def test_a_missing_tensor_is_never_made_up(tiny: Path, quantization: str) -> None:
    weights = tiny / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors .*model\.layers\.1\.mlp\.up_proj\.weight"):
        Student.load(tiny, quantization, "cpu")  # type: ignore[arg-type]


def test_a_tensor_of_another_shape(tiny: Path) -> None:
    weights = tiny / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(32, 64)
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match="tiny: "):
        Student.load(tiny, "f32", "cpu")
