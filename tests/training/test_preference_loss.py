"""Preference training: TRL's numbers, a margin that grows, and a kill that changes nothing."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student
from srtui.student.packing import packed_attention
from srtui.training import Listener, train
from srtui.training.preference_loss import PairBatch, held_out_rewards, objective_of
from srtui.training.trainer import Trainer
from srtui.training.training_pair import TrainingPair
from tests.conftest import ROOT
from tests.training import killed_preference

pytestmark = pytest.mark.model

SMALL = TrainingSettings(
    method="dpo", epochs=3, batch_size=4, micro_batch_size=2, lora_rank=2, learning_rate=5e-3, seed=3
)
LORA = {
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


def make_pairs(count: int = 6) -> list[TrainingPair]:
    return killed_preference.make_pairs(count)


def with_reference(student: Student, pairs: list[TrainingPair]) -> list[TrainingPair]:
    return killed_preference.with_reference(student, pairs)


def draw_adapter(model: Any, seed: int) -> None:
    """Weights that are no longer those of a new adapter, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name and ".ref." not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def trl_says(
    folder: Path, tmp_path: Path, pairs: list[TrainingPair], loss: str, from_adapter: bool
) -> tuple[float, float, dict[str, Any]]:
    """Loss, margin of the rewards and gradients of one batch by TRL's DPOTrainer, fed the same token ids."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    class Fed(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = []
    for pair in pairs:
        prompt = pair.chosen.ids[: -pair.chosen.target]
        assert prompt == pair.rejected.ids[: -pair.rejected.target]
        rows.append(
            {
                "prompt": "",  # looked for, and not read
                "prompt_ids": list(prompt),
                "chosen_ids": list(pair.chosen.ids[len(prompt) :]),
                "rejected_ids": list(pair.rejected.ids[len(prompt) :]),
            }
        )
    student = Student.load(folder, "f32")
    lora = LoraConfig(**LORA)
    model = student.model
    if from_adapter:
        model = get_peft_model(model, lora)
        draw_adapter(model, 1)
    trainer = Fed(
        model=model,
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"), per_device_train_batch_size=len(rows), beta=0.3, loss_type=[loss],
            bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[], disable_tqdm=True, max_length=None,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        peft_config=None if from_adapter else lora,
    )  # fmt: skip
    draw_adapter(trainer.model, 2)
    trainer.model.train()
    batch = trainer.data_collator(rows)
    found = trainer.compute_loss(trainer.model, batch)
    found.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return float(found.detach()), float(trainer._metrics["train"]["rewards/margins"][-1]), gradients


@pytest.mark.parametrize(
    ("loss", "from_adapter", "packed"),
    [("sigmoid", False, True), ("sigmoid", True, False), ("hinge", False, True), ("ipo", True, True)],
)
def test_loss_and_gradient_are_trls(
    tiny_folder: Path, tmp_path: Path, loss: str, from_adapter: bool, packed: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    settings = SMALL.model_copy(update={"beta": 0.3, "loss": loss})
    wanted, wanted_margin, gradients = trl_says(tiny_folder, tmp_path, make_pairs(), loss, from_adapter)
    student = Student.load(tiny_folder, "f32")
    if from_adapter:
        student.model = get_peft_model(student.model, LoraConfig(**LORA))
        draw_adapter(student.model, 1)
    pairs = with_reference(student, make_pairs())
    if not from_adapter:
        student.model = get_peft_model(student.model, LoraConfig(**LORA))
    draw_adapter(student.model, 2)
    scorer = Scorer(student)
    batches = [PairBatch.of(some, packed) for some in (pairs[:4], pairs[4:])]
    trainer = Trainer(
        student.model, scorer.head, settings, "adamw", [batches], lambda *_: False, lambda: False,
        objective=objective_of(settings),
    )  # fmt: skip
    if packed:
        with packed_attention(student.model):
            found, figures = trainer.run(batches)
    else:
        found, figures = trainer.run(batches)
    assert float(found) == pytest.approx(wanted, abs=1e-5)
    assert figures["reward_margin"] == pytest.approx(wanted_margin, abs=1e-5)
    ours = {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}
    assert ours.keys() == gradients.keys() and len(ours) >= 14
    assert max(float(g.abs().max()) for g in ours.values()) > 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)
    if len(pairs) == 6:  # the same figures by the scorer, as held-out pairs have them
        rewards = held_out_rewards(scorer, pairs, settings)
        assert rewards is not None and len(rewards.margins) == 6
        assert rewards.loss == pytest.approx(wanted, abs=1e-4)
        assert rewards.margin == pytest.approx(wanted_margin, abs=1e-4)
        assert rewards.accuracy == pytest.approx(figures["reward_accuracy"])


def test_pairs_of_one_sample_are_one_observation() -> None:
    """Three candidates that lose to the same answer say little more than one: an interval over pairs would be too
    narrow."""
    from srtui.pipeline.preference_data import reward_facts
    from srtui.training.preference_loss import Rewards

    margins = (0.4, 0.4, -0.2, 0.1, -0.3, -0.3)
    apart = reward_facts(Rewards(0.5, margins))
    together = reward_facts(Rewards(0.5, margins, (1, 1, 1, 2, 3, 3)))
    assert (apart["margin"]["n"], together["margin"]["n"], together["accuracy"]["n"]) == (6, 3, 3)
    assert together["margin"]["value"] == pytest.approx((0.2 + 0.1 - 0.3) / 3)
    assert together["accuracy"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    twice = reward_facts(Rewards(0.5, margins * 2, tuple(range(6)) * 2))
    for name, estimate in apart.items():
        assert twice[name] == pytest.approx(estimate), name


def test_orpo_is_its_papers_formula(tiny_folder: Path) -> None:
    """Equations 3 to 7 of arXiv 2403.07691 with probabilities in place of logarithms, in float64."""
    student = Student.load(tiny_folder, "f32")
    student.model.double()
    scorer = Scorer(student)
    pairs = make_pairs(3)
    settings = SMALL.model_copy(update={"method": "orpo", "beta": 0.2})

    def mean_probability(span: Span) -> Any:
        logits = student.model(input_ids=torch.tensor([span.ids])).logits[0, :-1].log_softmax(-1)
        own = logits.gather(1, torch.tensor(span.ids[1:])[:, None])[-span.target :, 0]
        return own.mean().exp()

    wanted = 0.0
    for pair in pairs:
        good, bad = mean_probability(pair.chosen), mean_probability(pair.rejected)
        ratio = (good / (1 - good)) / (bad / (1 - bad))
        wanted += float((-good.log() - 0.2 * torch.sigmoid(ratio.log()).log()).detach())
    found, _ = objective_of(settings)(scorer.head, PairBatch.of(pairs, False))
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("chosen", "rejected"), [(0.0, -3.0), (-3.0, 0.0), (0.0, 0.0)])
def test_an_answer_that_is_certain_has_odds_and_a_gradient(chosen: float, rejected: float) -> None:
    """A short answer known by heart has a loss of 0 in float32, and orpo's odds would be infinite."""
    from srtui.training.preference_loss import _terms

    likely, unlikely = (torch.tensor([value], requires_grad=True) for value in (chosen, rejected))
    settings = SMALL.model_copy(update={"method": "orpo"})
    losses, _ = _terms(settings, likely, unlikely, [(0.0, 0.0)], [Span((1, 2), 1)] * 2)
    losses.sum().backward()
    for tensor in (losses, likely.grad, unlikely.grad):
        assert tensor is not None and bool(torch.isfinite(tensor).all())


