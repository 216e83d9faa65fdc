"""From a student's safetensors to GGUF: the whole model, or a LoRA adapter for one.

What a family's file needs is said once, in FAMILIES and :func:`_hyperparameters`; names of tensors
are the ``gguf`` package's. The tokenizer is tested (srtui.models.gguf_tokenizer) before any weight is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.models.gguf_fields import HeaderField, float_field, int_field, text_field
from srtui.models.gguf_tokenizer import TokenizerCheck, check_tokenizer, tokenizer_fields
from srtui.models.merged_weights import Adapter, MergedWeights
from srtui.models.safetensors_folder import read_safetensors_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOATS = ("F16", "BF16", "F32")
"""What tensors are written as; anything smaller is llama.cpp's quantizer's work."""


@dataclass(frozen=True)
class Family:
    """How llama.cpp's reading of an architecture differs from transformers'.

    ``rotates_pairs``: its rotary embedding turns neighbouring rows of a head, where transformers
    turns row i with row i + d/2, so rows of q and k are put in that order.
    ``norms_from_one``: transformers stores a norm's weight less 1.
    """

    architecture: str
    rotates_pairs: bool = False
    norms_from_one: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family("llama", rotates_pairs=True),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": Family("qwen3"),
    "Gemma3ForCausalLM": Family("gemma3", norms_from_one=True),
}
"""By the class that config.json names."""

# llama.cpp's Gemma 3 has every sixth layer look at the whole context.
_GEMMA_PERIOD = 6


def family_of(student: Path) -> Family:
    """The student's family. Raises UserError where srtui has no GGUF for its architecture."""
    read_safetensors_folder(student)
    classes = json.loads((student / "config.json").read_bytes()).get("architectures") or ["none"]
    if classes[0] not in FAMILIES:
        names = ", ".join(name.removesuffix("ForCausalLM") for name in FAMILIES)
        raise UserError(
            f"{student / 'config.json'}: architectures names {classes[0]}, and GGUF can be written for "
            f"{names}; use --to merged or --to adapter."
        )
    return FAMILIES[classes[0]]


