"""QLoRA finetuning (Dettmers et al. 2023) of the 4-bit student on the selected pairs, or on preferences.

The examples are the spans that were scored, token for token, each ending its turn (plan.py), and only
the target carries loss: the loss of a sample before the first step is the scorer's of the same tokens.
A training that was killed resumes from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault
from srtui.hashing import key
from srtui.recipe import TrainingSettings
from srtui.student import Scorer, Span, Student
from srtui.student.packing import packed_attention
from srtui.training import checkpoints, preflight
from srtui.training.plan import evaluation_interval, fingerprint, plan_steps, set_apart, steps_an_epoch

if TYPE_CHECKING:
    from srtui.training.loss import MicroBatch
    from srtui.training.preference import Rewards, TrainingPair

# What a kill loses at most, by default: five minutes of training.
_CHECKPOINT_SECONDS = 300.0
_PROGRESS, _BEST = "progress.json", "best.safetensors"
_PREFERENCE = "preference"  # the name of the held-out pairs among the held-out losses


@dataclass(frozen=True)
class TrainingResult:
    """``tokens`` went through the model, padding not counted; losses are means in nats a token.

    ``held_out`` maps a set's name to samples, before and after. ``kept_step`` is the step whose weights
    were kept: the last, or the best one where early stopping looked for it. ``changed`` is false where
    the adapter is still what it was made with: the student is then the untuned one. ``arithmetic`` is
    the type that the student computed in.
    """

    adapter_dir: Path
    steps: int
    kept_step: int
    first_loss: float
    last_loss: float
    tokens: int
    seconds: float
    arithmetic: str
    changed: bool
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    rewards: Rewards | None = None
    """What the kept weights make of the held-out preference pairs."""


class Listener:
    """What ``train`` reports while it works; each does nothing unless overridden."""

    def planned(self, facts: preflight.Preflight) -> None:
        """Before the first step."""

    def begins(self, step: int, tokens: int) -> None:
        """It resumes after this step (0: from the start), and after so many tokens; what was reported of
        later steps is reported again."""

    def metric(self, step: int, values: dict[str, float]) -> None:
        """After each step: loss, learning_rate, grad_norm, tokens and seconds so far, memory_mb; and
        held_out_NAME after an evaluation."""

    def saved(self, written: checkpoints.WrittenCheckpoint) -> None:
        """A checkpoint is on the disk."""

    def removed(self, step: int) -> None:
        """A checkpoint made room for newer ones."""

    def refused(self, step: int, why: str) -> None:
        """A checkpoint could not be used."""

    def note(self, message: str) -> None:
        """Something that a person may want to know."""


@dataclass
class _TrainingProgress:
    """What a checkpoint keeps beside the trainer's own state."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    first_loss: float = math.nan
    before: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = math.inf
    worse: int = 0


def train(
    student_folder: Path,
    examples: Sequence[Span] | Sequence[TrainingPair],
    held_out: Mapping[str, Sequence[Span]],
    settings: TrainingSettings,
    out_dir: Path,
    listener: Listener | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    student: Student | None = None,
    held_out_pairs: Sequence[TrainingPair] = (),
) -> TrainingResult | None:
    """Train an adapter and write it to ``out_dir`` as safetensors, beside it first and then renamed.

    Checkpoints lie in ``checkpoints`` beside ``out_dir``; a whole one of this very training is resumed
    from. A stop gives up the step in hand, leaves a checkpoint and returns None. ``student`` saves a
    second load and is given adapters in place. Raises UserError where memory will not do (with the
    setting that would), where a loss is not finite, and where the loss has blown up.

    ``examples`` are pairs where the recipe's method is one of preferences; ``held_out_pairs`` are then what early
    stopping watches. A ``student`` that comes with an adapter goes on from it.

    Args:
        student_folder: of the student's weights.
        examples: spans to train on.
        held_out: by set, spans whose loss is measured.
        settings: of the training.
        out_dir: of the adapter.
        listener: hears steps and losses.
        should_stop: asked before each pass.
        student: the one of ``student_folder``, where it is loaded already.
        held_out_pairs: pairs whose rewards are measured.
    """
    _quiet()
    student = student or Student.load(student_folder, "nf4")
    return _Training(
        student, examples, held_out, settings, out_dir, listener or Listener(), should_stop, held_out_pairs
    ).work()


