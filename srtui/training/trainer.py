"""The loop: a plan of steps, known beforehand, taken one by one on one device.

Every step seeds the random numbers (dropout, NEFTune) by its own number, and has the learning rate of
its number: a training that resumes after step n has nothing to restore but the adapter and the
optimizer's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from srtui.errors import UserError
from srtui.recipe import TrainingSettings
from srtui.student import Head
from srtui.training.checkpoints import load_state, save_state
from srtui.training.loss import MicroBatch, Objective, summed_nll
from srtui.training.plan import learning_rate
from srtui.training.ranks import Ranks

_ADAPTER, _OPTIMIZER = "adapter.safetensors", "optimizer"
_APART = 2**40  # between the seeds of two ranks: dropout is drawn by each for itself


def likelihood(head: Head, batch: MicroBatch) -> tuple[Any, dict[str, Any]]:
    """Supervised training: the targets' negative log-likelihood, in nats."""
    return summed_nll(head, batch), {}


class TrainingStopped(Exception):
    """Training was asked to stop; the step in hand was given up."""


class Trainer:
    """Takes ``steps`` one after the other on the device that ``model`` is on, whatever others there are.

    ``after_step(step, values)`` gets loss, learning_rate, grad_norm and the objective's figures, and answers
    whether training has come to its end; ``should_stop`` is asked between micro-batches. ``optimizer`` is adamw
    (PyTorch's) or paged_adamw_8bit (bitsandbytes'). With ``half`` the adapters' products are bfloat16 too;
    their weights, and a student whose arithmetic is float32, never are. ``objective`` is what falls. Of several
    ``ranks`` each runs its share of a step's micro-batches.
    """

    def __init__(
        self,
        model: Any,
        head: Head,
        settings: TrainingSettings,
        optimizer: str,
        steps: Sequence[Sequence[MicroBatch]],
        after_step: Callable[[int, dict[str, float]], bool],
        should_stop: Callable[[], bool],
        half: bool = False,
        objective: Objective = likelihood,
        ranks: Ranks | None = None,
    ) -> None:
        self._half, self._objective = half, objective
        self._ranks = ranks or Ranks()
        self._model, self._head, self._settings, self._steps = model, head, settings, steps
        self._after_step, self._should_stop = after_step, should_stop
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # The 8 bits of bfloat16 would lose the small updates of a low learning rate.
        for parameter in self._parameters:
            parameter.data = parameter.data.float()
        self._ranks.make_same(self._parameters)
        self._device = self._parameters[0].device
        self._optimizer = _optimizer(optimizer, self._parameters, settings)
        if settings.neftune_alpha:
            model.get_input_embeddings().register_forward_hook(_neftune(settings.neftune_alpha))

    def train(self, checkpoint: Path | None = None, first_step: int = 0) -> None:
        """The steps after the first ``first_step``, from ``checkpoint`` where there is one.

        Raises TrainingStopped, and UserError where a loss or a gradient is not finite: before the optimizer
        could spoil the weights with it.
        """
        if checkpoint is not None:
            self.set_adapter(load_file(checkpoint / _ADAPTER))
            self._optimizer.load_state_dict(load_state(checkpoint / _OPTIMIZER)["optimizer"])
        for number in range(first_step + 1, len(self._steps) + 1):
            if self._after_step(number, self._step(number)):
                return

    def _step(self, number: int) -> dict[str, float]:
        torch.manual_seed((self._settings.seed or 0) * 1_000_003 + number - 1 + _APART * self._ranks.rank)
        loss, figures = self._gradient(self._steps[number - 1])
        if not math.isfinite(loss):
            raise self._broken(number, f"the loss is {loss}")
        limit = self._settings.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        if not math.isfinite(norm):
            raise self._broken(number, f"the gradient's norm is {norm}")
        rate = learning_rate(number, len(self._steps), self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "learning_rate": rate, "grad_norm": norm} | figures

    def _gradient(self, batches: Sequence[MicroBatch]) -> tuple[float, dict[str, float]]:
        """Forward and backward of one step by all ranks; the mean loss and the means of the figures."""
        if self._ranks.count == 1:
            mean, figures = self.run(batches)
            return float(mean), figures
        part: tuple[float, dict[str, float]] | None = None
        try:
            mean, figures = self.run(self._ranks.share(batches), sum(batch.weight for batch in batches))
            part = float(mean), figures
        except TrainingStopped:
            pass
        parts = self._ranks.everybody(part)
        self._ranks.add_up(self._parameters)
        finished = [p for p in parts if p is not None]
        if len(finished) < len(parts):  # one of them was asked to stop: all give the step up
            raise TrainingStopped
        names = {name for _, own in finished for name in own}
        return math.fsum(loss for loss, _ in finished), {
            name: math.fsum(own.get(name, 0.0) for _, own in finished) for name in sorted(names)
        }

    def run(self, batches: Sequence[MicroBatch], weight: int | None = None) -> tuple[Any, dict[str, float]]:
        """Forward and backward of one step's micro-batches; the mean loss, (), of what their weights count (nats a
        target token, or the loss of a pair), and the means of the objective's figures. ``weight`` is that of the whole
        step, where these are a part of it."""
        self._model.train()
        weight = weight or sum(batch.weight for batch in batches)
        total = torch.zeros((), device=self._device)
        sums: dict[str, Any] = {}
        for batch in batches:
            if self._should_stop():
                raise TrainingStopped
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                summed, figures = self._objective(self._head, batch)
                loss = summed / weight
            loss.backward()
            for name, value in figures.items():
                sums[name] = sums.get(name, 0) + value
            self._head.forget(max(len(e.ids) for e in batch.examples))
            total += loss.detach()
        return total, {name: float(value) / weight for name, value in sums.items()}

    def _broken(self, number: int, fault: str) -> UserError:
        return UserError(
            f"Training stopped at step {number} of {len(self._steps)}: {fault}. Lower "
            f"training.learning_rate ({self._settings.learning_rate:g} now); checkpoints are kept."
        )

    # -- checkpoints --------------------------------------------------------------------------------

    def fill(self, folder: Path) -> None:
        """Put all that the next step depends on into ``folder``."""
        save_file(self.adapter(), folder / _ADAPTER)
        save_state({"optimizer": self._optimizer.state_dict()}, folder / _OPTIMIZER)

    def adapter(self) -> dict[str, Any]:
        """A copy of the adapter's tensors, in the computer's memory."""
        tensors = get_peft_model_state_dict(self._model)
        return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def set_adapter(self, tensors: dict[str, Any]) -> None:
        """Give the adapter these tensors, by peft's names."""
        set_peft_model_state_dict(self._model, tensors)


def _optimizer(name: str, parameters: list[Any], settings: TrainingSettings) -> Any:
    rates: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **rates)
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, **rates)


def _neftune(alpha: float) -> Callable[[Any, Any, Any], Any]:
    """NEFTune (Jain et al. 2023): embeddings (samples, length, width) get noise that is uniform within
    alpha / sqrt(length x width), in training only."""

    def add_noise(embedding: Any, inputs: Any, output: Any) -> Any:
        if not embedding.training:
            return output
        bound = alpha / math.sqrt(output.shape[1] * output.shape[2])
        return output + torch.empty_like(output).uniform_(-bound, bound)

    return add_noise
