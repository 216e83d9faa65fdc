"""QLoRA finetuning (Dettmers et al. 2023) of the 4-bit student on the selected pairs, through TRL.

The examples are the very spans that were scored, token for token, and only the target carries loss:
the loss of a sample before the first step equals the scorer's L(y|x).
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from srtui.errors import UserError
from srtui.scoring import Scorer, Span, Student, compute_dtype


@dataclass(frozen=True)
class TrainExample:
    """Token ids whose last ``target`` ones carry loss."""

    input_ids: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class TrainingConfig:
    """QLoRA's knobs; ``batch_size`` samples make one optimizer step, ``micro_batch_size`` one pass.
    ``steps``, where it is given, is how many of them are taken, whatever ``epochs`` says."""

    epochs: float = 3.0
    learning_rate: float = 2e-4
    batch_size: int = 16
    micro_batch_size: int = 4
    warmup_ratio: float = 0.03
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    seed: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class TrainingResult:
    """``tokens`` went through the model, padding not counted; losses are means in nats a token.

    ``held_out`` maps a set's name to samples, before and after.
    """

    adapter_dir: Path
    steps: int
    first_loss: float
    last_loss: float
    tokens: int
    seconds: float
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)


def planned_steps(examples: int, config: TrainingConfig) -> int:
    """Optimizer steps that ``train`` will take."""
    if config.steps is not None:
        return config.steps if examples else 0
    micro = math.ceil(examples / config.micro_batch_size)
    accumulate = max(1, config.batch_size // config.micro_batch_size)
    a_epoch = max(math.ceil(micro / accumulate), 1) if examples else 0
    return math.ceil(a_epoch * config.epochs)


def train(
    student_folder: Path,
    examples: Sequence[TrainExample],
    held_out: Mapping[str, Sequence[TrainExample]],
    config: TrainingConfig,
    out_dir: Path,
    on_metric: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    should_stop: Callable[[], bool] = lambda: False,
    student: Student | None = None,
) -> TrainingResult:
    """Train an adapter and write it to ``out_dir`` as safetensors, beside it first and then renamed.

    ``on_metric`` gets loss, learning_rate, grad_norm, and tokens so far, once a step. A stop takes
    effect after the step in hand; nothing is then written. ``student`` saves a second load and is
    given adapters in place. Raises UserError where a loss is not finite.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    _quiet()
    set_seed(config.seed)
    student = student or Student.load(student_folder, "nf4")
    before = {name: _mean_loss(student, items, should_stop) for name, items in held_out.items()}
    on_gpu = torch.cuda.is_available()
    model = student.model
    if student.quantization in ("nf4", "int8"):
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=on_gpu,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    model = get_peft_model(
        model,
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    rows = [
        {
            "input_ids": list(e.input_ids),
            "labels": [-100] * (len(e.input_ids) - e.target)
            + list(e.input_ids[len(e.input_ids) - e.target :]),
        }
        for e in examples
    ]
    lengths = sum(len(e.input_ids) for e in examples)
    steps = planned_steps(len(examples), config)
    scratch = out_dir.with_name(out_dir.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    optimizer = config.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if on_gpu else "adamw"
    bf16 = on_gpu and torch.cuda.is_bf16_supported()
    arguments = SFTConfig(
        output_dir=str(scratch / "trainer"),
        num_train_epochs=config.epochs,
        max_steps=config.steps if config.steps is not None else -1,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=max(1, config.batch_size // config.micro_batch_size),
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(steps * config.warmup_ratio),
        lr_scheduler_type=config.scheduler,
        optim="adamw_torch" if optimizer == "adamw" else optimizer,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=bf16,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=on_gpu,
    )

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Every step to the store, and the stop back from it."""

        losses: list[float] = []  # noqa: RUF012 - one instance, made right below

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            self.losses.append(loss)
            if not math.isfinite(loss):
                raise UserError(
                    f"Training stopped at step {state.global_step}: the loss is {loss}; lower training.learning_rate."
                )
            values = {k: float(logs[k]) for k in ("loss", "learning_rate", "grad_norm") if k in logs}
            on_metric(state.global_step, {**values, "tokens": lengths * float(state.epoch or 0)})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if should_stop():
                control.should_training_stop = True
            return control

        on_substep_end = on_step_end

    watch = Watch()
    started = time.monotonic()
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        callbacks=[watch],
    )
    # TRL casts a quantized model's adapters to bfloat16, which a CPU without bf16 arithmetic multiplies
    # at a fifth of float32's speed.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and not on_gpu:
            parameter.data = parameter.data.to(compute_dtype("cpu"))
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    trainer.train()
    seconds = time.monotonic() - started
    stopped = should_stop()
    student.model = model.eval()
    after = {} if stopped else {n: _mean_loss(student, items, should_stop) for n, items in held_out.items()}
    if not stopped:
        model.save_pretrained(str(scratch / "adapter"), safe_serialization=True)
        student.tokenizer.save_pretrained(str(scratch / "adapter"))
        shutil.rmtree(out_dir, ignore_errors=True)
        (scratch / "adapter").replace(out_dir)
    shutil.rmtree(scratch, ignore_errors=True)
    return TrainingResult(
        adapter_dir=out_dir,
        steps=trainer.state.global_step,
        first_loss=watch.losses[0] if watch.losses else math.nan,
        last_loss=watch.losses[-1] if watch.losses else math.nan,
        tokens=round(lengths * float(trainer.state.epoch or 0)),
        seconds=seconds,
        held_out={
            name: {"samples": len(held_out[name]), "before": before[name], "after": after.get(name, math.nan)}
            for name in held_out
        },
    )


def _mean_loss(student: Student, examples: Sequence[TrainExample], should_stop: Callable[[], bool]) -> float:
    """Mean over samples of the mean NLL of their targets, nats a token, by the scorer itself."""
    spans = [Span(e.input_ids, e.target) for e in examples]
    means = [loss.mean for _, loss in Scorer(student).score(spans, should_stop) if loss.reason is None]
    return sum(means) / len(means) if means else math.nan


def _quiet() -> None:
    """The libraries' own progress bars and notices would tear the live display."""
    import datasets

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    for name in ("transformers", "trl", "accelerate", "datasets", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
