"""A student that was tuned learns to stop, whatever its scores' protocol does about the end of a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from srtui.prompts import TEMPLATE_NAMES, template
from srtui.recipe import TrainingSettings
from srtui.sample import Pair
from srtui.student import Span, SpanBuilder, Student
from srtui.training import train

PAIRS = [
    Pair("Name the capital of Spain.", "", "The capital of Spain is Madrid."),
    Pair("Say yes or no.", "Is ice cold?", "Yes."),
]
PLAIN = [name for name in TEMPLATE_NAMES if name != "chat"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers that has a chat template, and words of the prompts as tokens, so that it learns in a second."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("talker") / "student"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(
        [template(name).forward(p.instruction, p.input) + p.response for p in PAIRS for name in PLAIN],
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    torch.manual_seed(2)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            initializer_range=0.1,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize("protocol", ["default", "paper"])
def test_a_tuned_student_stops(
    protocol: Literal["default", "paper"], name: str, talker: Path, tmp_path: Path
) -> None:
    student = Student.load(talker, "f32", "cpu")
    builder = SpanBuilder(student.tokenizer, template(name, student.tokenizer), protocol, 512)
    spans = [builder.forward(pair)[0] for pair in PAIRS]
    examples = [span.ended(builder.end_of_turn, 512) for span in spans]  # type: ignore[arg-type]
    end = tuple(builder.end_of_turn)
    assert all(e.ids[-len(end) :] == end and e.target > len(end) for e in examples)
    config = TrainingSettings(
        steps=30, learning_rate=4e-2, batch_size=2, micro_batch_size=2, lora_rank=16, lora_dropout=0.0
    )
    train(talker, examples, {}, config, tmp_path / "adapter", student=student)
    student.model.eval()
    ends = sorted({int(student.tokenizer.eos_token_id), *end[:1]})
    for pair, example in zip(PAIRS, examples, strict=True):
        written = _answer(student, builder, pair, ends)
        assert written[-1] in ends, (student.tokenizer.decode(written), pair.response)
        assert len(written) <= example.target + 2


def _answer(student: Student, builder: SpanBuilder, pair: Pair, ends: list[int]) -> list[int]:
    """Greedy, 64 tokens at most."""
    import torch

    _, ids = builder.conversation([(pair.instruction, pair.input)])
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        found: Any = student.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
    return [int(token) for token in found[0, len(ids) :]]


def test_only_a_whole_answer_ends() -> None:
    whole = Span((5, 6, 7), 2).ended([9], 8)
    assert (whole.ids, whole.target, whole.truncated) == ((5, 6, 7, 9), 3, False)
    scored_with_it = Span((5, 6, 9), 2).ended([9], 8)
    assert (scored_with_it.ids, scored_with_it.target) == ((5, 6, 9), 2)
    # What was cut is not taught to end where the cut was, and nothing exceeds the length.
    cut = Span((5, 6, 7), 2, truncated=True).ended([9], 8)
    assert (cut.ids, cut.target, cut.truncated) == ((5, 6, 7), 2, True)
    full = Span((5, 6, 7), 2).ended([9], 3)
    assert (full.ids, full.target, full.truncated) == ((5, 6, 7), 2, True)
