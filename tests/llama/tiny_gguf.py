"""Tiny models with random weights as GGUF files, with the demo model's tokenizer: what llama.cpp runs in
milliseconds, of architectures and chat templates that no small real model has."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, LAYERS, VOCABULARY = 64, 2, 4096


@cache
def _tokenizer(of: Path) -> list[tuple[str, Any, Any]]:
    """The tokenizer's fields with the first tokens alone, and the merges that make them."""
    fields = []
    reader = gguf.GGUFReader(of)
    whole = len(reader.fields["tokenizer.ggml.tokens"].data)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            value = field.contents()
            if name in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
                value = value[:VOCABULARY]
            if name == "tokenizer.ggml.merges":
                value = value[: VOCABULARY - (whole - len(value))]
            fields.append((name, value, field.types[0]))
    return fields


def write_tiny(
    path: Path, tokenizer_from: Path, architecture: str, *, template: str | None = None, context: int = 4096
) -> Path:
    """A model of ``architecture`` (llama, mamba, or lfm2: short convolutions and attention) at ``path``;
    ``template`` replaces the demo model's chat template."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, value, kind in _tokenizer(tokenizer_from):
        if name == "tokenizer.chat_template" and template is not None:
            value = template
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kind)
    draw = np.random.default_rng(7)

    def add(name: str, *shape: int, scale: float | None = None) -> None:
        """Rows and columns as numpy has them: GGUF names them the other way round."""
        scale = shape[-1] ** -0.5 if scale is None else scale
        writer.add_tensor(name, (draw.standard_normal(shape) * scale).astype(np.float32))

    def ones(name: str, *shape: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(shape, value, dtype=np.float32))

    add("token_embd.weight", VOCABULARY, WIDTH, scale=1.0)
    add("output.weight", VOCABULARY, WIDTH, scale=0.5)
    ones("token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight", WIDTH)
    {"llama": _llama, "mamba": _mamba, "lfm2": _lfm2}[architecture](writer, add, ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _attention(add: Any, n: int) -> None:
    for part in ("q", "k", "v", "output"):
        add(f"blk.{n}.attn_{part}.weight", WIDTH, WIDTH)


def _feed_forward(add: Any, ones: Any, n: int) -> None:
    ones(f"blk.{n}.ffn_norm.weight", WIDTH)
    add(f"blk.{n}.ffn_gate.weight", 2 * WIDTH, WIDTH)
    add(f"blk.{n}.ffn_up.weight", 2 * WIDTH, WIDTH)
    add(f"blk.{n}.ffn_down.weight", WIDTH, 2 * WIDTH)


def _llama(writer: Any, add: Any, ones: Any) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    for n in range(LAYERS):
        ones(f"blk.{n}.attn_norm.weight", WIDTH)
        _attention(add, n)
        _feed_forward(add, ones, n)


def _mamba(writer: Any, add: Any, ones: Any) -> None:
    inner, state, rank, kernel = 2 * WIDTH, 16, 4, 4
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    for n in range(LAYERS):
        ones(f"blk.{n}.attn_norm.weight", WIDTH)
        add(f"blk.{n}.ssm_in.weight", 2 * inner, WIDTH)
        add(f"blk.{n}.ssm_conv1d.weight", inner, kernel)
        add(f"blk.{n}.ssm_conv1d.bias", inner, scale=0.1)
        add(f"blk.{n}.ssm_x.weight", rank + 2 * state, inner)
        add(f"blk.{n}.ssm_dt.weight", inner, rank)
        ones(f"blk.{n}.ssm_dt.bias", inner, value=-1.0)
        writer.add_tensor(
            f"blk.{n}.ssm_a", -np.tile(np.arange(1, state + 1, dtype=np.float32) / state, (inner, 1))
        )
        ones(f"blk.{n}.ssm_d", inner)
        add(f"blk.{n}.ssm_out.weight", WIDTH, inner)


def _lfm2(writer: Any, add: Any, ones: Any) -> None:
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(2)
    writer.add_head_count_kv([0, 2])  # no attention in the first layer
    writer.add_shortconv_l_cache(3)
    writer.add_vocab_size(VOCABULARY)
    for n in range(LAYERS):
        ones(f"blk.{n}.attn_norm.weight", WIDTH)
        if n == 0:
            add(f"blk.{n}.shortconv.conv.weight", WIDTH, 3)
            add(f"blk.{n}.shortconv.in_proj.weight", 3 * WIDTH, WIDTH)
            add(f"blk.{n}.shortconv.out_proj.weight", WIDTH, WIDTH)
        else:
            _attention(add, n)
            ones(f"blk.{n}.attn_q_norm.weight", WIDTH // 2)
            ones(f"blk.{n}.attn_k_norm.weight", WIDTH // 2)
        _feed_forward(add, ones, n)
