"""Spans under the four styles of tokenizer in use: what is the target, and is it the same in both passes?"""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from srtui.prompts import PromptTemplate, template
from srtui.sample import Pair
from srtui.student import Invalid, Span, SpanBuilder

STYLES = ("llama", "gemma", "gpt2", "qwen")
TARGETS = (
    "Fine.",
    "x",
    " leading space",
    "\n\nleading lines",
    "trailing \n",
    "👩‍👩‍👧‍👦 family, 日本語, naïve",
    "مرحبا بالعالم, שלום",
    "e\u0301 is not \u00e9",
    "a\r\nb\tc",
    "1234567890",
    "</s> <s> <bos> <|endoftext|> <|im_end|>",
    "Say it",
    "\u200bzero width",
)


def build(style: str) -> PreTrainedTokenizerFast:
    """A tiny tokenizer in a family's style, from the ``tokenizers`` library."""
    letters = [chr(c) for c in range(32, 127)]
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("S", "a"), ("Sa", "y")]
    words = ["".join(m) for m in merges]
    specials = {
        "llama": ("<s>", "</s>"),
        "gemma": ("<bos>", "<eos>"),
        "gpt2": (None, "<|endoftext|>"),
        "qwen": (None, "<|im_end|>"),
    }[style]
    names = [s for s in specials if s]
    if style in ("llama", "gemma"):
        pieces = ["▁", "\n", *[c for c in letters if c != " "], *words, "▁t", "▁the"]
        vocabulary = {
            p: n for n, p in enumerate([*names, "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *pieces])
        }
        raw = Tokenizer(
            models.BPE(
                vocab=vocabulary,
                merges=[*merges, ("▁", "t"), ("▁t", "he")] if "he" in vocabulary else [*merges, ("▁", "t")],
                byte_fallback=True,
                fuse_unk=True,
                unk_token="<unk>",
            )
        )
        replace = normalizers.Replace(" ", "▁")
        raw.normalizer = (
            normalizers.Sequence([normalizers.Prepend("▁"), replace]) if style == "llama" else replace
        )
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {p: n for n, p in enumerate([*alphabet, *words, "Ġt", *names])}
        raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[*merges, ("Ġ", "t")]))
        if style == "qwen":
            raw.normalizer = normalizers.NFC()
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(names)
    if specials[0]:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{specials[0]} $A", special_tokens=[(specials[0], raw.token_to_id(specials[0]))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=specials[0], eos_token=specials[1], pad_token=specials[1]
    )


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def both(builder: SpanBuilder, pair: Pair) -> tuple[Span, Span]:
    one, other = builder.forward(pair)
    assert isinstance(one, Span)
    assert isinstance(other, Span)
    return one, other


@pytest.mark.parametrize("how", ["alpaca", "vicuna", "wizardlm"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_same_target_in_both_passes(tokenizer: Any, how: str, target: str) -> None:
    builder = SpanBuilder(tokenizer, template(how), "default", 2048)
    conditional, unconditional = both(builder, Pair("Say it", "", target))
    assert conditional.target == unconditional.target > 0
    assert conditional.ids[-conditional.target :] == unconditional.ids[-unconditional.target :]
    # The unconditional pass is one token to start from, and the target.
    assert len(unconditional.ids) == unconditional.target + 1
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    assert unconditional.ids[0] == start
    if tokenizer.bos_token_id is not None:
        assert conditional.ids[0] == tokenizer.bos_token_id
        assert conditional.ids[1] != tokenizer.bos_token_id
    assert conditional.ids[-1] == tokenizer.eos_token_id
    # Text that spells a special token stays text.
    inner = set(conditional.ids[1:-1])
    assert tokenizer.eos_token_id not in inner
    assert tokenizer.bos_token_id not in inner


@pytest.mark.parametrize("target", ["Fine.", "The cat", "1234567890", "مرحبا"])
def test_the_target_is_the_text(tokenizer: Any, target: str) -> None:
    builder = SpanBuilder(tokenizer, template("alpaca"), "default", 2048)
    conditional, _ = both(builder, Pair("Say it", "", target))
    assert tokenizer.decode(conditional.ids[-conditional.target : -1]).strip() == target


@pytest.mark.parametrize("empty", ["", " ", "\n\t \n"])
def test_empty_targets_have_a_reason(tokenizer: Any, empty: str) -> None:
    builder = SpanBuilder(tokenizer, template("alpaca"), "default", 2048)
    assert builder.forward(Pair("Say it", "", empty)) == (Invalid("empty_response"),) * 2
    assert builder.reverse(Pair(empty, "", "y")) == (Invalid("empty_instruction"),) * 2


def test_longer_than_the_context(tokenizer: Any) -> None:
    builder = SpanBuilder(tokenizer, template("alpaca"), "default", 300)
    conditional, unconditional = both(builder, Pair("Say it", "", "word " * 400))
    assert conditional.truncated
    assert unconditional.truncated
    assert len(conditional.ids) == 300
    assert conditional.ids[-conditional.target :] == unconditional.ids[-unconditional.target :]
    assert builder.forward(Pair("word " * 400, "", "y")) == (Invalid("target_truncated"),) * 2


def test_an_instruction_inside_its_response(tokenizer: Any) -> None:
    builder = SpanBuilder(tokenizer, template("wizardlm"), "default", 2048)
    once, _ = both(builder, Pair("Say it", "", "Fine."))
    twice, _ = both(builder, Pair("Say it", "", "Say it Say it Fine."))
    assert twice.ids[: len(once.ids) - once.target] == once.ids[: len(once.ids) - once.target]
    assert twice.target > once.target


def test_a_target_that_merges_with_the_prompt(tokenizer: Any) -> None:
    """The prompt ends in a space, which the target's first letter would join: neither pass loses it."""
    plain = PromptTemplate("plain", lambda instruction, input: f"Q: {instruction}\nA: ")
    builder = SpanBuilder(tokenizer, plain, "default", 2048)
    conditional, unconditional = both(builder, Pair("Say it", "", "them"))
    assert conditional.ids[-conditional.target :] == unconditional.ids[-unconditional.target :]
    text = tokenizer.decode(conditional.ids[-conditional.target : -1])
    assert text.strip() == "them"


def test_the_paper_protocol_scores_the_first_token_only_after_a_beginning(tokenizer: Any) -> None:
    builder = SpanBuilder(tokenizer, template("alpaca"), "paper", 2048)
    pair = Pair("Say it", "", "Fine, the rest.")
    conditional, unconditional = both(builder, pair)
    alone = tokenizer(pair.response).input_ids
    assert list(unconditional.ids) == alone
    assert unconditional.target == len(alone) - 1
    prompt = template("alpaca").forward(pair.instruction, pair.input)
    whole = tokenizer(prompt + pair.response).input_ids
    assert list(conditional.ids) == whole
    assert conditional.target == len(whole) - len(tokenizer(prompt).input_ids)