class _Training:
    def __init__(
        self,
        student: Student,
        examples: Sequence[Span] | Sequence[TrainingPair],
        held_out: Mapping[str, Sequence[Span]],
        settings: TrainingSettings,
        out_dir: Path,
        listener: Listener,
        should_stop: Callable[[], bool],
        held_out_pairs: Sequence[TrainingPair],
    ) -> None:
        self.held_out_pairs = held_out_pairs
        self.rewards: Rewards | None = None
        self.student, self.examples, self.held_out, self.settings = student, examples, held_out, settings
        self.out_dir, self.listener, self.should_stop = out_dir, listener, should_stop
        self.root = out_dir.with_name("checkpoints")
        self.on_gpu = student.device.type == "cuda"
        watched = self._held_out_sets() if settings.early_stopping else {}
        self.fingerprint = fingerprint(
            settings,
            student.id,
            examples,
            key("held out", **{n: [e.digest for e in held] for n, held in watched.items()}).hex(),
        )
        self.optimizer = settings.optimizer
        if self.optimizer == "auto":
            self.optimizer = "paged_adamw_8bit" if self.on_gpu else "adamw"
        asked = settings.gradient_checkpointing
        self.gradient_checkpointing = self.on_gpu if asked == "auto" else asked
        self.evaluate_every = (
            evaluation_interval(settings, steps_an_epoch(len(examples), settings))
            if held_out or held_out_pairs
            else 0
        )
        self.scorer = Scorer(student)  # adapters go into the very layers that it runs
        self.progress = _TrainingProgress()
        self.best: dict[str, Any] | None = None
        self.saved_step = 0

    def work(self) -> TrainingResult | None:
        from safetensors.torch import load_file

        from srtui.training.trainer import TrainingStopped

        newest = checkpoints.newest(self.root, self.fingerprint, self.listener.refused)
        if newest is None:
            self.progress.before = self._held_out_losses()
        else:
            self.saved_step, folder = newest
            self.progress = _TrainingProgress(**json.loads((folder / _PROGRESS).read_text()))
            self.best = load_file(folder / _BEST) if (folder / _BEST).exists() else None
        checkpoints.discard_after(self.root, self.saved_step)
        self._set_up()
        attention = packed_attention(self.student.model) if self.packed else contextlib.nullcontext()
        try:
            with attention:
                self._check()
                self.listener.begins(self.saved_step, self.tokens_after[self.saved_step])
                self.clock = time.monotonic() - self.progress.seconds
                # Early stopping may have ended it in the checkpoint's very step.
                first_step = len(self.steps) if self._has_ended() else self.saved_step
                self.trainer.train(newest[1] if newest else None, first_step)
        except TrainingStopped:
            if self.progress.step > self.saved_step:
                self._save()
            return None
        except RuntimeError as error:
            if gpu_fault(error) != "memory":
                raise
            raise self._too_large("the GPU's memory ran out") from error
        return self._finish()

    # -- before -------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        """The plan, the student with new adapters, and what trains it."""
        import torch

        from srtui.training.trainer import Trainer

        settings = self.settings
        # NEFTune scales its noise by a sample's length, which a row of several does not have.
        can_pack = settings.packing is not False and not settings.neftune_alpha
        self.packed = can_pack and self.scorer.packed
        plan = plan_steps([len(e.ids) for e in self.examples], settings, packed=self.packed)
        if not self.packed and not self.scorer.head.pads:
            plan = [[[i] for micro in step for i in micro] for step in plan]
        alone = [self.scorer.head.runs_alone(len(e.ids)) for e in self.examples]
        plan = [set_apart(step, alone) for step in plan]
        self._refuse_what_changes_positions()
        self.steps = [[self._batch(micro) for micro in step] for step in plan]
        self.tokens_after = [0, *accumulate(sum(batch.tokens for batch in step) for step in self.steps)]
        torch.manual_seed(settings.seed or 0)
        model = self._with_adapter()
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.student.model = model
        self.trainer = Trainer(
            model,
            self.scorer.head,
            settings,
            self.optimizer,
            self.steps,
            self._after_step,
            self.should_stop,
            half=self.on_gpu and self.student.arithmetic == "bfloat16",
            **self._objective(),
        )
        self.untrained = self.trainer.adapter()

    def _batch(self, micro: Sequence[int]) -> MicroBatch:
        from srtui.training.loss import MicroBatch
        from srtui.training.preference import PairBatch

        some: Any = [self.examples[i] for i in micro]
        if self.settings.method == "sft":
            return MicroBatch(tuple(some), self.packed)
        return PairBatch.of(some, self.packed, alone=not self.packed and not self.scorer.head.pads)

    def _refuse_what_changes_positions(self) -> None:
        """Raises UserError for a pair with a text so long that it has to run alone: its loss needs both at once."""
        if self.settings.method == "sft":
            return
        longest = max(len(span.ids) for pair in self.examples for span in (pair.chosen, pair.rejected))  # type: ignore[union-attr]
        if self.scorer.head.runs_alone(longest):
            raise UserError(
                f"A text of {longest:,} tokens changes the positions of the one that it is compared with in "
                f"{self.student.name}; set prompt.max_length = {self.scorer.head.alone_beyond} at most."
            )

    def _objective(self) -> dict[str, Any]:
        from srtui.training.preference import objective_of

        return {} if self.settings.method == "sft" else {"objective": objective_of(self.settings)}

    def _with_adapter(self) -> Any:
        """The student's model with the adapter that is trained: a new one, or the one that it came with."""
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        settings, model = self.settings, self.student.model
        # The margin compares passes; noise in them is not the student's (as in TRL).
        dropout = settings.lora_dropout if settings.method == "sft" else 0.0
        if settings.method != "sft":
            from srtui.training.preference import silence_dropout

            silence_dropout(model)
        if isinstance(model, PeftModel):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name)
            for module in model.modules():
                for name in getattr(
                    module, "lora_dropout", ()
                ):  # the adapter's own, and none of the student's
                    module.lora_dropout[name] = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
            return model
        outside = self._outside_the_body()
        return get_peft_model(
            model,
            LoraConfig(
                r=settings.lora_rank,
                lora_alpha=settings.lora_alpha,
                lora_dropout=dropout,
                use_rslora=settings.rslora,
                use_dora=settings.dora,
                target_modules="all-linear",
                exclude_modules="|".join(map(re.escape, outside)) or None,
                task_type="CAUSAL_LM",
            ),
        )

    def _outside_the_body(self) -> list[str]:
        """Linear layers of the head but for the output embeddings. The head is frozen: its gradient is taken for
        the hidden states alone (loss.py), and an adapter in it would never be trained."""
        import torch

        base, body = self.student.model, self.scorer.head.body
        known = {*body.modules(), base.get_output_embeddings()}
        found = [
            name for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and m not in known
        ]
        if found:
            self.listener.note(
                f"Linear layers of the student's head get no adapter and stay as they are: {', '.join(found)}."
            )
        return found

    def _check(self) -> None:
        """Say what it will take, and refuse what does not fit."""
        import torch

        model = self.student.model
        device = next(model.parameters()).device
        half = self.on_gpu and self.student.arithmetic == "bfloat16"
        self.shape = preflight.Shape.of(model, 2 if half else 4)
        self.free = preflight.free_bytes(device)
        self.memory = preflight.needed_bytes(self.shape, self._passes(), self.settings, **self._ways())
        if self.memory > self.free:
            raise self._too_large(
                f"it takes about {self.memory / 1e9:.1f} GB of memory and {self.free / 1e9:.1f} GB are free"
            )
        progress = self.progress
        rate = self.tokens_after[progress.step] / progress.seconds if progress.seconds else 0.0
        if not rate:
            # A real pass: on a GPU the largest one, which shows at once whether it fits; on a CPU one of
            # middling size, for time.
            passes = sorted((batch for step in self.steps for batch in step), key=lambda b: b.tokens)
            trial = passes[-1 if self.on_gpu else len(passes) // 2]
            began = time.monotonic()
            self.trainer.run([trial])
            if self.on_gpu:
                torch.cuda.synchronize()
            rate = trial.tokens / (time.monotonic() - began)
            model.zero_grad()
        seconds = self.tokens_after[-1] / rate
        wanted = self.settings.checkpoint_steps
        by_time = max(1, round(_CHECKPOINT_SECONDS * len(self.steps) / seconds))
        self.save_every = by_time if wanted == "auto" else wanted
        self.listener.planned(
            preflight.Preflight(
                samples=len(self.examples),
                truncated=sum(e.truncated for e in self.examples),
                tokens=self.tokens_after[-1],
                targets=sum(batch.targets for step in self.steps for batch in step),
                steps=len(self.steps),
                seconds=seconds,
                memory=self.memory,
                free=self.free,
                packed=self.packed,
                gradient_checkpointing=self.gradient_checkpointing,
            )
        )

    def _passes(self) -> Any:
        """What goes through the student together, as examples of their own: of a pair both spans."""
        if self.settings.method == "sft" or self.packed:
            return self.examples
        return [pair.padded for pair in self.examples]  # type: ignore[union-attr]

    def _ways(self) -> dict[str, Any]:
        return {
            "packed": self.packed,
            "gradient_checkpointing": self.gradient_checkpointing,
            "optimizer": self.optimizer,
        }

    def _too_large(self, what: str) -> UserError:
        # Where the estimate was too low, half of it is the best guess at what is really there.
        room = self.free if self.memory > self.free else self.memory // 2
        texts = 1 if self.settings.method == "sft" else 2
        would = preflight.what_would_fit(
            room, self.shape, self._passes(), self.settings, texts=texts, **self._ways()
        )
        fix = f"set {would}" if would else "choose a smaller student"
        return UserError(f"Training does not fit: {what}; {fix}.")

    # -- while it runs ------------------------------------------------------------------------------

    def _after_step(self, step: int, values: dict[str, float]) -> bool:
        """Report, evaluate, save; whether early stopping ends the training here."""
        done = self.progress
        done.step, done.seconds = step, time.monotonic() - self.clock
        done.losses = [*done.losses[-131:], values["loss"]]
        if math.isnan(done.first_loss):
            done.first_loss = values["loss"]
        values |= {"tokens": self.tokens_after[step], "seconds": done.seconds, "memory_mb": _memory_mb()}
        ended = False
        if self.evaluate_every and step % self.evaluate_every == 0:
            losses = self._held_out_losses()
            values |= {f"held_out_{name}": loss for name, loss in losses.items()}
            if self.rewards is not None:
                values |= {
                    "reward_margin_held_out": self.rewards.margin,
                    "reward_accuracy_held_out": self.rewards.accuracy,
                }
            ended = self._is_over(step, losses)
        self.listener.metric(step, values)
        if preflight.diverged(done.losses, self.shape.vocabulary):
            raise UserError(
                f"Training stopped at step {step} of {len(self.steps)}: the loss has blown up (the last four "
                f"steps' mean is {math.fsum(done.losses[-4:]) / 4:.2f}). Lower training.learning_rate "
                f"({self.settings.learning_rate:g} now); the last checkpoint, of step {self.saved_step}, is kept."
            )
        if step % self.save_every == 0 or ended or step == len(self.steps):
            self._save()
        return ended

    def _is_over(self, step: int, losses: Mapping[str, float]) -> bool:
        """Early stopping: no better held-out loss in so many evaluations. What is trained on is watched: pairs, or the
        responses that were selected; the original ones where there are none."""
        if not self.settings.early_stopping:
            return False
        watched = next((n for n in (_PREFERENCE, "selected", "original") if n in losses), "")
        loss, done = losses.get(watched, math.nan), self.progress
        if loss < done.best_loss:
            done.best_loss, done.best_step, done.worse = loss, step, 0
            self.best = self.trainer.adapter()
            return False
        done.worse += 1
        if not self._has_ended():
            return False
        self.listener.note(
            f"Early stopping after step {step}: the held-out loss was best, {done.best_loss:.4f}, after step "
            f"{done.best_step}; those weights are kept."
        )
        return True

    def _has_ended(self) -> bool:
        """Whether early stopping has seen as many evaluations without a better loss as it waits for."""
        return 0 < self.settings.early_stopping <= self.progress.worse

    def _save(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        def fill(folder: Path) -> None:
            self.trainer.fill(folder)
            (folder / _PROGRESS).write_text(json.dumps(asdict(self.progress)))
            if self.best is not None:
                save_file(self.best, folder / _BEST)

        step = self.progress.step
        try:
            written = checkpoints.write(self.root, step, self.fingerprint, fill)
        except (OSError, SafetensorError, RuntimeError) as error:
            if gpu_fault(error):
                raise
            kept = (
                f"the one of step {self.saved_step} is kept" if self.saved_step else "there is none before it"
            )
            raise UserError(
                f"{self.root}: the checkpoint of step {step} cannot be written ({_reason(error)}); {kept}. "
                "Make room and run the same command again."
            ) from error
        self.saved_step = step
        self.listener.saved(written)
        for gone in checkpoints.prune(self.root, self.settings.checkpoints_kept):
            self.listener.removed(gone)

    # -- after --------------------------------------------------------------------------------------

    def _finish(self) -> TrainingResult:
        progress = self.progress
        if self.best is not None:
            self.trainer.set_adapter(self.best)
        after = self._held_out_losses()
        self._write_adapter()
        return TrainingResult(
            adapter_dir=self.out_dir,
            steps=progress.step,
            kept_step=progress.best_step if self.best is not None else progress.step,
            first_loss=progress.first_loss,
            last_loss=progress.losses[-1] if progress.losses else math.nan,
            tokens=self.tokens_after[progress.step],
            seconds=progress.seconds,
            arithmetic=self.student.arithmetic,
            changed=self._changed(),
            held_out={
                name: {
                    "samples": len(samples),
                    "before": progress.before.get(name, math.nan),
                    "after": after.get(name, math.nan),
                }
                for name, samples in self._held_out_sets().items()
            },
            rewards=self.rewards,
        )

    def _write_adapter(self) -> None:
        from safetensors import SafetensorError

        part = self.out_dir.with_name(self.out_dir.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            self.student.model.save_pretrained(str(part), safe_serialization=True)
            self.student.tokenizer.save_pretrained(str(part))
            shutil.rmtree(self.out_dir, ignore_errors=True)
            part.replace(self.out_dir)
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)
            if gpu_fault(error) or not isinstance(error, OSError | SafetensorError | RuntimeError):
                raise
            raise UserError(
                f"{self.out_dir}: the trained adapter cannot be written ({_reason(error)}); the last checkpoint is "
                "kept. Make room and run the same command again."
            ) from error

    def _changed(self) -> bool:
        now = self.trainer.adapter()
        return not all(bool((now[name] == tensor).all()) for name, tensor in self.untrained.items())

    def _held_out_sets(self) -> dict[str, Sequence[Any]]:
        return {**self.held_out, **({_PREFERENCE: self.held_out_pairs} if self.held_out_pairs else {})}

    def _held_out_losses(self) -> dict[str, float]:
        """By set, the mean over samples of the mean NLL of their targets, nats a token, by the scorer; of the held-out
        pairs, whose ``rewards`` are renewed, the mean loss."""
        self.student.model.eval()
        found = {}
        for name, samples in self.held_out.items():
            means = [loss.mean for _, loss in self.scorer.score(samples) if loss.reason is None]
            found[name] = sum(means) / len(means) if means else math.nan
        if self.held_out_pairs:
            from srtui.training.preference import held_out_rewards

            self.rewards = held_out_rewards(self.scorer, self.held_out_pairs, self.settings)
            found[_PREFERENCE] = self.rewards.loss if self.rewards else math.nan
        return found


def _reason(error: Exception) -> str:
    """What the system said, whichever library passes it on."""
    said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return said.split("\n")[0][:200]


def _memory_mb() -> float:
    """Memory in use now, in MB (10^6 bytes): at its highest on a GPU, of this process elsewhere."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 1e6
    return float(psutil.Process().memory_info().rss) / 1e6


def _quiet() -> None:
    """The libraries' own progress bars and notices would tear the live display."""
    warnings.simplefilter("ignore")
    for name in ("transformers", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
