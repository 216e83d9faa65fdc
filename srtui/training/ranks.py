"""Processes that train one student together, a device each: every step's passes are dealt out among them, and their
gradients added up, so that all take the same step.

That is data-parallel training as torch's DistributedDataParallel does it. It is written out here since its wrapper
hooks into a model's own forward, and training goes through the body and the head by themselves (loss.py); with several
passes a step, and adapters alone to be added up, there is little for it to overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_PATIENCE = 14 * 86_400.0  # seconds: a pause may be long, and who is gone is noticed by whoever started it


class Ranks:
    """One process by itself."""

    rank, count = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process reports and writes files."""
        return self.rank == 0

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """What of ``items`` is this process's to do."""
        return items[self.rank :: self.count] if self.count > 1 else items

    def everybody(self, value: _Item) -> list[_Item]:
        """What each process has for ``value``, in their order. All have to call it."""
        return [value]

    def add_up(self, parameters: Sequence[Any]) -> None:
        """Give the gradient of each parameter the sum over all processes; one that has none counts as zeros."""

    def make_same(self, parameters: Sequence[Any]) -> None:
        """Give each parameter the first process's values."""


class Together(Ranks):
    """One of several processes, joined by torch.distributed: NCCL on GPUs, gloo on CPUs."""

    def __init__(self, rank: int, count: int, address: str, backend: str, seconds: float = _PATIENCE) -> None:
        """Waits until all have come.

        Args:
            rank: of this process, from 0.
            count: of processes.
            address: tcp://HOST:PORT, where the first one listens; on one machine file://PATH of a file that is not
                there yet.
            backend: nccl or gloo.
            seconds: that a process may be waited for.
        """
        from datetime import timedelta

        import torch.distributed

        self.rank, self.count = rank, count
        torch.distributed.init_process_group(
            backend, init_method=address, rank=rank, world_size=count, timeout=timedelta(seconds=seconds)
        )

    def everybody(self, value: _Item) -> list[_Item]:
        """See :meth:`Ranks.everybody`."""
        import torch.distributed

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def add_up(self, parameters: Sequence[Any]) -> None:
        """See :meth:`Ranks.add_up`. All gradients go in one message."""
        import torch
        import torch.distributed

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
        torch.distributed.all_reduce(flat)
        begin = 0
        for parameter in parameters:
            parameter.grad.copy_(flat[begin : begin + parameter.numel()].view_as(parameter))
            begin += parameter.numel()

    def make_same(self, parameters: Sequence[Any]) -> None:
        """See :meth:`Ranks.make_same`."""
        import torch.distributed

        for parameter in parameters:
            torch.distributed.broadcast(parameter.data, 0)
