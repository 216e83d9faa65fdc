"""What a student's weights will take, known before they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes a weight: 4 bits and a doubly quantized scale for each 64 (Dettmers et al. 2023, section 3); 8 bits
# and a scale for each row.
BYTES_A_WEIGHT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
_WORTH_SAYING = 0.1


@dataclass(frozen=True)
class StudentWeights:
    """``quantized`` of the model's ``parameters`` lie in layers that ``quantization`` reaches, ``left``
    neither in those nor in embeddings and head; all but the quantized have ``element`` bytes each, and
    ``size`` is what all of them take."""

    quantization: str
    parameters: int
    quantized: int
    left: int
    element: int
    size: int

    def sentence(self, name: str) -> str:
        """What a person should know before it is loaded; "" where nothing is unusual."""
        if self.left <= _WORTH_SAYING * self.parameters:
            return ""
        expected = self.size - self.left * (self.element - BYTES_A_WEIGHT[self.quantization])
        return (
            f"{name}: {self.left / self.parameters:.0%} of its {self.parameters / 1e9:.1f} billion parameters lie in "
            f"no linear layer (experts, usually), and {self.quantization} leaves those in {8 * self.element} bits: its weights take "
            f"about {self.size / 1e9:.1f} GB, not {expected / 1e9:.1f}."
        )


def without_weights(folder: Path) -> Any | None:
    """The model in ``folder`` on torch's meta device: its layers, and no weights. None where transformers
    cannot build it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:  # whatever it is, a load meets it too, and has a sentence for it
        return None


def plan_weights(folder: Path, quantization: str, element: int) -> StudentWeights | None:
    """Ask the model in ``folder``, built without weights, what ``quantization`` would make of it; other
    weights have ``element`` bytes. None where it cannot be built: loading says why.
    """
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    model = without_weights(folder)
    if model is None:
        return None
    try:
        if quantization in BYTES_A_WEIGHT:
            bits = {"load_in_4bit": True} if quantization == "nf4" else {"load_in_8bit": True}
            AutoHfQuantizer.from_config(BitsAndBytesConfig(**bits)).preprocess_model(
                model, device_map={"": "cpu"}
            )
    except Exception:  # whatever it is, the load meets it too, and has a sentence for it
        return None
    return weigh(model, quantization, element)


def weigh(model: Any, quantization: str, element: int) -> StudentWeights:
    """The sums over a model whose layers are those of ``quantization``, with or without weights."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    reached: set[int] = set()
    not_counted: set[int] = set()
    for module in model.modules():
        if isinstance(module, Linear4bit | Linear8bitLt):
            reached.add(id(module.weight))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        not_counted |= {id(p) for p in layer.parameters()} if layer is not None else set()
    parameters = quantized = unquantized = 0
    for parameter in model.parameters():
        count = parameter.numel()
        parameters += count
        if id(parameter) in reached:
            quantized += count
        elif id(parameter) not in not_counted:
            unquantized += count
    return StudentWeights(
        quantization,
        parameters,
        quantized,
        unquantized if quantization in BYTES_A_WEIGHT else 0,
        element,
        round(quantized * BYTES_A_WEIGHT.get(quantization, element) + (parameters - quantized) * element),
    )
