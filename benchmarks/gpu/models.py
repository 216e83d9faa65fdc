"""The pair of models that is measured: random weights of a given shape, written on the spot. No download.

The tokenizer is the demo model's, for prompts have to be texts; weights are drawn as an untrained model's, so what
it writes means nothing and runs to its limit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import Size

QUANTIZATION = "Q4_K_M"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def folder_of(work: Path, size: Size) -> Path:
    return work / f"random-{size.name}"


def file_of(work: Path, size: Size) -> Path:
    return work / f"random-{size.name}.{QUANTIZATION}.gguf"


def write_pair(work: Path, size: Size, tokenizer: Path) -> dict[str, Any]:
    """The safetensors folder in bfloat16, then the GGUF by srtui's own exporter; what they take, in bytes."""
    from srtui.models.export import export_model

    folder = folder_of(work, size)
    _write_folder(folder, size, tokenizer)
    exported = export_model(
        "gguf",
        None,
        folder,
        file_of(work, size),
        name=folder.name,
        trained_as="f32",
        quantization=QUANTIZATION,
        force=True,
    )
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {"safetensors_bytes": weights, "gguf_bytes": exported.size, "quantization": QUANTIZATION}


def _write_folder(folder: Path, size: Size, tokenizer: Path) -> None:
    """Layer by layer, so that no more than one file of weights is in memory."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _TOKENIZER:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=False,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    index: dict[str, str] = {}
    total = 0

    def save(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        nonlocal total
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else (torch.randn(shape, generator=generator, device=device) * 0.02).to("cpu", torch.bfloat16)
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, file))
        total += sum(t.nbytes for t in tensors.values())

    count = size.layers + 1
    key_width = size.hidden // size.heads * size.key_heads
    for n in range(size.layers):
        layer = f"model.layers.{n}."
        save(
            f"model-{n + 1:05}-of-{count:05}.safetensors",
            {
                f"{layer}self_attn.q_proj.weight": (size.hidden, size.hidden),
                f"{layer}self_attn.k_proj.weight": (key_width, size.hidden),
                f"{layer}self_attn.v_proj.weight": (key_width, size.hidden),
                f"{layer}self_attn.o_proj.weight": (size.hidden, size.hidden),
                f"{layer}mlp.gate_proj.weight": (size.inner, size.hidden),
                f"{layer}mlp.up_proj.weight": (size.inner, size.hidden),
                f"{layer}mlp.down_proj.weight": (size.hidden, size.inner),
                f"{layer}input_layernorm.weight": (size.hidden,),
                f"{layer}post_attention_layernorm.weight": (size.hidden,),
            },
        )
    ends = {
        "model.embed_tokens.weight": (len(tokens), size.hidden),
        "lm_head.weight": (len(tokens), size.hidden),
    }
    save(f"model-{count:05}-of-{count:05}.safetensors", {**ends, "model.norm.weight": (size.hidden,)})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
