"""Long texts: positions that end, and positions that depend on the longest text of a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.pipeline.variants import VariantScorer
from srtui.student import Scorer, Span, Student, examine
from srtui.student.positions import table_size

_SMALL: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIZES = (100, 40, 30, 90, 64)


def _longrope() -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0],
    }  # fmt: skip
    config = Phi3Config(**_SMALL, max_position_embeddings=256, rope_parameters=rope)
    config.original_max_position_embeddings = 64
    return Phi3ForCausalLM(config)


def _dynamic() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return LlamaForCausalLM(LlamaConfig(**_SMALL, max_position_embeddings=64, rope_parameters=rope))


MODELS = {"longrope": _longrope, "dynamic": _dynamic}


def _student(name: str) -> Student:
    torch.manual_seed(0)
    return Student(name, name, "f32", MODELS[name]().eval().float(), None)


def _spans() -> list[Span]:
    return [
        Span(tuple((7 * n + 3 * i * i) % 190 + 3 for i in range(size)), size // 2)
        for n, size in enumerate(SIZES)
    ]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_long_text_leaves_the_losses_of_those_beside_it_alone(name: str, packed: bool) -> None:
    student = _student(name)
    scorer = Scorer(student, 1000)
    assert scorer.packed
    scorer.why_padded = "" if packed else "as asked"
    spans = _spans()
    expected = []
    for span in spans:
        torch.manual_seed(0)
        with torch.no_grad():  # a model of its own each: what a long text leaves behind is not here
            logits = MODELS[name]().eval().float()(torch.tensor([span.ids])).logits[0].log_softmax(-1)
        places = range(len(span.ids) - span.target, len(span.ids))
        expected.append(-float(sum(logits[at - 1, span.ids[at]] for at in places)))
    found = dict(scorer.score(spans))
    assert [found[n].nll for n in range(len(spans))] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_training_beside_a_long_text_is_the_same_too(name: str, tmp_path: Path) -> None:
    from srtui.recipe import TrainingSettings
    from srtui.training import Listener, train

    examples = _spans()

    def losses(size: int) -> list[float]:
        class Hears(Listener):
            found: list[float] = []  # noqa: RUF012

            def metric(self, step: int, values: dict[str, float]) -> None:
                self.found.append(values["loss"])

        Hears.found = []
        config = TrainingSettings(
            epochs=3, batch_size=5, micro_batch_size=size, lora_rank=2, lora_dropout=0.0, learning_rate=1e-2
        )
        student = _student(name)
        student.tokenizer = _NoTokenizer()
        train(tmp_path, examples, {}, config, tmp_path / str(size) / "adapter", Hears(), student=student)
        return Hears.found

    assert losses(5) == pytest.approx(losses(1), rel=1e-5)


class _NoTokenizer:
    def save_pretrained(self, folder: str) -> None: ...


def test_where_long_texts_run_alone() -> None:
    assert examine(_student("longrope").model, "longrope").alone_beyond == 64
    found = examine(_student("dynamic").model, "dynamic")
    assert (found.alone_beyond, found.remembers) == (64, True)


@pytest.mark.parametrize(
    ("name", "size"),
    [("gpt2", True), ("opt", True), ("gptj", True), ("roberta", True), ("gpt_neo", True),
        ("mpt", True), ("llama", False), ("bloom", False)],
)  # fmt: skip
def test_a_table_of_positions_ends_where_the_model_breaks(name: str, size: bool) -> None:
    from benchmarks import tiny_architectures

    model = tiny_architectures.build(name)
    longest = table_size(model)
    assert (longest is not None) == size
    if longest is not None:
        ids = torch.arange(longest + 1)[None] % 50 + 5
        with torch.no_grad():
            model(input_ids=ids[:, :-1], use_cache=False)
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=ids, use_cache=False)


@pytest.mark.model
def test_a_text_beyond_the_table_is_cut_and_does_not_end_the_run(
    student_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from srtui.sample import Pair
    from srtui.store import Store
    from srtui.store.corpus import NewRow

    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    config = GPT2Config(
        vocab_size=49152, n_positions=80, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    student = Student("gpt2", "gpt2", "f32", GPT2LMHeadModel(config).eval(), tokenizer)
    rows = [NewRow(n, Pair("Say it.", "", "word " * count), "{}") for n, count in enumerate((5, 500))]
    with Store(tmp_path / "s.sqlite") as store:
        store.corpus.import_rows("d", "f", "sha", "alpaca", rows)
        judge = VariantScorer(store, tmp_path, "f32", name="gpt2", template_name="alpaca", student=student)
        assert (judge.longest, judge.spans.max_length) == (80, 80)
        list(judge.score([1, 2], "ifd"))
        scores = judge.scores([1, 2], "ifd")
    assert [scores[n][1] for n in (1, 2)] == [None, None]
