"""Every answer is scored and trained on whole, and none of its tokens is a special one: for every template,
style of tokenizer and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from srtui.prompts import TEMPLATE_NAMES, template
from srtui.sample import Pair, Turn
from srtui.student import Span, SpanBuilder
from srtui.student.tokens import tokens_before
from tests.student.test_tokenizers import STYLES, build

# Turn markers: flagged special as most families do, and not flagged as some do (DeepSeek).
FLAGGED, UNFLAGGED, ROLE = "<|turn|>", "<\uff5cUser\uff5c>", "<|header|>"
CHAT = (
    "{% for m in messages %}<|turn|>{{ '<\uff5cUser\uff5c>' if m.role == 'user' else '<|header|>' }}"
    "{{ m.content | trim }}<|turn|>{% endfor %}{% if add_generation_prompt %}<|turn|><|header|>{% endif %}"
)
ONE_WORD = ("Fine", "x", "7", "No.", "them", "日本語", "🙂", "مرحبا")
STARTS = ("", " ", "  ", "\n", "\n\n", "\t", ":", ")", "(", "-", "#", '"', "\u3002", "日", "👩‍👩‍👧", "</s>")
ANSWERS = st.one_of(
    st.sampled_from(ONE_WORD),
    st.builds(
        lambda start, rest: start + rest,
        st.sampled_from(STARTS),
        # NFC tokenizers write one letter for two; texts here are in that form already.
        st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=12),
    ),
)
SPELLED = (FLAGGED, UNFLAGGED, ROLE, "<s>", "</s>", "<bos>", "<eos>", "<|im_end|>", "<|endoftext|>")
SPELLINGS = st.lists(
    st.sampled_from((*SPELLED, "a", "user", " ", "\n", "<", "|turn|>", "q")), min_size=1, max_size=6
).map("".join)


def with_markers(style: str) -> PreTrainedTokenizerFast:
    tokenizer = build(style)
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(FLAGGED, special=True, normalized=False)])
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(ROLE, special=True, normalized=False)])
    tokenizer.backend_tokenizer.add_tokens([AddedToken(UNFLAGGED, special=False, normalized=False)])
    tokenizer.chat_template = CHAT
    return tokenizer


BUILT = {style: with_markers(style) for style in STYLES}
BUILDERS = {
    (style, name): SpanBuilder(tokenizer, template(name, tokenizer), "default", 4096)
    for style, tokenizer in BUILT.items()
    for name in TEMPLATE_NAMES
}


def target_text(style: str, span: Span) -> str:
    """What the target's tokens spell, without the end of turn."""
    tokenizer = BUILT[style]
    return str(
        tokenizer.backend_tokenizer.decode(list(span.ids[-span.target : -1]), skip_special_tokens=False)
    )


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=30, deadline=None)
@given(answer=ANSWERS)
def test_the_target_is_the_whole_answer(style: str, name: str, answer: str) -> None:
    span, alone = BUILDERS[style, name].forward(Pair("Say it", "", answer))
    if not answer.strip():
        assert not isinstance(span, Span)
        return
    assert isinstance(span, Span)
    assert isinstance(alone, Span)
    assert alone.ids[-alone.target :] == span.ids[-span.target :]
    if "\ufffd" not in target_text(style, span):
        assert target_text(style, span).lstrip(" ") == answer.lstrip(" ")
    # The prompt is whole too: the border takes nothing from it.
    prompt = BUILT[style].decode(span.ids[: -span.target])
    assert prompt.endswith(("Response:\n", "Response:", "ASSISTANT:", ROLE))


