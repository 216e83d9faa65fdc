"""TRL's SFTTrainer, driven step by step by a plan that is known beforehand.

One item of its dataset is one optimizer step, and the step itself runs the micro-batches. So the
order of the data is the plan's, and a training that goes on from step n only has to begin there.
Every step seeds the random numbers (dropout, NEFTune) by its own number: there is no random state to
carry over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from srtui.errors import UserError
from srtui.scoring import Head
from srtui.training.checkpoints import load_state, save_state
from srtui.training.loss import MicroBatch, summed_nll

_ADAPTER, _OPTIMIZER, _STATE = "adapter.safetensors", "optimizer", "trainer_state.json"


class Interrupted(Exception):
    """Training was asked to stop; the step in hand was given up."""


class StepTrainer(SFTTrainer):  # type: ignore[misc]
    """Takes ``steps`` one after the other. ``after_step(step, values)`` gets loss, learning_rate and
    grad_norm, and answers whether training has come to its end; ``should_stop`` is asked between
    micro-batches. Raises Interrupted, and UserError where a loss or a gradient is not finite: before
    the optimizer could spoil the weights with it."""

    def __init__(
        self,
        model: Any,
        head: Head,
        tokenizer: Any,
        arguments: SFTConfig,
        steps: Sequence[Sequence[MicroBatch]],
        after_step: Callable[[int, dict[str, float]], bool],
        should_stop: Callable[[], bool],
    ) -> None:
        self._head, self._steps, self._should_stop = head, steps, should_stop
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"step": range(len(steps))}),
            data_collator=lambda rows: {"step": rows[0]["step"]},
            processing_class=tokenizer,
            callbacks=[_AfterStep(after_step)],
        )
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                self.remove_callback(callback)
        # TRL casts the adapters of a quantized model to bfloat16, whose 8 bits lose the small updates of
        # a low learning rate; and a CPU without bf16 arithmetic multiplies them at a fifth of the speed.
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        step = int(inputs["step"])
        torch.manual_seed(self.args.seed * 1_000_003 + step)
        loss = self.run(self._steps[step])
        if not bool(torch.isfinite(loss)):
            raise self._broken(f"the loss is {float(loss)}")
        return loss

    def run(self, batches: Sequence[MicroBatch]) -> Any:
        """Forward and backward of one step's micro-batches; the mean loss, nats a target token."""
        self.model.train()
        targets = sum(batch.targets for batch in batches)
        total = torch.zeros((), device=self.args.device)
        for batch in batches:
            if self._should_stop():
                raise Interrupted
            with self.accelerator.autocast():
                loss = summed_nll(self._head, batch) / targets
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise self._broken(f"the gradient's norm is {float(norm)}")
        return norm

    def _broken(self, what: str) -> UserError:
        return UserError(
            f"Training stopped at step {self.state.global_step + 1} of {len(self._steps)}: {what}. Lower "
            f"training.learning_rate ({self.args.learning_rate:g} now); checkpoints are kept."
        )

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers would count them by inputs that ours do not have

    # -- checkpoints --------------------------------------------------------------------------------

    def fill(self, folder: Path) -> None:
        """Put all that the next step depends on into ``folder``."""
        self.state.log_history = []  # the store has it, and it would grow with every step
        save_file(self.adapter(), folder / _ADAPTER)
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.lr_scheduler.state_dict()}
        save_state(state, folder / _OPTIMIZER)
        self.state.save_to_json(str(folder / _STATE))

    def adapter(self) -> dict[str, Any]:
        """A copy of the adapter's tensors, in the computer's memory."""
        tensors = get_peft_model_state_dict(self.model)
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def set_adapter(self, tensors: dict[str, Any]) -> None:
        set_peft_model_state_dict(self.model, tensors)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.set_adapter(load_file(Path(resume_from_checkpoint) / _ADAPTER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = load_state(Path(checkpoint) / _OPTIMIZER)
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        pass  # every step seeds its own


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    """transformers logs after each optimizer step, when weights, schedule and step count are new."""

    def __init__(self, after_step: Callable[[int, dict[str, float]], bool]) -> None:
        self._after_step = after_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> Any:
        if logs and "loss" in logs:
            values = {k: float(logs[k]) for k in ("loss", "learning_rate", "grad_norm") if k in logs}
            if self._after_step(state.global_step, values):
                control.should_training_stop = True
        return control