class Hears(Listener):
    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []

    def metric(self, step: int, values: dict[str, float]) -> None:
        self.metrics.append((step, values))


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_a_margin_grows(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    hears, student = Hears(), Student.load(tiny_folder, "nf4")
    pairs = with_reference(student, make_pairs(8))
    settings = SMALL.model_copy(update={"method": method, "epochs": 12})
    result = train(
        tiny_folder,
        pairs[:6],
        {},
        settings,
        tmp_path / "adapter",
        hears,
        student=student,
        held_out_pairs=pairs[4:],
    )
    assert result is not None and result.changed and result.steps == 24
    first, last = hears.metrics[0][1], hears.metrics[-1][1]
    assert {"reward_margin", "reward_accuracy", "loss"} <= first.keys()
    assert last["reward_margin"] > first["reward_margin"] + 0.01
    assert last["loss"] < first["loss"]
    if method == "dpo":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)  # nothing has moved yet
        assert result.held_out["preference"]["before"] == pytest.approx(math.log(2), abs=1e-3)
    assert result.rewards is not None and len(result.rewards.margins) == 4
    assert 0 <= result.rewards.accuracy <= 1
    assert result.held_out["preference"]["samples"] == 4


@pytest.mark.parametrize("name", ["GPT2", "OPT"])
def test_the_students_own_dropout_is_no_noise_in_the_margin(
    tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    """GPT-2 drops out by modules, OPT by numbers; TRL turns off the one, and both would be in the margin."""
    import shutil

    import transformers

    sizes: dict[str, Any] = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
        "OPT": {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "num_hidden_layers": 2,
            "ffn_dim": 64,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
    }
    folder = tmp_path / "student"
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=1000, **sizes[name])
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel", "OPT": "OPTForCausalLM"}[name])(config)
    assert any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules()) or config.dropout
    model.save_pretrained(folder)
    for file in tiny_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    hears, student = Hears(), Student.load(folder, "f32")
    pairs = with_reference(student, make_pairs(4))
    train(folder, pairs, {}, SMALL, tmp_path / "adapter", hears, student=student)
    assert hears.metrics[0][1]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert hears.metrics[0][1]["reward_margin"] == pytest.approx(0, abs=1e-5)