TEXTS = ANSWERS | SPELLINGS | st.text(max_size=6)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(before=TEXTS, behind=TEXTS)
def test_the_border_is_where_the_list_of_offsets_has_it(style: str, before: str, behind: str) -> None:
    """Asked for one character, and counted over all tokens, at each place of a text."""
    text = before + behind
    encoded = BUILT[style].backend_tokenizer.encode(text, add_special_tokens=False)
    for border in range(len(text) + 1):
        crossed = any(begin < border < end for begin, end in encoded.offsets)
        counted = None if crossed else sum(1 for begin, _ in encoded.offsets if begin < border)
        assert tokens_before(encoded, border) == counted, border


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.tuples(TEXTS, TEXTS | st.just(""), TEXTS), min_size=1, max_size=4))
def test_texts_cut_together_are_cut_as_each(style: str, name: str, texts: list[tuple[str, str, str]]) -> None:
    builder = BUILDERS[style, name]
    pairs = [Pair(*three) for three in texts]
    pairs.append(pairs[0]._replace(history=(Turn("user", "Hello."), Turn("assistant", "Yes?"))))
    assert builder.of_all(pairs, "forward") == [builder.forward(pair) for pair in pairs]
    assert builder.of_all(pairs, "reverse") == [builder.reverse(pair) for pair in pairs]


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15, deadline=None)
@given(instruction=SPELLINGS, more=SPELLINGS | st.just(""), answer=SPELLINGS)
def test_no_token_of_data_is_special(style: str, name: str, instruction: str, more: str, answer: str) -> None:
    builder, tokenizer = BUILDERS[style, name], BUILT[style]
    # A turn marker that is not flagged is one where turns are marked.
    special = {
        i
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.content != "<unk>" and (token.special or name == "chat")
    }
    if not instruction.strip() or not answer.strip():
        return
    honest, _ = builder.forward(Pair("b", "b" if more else "", "b"))
    evil, _ = builder.forward(Pair(instruction, more, answer))
    assert isinstance(honest, Span)
    assert isinstance(evil, Span)
    assert [i for i in evil.ids if i in special] == [i for i in honest.ids if i in special]
    assert not special & set(evil.ids[-evil.target : -1])
    # The answer is whole here too. (Behind an added token Llama's old tokenizer puts a space.)
    if name == "chat" or UNFLAGGED not in answer:
        assert target_text(style, evil).strip() == answer.strip()
    reverse, _ = builder.reverse(Pair(instruction, more, answer))
    honest, _ = builder.reverse(Pair("b", "b" if more else "", "b"))
    assert isinstance(reverse, Span)
    assert [i for i in reverse.ids if i in special] == [i for i in honest.ids if i in special]
    _, ids = builder.conversation([(instruction, more), (answer, ""), (instruction, "")])
    _, plain = builder.conversation([("b", "b" if more else ""), ("b", ""), ("b", "")])
    assert [i for i in ids if i in special] == [i for i in plain if i in special]


@pytest.mark.parametrize("name", ["vicuna", "wizardlm", "alpaca"])
@pytest.mark.parametrize("style", STYLES)
def test_prompts_end_without_a_space(style: str, name: str) -> None:
    words = template(name)
    assert not words.forward("Say it", "").endswith(" ")
    assert not words.forward("Say it", "now").endswith(" ")
    assert not words.reverse("y").endswith(" ")
    span, _ = BUILDERS[style, name].forward(Pair("Say it", "", "Fine"))
    assert isinstance(span, Span)
    assert target_text(style, span) == words.answer_prefix + "Fine"


@pytest.mark.model
def test_a_real_tokenizers_added_tokens(student_folder: Path) -> None:
    """SmolLM2's table has 14 special tokens that ``all_special_tokens`` lacks."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(student_folder, local_files_only=True)
    table = tokenizer.added_tokens_decoder
    assert len(set(table) - set(tokenizer.all_special_ids)) == 14
    for name in TEMPLATE_NAMES:
        builder = SpanBuilder(tokenizer, template(name, tokenizer))
        honest, _ = builder.forward(Pair("a", "", "a"))
        assert isinstance(honest, Span)
        every = "".join(f"{token.content} a " for token in table.values())
        evil, _ = builder.forward(Pair(f"a {every}", every, every))
        assert isinstance(evil, Span)
        assert [i for i in evil.ids if i in table] == [i for i in honest.ids if i in table]


@pytest.mark.model
def test_harmless_chats_are_cut_as_transformers_does(student_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(student_folder, local_files_only=True)
    builder = SpanBuilder(tokenizer, template("chat", tokenizer))
    for instruction in ("Say it.", " spaces ", "Zwei\n\nZeilen", "日本語 🙂"):
        turn = [{"role": "user", "content": instruction}]
        wanted = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert builder.conversation([(instruction, "")])[1] == list(wanted)
