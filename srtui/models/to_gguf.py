"""From a student's safetensors to GGUF: the whole model, or a LoRA adapter for one.

What a family's file needs is said once, in FAMILIES and :func:`_hyperparameters`; names of tensors
are the ``gguf`` package's. llama.cpp itself has the last word on the tokenizer: before any weight is
written it cuts test texts with the vocabulary that would go into the file, and what it cuts otherwise
than the student's tokenizer does is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from srtui.errors import UserError
from srtui.files import parse_json, read_bytes, remembered
from srtui.models.convert import PROBES, PROVENANCE, SPLITS, Vocabulary
from srtui.models.formats import file_sha256, read_safetensors_folder
from srtui.models.merge import Adapter, MergedWeights

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

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

# llama.cpp's Gemma 3 has every sixth layer look at the whole context.
_GEMMA_PERIOD = 6


def family_of(student: Path) -> Family:
    """The student's family. Raises UserError where srtui has no GGUF for its architecture."""
    read_safetensors_folder(student)
    classes = json.loads((student / "config.json").read_bytes()).get("architectures") or ["none"]
    if classes[0] not in FAMILIES:
        known = ", ".join(name.removesuffix("ForCausalLM") for name in FAMILIES)
        raise UserError(
            f"{student / 'config.json'}: architectures names {classes[0]}, and GGUF can be written for "
            f"{known}; use --to merged or --to adapter."
        )
    return FAMILIES[classes[0]]


class TokenizerCheck(NamedTuple):
    """``agrees`` of ``probes`` texts are cut by llama.cpp as by the student's tokenizer."""

    agrees: int
    probes: int
    carried_over: bool


