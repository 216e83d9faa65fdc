"""The student that is made from a GGUF is the model that llama.cpp runs."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from srtui.models import file_sha256
from srtui.models.convert import _CONTRACTIONS, PROBES, SPLITS

pytestmark = pytest.mark.model

# At module level: llama.cpp calls its log callback as long as the process lives.
QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)


@pytest.fixture(scope="module")
def source(models_folder: Path) -> Path:
    return models_folder / "smollm2-135m.Q4_1.gguf"


def test_weights_are_the_dequantised_ones(source: Path, student_folder: Path) -> None:
    """Reference: the gguf package's own dequantisation, rounded to bfloat16 (8 bits of mantissa)."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "blk.17.ffn_down.weight": "model.layers.17.mlp.down_proj.weight",
        "blk.29.attn_output.weight": "model.layers.29.self_attn.o_proj.weight",
    }
    tensors = {tensor.name: tensor for tensor in GGUFReader(source).tensors}
    with safe_open(student_folder / "model.safetensors", framework="pt") as made:
        for theirs, ours in names.items():
            values = np.array(dequantize(tensors[theirs].data, tensors[theirs].tensor_type))
            weight = made.get_tensor(ours)
            assert torch.equal(weight, torch.from_numpy(values).to(torch.bfloat16).reshape(weight.shape))


def test_logits_are_llama_cpps(source: Path, student_folder: Path) -> None:
    """Same tokens through llama.cpp's own evaluation of the source: finds permuted heads or a wrong rope."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student_folder, local_files_only=True)
    ids = tokenizer("The capital of France is Paris, and the capital of Germany is")["input_ids"]
    student = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        ours = student(torch.tensor([ids])).logits[0, -1].numpy()

    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(source).encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
    context = llama_cpp.llama_init_from_model(model, settings)
    tokens = (llama_cpp.llama_token * len(ids))(*ids)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids))) == 0
    theirs = np.array(llama_cpp.llama_get_logits_ith(context, -1)[: len(ours)])
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)

    assert int(ours.argmax()) == int(theirs.argmax())
    assert tokenizer.decode([int(ours.argmax())]).strip() == "Berlin"
    # llama.cpp multiplies 4-bit weights with 8-bit activations, so the two agree closely, not exactly.
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999


def test_provenance_and_tokenizer(source: Path, student_folder: Path) -> None:
    made = json.loads((student_folder / "srtui.json").read_text())
    assert made["sha256"] == file_sha256(source)
    assert made["licence"] == "apache-2.0"
    assert made["tokenizer_agrees"] == len(PROBES)
    config = json.loads((student_folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"


def test_splitting_rules_compile() -> None:
    from tokenizers import Regex, pre_tokenizers

    for rule in SPLITS.values():
        assert rule.startswith(_CONTRACTIONS)
        cut = pre_tokenizers.Split(Regex(rule), "isolated", invert=False).pre_tokenize_str(
            "I'LL pay 12345 now\n"
        )
        assert "".join(piece for piece, _ in cut) == "I'LL pay 12345 now\n"
        assert cut[1][0] == "'LL"
