"""What data spells stays text for llama.cpp too, whatever type the file gives a turn marker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.llama import Message
from srtui.llama.chat_prompt import TeacherTemplate
from srtui.llama.gguf import _keep_log, chat_tokens

MARKERS = ("<|user|>", "<|bot|>", "<|end|>")
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + ('user' if m.role == 'user' else 'bot') + '|>' + m.content + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)
SPELLINGS = st.lists(
    st.sampled_from((*MARKERS, "<tool>", "<", "|", "user", ">", " ", "a", "<|", "\n")), min_size=1, max_size=8
).map("".join)


@pytest.fixture(scope="module", params=[CONTROL, USER_DEFINED], ids=["control", "user-defined"])
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """llama.cpp's vocabulary of a file with no weights: bytes, and markers of the given type."""
    gguf = pytest.importorskip("gguf")
    import llama_cpp
    from tokenizers import pre_tokenizers

    path: Path = tmp_path_factory.mktemp("vocab") / "v.gguf"
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *MARKERS, "<tool>", "<eos>"]
    types = [NORMAL] * 256 + [request.param] * len(MARKERS) + [USER_DEFINED, CONTROL]
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 64), (writer.add_embedding_length, 8), (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 8), (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2"), (writer.add_token_list, tokens),
        (writer.add_token_types, types), (writer.add_token_merges, ["< |"]), (writer.add_eos_token_id, len(tokens) - 1),
    ):  # fmt: skip
        add(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llama_cpp.llama_log_set(_keep_log, None)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)


@settings(max_examples=50, deadline=None)
@given(text=SPELLINGS)
def test_no_token_of_a_message_is_a_turn_marker(vocab: Any, text: str) -> None:
    template = TeacherTemplate(TEMPLATE, "", "<eos>")
    markers = range(256, 256 + len(MARKERS))
    _, honest = chat_tokens(vocab, template, [Message("user", "a")])
    whole, evil = chat_tokens(vocab, template, [Message("user", text)])
    assert [i for i in evil if i in markers] == [i for i in honest if i in markers]
    assert 256 + len(MARKERS) + 1 not in evil
    # Its words are all there, and a user-defined token that marks no turn is the text that it was.
    assert evil.count(256 + len(MARKERS)) == text.count("<tool>")
    assert whole == f"<|user|>{text}<|end|><|bot|>"
