"""QLoRA finetuning (Dettmers et al. 2023) of the 4-bit student on the selected pairs, or on preferences.

The examples are the spans that were scored, token for token, each ending its turn (plan.py), and only
the target carries loss: the loss of a sample before the first step is the scorer's of the same tokens.
A training that was killed resumes from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
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
from srtui.training.held_out import HeldOutSets, held_out_sets, watched_loss
from srtui.training.listener import Listener, TrainingResult
from srtui.training.plan import evaluation_interval, fingerprint, plan_steps, set_apart, steps_an_epoch
from srtui.training.ranks import Ranks
from srtui.training.training_progress import TrainingProgress

if TYPE_CHECKING:
    from srtui.training.loss import MicroBatch
    from srtui.training.training_pair import TrainingPair

# What a kill loses at most, by default: five minutes of training.
_CHECKPOINT_SECONDS = 300.0
_PROGRESS, _BEST = "progress.json", "best.safetensors"


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
    ranks: Ranks | None = None,
) -> TrainingResult | None:
    """Train an adapter and write it to ``out_dir`` as safetensors, beside it first and then renamed.

    Checkpoints lie in ``checkpoints`` beside ``out_dir``; a whole one of this very training is resumed
    from. A stop gives up the step in hand, leaves a checkpoint and returns None. ``student`` saves a
    second load and is given adapters in place. Raises UserError where memory will not do (with the
    setting that would), where a loss is not finite, and where the loss has blown up.

    ``examples`` are pairs where the recipe's method is one of preferences; ``held_out_pairs`` are then what early
    stopping watches. A ``student`` that comes with an adapter is trained further.

    Args:
        student_folder: the safetensors folder of the student; read only where ``student`` is None.
        examples: what is trained on, in the order in which it was selected: spans for ``sft``, else pairs.
        held_out: by the set's name, spans whose loss is measured before the first step, at evaluations and at the end.
        settings: [training] of a recipe.
        out_dir: the adapter's folder; one that is there is replaced at the end.
        listener: is called with what is planned, each step's figures, and checkpoints.
        should_stop: asked before each micro-batch.
        student: the one of ``student_folder``, where it is loaded already.
        held_out_pairs: preference pairs whose loss and rewards are measured.
        ranks: the processes that train together, each of which calls this; the first one reports and writes.

    Returns:
        What came of it; None where it was stopped.
    """
    _quiet()
    student = student or Student.load(student_folder, "nf4")
    ranks = ranks or Ranks()
    listener = (listener if ranks.is_first else None) or Listener()
    return _Training(
        student, examples, held_out, settings, out_dir, listener, should_stop, held_out_pairs, ranks
    ).work()


def training_fingerprint(
    settings: TrainingSettings,
    student_id: str,
    examples: Sequence[Span] | Sequence[TrainingPair],
    held_out: Mapping[str, Sequence[Span]],
    held_out_pairs: Sequence[TrainingPair],
) -> str:
    """By which a training's checkpoints are known; see :func:`srtui.training.plan.fingerprint`.

    Args:
        settings: of the training.
        student_id: of the student before it.
        examples: what is trained on.
        held_out: by set, what early stopping may watch.
        held_out_pairs: the same, of pairs.
    """
    watched = held_out_sets(held_out, held_out_pairs) if settings.early_stopping else {}
    digests = {n: [e.digest for e in held] for n, held in watched.items()}
    return fingerprint(settings, student_id, examples, key("held out", **digests).hex())


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
        ranks: Ranks,
    ) -> None:
        self.student, self.examples, self.settings = student, examples, settings
        self.out_dir, self.listener, self.should_stop = out_dir, listener, should_stop
        self.ranks = ranks
        self.root = out_dir.with_name("checkpoints")
        self.on_gpu = student.device.type == "cuda"
        self.scorer = Scorer(student)  # adapters go into the very layers that it runs
        self.held_out = HeldOutSets(student, self.scorer, held_out, held_out_pairs, settings, ranks)
        self.fingerprint = training_fingerprint(settings, student.id, examples, held_out, held_out_pairs)
        self.optimizer = settings.optimizer
        if self.optimizer == "auto":
            self.optimizer = "paged_adamw_8bit" if self.on_gpu else "adamw"
        checkpointing = settings.gradient_checkpointing
        self.gradient_checkpointing = self.on_gpu if checkpointing == "auto" else checkpointing
        self.evaluate_every = (
            evaluation_interval(settings, steps_an_epoch(len(examples), settings)) if self.held_out else 0
        )
        self.progress = TrainingProgress()
        self.best: dict[str, Any] | None = None
        self.saved_step = 0
        self.held_out_seconds = 0.0

    def work(self) -> TrainingResult | None:
        from safetensors.torch import load_file

        from srtui.training.trainer import TrainingStopped

        newest = self._newest()
        if newest is None:
            began = time.monotonic()
            self.progress.before = self.held_out.losses()
            self.held_out_seconds = time.monotonic() - began
        else:
            self.saved_step, folder = newest
            self.progress = TrainingProgress.from_json((folder / _PROGRESS).read_text())
            self.best = load_file(folder / _BEST) if (folder / _BEST).exists() else None
        self._set_up()
        attention = packed_attention(self.student.model) if self.packed else contextlib.nullcontext()
        try:
            with attention:
                self._check()
                self.listener.begins(self.saved_step, self.tokens_after[self.saved_step])
                self.clock = time.monotonic() - self.progress.seconds
                # Early stopping may have ended it in the checkpoint's very step.
                first_step = (
                    len(self.steps)
                    if self.progress.has_ended(self.settings.early_stopping)
                    else self.saved_step
                )
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

    def _newest(self) -> tuple[int, Path] | None:
        """The checkpoint that all ranks resume from; what lies in its way is removed by the first of them. Raises
        UserError where they do not have the same."""
        newest = None
        if self.ranks.is_first:
            newest = checkpoints.newest(self.root, self.fingerprint, self.listener.refused)
            checkpoints.discard_after(self.root, newest[0] if newest else 0)
        self.ranks.everybody(None)  # the others look when that is done
        if not self.ranks.is_first:
            newest = checkpoints.newest(self.root, self.fingerprint)
        steps = self.ranks.everybody(newest[0] if newest else 0)
        if len(set(steps)) > 1:
            raise UserError(
                f"{self.root}: the processes that train together have checkpoints of other steps: {steps}; remove the folder to train from the first step."
            )
        return newest

    def _set_up(self) -> None:
        """The plan, the student with new adapters, and what trains it."""
        import torch

        from srtui.training.adapter import mount_adapter
        from srtui.training.trainer import Trainer

        settings = self.settings
        # NEFTune scales its noise by a sample's length, which a row of several does not have.
        can_pack = settings.packing is not False and not settings.neftune_alpha
        self.packed = can_pack and self.scorer.packed
        plan = plan_steps(
            [len(e.ids) for e in self.examples], settings, packed=self.packed, ranks=self.ranks.count
        )
        if not self.packed and not self.scorer.head.pads:
            plan = [[[i] for micro in step for i in micro] for step in plan]
        alone = [self.scorer.head.runs_alone(len(e.ids)) for e in self.examples]
        plan = [set_apart(step, alone) for step in plan]
        self._refuse_what_changes_positions()
        self.steps = [[self._batch(micro) for micro in step] for step in plan]
        self.tokens_after = [0, *accumulate(sum(batch.tokens for batch in step) for step in self.steps)]
        torch.manual_seed(settings.seed or 0)
        model, frozen = mount_adapter(self.student.model, self.scorer.head.body, settings)
        if frozen:
            self.listener.note(
                f"Linear layers of the student's head get no adapter and stay as they are: {', '.join(frozen)}."
            )
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
            ranks=self.ranks,
            **self._objective(),
        )
        self.untrained = self.trainer.adapter()

    def _batch(self, micro: Sequence[int]) -> MicroBatch:
        from srtui.training.loss import MicroBatch
        from srtui.training.preference_loss import PairBatch

        chosen: Any = [self.examples[i] for i in micro]
        if self.settings.method == "sft":
            return MicroBatch(tuple(chosen), self.packed)
        return PairBatch.of(chosen, self.packed, alone=not self.packed and not self.scorer.head.pads)

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
        from srtui.training.preference_loss import objective_of

        return {} if self.settings.method == "sft" else {"objective": objective_of(self.settings)}

    def _check(self) -> None:
        """Say what it will take, and refuse what does not fit."""
        import torch

        model = self.student.model
        device = next(model.parameters()).device
        half = self.on_gpu and self.student.arithmetic == "bfloat16"
        self.shape = preflight.Shape.of(model, 2 if half else 4)
        self.free = preflight.free_bytes(device)
        self.memory = preflight.needed_bytes(
            self.shape, self._passes(), self.settings, **self._memory_settings()
        )
        if self.memory > self.free:
            raise self._too_large(
                f"it takes about {self.memory / 1e9:.1f} GB of memory and {self.free / 1e9:.1f} GB are free"
            )
        progress = self.progress
        _forget_peak(self.on_gpu)
        loaded = _memory_mb(peak=False)
        rate = self.tokens_after[progress.step] / progress.seconds if progress.seconds else 0.0
        if not rate:
            # A real pass: on a GPU the largest one, which shows at once whether it fits; on a CPU one of
            # middling size, for time. Twice: the first sets up what all others find, and takes up to four times as long.
            passes = sorted((batch for step in self.steps for batch in step), key=lambda b: b.tokens)
            trial = passes[-1 if self.on_gpu else len(passes) // 2]
            for _ in range(2):
                began = time.monotonic()
                self.trainer.run([trial])
                if self.on_gpu:
                    torch.cuda.synchronize()
                rate = trial.tokens / (time.monotonic() - began)
            model.zero_grad()
        seconds = self.tokens_after[-1] / rate
        interval = self.settings.checkpoint_steps
        by_time = max(1, round(_CHECKPOINT_SECONDS * len(self.steps) / seconds))
        self.save_every = by_time if interval == "auto" else interval
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
                loaded=round(loaded * 1e6),
                fixed=self.held_out_seconds * self._evaluations_left(),
            )
        )

    def _evaluations_left(self) -> int:
        """How often held-out losses are still measured: at evaluations, and at the end."""
        within = len(self.steps) // self.evaluate_every if self.evaluate_every else 0
        return within + 1

    def _passes(self) -> Any:
        """What goes through the student together, as examples of their own: of a pair both spans."""
        if self.settings.method == "sft" or self.packed:
            return self.examples
        return [pair.padded for pair in self.examples]  # type: ignore[union-attr]

    def _memory_settings(self) -> dict[str, Any]:
        return {
            "packed": self.packed,
            "gradient_checkpointing": self.gradient_checkpointing,
            "optimizer": self.optimizer,
        }

    def _too_large(self, reason: str) -> UserError:
        # Where the estimate was too low, half of it is the best guess at what is really there.
        room = self.free if self.memory > self.free else self.memory // 2
        texts = 1 if self.settings.method == "sft" else 2
        fitting = preflight.what_would_fit(
            room, self.shape, self._passes(), self.settings, texts=texts, **self._memory_settings()
        )
        fix = f"set {fitting}" if fitting else "choose a smaller student"
        return UserError(f"Training does not fit: {reason}; {fix}.")

    # -- while it runs ------------------------------------------------------------------------------

    def _after_step(self, step: int, values: dict[str, float]) -> bool:
        """Report, evaluate, save; whether early stopping ends the training here."""
        progress = self.progress
        progress.record(step, time.monotonic() - self.clock, values["loss"])
        values |= {
            "tokens": self.tokens_after[step],
            "seconds": progress.seconds,
            "memory_mb": _memory_mb(peak=self.on_gpu),
        }
        is_over = False
        if self.evaluate_every and step % self.evaluate_every == 0:
            losses = self.held_out.losses()
            values |= {f"held_out_{name}": loss for name, loss in losses.items()}
            if (rewards := self.held_out.rewards) is not None:
                values |= {
                    "reward_margin_held_out": rewards.margin,
                    "reward_accuracy_held_out": rewards.accuracy,
                }
            is_over = self._is_over(step, losses)
        self.listener.metric(step, values)
        if preflight.diverged(progress.losses, self.shape.vocabulary):
            raise UserError(
                f"Training stopped at step {step} of {len(self.steps)}: the loss has blown up (the last four "
                f"steps' mean is {math.fsum(progress.losses[-4:]) / 4:.2f}). Lower training.learning_rate "
                f"({self.settings.learning_rate:g} now); the last checkpoint, of step {self.saved_step}, is kept."
            )
        if step % self.save_every == 0 or is_over or step == len(self.steps):
            self._save()
        return is_over

    def _is_over(self, step: int, losses: Mapping[str, float]) -> bool:
        """Early stopping: no better held-out loss in so many evaluations."""
        if not self.settings.early_stopping:
            return False
        progress = self.progress
        if progress.record_held_out(watched_loss(losses)):
            self.best = self.trainer.adapter()
            return False
        if not progress.has_ended(self.settings.early_stopping):
            return False
        self.listener.note(
            f"Early stopping after step {step}: the held-out loss was best, {progress.best_loss:.4f}, after step "
            f"{progress.best_step}; those weights are kept."
        )
        return True

    def _save(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        def fill(folder: Path) -> None:
            self.trainer.fill(folder)
            (folder / _PROGRESS).write_text(self.progress.to_json())
            if self.best is not None:
                save_file(self.best, folder / _BEST)

        step = self.progress.step
        if not self.ranks.is_first:
            self.saved_step = step
            return
        try:
            written = checkpoints.write(self.root, step, self.fingerprint, fill)
        except (OSError, SafetensorError, RuntimeError) as error:
            if gpu_fault(error):
                raise
            kept = (
                f"the one of step {self.saved_step} is kept" if self.saved_step else "there is none before it"
            )
            raise UserError(
                f"{self.root}: the checkpoint of step {step} cannot be written ({checkpoints.failure_words(error)}); {kept}. "
                "Make room and run the same command again."
            ) from error
        self.saved_step = step
        self.listener.saved(written)
        for removed_step in checkpoints.prune(self.root, self.settings.checkpoints_kept):
            self.listener.removed(removed_step)

    # -- after --------------------------------------------------------------------------------------

    def _finish(self) -> TrainingResult:
        from srtui.training.adapter import write_adapter

        progress = self.progress
        if self.best is not None:
            self.trainer.set_adapter(self.best)
        after = self.held_out.losses()
        if self.ranks.is_first:
            write_adapter(self.student, self.out_dir)
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
            memory=round(_memory_mb() * 1e6),
            held_out={
                name: {
                    "samples": len(samples),
                    "before": progress.before.get(name, math.nan),
                    "after": after.get(name, math.nan),
                }
                for name, samples in self.held_out.sets.items()
            },
            rewards=self.held_out.rewards,
        )

    def _changed(self) -> bool:
        now = self.trainer.adapter()
        return not all(bool((now[name] == tensor).all()) for name, tensor in self.untrained.items())


def _memory_mb(*, peak: bool = True) -> float:
    """Memory in use, in MB (10^6 bytes), of a GPU or elsewhere of this process: now, or the most since
    :func:`_forget_peak`."""
    import psutil
    import torch

    if torch.cuda.is_available():
        used = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
        return float(used) / 1e6
    status = Path("/proc/self/status")
    if peak and status.exists():
        line = next((row for row in status.read_text().splitlines() if row.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024 / 1e6
    return float(psutil.Process().memory_info().rss) / 1e6


def _forget_peak(on_gpu: bool) -> None:
    """What was the most so far counts no more: other stages held other models. Where that cannot be had, it counts."""
    import torch

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of resident memory begins anew


def _quiet() -> None:
    """The libraries' own progress bars and notices would tear the live display."""
    warnings.simplefilter("ignore")
    for name in ("transformers", "accelerate", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
