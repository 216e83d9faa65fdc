"""What is scored is what is trained, training is real, and what goes wrong is said."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.prompts import template
from srtui.recipe import TrainingSettings
from srtui.sample import Pair
from srtui.student import Scorer, Span, SpanBuilder, Student
from srtui.training import (
    Listener,
    Preflight,
    TrainingResult,
    train,
    trainer,
)
from tests.training.conftest import make_examples

pytestmark = pytest.mark.model
PAIRS = [
    Pair("Name the capital of Australia.", "", "Canberra is the capital of Australia."),
    Pair("Sort the numbers.", "3, 1, 2", "1, 2, 3"),
]
SMALL = TrainingSettings(
    epochs=3, batch_size=4, micro_batch_size=2, lora_rank=2, lora_dropout=0.0, warmup_ratio=0, seed=1
)


def changed(settings: TrainingSettings, **values: Any) -> TrainingSettings:
    """``settings`` with others, also such as a recipe would refuse."""
    return settings.model_copy(update=values)


class Hears(Listener):
    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.facts: list[Preflight] = []
        self.notes: list[str] = []

    def planned(self, facts: Preflight) -> None:
        self.facts.append(facts)

    def metric(self, step: int, values: dict[str, float]) -> None:
        self.metrics.append((step, values))

    def note(self, message: str) -> None:
        self.notes.append(message)


def go(
    folder: Path, out: Path, config: TrainingSettings, hears: Hears, held: dict[str, list[Span]]
) -> TrainingResult:
    student = Student.load(folder, "f32")
    result = train(folder, make_examples(), held, config, out / "adapter", hears, student=student)
    assert result is not None
    return result


def test_the_first_loss_is_the_scorers_and_training_lowers_it(
    tiny_folder: Path, tmp_path: Path, arithmetic: str
) -> None:
    """On NF4, as QLoRA has it; what is loaded from the disk afterwards is what was trained."""
    student = Student.load(tiny_folder, "nf4")
    assert student.arithmetic == arithmetic
    builder = SpanBuilder(student.tokenizer, template("alpaca"), "default", 256)
    spans = [builder.forward(pair)[0] for pair in PAIRS]
    scored = dict(Scorer(student).score(spans))  # type: ignore[arg-type]
    one, other = (span.ended(builder.end_of_turn, 256) for span in spans)  # type: ignore[arg-type]
    hears = Hears()
    config = TrainingSettings(
        epochs=6, batch_size=1, micro_batch_size=1, learning_rate=5e-2, lora_rank=4, lora_dropout=0.0, seed=3
    )
    result = train(
        tiny_folder, [one], {"other": [other]}, config, tmp_path / "adapter", hears, student=student
    )
    assert result is not None
    assert (result.arithmetic, result.changed) == (arithmetic, True)
    # Rows that are shared with a prefix, or padded, sum in another order.
    near = {"float32": 1e-5, "bfloat16": 2e-3}[arithmetic]
    assert result.first_loss == pytest.approx(scored[0].mean, rel=near)
    assert result.last_loss < result.first_loss - 0.15  # the most that embeddings this small allow is 0.6
    assert [step for step, _ in hears.metrics] == list(range(1, 7))
    assert result.tokens == 6 * len(one.ids)
    assert result.held_out["other"]["before"] == pytest.approx(scored[1].mean, rel=near)
    assert sorted(p.suffix for p in result.adapter_dir.iterdir() if "adapter" in p.name) == [
        ".json",
        ".safetensors",
    ]
    tuned = Student.load(tiny_folder, "nf4", adapter=result.adapter_dir)
    (_, after), *_ = Scorer(tuned).score([spans[1]])  # type: ignore[list-item]
    assert after.mean == pytest.approx(result.held_out["other"]["after"], rel=near)


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.03, 1.0])
def test_a_training_of_one_step_trains(tiny_folder: Path, tmp_path: Path, warmup_ratio: float) -> None:
    hears = Hears()
    config = changed(SMALL, steps=1, learning_rate=1e-2, warmup_ratio=warmup_ratio)
    result = go(tiny_folder, tmp_path, config, hears, {"same": make_examples()})
    assert (result.steps, result.changed) == (1, True)
    assert hears.metrics[0][1]["learning_rate"] == 1e-2
    assert result.held_out["same"]["after"] < result.held_out["same"]["before"]


def test_a_training_that_changes_nothing_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    result = go(tiny_folder, tmp_path, changed(SMALL, learning_rate=0.0), Hears(), {"same": make_examples()})
    assert not result.changed
    assert result.held_out["same"]["after"] == result.held_out["same"]["before"]


def test_other_gpus_in_the_machine_change_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers counts the devices of any machine that has a GPU, and TRL refuses two of them. Where there is
    none, the count alone says nothing: what they ask before it has to be answered too."""
    import torch

    alone, among = Hears(), Hears()
    config = changed(SMALL, steps=2, optimizer="adamw", gradient_checkpointing=False)
    students = [Student.load(tiny_folder, "f32", "cpu") for _ in range(2)]
    train(tiny_folder, make_examples(), {}, config, tmp_path / "alone" / "a", alone, student=students[0])
    for name, answer in (
        ("is_available", True), ("device_count", 2), ("set_device", None), ("get_device_name", "gpu"),
        ("is_bf16_supported", False), ("synchronize", None),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    train(tiny_folder, make_examples(), {}, config, tmp_path / "among" / "a", among, student=students[1])
    losses = [[values["loss"] for _, values in hears.metrics] for hears in (alone, among)]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_it_is_what_trl_would_train(tiny_folder: Path, tmp_path: Path) -> None:
    """The same steps by TRL's SFTTrainer, padded, with its own loss, optimizer and clipping."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from srtui.training.plan import plan_steps

    hears, examples = Hears(), make_examples()
    config = SMALL.model_copy(
        update={
            "batch_size": 5,
            "micro_batch_size": 5,
            "learning_rate": 1e-2,
            "scheduler": "constant",
            "weight_decay": 0.1,
        }
    )
    result = go(tiny_folder, tmp_path, config, hears, {})
    order = [i for step in plan_steps([len(e.ids) for e in examples], config, packed=False) for i in step[0]]
    rows = [
        {
            "input_ids": list(examples[i].ids),
            "labels": [-100] * (len(examples[i].ids) - examples[i].target)
            + list(examples[i].ids[-examples[i].target :]),
        }
        for i in order
    ]
    student = Student.load(tiny_folder, "f32")
    torch.manual_seed(config.seed)
    model = get_peft_model(
        student.model,
        LoraConfig(r=2, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    losses: list[float] = []

    class Collects(TrainerCallback):  # type: ignore[misc]
        def on_log(
            self, args: object, state: object, control: object, logs: object = None, **_: object
        ) -> None:
            if isinstance(logs, dict) and "loss" in logs:
                losses.append(float(logs["loss"]))

    SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            num_train_epochs=1,
            per_device_train_batch_size=5,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            weight_decay=0.1,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        callbacks=[Collects()],
    ).train()
    ours = [values["loss"] for _, values in hears.metrics]
    assert len(losses) == len(ours) == 6
    assert ours == pytest.approx(losses, abs=6e-5)  # transformers rounds what it logs to four digits
    saved = load_file(result.adapter_dir / "adapter_model.safetensors")
    for name, tensor in get_peft_model_state_dict(model).items():
        torch.testing.assert_close(saved[name], tensor.float().cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("packing", ["auto", False])
def test_a_batch_of_several_has_the_scorers_loss(tiny_folder: Path, tmp_path: Path, packing: object) -> None:

    scored = [s for _, s in sorted(Scorer(Student.load(tiny_folder, "f32")).score(make_examples()))]
    expected = sum(s.mean * e.target for s, e in zip(scored, make_examples(), strict=True))
    hears = Hears()
    config = changed(SMALL, batch_size=10, micro_batch_size=5, epochs=1, packing=packing)  # type: ignore[arg-type]
    result = go(tiny_folder, tmp_path, config, hears, {})
    assert result.first_loss == pytest.approx(expected / sum(e.target for e in make_examples()), rel=1e-5)
    assert hears.facts[0].packed is (packing == "auto")


def test_the_preflight_tells_what_is_then_done(tiny_folder: Path, tmp_path: Path) -> None:
    hears = Hears()
    student = Student.load(tiny_folder, "f32")
    cut = [replace(e, truncated=n == 0) for n, e in enumerate(make_examples())]
    result = train(tiny_folder, cut, {}, SMALL, tmp_path / "adapter", hears, student=student)
    assert result is not None
    (facts,) = hears.facts
    assert (facts.samples, facts.truncated, facts.steps) == (10, 1, result.steps)
    assert facts.tokens == result.tokens == 3 * sum(len(e.ids) for e in cut)
    assert facts.seconds > 0
    assert 0 < facts.memory < facts.free
    assert "1 of them (10.0%) are cut at prompt.max_length = 64" in facts.sentence(64)
    assert facts.loaded > 0 and result.memory >= facts.loaded
    assert {"loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory_mb"} == set(
        hears.metrics[0][1]
    )


def test_what_does_not_fit_is_said_before_the_first_step(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtui.training import preflight

    hears = Hears()
    monkeypatch.setattr(preflight, "free_bytes", lambda device: 100_000)
    with pytest.raises(UserError, match=r"Training does not fit.*choose a smaller student"):
        go(tiny_folder, tmp_path, SMALL, hears, {})
    assert hears.metrics == []
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import torch

    plain, count = trainer.summed_nll, [0]

    def broken(model: object, batch: object) -> object:
        count[0] += 1
        loss = plain(model, batch)  # type: ignore[arg-type]
        if count[0] <= 14:  # the pre-flight's two passes, and seven steps of two, two and one
            return loss
        if where == "loss":
            return loss * math.nan
        return loss + torch.sqrt(loss - loss.detach())  # zero, with an infinite slope

    monkeypatch.setattr(trainer, "summed_nll", broken)
    hears = Hears()
    config = changed(SMALL, checkpoint_steps=3)
    what = "the loss is nan" if where == "loss" else "the gradient's norm is"
    with pytest.raises(UserError, match=rf"step 8 of 9: {what}.*Lower training.learning_rate"):
        go(tiny_folder, tmp_path, changed(config, batch_size=4, micro_batch_size=2), hears, {})
    assert [step for step, _ in hears.metrics] == list(range(1, 8))
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-0000003", "step-0000006"]
    monkeypatch.setattr(trainer, "summed_nll", plain)
    again = Hears()
    assert go(tiny_folder, tmp_path, config, again, {}).steps == 9
    assert again.metrics[0][0] == 7


def test_early_stopping_keeps_the_best_weights(tiny_folder: Path, tmp_path: Path) -> None:
    examples = make_examples()
    # The held-out answers are other ones to the same prompts: what is learnt makes them less likely.
    against = [replace(e, ids=(*e.ids[: -e.target], *(3_000 + i for i in range(e.target)))) for e in examples]
    config = changed(SMALL, epochs=40, learning_rate=2e-2, evaluation_steps=2, early_stopping=3)
    hears = Hears()
    result = go(tiny_folder, tmp_path, config, hears, {"selected": against, "original": examples})
    seen = {step: v["held_out_selected"] for step, v in hears.metrics if "held_out_selected" in v}
    assert result.kept_step == min(seen, key=lambda step: seen[step])
    assert result.steps == result.kept_step + 6 < 120
    assert result.held_out["selected"]["after"] == pytest.approx(seen[result.kept_step], rel=1e-6)
    assert f"best, {seen[result.kept_step]:.4f}, after step {result.kept_step}" in hears.notes[0]


def test_early_stopping_that_is_killed_at_its_end_has_ended(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last step's checkpoint and the adapter: what resumes takes no step more."""
    from srtui.training import qlora

    examples = make_examples()
    against = [replace(e, ids=(*e.ids[: -e.target], *(3_000 + i for i in range(e.target)))) for e in examples]
    config = changed(SMALL, epochs=40, learning_rate=2e-2, evaluation_steps=2, early_stopping=1)
    calm = go(tiny_folder, tmp_path / "calm", config, Hears(), {"selected": against})

    def killed(training: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(qlora._Training, "_finish", killed)
        go(tiny_folder, tmp_path / "rough", config, Hears(), {"selected": against})
    again = Hears()
    rough = go(tiny_folder, tmp_path / "rough", config, again, {"selected": against})
    assert [step for step, _ in again.metrics] == []
    assert (rough.steps, rough.kept_step) == (calm.steps, calm.kept_step)
    name = "adapter_model.safetensors"
    assert (rough.adapter_dir / name).read_bytes() == (calm.adapter_dir / name).read_bytes()


@pytest.mark.parametrize(
    "switch", [{"rslora": True}, {"dora": True}, {"neftune_alpha": 5.0}, {"gradient_checkpointing": True}]
)
def test_the_switches_train_and_are_in_the_adapter(
    tiny_folder: Path, tmp_path: Path, switch: dict[str, object]
) -> None:
    import json

    hears, config = Hears(), changed(SMALL, learning_rate=3e-3, epochs=12, **switch)  # type: ignore[arg-type]
    result = go(tiny_folder, tmp_path, config, hears, {})
    losses = [values["loss"] for _, values in hears.metrics]
    assert sum(losses[-3:]) < sum(losses[:3])  # an epoch each
    saved = json.loads((result.adapter_dir / "adapter_config.json").read_text())
    assert (saved["use_rslora"], saved["use_dora"]) == (config.rslora, config.dora)
    assert hears.facts[0].packed is not bool(config.neftune_alpha)
    if "gradient_checkpointing" in switch:
        plain = Hears()
        go(tiny_folder, tmp_path / "plain", changed(config, gradient_checkpointing=False), plain, {})
        for (_, one), (_, other) in zip(hears.metrics, plain.metrics, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
