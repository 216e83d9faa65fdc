"""A student of the real kind with random weights: steps take milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.student import Span
from tests.tiny_pair import VOCABULARY, small_tokenizer


def make_tiny(real: Path, folder: Path) -> Path:
    """A Llama of two layers with the real student's tokenizer, in ``folder``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer(real, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(student_folder, tmp_path_factory.mktemp("tiny") / "student")


def make_examples(count: int = 10) -> list[Span]:
    """Of different lengths and, for a random model, arbitrary tokens."""
    return [
        Span(tuple((7 * n + 13 * place) % 900 + 5 for place in range(9 + 5 * n)), 4 + 3 * n)
        for n in range(count)
    ]


@pytest.fixture
def examples() -> list[Span]:
    return make_examples()
