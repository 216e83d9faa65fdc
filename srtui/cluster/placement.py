"""Which worker runs on which device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srtui.errors import UserError

A_LITTLE = 0.001
"""Processors that Ray counts for a worker. Threads are the seat's; but one that asks for nothing at all, Ray puts on any
node, whatever its seat is."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, as Ray counts it."""

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Seat:
    """A worker's place: a GPU, wherever Ray finds one that is free; or so many ``threads`` on ``node``, which gives way
    to another node where it is gone."""

    number: int
    node: str
    threads: int
    gpu: bool = False

    @property
    def device(self) -> str:
        """In words."""
        return "GPU" if self.gpu else f"cpu, {self.threads} thread{'s' * (self.threads != 1)}"


def seats(nodes: Sequence[Node], workers: int | None) -> list[Seat]:
    """One worker for each GPU; without GPUs ``workers`` of them (by default one a node), dealt out by processors.

    Raises UserError where there is nothing to run on, or there are fewer GPUs than ``workers``.
    """
    if not nodes:
        raise UserError("The Ray cluster has no node to run on; start Ray on one first.")
    gpus = int(sum(node.gpus for node in nodes))
    if gpus:
        if workers is not None and workers > gpus:
            raise UserError(
                f"--workers {workers}: there {'is' if gpus == 1 else 'are'} {gpus} GPU{'s' * (gpus > 1)}, and each worker "
                "has one of its own; ask for fewer."
            )
        return [Seat(n, "", 0, gpu=True) for n in range(workers or gpus)]
    counts = dict.fromkeys((node.id for node in nodes), int(workers is None))
    cpus = {node.id: max(1.0, node.cpus) for node in nodes}
    for _ in range(workers or 0):
        emptiest = max(counts, key=lambda i: cpus[i] / (counts[i] + 1))
        counts[emptiest] += 1
    placed = [node.id for node in nodes for _ in range(counts[node.id])]
    return [Seat(n, node, max(1, int(cpus[node] / counts[node]))) for n, node in enumerate(placed)]
