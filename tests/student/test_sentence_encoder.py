"""Coherence by a real sentence-transformers encoder, made here with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.errors import UserError
from srtui.sample import Pair
from srtui.student.sentence_encoder import SentenceEncoder

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "name",
    "three",
    "trees",
    "oak",
    "birch",
    "and",
    "pine",
    ".",
]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "body")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder / "body")
    body = models.Transformer(str(folder / "body"))
    made = SentenceTransformer(modules=[body, models.Pooling(body.get_word_embedding_dimension())])
    made.save(str(folder / "whole"))
    return folder / "whole"


def test_its_files_are_hashed_once(encoder_folder: Path) -> None:
    """Every text's key has the identity: a hash of all weights for each would take longer than the encoder."""
    encoder = SentenceEncoder(encoder_folder)
    assert encoder.identity is encoder.identity
    assert encoder.identity == SentenceEncoder(encoder_folder).identity


def test_the_same_words_cohere_most(encoder_folder: Path) -> None:
    encoder = SentenceEncoder(encoder_folder)
    same, other, blank = encoder.coherence(
        [
            Pair("Name three trees.", "", "Name three trees."),
            Pair("Name three", "trees.", "oak and birch"),
            Pair("Name three trees.", "", "  "),
        ]
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert other is not None and -1 <= other < 1
    assert blank is None
    assert encoder.coherence([]) == []


def test_a_folder_that_is_no_encoder(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UserError, match=r"is not a sentence encoder: it needs modules\.json"):
        SentenceEncoder(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="weights as safetensors"):
        SentenceEncoder(tmp_path)
