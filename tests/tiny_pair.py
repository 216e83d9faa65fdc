"""A teacher and a student that a run takes milliseconds with: one small network, as safetensors and as GGUF.

Its tokenizer is the demo model's with its first tokens alone (the whole one takes longer to read than all
else, and each loss goes over all of it), its chat template the demo model's own. It writes lower-case English words and ends a text
after a dozen of them, which a network of random weights never does. What it writes depends on all that
stands before; behind a prompt with headings it expects the words of real texts a little more, so most
texts have an IFD and an r-IFD below 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from functools import cache
from pathlib import Path

WORDS = 200
WIDTH = 64
CONTEXT = 2048
VOCABULARY = 4096
"""Tokens of a student of the tests: the demo model's first ones."""
DRAWN = 49_152
"""Tokens that the pair's weights are drawn for: with others it writes other texts, and shorter ones."""


@cache
def _first_tokens(real: Path) -> str:
    """tokenizer.json with the first tokens, and the merges that make them."""
    whole = json.loads((real / "tokenizer.json").read_text(encoding="utf-8"))
    model = whole["model"]
    kept = {text: token for text, token in model["vocab"].items() if token < VOCABULARY}
    model["vocab"] = kept
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in kept]
    return json.dumps(whole, ensure_ascii=False)


def small_tokenizer(real: Path, folder: Path) -> None:
    """Put the tokenizer of the model folder ``real``, cut to VOCABULARY tokens, into ``folder``."""
    (folder / "tokenizer.json").write_text(_first_tokens(real), encoding="utf-8")
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        if (real / file).exists():
            shutil.copy(real / file, folder / file)


def make_pair(real: Path, models: Path, name: str = "tiny") -> None:
    """``models/NAME`` and ``models/NAME.F16.gguf``, with the tokenizer of the model folder ``real``."""
    import re

    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from srtui.models.export import gguf_worker

    folder = models / name
    folder.mkdir(parents=True)
    small_tokenizer(real, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [
        token
        for text, token in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if re.fullmatch("Ġ[a-z]{3,7}", text)
    ][:WORDS]
    config = LlamaConfig(
        vocab_size=DRAWN,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(5)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.5 * WIDTH**-0.5)
        # Directions of the residual stream with a meaning: the same for every token (it carries how
        # frequent each is), whether a token belongs to headings, and how much of the text before does.
        same, heading, headings = 0, 1, 2
        embedding = model.model.embed_tokens.weight.normal_()
        embedding[:, same] = 8.0
        embedding[:, [heading, headings]] = 0.0
        embedding[tokenizer.encode("### Instruction:### Response:", add_special_tokens=False), heading] = 8.0
        for layer in model.model.layers:
            for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
                matrix.weight[[same, heading, headings]] = 0
        attention = model.model.layers[0].self_attn
        per_head = WIDTH // config.num_attention_heads
        attention.q_proj.weight[:per_head] = 0  # the first head averages over all that stands before
        attention.v_proj.weight[0] = 0
        attention.v_proj.weight[0, heading] = 1.0
        attention.o_proj.weight[headings, 0] = 8.0
        head = model.lm_head.weight.normal_(std=2 * WIDTH**-0.5)
        head[:, same] = -2.0
        head[:, headings] = 0.5
        head[words, same] = 0.0
        head[words, headings] = 0.0
        head[tokenizer.eos_token_id] = 0.0
        head[tokenizer.eos_token_id, same] = 0.56
    model.resize_token_embeddings(VOCABULARY)
    model.to(torch.bfloat16).save_pretrained(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # what it reports to the process that started it
        gguf_worker("", str(folder), "f32", str(models / f"{name}.F16.gguf"), "F16", name)