class _Names:
    """GGUF names of a student's tensors, and the order of rows that llama.cpp wants in them."""

    def __init__(self, student: Path, config: Any) -> None:
        import gguf

        self.student, self.config, self.family = student, config, family_of(student)
        architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
        self._map = gguf.get_tensor_name_map(
            architectures[self.family.architecture], config.num_hidden_layers
        )

    def gguf(self, name: str) -> str:
        """Raises UserError for a tensor that llama.cpp's model of this architecture does not have."""
        gguf_name = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise UserError(
                f"{self.student}: its tensor {name} has no place in a {self.family.architecture} GGUF; "
                "use --to merged."
            )
        return str(gguf_name)

    def in_order(self, name: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """``rows``, of shape (out, …), of the tensor ``name`` as llama.cpp wants them."""
        heads = {
            "q_proj": self.config.num_attention_heads,
            "k_proj": self.config.num_key_value_heads,
        }.get(name.split(".")[-2])
        if not self.family.rotates_pairs or heads is None:
            return rows
        halves = rows.reshape(heads, 2, -1, *rows.shape[1:])  # a head's rows: first half, second half
        return halves.swapaxes(1, 2).reshape(rows.shape)


# --- the whole model --------------------------------------------------------------------------------


def write_model(weights: MergedWeights, out: Path, stored: str, name: str) -> Iterator[str | TokenizerCheck]:
    """Write a whole model as GGUF.

    Args:
        weights: of the student, with an adapter's update where there is one.
        out: the file.
        stored: what matrices are stored as, one of FLOATS; vectors are float32.
        name: the model's, for the header.

    Yields:
        The tokenizer's test, then each tensor's name when it is written.

    Raises:
        UserError: before there is any weight in the file, where the architecture, one of its settings, or the
            tokenizer has no equal in llama.cpp.
    """
    import gguf

    student = weights.folder
    config = _config(student)
    names = _Names(student, config)
    fields = _hyperparameters(student, config, names.family)
    fields |= {"general.name": text_field(name), "general.file_type": int_field(_file_type(stored))}
    licence = read_safetensors_folder(student).licence
    if licence:
        fields["general.license"] = text_field(licence)
    tied = bool(config.tie_word_embeddings)
    tensors = {
        hf: names.gguf(hf)
        for hf in weights.shapes
        if not hf.endswith("rotary_emb.inv_freq") and not (tied and hf == "lm_head.weight")
    }
    if "token_embd.weight" not in tensors.values():
        raise UserError(f"{student} has no model.embed_tokens.weight; copy its safetensors files again.")
    rows = next(
        weights.shapes[hf][0] for hf, gguf_name in tensors.items() if gguf_name == "token_embd.weight"
    )

    tokenizer, carried_over = tokenizer_fields(student, rows)
    test = out.with_name(f"{out.stem}.vocabulary.gguf")
    writer = _writer(test, names.family, fields | tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    yield check_tokenizer(student, test, carried_over)
    test.unlink()

    factors = _rope_factors(config)
    writer = _writer(out, names.family, fields | tokenizer)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for hf, gguf_name in tensors.items():
        shape = weights.shapes[hf]
        kind = gguf.GGMLQuantizationType[stored if len(shape) > 1 else "F32"]
        size = math.prod(shape) * (4 if kind == gguf.GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(gguf_name, shape, _numpy_type(kind.name), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for hf in tensors:
        values = names.in_order(hf, weights.tensor(hf).numpy())
        if names.family.norms_from_one and hf.endswith("norm.weight"):
            values = values + 1
        writer.write_tensor_data(_as(stored if values.ndim > 1 else "F32", values, hf))
        yield hf
    writer.close()


def _config(student: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{student / 'config.json'} cannot be read ({str(error).splitlines()[0]}); copy it again."
        ) from None


def _hyperparameters(student: Path, config: Any, family: Family) -> dict[str, HeaderField]:
    """The header's keys for the architecture, from the configuration."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def refuse(setting: str) -> UserError:
        return UserError(
            f"{student / 'config.json'}: llama.cpp's {family.architecture} has no {setting}; use --to merged."
        )

    gated = "gelu_pytorch_tanh" if family.architecture == "gemma3" else "silu"
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", gated)
    if activation != gated:
        raise refuse(f"hidden_act = {activation!r}")
    fields = {
        "context_length": int_field(config.max_position_embeddings),
        "embedding_length": int_field(config.hidden_size),
        "block_count": int_field(config.num_hidden_layers),
        "feed_forward_length": int_field(config.intermediate_size),
        "attention.head_count": int_field(config.num_attention_heads),
        "attention.head_count_kv": int_field(config.num_key_value_heads),
        "attention.key_length": int_field(head),
        "attention.value_length": int_field(head),
        "attention.layer_norm_rms_epsilon": float_field(config.rms_norm_eps),
        "rope.dimension_count": int_field(head),
        "vocab_size": int_field(config.vocab_size),
    }
    rope = dict(config.rope_parameters)
    if family.architecture == "gemma3":
        local = rope.get("sliding_attention", {})
        rope = dict(rope.get("full_attention", {}))
        if local.get("rope_type", "default") != "default" or local.get("rope_theta") != 10_000:
            raise refuse("rope_parameters.sliding_attention other than the default with rope_theta 10000")
        every_sixth = [
            "full_attention" if (layer + 1) % _GEMMA_PERIOD == 0 else "sliding_attention"
            for layer in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != every_sixth:
            raise refuse("layer_types other than full attention in every sixth layer")
        # The one exception is the 27B model, which llama.cpp recognises by its 62 layers.
        scale = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else head
        if config.query_pre_attn_scalar != scale:
            raise refuse(f"query_pre_attn_scalar = {config.query_pre_attn_scalar} beside head_dim = {head}")
        for cap in ("final_logit_softcapping", "attn_logit_softcapping"):
            if getattr(config, cap, None) is not None:
                raise refuse(cap)
        if getattr(config, "use_bidirectional_attention", False):
            raise refuse("use_bidirectional_attention")
        fields["attention.sliding_window"] = int_field(config.sliding_window)
    elif getattr(config, "use_sliding_window", False):
        raise refuse("use_sliding_window")
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3") or (kind == "llama3" and family.architecture != "llama"):
        raise refuse(f"rope_type = {kind!r}")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise refuse("partial_rotary_factor")
    fields["rope.freq_base"] = float_field(rope["rope_theta"])
    if kind == "linear":
        fields["rope.scaling.type"] = text_field("linear")
        fields["rope.scaling.factor"] = float_field(rope["factor"])
    return {f"{family.architecture}.{key}": field for key, field in fields.items()}


def _rope_factors(config: Any) -> NDArray[np.float32] | None:
    """What Llama 3.1's scaling divides each rotary frequency by, float32 of shape (head_dim / 2,).

    Wavelengths beyond the original context by ``low_freq_factor`` are stretched by ``factor``, those
    below by ``high_freq_factor`` stay, and between the two the frequency is interpolated.
    """
    import numpy as np

    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequency = rope["rope_theta"] ** -(np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / rope["factor"] + kept), dtype=np.float32)


# --- the adapter ------------------------------------------------------------------------------------


def write_adapter(adapter: Adapter, student: Path, out: Path, stored: str, name: str) -> int:
    """Write an adapter as a GGUF file for llama.cpp.

    llama.cpp adds ``adapter.lora.alpha`` / rank · B A, one alpha for all; where the adapter's own
    scaling is another (rank-stabilized, or other by pattern) B carries the quotient.

    Args:
        adapter: the LoRA update.
        student: the folder of the model that it belongs to.
        out: the file.
        stored: what its matrices are stored as, one of FLOATS.
        name: the adapter's, for the header.

    Returns:
        How many of the student's matrices it changes.

    Raises:
        UserError: for what llama.cpp's adapters cannot hold.
    """
    if adapter.uses_dora:
        raise UserError(
            f"{adapter.folder}: llama.cpp has no DoRA adapters; use --to gguf or --to merged instead."
        )
    names = _Names(student, _config(student))
    alpha = float(adapter.config["lora_alpha"])
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, update in adapter.updates.items():
        hf = f"{module}.weight"
        gguf_name = names.gguf(hf)
        extra = update.scaling * update.a.shape[0] / alpha if alpha else 0.0
        tensors[f"{gguf_name}.lora_a"] = update.a.numpy()
        tensors[f"{gguf_name}.lora_b"] = names.in_order(hf, (update.b * extra).numpy())
    fields = {
        "general.type": text_field("adapter"),
        "general.name": text_field(name),
        "general.file_type": int_field(_file_type(stored)),
        "adapter.type": text_field("lora"),
        "adapter.lora.alpha": float_field(alpha),
    }
    import gguf

    writer = _writer(out, names.family, fields)
    for gguf_name, values in tensors.items():
        writer.add_tensor(
            gguf_name, _as(stored, values, gguf_name), values.shape, gguf.GGMLQuantizationType[stored]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(adapter.updates)


# --- bytes ------------------------------------------------------------------------------------------


def _writer(out: Path, family: Family, fields: dict[str, HeaderField]) -> Any:
    import gguf

    writer = gguf.GGUFWriter(out, family.architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_type(fields["general.type"].value if "general.type" in fields else "model")
    for key, field in fields.items():
        if key != "general.type":
            writer.add_key_value(key, field.value, field.kind, sub_type=field.inner)
    return writer


def _as(stored: str, values: NDArray[np.float32], name: str) -> NDArray[Any]:
    """``values`` in a float type of GGUF, rounded to nearest. Raises UserError where they overflow."""
    import numpy as np

    if stored == "BF16":
        import gguf

        return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16))
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(values, dtype=_numpy_type(stored))
    if not np.isfinite(rounded).all():
        raise UserError(f"{name} has values beyond {stored}'s range; use --quantize BF16.")
    return rounded


def _numpy_type(stored: str) -> Any:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[stored])


def _file_type(stored: str) -> int:
    return {"F32": 0, "F16": 1, "BF16": 32}[stored]
