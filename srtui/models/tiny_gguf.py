"""The smallest model that llama.cpp takes for one, for checks of an installation and of files."""

from __future__ import annotations

from pathlib import Path

VOCABULARY = 256


def write_tiny_gguf(path: Path, quantization: str = "F32") -> None:
    """A one-layer Llama of 256 tokens with fixed weights: every kind of its tensors in a megabyte or two.

    Its matrices are a multiple of every kernel's tile, so that with a ``quantization`` llama.cpp takes the code that
    it takes for real models: in float32 a build whose AMX code dies of an illegal instruction passed.
    """
    import gguf
    import numpy as np

    width, hidden = 256, 512
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    numbers = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, width),
        "output": (VOCABULARY, width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width),
        "blk.0.ffn_down": (width, hidden),
    }
    for name, shape in shapes.items():
        weights = numbers.normal(0, 0.05, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType[quantization]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