class _Field(NamedTuple):
    """One key of a GGUF header; ``kind`` is a gguf.GGUFValueType, ``inner`` that of an array's values."""

    value: Any
    kind: Any
    inner: Any = None


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
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(
                f"{self.student}: its tensor {name} has no place in a {self.family.architecture} GGUF; "
                "use --to merged."
            )
        return str(found)

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
    """Write the GGUF file ``out``, matrices as ``stored`` (one of FLOATS) and vectors as float32.

    Yields the tokenizer's test first, then each tensor's name when it is done. Raises UserError, before
    there is any weight in the file, where the architecture, one of its settings, or the tokenizer has
    no equal in llama.cpp.
    """
    import gguf

    student = weights.folder
    config = _config(student)
    names = _Names(student, config)
    fields = _hyperparameters(student, config, names.family)
    fields |= {"general.name": _text(name), "general.file_type": _number(_file_type(stored))}
    licence = read_safetensors_folder(student).licence
    if licence:
        fields["general.license"] = _text(licence)
    tied = bool(config.tie_word_embeddings)
    tensors = {
        hf: names.gguf(hf)
        for hf in weights.shapes
        if not hf.endswith("rotary_emb.inv_freq") and not (tied and hf == "lm_head.weight")
    }
    if "token_embd.weight" not in tensors.values():
        raise UserError(f"{student} has no model.embed_tokens.weight; copy its safetensors files again.")
    rows = next(weights.shapes[hf][0] for hf, theirs in tensors.items() if theirs == "token_embd.weight")

    tokenizer, carried_over = _tokenizer(student, rows)
    test = out.with_name(f"{out.stem}.vocabulary.gguf")
    writer = _writer(test, names.family, fields | tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    yield _tested(student, test, carried_over)
    test.unlink()

    factors = _rope_factors(config)
    writer = _writer(out, names.family, fields | tokenizer)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for hf, theirs in tensors.items():
        shape = weights.shapes[hf]
        kind = gguf.GGMLQuantizationType[stored if len(shape) > 1 else "F32"]
        size = math.prod(shape) * (4 if kind == gguf.GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(theirs, shape, _numpy_type(kind.name), size, raw_dtype=kind)
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


def _hyperparameters(student: Path, config: Any, family: Family) -> dict[str, _Field]:
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
        "context_length": _number(config.max_position_embeddings),
        "embedding_length": _number(config.hidden_size),
        "block_count": _number(config.num_hidden_layers),
        "feed_forward_length": _number(config.intermediate_size),
        "attention.head_count": _number(config.num_attention_heads),
        "attention.head_count_kv": _number(config.num_key_value_heads),
        "attention.key_length": _number(head),
        "attention.value_length": _number(head),
        "attention.layer_norm_rms_epsilon": _real(config.rms_norm_eps),
        "rope.dimension_count": _number(head),
        "vocab_size": _number(config.vocab_size),
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
        # The one exception is the 27B model, which llama.cpp tells by its 62 layers.
        scale = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else head
        if config.query_pre_attn_scalar != scale:
            raise refuse(f"query_pre_attn_scalar = {config.query_pre_attn_scalar} beside head_dim = {head}")
        for cap in ("final_logit_softcapping", "attn_logit_softcapping"):
            if getattr(config, cap, None) is not None:
                raise refuse(cap)
        if getattr(config, "use_bidirectional_attention", False):
            raise refuse("use_bidirectional_attention")
        fields["attention.sliding_window"] = _number(config.sliding_window)
    elif getattr(config, "use_sliding_window", False):
        raise refuse("use_sliding_window")
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3") or (kind == "llama3" and family.architecture != "llama"):
        raise refuse(f"rope_type = {kind!r}")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise refuse("partial_rotary_factor")
    fields["rope.freq_base"] = _real(rope["rope_theta"])
    if kind == "linear":
        fields["rope.scaling.type"] = _text("linear")
        fields["rope.scaling.factor"] = _real(rope["factor"])
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


# --- the tokenizer ----------------------------------------------------------------------------------


def _tokenizer(student: Path, rows: int) -> tuple[dict[str, _Field], bool]:
    """The header's keys for a vocabulary of ``rows`` tokens, and whether they are a GGUF's own.

    A student that srtui made from a GGUF takes them over from that file where it still lies beside
    the folder; the chat template is always the student's. Raises UserError where neither way works.
    """
    fields = _carried_over(student, rows)
    carried_over = bool(fields)
    if not fields:
        fields = _from_tokenizer_json(student, rows)
    template = read_safetensors_folder(student).chat_template
    fields.pop("tokenizer.chat_template", None)
    if template:
        fields["tokenizer.chat_template"] = _text(template)
    return fields, carried_over


def _carried_over(student: Path, rows: int) -> dict[str, _Field]:
    from gguf import GGUFReader

    try:
        made_from = remembered(student / PROVENANCE)
        source = student.parent / Path(made_from["made_from"]).name
        if file_sha256(source) != made_from["sha256"]:
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    fields = {
        name: _Field(field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        for name, field in GGUFReader(source).fields.items()
        if name.startswith("tokenizer.")
    }
    tokens = fields.get("tokenizer.ggml.tokens")
    return fields if tokens and len(tokens.value) == rows else {}


def _from_tokenizer_json(student: Path, rows: int) -> dict[str, _Field]:
    from transformers import AutoTokenizer

    file = student / "tokenizer.json"
    try:
        described = parse_json(read_bytes(file, 1_000_000_000), str(file))
        model = described["model"]
        kind, vocabulary = model["type"], model["vocab"]
        added = {int(token["id"]): token for token in described.get("added_tokens") or []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as a tokenizer ({error}); copy it again.") from None
    if kind != "BPE":
        raise UserError(f"{file}: a {kind} tokenizer has no GGUF form here, only BPE has; use --to merged.")
    tokens: dict[int, str] = {int(number): token for token, number in vocabulary.items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    if max(tokens) >= rows:
        raise UserError(
            f"{file} has a token {max(tokens)}, and {student.name} has embeddings for {rows}; "
            "resize one of them, or use --to merged."
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    like_sentencepiece = bool(model.get("byte_fallback"))
    types: list[int] = []
    for number in range(rows):
        token = tokens.get(number)
        if token is None:
            types.append(_UNUSED)
        elif number in added:
            types.append(_CONTROL if added[number].get("special") else _USER_DEFINED)
        elif like_sentencepiece and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types.append(_BYTE)
        else:
            types.append(_NORMAL)

    loaded = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    plain = [tokens.get(number, f"[PAD{number}]") for number in range(rows)]
    fields: dict[str, _Field] = {}
    if like_sentencepiece:
        unknown = vocabulary.get(model.get("unk_token"))
        if unknown is not None:
            types[unknown] = _UNKNOWN
        # A piece's score is the order in which pairs are joined to it; the merges say that order.
        first: dict[str, int] = {}
        for order, merge in enumerate(model["merges"]):
            pair = merge.split(" ") if isinstance(merge, str) else merge
            first.setdefault("".join(pair), order)
        # llama.cpp finds user-defined tokens in the text as it is, with its spaces.
        plain = [t.replace("▁", " ") if k == _USER_DEFINED else t for t, k in zip(plain, types, strict=True)]
        scores = [float(-first.get(token, len(merges))) for token in plain]
        begins_with = loaded.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
        fields |= {
            "tokenizer.ggml.model": _text("llama"),
            "tokenizer.ggml.pre": _text("default"),
            "tokenizer.ggml.scores": _reals(scores),
            "tokenizer.ggml.add_space_prefix": _switch(begins_with.startswith("▁")),
        }
    else:
        fields |= {
            "tokenizer.ggml.model": _text("gpt2"),
            "tokenizer.ggml.pre": _text(_pre_tokenizer(file, described, bool(model.get("ignore_merges")))),
            "tokenizer.ggml.merges": _texts(merges),
        }
    fields |= {"tokenizer.ggml.tokens": _texts(plain), "tokenizer.ggml.token_type": _numbers(types)}
    return fields | _special_tokens(student, loaded)


def _special_tokens(student: Path, tokenizer: Any) -> dict[str, _Field]:
    """Which tokens begin, end and fill a text, and whether the tokenizer adds the first two itself."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            f"{student / 'tokenizer_config.json'} names no eos_token; add the one that ends a text."
        )
    ids = tokenizer("a")["input_ids"]
    # Where there is no beginning-of-text token llama.cpp would take token 11 for it.
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    special = {
        "bos_token_id": begin,
        "eos_token_id": end,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    fields = {f"tokenizer.ggml.{key}": _number(v) for key, v in special.items() if v is not None}
    fields["tokenizer.ggml.add_bos_token"] = _switch(ids[0] == tokenizer.bos_token_id)
    fields["tokenizer.ggml.add_eos_token"] = _switch(len(ids) > 1 and ids[-1] == end)
    return fields


def _pre_tokenizer(file: Path, described: dict[str, Any], ignores_merges: bool) -> str:
    """llama.cpp's name for the rule by which a byte-level BPE splits a text before it joins bytes."""
    step = described.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", []) if step.get("type") == "Sequence" else [step]
    last = steps[-1] if steps else {}
    before = steps[:-1]
    found = None
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        own_rule = last.get("use_regex", True)
        if not before and own_rule:
            found = "gpt-2"
        elif len(before) == 1 and own_rule and before[0].get("type") == "Digits":
            found = "smollm" if before[0].get("individual_digits") else None
        elif len(before) == 1 and not own_rule and before[0].get("type") == "Split":
            rule, isolated = before[0].get("pattern", {}).get("Regex"), before[0].get("behavior")
            names = [name for name, known in SPLITS.items() if known == rule and isolated == "Isolated"]
            # llama.cpp takes whole words from the vocabulary without joining for llama-bpe alone.
            names.sort(key=lambda name: (name == "llama-bpe") != ignores_merges)
            found = names[0] if names else None
    if found is None:
        kinds = " then ".join(str(s.get("type")) for s in steps)
        raise UserError(
            f"{file}: its pre_tokenizer ({kinds}) is none that llama.cpp is known to have a name for; "
            "use --to merged."
        )
    return found


def _tested(student: Path, vocabulary: Path, carried_over: bool) -> TokenizerCheck:
    """Cut the test texts, and one of special tokens, by both. Raises UserError where they differ.

    A tokenizer that is carried over is the model's own whatever the student's makes of a text, so
    there a difference is only counted.
    """
    from transformers import AutoTokenizer

    theirs = Vocabulary(vocabulary)
    ours = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    texts = [*PROBES, "a" + "b".join(ours.all_special_tokens) + "c"]
    differing = [text for text in texts if ours(text)["input_ids"] != theirs.tokens(text)]
    if differing and not carried_over:
        raise UserError(
            f"{student / 'tokenizer.json'}: llama.cpp would cut {len(differing)} of {len(texts)} test texts "
            f"otherwise than the student does, the first {differing[0][:40]!r}; use --to merged."
        )
    return TokenizerCheck(len(texts) - len(differing), len(texts), carried_over)


# --- the adapter ------------------------------------------------------------------------------------


def write_adapter(adapter: Adapter, student: Path, out: Path, stored: str, name: str) -> int:
    """Write the adapter as a GGUF file for llama.cpp; returns how many matrices it changes.

    llama.cpp adds ``adapter.lora.alpha`` / rank · B A, one alpha for all; where the adapter's own
    scaling is another (rank-stabilised, or other by pattern) B carries the quotient. Raises UserError
    for what llama.cpp's adapters cannot hold.
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
        theirs = names.gguf(hf)
        extra = update.scaling * update.a.shape[0] / alpha if alpha else 0.0
        tensors[f"{theirs}.lora_a"] = update.a.numpy()
        tensors[f"{theirs}.lora_b"] = names.in_order(hf, (update.b * extra).numpy())
    fields = {
        "general.type": _text("adapter"),
        "general.name": _text(name),
        "general.file_type": _number(_file_type(stored)),
        "adapter.type": _text("lora"),
        "adapter.lora.alpha": _real(alpha),
    }
    import gguf

    writer = _writer(out, names.family, fields)
    for theirs, values in tensors.items():
        writer.add_tensor(
            theirs, _as(stored, values, theirs), values.shape, gguf.GGMLQuantizationType[stored]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(adapter.updates)


# --- bytes ------------------------------------------------------------------------------------------


def _writer(out: Path, family: Family, fields: dict[str, _Field]) -> Any:
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


def _text(value: str) -> _Field:
    return _Field(value, _kinds().STRING)


def _number(value: int) -> _Field:
    return _Field(int(value), _kinds().UINT32)


def _real(value: float) -> _Field:
    return _Field(float(value), _kinds().FLOAT32)


def _switch(value: bool) -> _Field:
    return _Field(bool(value), _kinds().BOOL)


def _texts(values: list[str]) -> _Field:
    return _Field(values, _kinds().ARRAY, _kinds().STRING)


def _numbers(values: list[int]) -> _Field:
    return _Field(values, _kinds().ARRAY, _kinds().INT32)


def _reals(values: list[float]) -> _Field:
    return _Field(values, _kinds().ARRAY, _kinds().FLOAT32)


def _kinds() -> Any:
    import gguf

    return gguf.GGUFValueType
