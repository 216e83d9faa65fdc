"""A damaged student folder is one clear sentence; a quantized one has the weights that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from srtui.errors import UserError
from srtui.prompts import template
from srtui.sample import Pair
from srtui.student import Scorer, SpanBuilder, Student
from tests.tiny_pair import VOCABULARY, small_tokenizer

PAIRS = [
    Pair("Name the largest planet.", "", "Jupiter is the largest planet of the solar system."),
    Pair("Translate to French.", "Good morning", "Bonjour"),
    Pair("Why does ice float?", "", "Ice is less dense than water, because its molecules leave more room."),
]


@pytest.fixture
def tiny(tmp_path: Path, student_folder: Path) -> Path:
    """A two-layer Llama with random weights and the real tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "tiny"
    folder.mkdir()
    small_tokenizer(student_folder, folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["f32", "bf16", "nf4", "int8"])
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


@pytest.fixture(scope="module")
def exact(student_folder: Path) -> list[float]:
    """The losses of PAIRS in float32."""
    return losses(Student.load(student_folder, "f32", "cpu"))


def losses(student: Student, batch_tokens: int = 2048) -> list[float]:
    spans = SpanBuilder(student.tokenizer, template("alpaca", student.tokenizer))
    wanted = [spans.forward(pair)[0] for pair in PAIRS]
    return [loss.mean for _, loss in sorted(Scorer(student, batch_tokens).score(wanted))]  # type: ignore[type-var, arg-type]


# Nats a token, by what is rounded: this small model loses half a nat to NF4.
WITHIN = {"int8": 0.2, "nf4": 1.0}
# The same sums in another order.
NOISE = {"float32": 1e-4, "bfloat16": 0.05}


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["bf16", "int8", "nf4"])
def test_fewer_bits_are_another_student_whose_losses_do_not_depend_on_the_batch(
    pair_folder: Path, quantization: str, arithmetic: str
) -> None:
    """They do where activations are rounded by the columns of all that is in it."""
    student = Student.load(pair_folder / "tiny", quantization, "cpu")  # type: ignore[arg-type]
    assert student.id.split(":")[1:3] == [quantization, arithmetic] == [quantization, student.arithmetic]
    together = losses(student)
    assert losses(student, 1) == pytest.approx(together, abs=NOISE[arithmetic])
    if quantization != "bf16":  # which is what these weights are stored in
        assert together != losses(Student.load(pair_folder / "tiny", "f32", "cpu"))


@pytest.mark.model
@pytest.mark.parametrize(
    ("quantization", "arithmetic"), [("int8", "float32"), ("nf4", "bfloat16")], indirect=["arithmetic"]
)
def test_fewer_bits_stay_near_float32(
    student_folder: Path, exact: list[float], quantization: str, arithmetic: str
) -> None:
    """Of real weights; those in bf16 are compared in test_reference.py."""
    found = losses(Student.load(student_folder, quantization, "cpu"))  # type: ignore[arg-type]
    assert found == pytest.approx(exact, abs=WITHIN[quantization]) and found != exact


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_layer_computes_alike_in_scoring_and_in_training(
    tiny: Path, quantization: str, arithmetic: str
) -> None:
    """bitsandbytes has other products for each, and repacks 4-bit weights on some CPUs in between."""
    student = Student.load(tiny, quantization, "cpu")  # type: ignore[arg-type]
    layer = student.model.model.layers[0].mlp.up_proj
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(getattr(torch, arithmetic))
    x[2, 7] = 40.0  # what LLM.int8() calls an outlier
    with torch.inference_mode():
        scored = layer.eval()(x)
        near = {"float32": 1e-5, "bfloat16": 2**-7}[arithmetic]
        torch.testing.assert_close(layer(x[:1]), scored[:1], rtol=near, atol=near)
    trained = layer.train()(x.clone().requires_grad_())
    assert torch.equal(trained, scored)
    trained.sum().backward()
    with torch.inference_mode():
        assert torch.equal(layer.eval()(x), scored)


def test_a_folder_that_is_no_adapter(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not an adapter: it needs adapter_config.json"):
        Student.load(tiny, "f32", "cpu", adapter=tmp_path)


def test_an_adapter_makes_another_student(tiny: Path, tmp_path: Path) -> None:
    """Its weights are part of what the losses are stored under; a fresh one changes no loss."""
    from peft import LoraConfig, get_peft_model

    base = Student.load(tiny, "f32", "cpu")
    spans = SpanBuilder(base.tokenizer, template("alpaca", base.tokenizer))
    wanted = [spans.forward(PAIRS[0])[0]]
    before = next(iter(Scorer(base).score(wanted)))[1].mean
    made = get_peft_model(base.model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    made.save_pretrained(tmp_path / "adapter")
    tuned = Student.load(tiny, "f32", "cpu", adapter=tmp_path / "adapter")
    assert tuned.id.startswith(base.id) and tuned.id != base.id
    assert next(iter(Scorer(tuned).score(wanted)))[1].mean == pytest.approx(before, rel=1e-6)

    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="this adapter does not go with its student"):
        Student.load(tiny, "f32", "cpu", adapter=tmp_path / "adapter")
