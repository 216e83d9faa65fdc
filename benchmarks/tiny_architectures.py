"""Every causal architecture that transformers has, tiny, with random weights that make every part matter.

Nothing here knows an architecture by its name: a configuration's sizes are made small by what the
fields are called, and what scales or caps anything is moved off the value at which it does nothing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

VOCABULARY = 96

# By name of a configuration's field: the small value. The first pattern that matches counts.
_SIZES: list[tuple[str, int]] = [
    (r"chunk_size_feed_forward|pretraining_tp|type_vocab_size|task_type_vocab_size", -1),
    (r"(.*_)?(token_id|token_index|start_n_top|end_n_top)|.*_idx|.*_index|.*_id|seed|num_labels", -1),
    (r"ngram_vocab_size_base|encoder_hash_byte_group_vocab", 64),
    (r"(.*_)?vocab_size(_per_layer_input)?", VOCABULARY),
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers|num_blocks|num_layers_per_stack", 2),
    (r"(num_|n_|linear_num_)?(key_value|kv|key|value)_heads|multi_query_groups|num_query_groups|.*num_key_value_heads", 2),
    (r"n_mamba_heads|mamba_n_heads|mamba_num_heads|linear_num_heads", 8),
    (r"(.*_)?(num_)?attention_heads|n_heads?|num_heads|index_n_heads|indexer_n_heads", 4),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r"qk_nope_head_dim", 8),
    (r"(.*_)?head_dim|dim_head|kv_channels|d_head|attention_head_size|mamba_d_head|mamba_headdim|mamba_head_dim", 16),
    (r"(.*_)?lora_rank|.*_rank|hc_lowrank", 8),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"num_experts_per_tok(en)?|moe_top_?k|moe_k", 2),
    (r"(moe_)?num_(local_)?experts|n_routed_experts|zero_expert_num", 4),
    (r"(.*_)?(max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_target_positions)", 256),
    (r"sliding_window(_size)?|attention_window_size|window_size|attention_chunk_size|local_attention|keep_window_size|local_attention_window_len", 8),
    (r"(.*_)?(intermediate_size(_mlp)?|ffn_dim|ffn_hidden_size|dim_ff|dff|d_inner|n_inner|feed_forward_size|mamba_d_ssm|mamba_intermediate)", 128),
    (r"mamba_d_state|state_size|ssm_state_size", 16),
    (r"(mamba_)?chunk_size|block_size|index_block_size", 16),
    (r"index_topk", 64),  # below it all are taken; above, ties at zero fall by the shape of the batch
    (r"index_topk_blocks", 4),
    (r"attention_hidden_size|(.*_)?hidden_size|d_model|n_embd|emb_dim|embedding_(size|dim)|(in|out)put_embedding_size|lru_width|word_embed_proj_dim|cross_attention_hidden_size|ple_embed_dim", 64),
    (r"attn_layer_period|expert_layer_period|global_attn_every_n_layers|layer_group_size|no_rope_layer_interval|_?sliding_window_pattern", 2),
    (r"attn_layer_offset|expert_layer_offset", 1),
    (r"num_kv_shared_layers", 0),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
]  # fmt: skip
# Fields that scale or cap, moved to where that shows in a loss.
_SCALES: list[tuple[str, float]] = [
    (r"logits?_scal(e|ing)|lm_head_multiplier", 0.25),
    (r"(final_)?logits?_soft_?cap(ping)?|attn_logit_softcapping|output_logit_soft_cap", 2.0),
    (r"(embedding|residual|attention_in|attention_out|key|ssm_in|ssm_out)_multiplier", 0.5),
]
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_LISTS = (
    r"attention_layers|layer_types|mlp_layer_types|layers_block_type|block_types|indexer_types|attn_layers"
)


def names() -> list[str]:
    """The model types of transformers' causal language models, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(name: str) -> Any:
    """A tiny model of the type ``name`` in float32, in evaluation mode. Raises whatever transformers
    raises where this generic way does not get there."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    first: Exception | None = None
    for settings in _attempts(CONFIG_MAPPING[name]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(1)
                config = CONFIG_MAPPING[name](**settings)
                model = AutoModelForCausalLM.from_config(config).float().eval()
            if sum(p.numel() for p in model.parameters()) > 20_000_000:
                raise ValueError("its configuration does not get small by its fields' names")
            _randomise(model)
            with torch.no_grad():
                ids = torch.arange(3, 27).view(2, 12)
                model(input_ids=ids, attention_mask=(ids != 26).long(), use_cache=False)
            return model
        except Exception as error:  # the next attempt may do
            first = first or error
    assert first is not None
    raise first


def _attempts(config_class: Any) -> Iterator[dict[str, Any]]:
    """Settings to try, the smallest step first."""
    try:
        whole = config_class().to_dict()
    except Exception:
        whole = {}
    plain = shrunk(whole)
    yield plain
    without_lists = {k: v for k, v in plain.items() if not isinstance(v, list)}
    heads = {k: 4 for k in plain if re.fullmatch(r".*(key_value|kv|key|value)_heads|num_query_groups", k)}
    unset = {k: v for k, v in plain.items() if whole.get(k) is not None}
    filled = {k: s for k, v in whole.items() if v is None and (s := _size(k)) >= 0 and "window" not in k}
    no_dims = {k: v for k, v in plain.items() if not re.fullmatch(r".*head_?dim|kv_channels", k)}
    yield without_lists
    yield plain | filled
    yield unset
    yield plain | heads
    yield without_lists | filled | heads
    yield no_dims
    yield {k: v for k, v in no_dims.items() if k in without_lists} | heads
    yield plain | {k: 1 for k in plain if k.startswith("num_experts_per_tok")}
    yield plain | {k: 8 for k in plain if re.fullmatch(r"(mamba_)?num_heads|n_mamba_heads", k)}
    yield plain | {k: None for k in plain if "window" in k}


def _size(field: str) -> int:
    return next((size for pattern, size in _SIZES if re.fullmatch(pattern, field)), -1)


def shrunk(whole: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that change, with their small values."""
    kinds: list[Any] = []
    for field, value in whole.items():
        if re.fullmatch(_LISTS, field) and isinstance(value, list | tuple):
            kinds = max(kinds, list(dict.fromkeys(value)), key=len)
    layers = max(2, len(kinds))
    before = next((whole[f] for f in _LAYERS if isinstance(whole.get(f), int)), 0)
    found: dict[str, Any] = {}
    for field, value in whole.items():
        if isinstance(value, dict) and field.endswith(("_config", "decoder", "encoder")):
            by_layer = all(str(key).isdigit() for key in value)
            found[field] = {} if by_layer else value | shrunk(value)
            found[field].pop("transformers_version", None)
        elif isinstance(value, list | tuple) and re.fullmatch(_LISTS, field) and value:
            own = list(dict.fromkeys(value))
            found[field] = [own[min(n, len(own) - 1)] for n in range(layers)]
        elif isinstance(value, list | tuple) and len(value) == before > layers:
            found[field] = list(value[:layers])
        elif isinstance(value, bool):
            if field == "is_decoder":
                found[field] = True
        elif field in _LAYERS and value is not None:
            found[field] = layers
        elif field == "attn_layer_indices":
            found[field] = [1]
        elif field.endswith("_token_id") and isinstance(value, int):
            found[field] = min(value, 2)
        elif isinstance(value, int) or (value is None and re.fullmatch(r".*(_dim|_size|_heads)", field)):
            size = _size(field)
            if size >= 0 and value != 0:
                found[field] = size
        for pattern, scale in _SCALES:
            if re.fullmatch(pattern, field) and not isinstance(value, bool):
                found[field] = scale
    return found


def _randomise(model: Any) -> None:
    """Weights of a size at which attention, experts and logits are far from even."""
    import torch

    torch.manual_seed(2)
    embeddings = model.get_input_embeddings()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        if embeddings is not None:
            embeddings.weight.normal_(std=0.5)