def test_answers_after_pairs_are_trained_with_the_dropout_of_the_recipe(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """An adapter that was trained without dropout has no place for any."""
    from peft import PeftModel

    pairs = with_reference(student := Student.load(tiny_folder, "nf4"), make_pairs(4))
    train(tiny_folder, pairs, {}, SMALL, tmp_path / "first" / "adapter", student=student)
    student = Student.load(tiny_folder, "nf4", adapter=tmp_path / "first" / "adapter")
    sft = SMALL.model_copy(update={"method": "sft", "lora_dropout": 0.25})
    spans = [pair.chosen for pair in make_pairs(4)]
    train(tiny_folder, spans, {}, sft, tmp_path / "second" / "adapter", student=student)
    assert isinstance(student.model, PeftModel)
    found = {m.p for m in student.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {0.25}


def test_it_goes_on_from_an_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    """Which is then the reference: its first loss is ln 2, and its weights are where the second training starts."""
    from safetensors.torch import load_file

    sft = SMALL.model_copy(update={"method": "sft", "lora_dropout": 0.1})
    spans = [pair.chosen for pair in make_pairs(8)]
    train(
        tiny_folder, spans, {}, sft, tmp_path / "first" / "adapter", student=Student.load(tiny_folder, "nf4")
    )
    before = load_file(tmp_path / "first" / "adapter" / "adapter_model.safetensors")
    hears, student = Hears(), Student.load(tiny_folder, "nf4", adapter=tmp_path / "first" / "adapter")
    pairs = with_reference(student, make_pairs(8))
    settings = SMALL.model_copy(update={"learning_rate": 1e-6, "epochs": 1})
    train(tiny_folder, pairs, {}, settings, tmp_path / "second" / "adapter", hears, student=student)
    assert hears.metrics[0][1]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    after = load_file(tmp_path / "second" / "adapter" / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-5)
    assert any(bool((after[name] != before[name]).any()) for name in before)
    assert Student.load(tiny_folder, "nf4", adapter=tmp_path / "second" / "adapter")


def test_after_a_kill_it_is_the_same_training(tiny_folder: Path, tmp_path: Path) -> None:
    def lines(path: Path) -> list[str]:
        return path.read_text().split("\n")[:-1] if path.exists() else []

    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    killed_preference.main(tiny_folder, calm / "adapter", calm / "losses")
    expected = dict(line.split(" ", 1) for line in lines(calm / "losses"))
    assert len(expected) == 18
    process = subprocess.Popen(
        [
            sys.executable,
            ROOT / "tests/training/killed_preference.py",
            tiny_folder,
            rough / "adapter",
            rough / "losses",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 240
    while len(lines(rough / "losses")) < 7 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = lines(rough / "losses")
    assert 7 <= len(before) < 18
    (rough / "losses").write_text("\n".join([*before, ""]))
    killed_preference.main(tiny_folder, rough / "adapter", rough / "losses")
    again = [line.split(" ", 1) for line in lines(rough / "losses")]
    assert int(again[len(before)][0]) >= len(before) - 1  # from a checkpoint, not from the start
    assert [(step, values) for step, values in again if expected[step] != values] == []
    weights = "adapter_model.safetensors"
    assert (rough / "adapter" / weights).read_bytes() == (calm / "adapter" / weights).read_bytes()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta": 0.5}, "beta is for preference pairs"),
        ({"min_margin": 0.5}, "min_margin is for preference pairs"),
        ({"method": "dpo", "neftune_alpha": 5}, "would be noise in the margin"),
        ({"method": "orpo", "loss": "ipo"}, "orpo has one of its own"),
        ({"method": "dpo", "beta": 0}, "greater than 0"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TrainingSettings(**settings)  # type: ignore[arg-type]


def test_a_pair_takes_the_memory_of_both_its_texts() -> None:
    from srtui.training.preflight import Shape, needed_bytes, what_would_fit

    shape = Shape(layers=4, hidden=64, inner=128, key_value=32, vocabulary=1000, trainable=1000, element=4)
    ways: dict[str, Any] = {"packed": True, "gradient_checkpointing": True, "optimizer": "adamw"}
    text = Span(tuple(range(512)), 500)
    pair = TrainingPair(text, Span(tuple(range(100)), 90))
    one = SMALL.model_copy(update={"micro_batch_size": 1, "batch_size": 1})
    alone = needed_bytes(shape, [text], one, **ways)
    assert alone < needed_bytes(shape, [pair], one, **ways) < needed_bytes(shape, [pair.padded], one, **ways)  # type: ignore[list-item]
    # Pairs drop out nothing, so there is no copy of an adapter's input to keep.
    dropped = one.model_copy(update={"lora_dropout": 0.5})
    assert needed_bytes(shape, [pair], dropped, **ways) == needed_bytes(  # type: ignore[list-item]
        shape,
        [pair],
        one.model_copy(update={"lora_dropout": 0.0}),
        **ways,  # type: ignore[list-item]
    )
    both = TrainingPair(text, text)
    # What the two take at half the length is what is advised: of a text, and not of the two end to end.
    half = needed_bytes(shape, [both], one, max_length=512, **ways)  # type: ignore[list-item]
    assert "prompt.max_length = 256" in what_would_fit(half, shape, [both], one, texts=2, **ways)  # type: ignore[list-item]
