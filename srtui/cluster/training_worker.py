"""One of the processes that train together: the training of one process, with its part of every step.

Ray makes an actor of :class:`TrainingWorker`. Its training runs in a thread; what it reports is fetched by the engine's
process, which keeps the checkpoints: here they lie in a temporary folder that goes with the process.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from srtui.cluster.worker import node_name
from srtui.cluster.worker_messages import ModelFiles, ShippedFolder
from srtui.errors import UserError
from srtui.training import Listener, Preflight, TrainingData, WrittenCheckpoint

if TYPE_CHECKING:
    from srtui.student import Quantization

_ALONE = 10.0  # seconds without a call after which the training waits for one: the engine is paused
_LISTEN = 1.0  # seconds that a call waits for something to report


@dataclass(frozen=True)
class TrainingTask:
    """What is trained: a student, with the adapter that it comes with, on ``data``."""

    model: ModelFiles
    quantization: Quantization
    adapter: ShippedFolder | None
    data: TrainingData


@dataclass(frozen=True)
class Heard:
    """What has happened since the last call: (method of the listener, arguments). ``ended`` is "" while it works, then
    done, stopped or failed; ``result`` is the training's, or the sentence that says what failed, which ``is_final``
    where it would fail again. ``moved`` grows with every pass."""

    events: Sequence[tuple[str, tuple[Any, ...]]]
    moved: int
    ended: str = ""
    result: Any = None
    is_final: bool = False


def _loopback() -> str:
    """The name of this machine's loopback interface."""
    interfaces = psutil.net_if_addrs()
    return next(
        (name for name, addresses in interfaces.items() if any(a.address == "127.0.0.1" for a in addresses)),
        "lo",
    )


class _Reports(Listener):
    """What a training reports, as (method, arguments)."""

    def __init__(self, report: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._report = report

    def planned(self, facts: Preflight) -> None:
        self._report("planned", (facts,))

    def begins(self, step: int, tokens: int) -> None:
        self._report("begins", (step, tokens))

    def metric(self, step: int, values: dict[str, float]) -> None:
        self._report("metric", (step, values))

    def saved(self, written: WrittenCheckpoint) -> None:
        self._report("saved", (written,))

    def note(self, message: str) -> None:
        self._report("note", (message,))


class TrainingWorker:
    """See the module."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="srtui-training-"))
        self._events: list[tuple[str, tuple[Any, ...]]] = []
        self._changed = threading.Condition()
        self._moved, self._stop = 0, False
        self._ended: tuple[str, Any, bool] = ("", None, False)
        self._called_at = time.monotonic()

    def where(self) -> tuple[str, int]:
        """The node's name and this process; answered at once."""
        return node_name(), os.getpid()

    def meeting_point(self) -> str:
        """tcp://HOST:PORT on this node of a cluster, where the others find the first of them."""
        import ray

        host = str(ray.util.get_node_ip_address())
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def receive(self, name: str, content: bytes, offset: int) -> None:
        """A piece of a file of the checkpoint that is resumed from; ``name`` is STEP-FOLDER/FILE."""
        path = self._folder / "checkpoints" / Path(name).parent.name / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(content)

    def files(self, folder: str) -> list[tuple[str, int]]:
        """Names and sizes of the files in ``folder``: adapter, or a checkpoint's; empty where it is gone."""
        path = self._folder / folder
        return [(p.name, p.stat().st_size) for p in sorted(path.iterdir())] if path.is_dir() else []

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A piece of a file of this training."""
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def begin(self, task: TrainingTask, rank: int, count: int, address: str, threads: int) -> None:
        """Start training, as rank ``rank`` of ``count``.

        Args:
            task: what is trained.
            rank: of this worker.
            count: of workers.
            address: where they meet.
            threads: PyTorch's, on a CPU; 0 on a GPU.
        """
        given = (task, rank, count, address, threads)
        threading.Thread(target=self._work, args=given, name="srtui-training", daemon=True).start()

    def listen(self, stop: bool) -> Heard:
        """What has happened, within a second; ``stop`` asks it to stop."""
        until = time.monotonic() + _LISTEN
        with self._changed:
            self._called_at, self._stop = time.monotonic(), self._stop or stop
            while not self._events and not self._ended[0] and time.monotonic() < until:
                self._changed.wait(0.1)
            events, self._events = self._events, []
            self._called_at = time.monotonic()
            return Heard(events, self._moved, *(self._ended if not events else ("", None, False)))

    def _work(self, task: TrainingTask, rank: int, count: int, address: str, threads: int) -> None:
        try:
            self._end("done", *self._train(task, rank, count, address, threads))
        except UserError as error:
            self._end("failed", str(error), True)
        except BaseException as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._end("failed", f"{type(error).__name__}: {first_line[:300]}", False)

    def _train(
        self, task: TrainingTask, rank: int, count: int, address: str, threads: int
    ) -> tuple[Any, bool]:
        import torch

        from srtui.student import Student
        from srtui.training import train
        from srtui.training.ranks import Ranks, Together
        from srtui.workspace import go_offline

        go_offline()
        if threads:
            torch.set_num_threads(threads)
        path = task.model.find(node_name())
        adapter = task.adapter.unpack() if task.adapter else None
        student = Student.load(path, task.quantization, adapter=adapter)
        if address.startswith("file:"):  # all on one machine: nothing listens beside the loopback interface
            os.environ.update(dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback()))
        backend = "nccl" if student.device.type == "cuda" else "gloo"
        ranks = Together(rank, count, address, backend) if count > 1 else Ranks()
        result = train(
            path,
            task.data.examples,
            task.data.held_out,
            task.data.settings,
            self._folder / "adapter",
            _Reports(self._report),
            self._should_stop,
            student=student,
            held_out_pairs=task.data.held_out_pairs,
            ranks=ranks,
        )
        return result, False

    def _report(self, name: str, given: tuple[Any, ...]) -> None:
        with self._changed:
            self._events.append((name, given))
            self._moved += 1
            self._changed.notify_all()

    def _should_stop(self) -> bool:
        self._moved += 1
        while not self._stop and time.monotonic() - self._called_at > _ALONE:
            time.sleep(0.1)
        return self._stop

    def _end(self, how: str, result: Any, is_final: bool) -> None:
        with self._changed:
            self._ended = ("stopped" if how == "done" and result is None else how, result, is_final)
            self._changed.notify_all()

    def leave(self) -> None:
        """Remove its files; the process is ended next."""
        shutil.rmtree(self._folder, ignore_errors=True)
