"""Training by several workers, one a device: Ray starts them, torch.distributed joins them.

The engine's process trains nothing and keeps everything: it sends the workers the checkpoint that they resume from,
fetches each that the first of them writes, and the adapter at the end, so no disk has to be shared. Where a worker is
lost, all of them are started anew from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from srtui.cluster.placement import A_LITTLE, Seat
from srtui.cluster.session import Session
from srtui.cluster.training_worker import Heard, TrainingTask, TrainingWorker
from srtui.cluster.worker_limits import Limits
from srtui.errors import UserError
from srtui.training import Listener, TrainingResult, WrittenCheckpoint, checkpoints
from srtui.training.qlora import training_fingerprint

_PIECE = 8 * 2**20  # bytes of a file that are sent at a time
_LOOK = 0.1
_meetings = count()


class _Lost(Exception):
    """A worker is gone, or of no use."""


class TrainingGang:
    """Workers that train ``task`` together."""

    def __init__(
        self,
        session: Session,
        seats: Sequence[Seat],
        task: TrainingTask,
        student_id: str,
        limits: Limits,
    ) -> None:
        """Starts nothing yet.

        Args:
            session: Ray.
            seats: where the workers run.
            task: what is trained.
            student_id: of the student before training.
            limits: of silence and failures.
        """
        self._session, self._seats, self._task, self._limits = session, seats, task, limits
        data = task.data
        self._fingerprint = training_fingerprint(
            data.settings, student_id, data.examples, data.held_out, data.held_out_pairs
        )
        self._actors: list[Any] = []
        self._nodes: list[str] = []
        self._restarts = 0
        self._rate = 0.0
        self._refused: set[int] = set()

    def train(
        self, out_dir: Path, listener: Listener, should_stop: Callable[[], bool]
    ) -> TrainingResult | None:
        """See :func:`srtui.training.train`. Raises UserError where it fails as often as workers may."""
        self._root, self._out = out_dir.with_name("checkpoints"), out_dir
        self._listener, self._should_stop = listener, should_stop
        failures, last = 0, -1
        while True:
            newest = checkpoints.newest(self._root, self._fingerprint, self._refuse)
            step = newest[0] if newest else 0
            checkpoints.discard_after(self._root, step)
            failures = failures + 1 if step == last else 1  # in a row: without a checkpoint between them
            last = step
            try:
                with self._session.reached():
                    return self._attempt(newest)
            except _Lost as lost:
                if failures >= self._limits.failures:
                    raise UserError(
                        f"Training has failed {failures} times in a row ({lost}); checkpoints are kept, resume the run."
                    ) from lost
                self._restarts += 1
                listener.note(f"Training: {lost}. All its workers start anew from the last checkpoint.")
            finally:
                self.close()

    def _refuse(self, step: int, why: str) -> None:
        if step not in self._refused:
            self._refused.add(step)
            self._listener.refused(step, why)

    def _attempt(self, newest: tuple[int, Path] | None) -> TrainingResult | None:
        ray = self._session.ray
        self._actors = [self._start(seat) for seat in self._seats]
        self._nodes = [node for node, _ in self._wait([a.where.remote() for a in self._actors])]
        if newest is not None:
            for path in sorted(newest[1].iterdir()):
                self._send(f"{newest[1].name}/{path.name}", path)
        folder = self._session.folder
        if (
            folder is not None
        ):  # torch's store of addresses would listen on all interfaces, and ask for a name
            address = f"file://{folder / f'meeting-{next(_meetings)}'}"
        else:
            (address,) = self._wait([self._actors[0].meeting_point.remote()])
        task = ray.put(self._task)
        self._wait(
            [
                actor.begin.remote(task, rank, len(self._actors), address, self._seats[rank].threads)
                for rank, actor in enumerate(self._actors)
            ]
        )
        return self._follow()

    def _start(self, seat: Seat) -> Any:
        ray = self._session.ray
        options: dict[str, Any] = {"num_cpus": A_LITTLE, "max_concurrency": 2, "max_restarts": 0}
        if seat.gpu:
            options["num_gpus"] = 1
        else:
            affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            options["scheduling_strategy"] = affinity(seat.node, soft=True)
        return ray.remote(TrainingWorker).options(**options).remote()

    def _wait(self, calls: list[Any]) -> list[Any]:
        """Their answers. Raises _Lost where a worker is gone, or none comes for too long."""
        ray, began = self._session.ray, time.monotonic()
        while True:
            ready, left = ray.wait(calls, num_returns=len(calls), timeout=_LOOK)
            try:
                answers = ray.get(ready)
            except ConnectionError:
                raise
            except Exception as error:
                raise _Lost(_why(ray, error)) from error
            if not left:
                return list(answers)
            if time.monotonic() - began > self._limits.loading:
                raise _Lost(f"a worker did not answer for {self._limits.loading:,.0f} seconds")
            self._should_stop()  # a pause is kept, and a heartbeat

    def _send(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            offset = 0
            while (piece := file.read(_PIECE)) or not offset:
                self._wait([actor.receive.remote(name, piece, offset) for actor in self._actors])
                offset += len(piece)
                if len(piece) < _PIECE:
                    return

    def _follow(self) -> TrainingResult | None:
        """Listen to all workers until the first has ended, or one of them has failed."""
        moved, moved_at = -1, time.monotonic()
        while True:
            looked_at = time.monotonic()
            stop = self._should_stop()
            moved_at += max(0.0, time.monotonic() - looked_at - 1.0)  # a pause is no silence
            heard: list[Heard] = self._wait([actor.listen.remote(stop) for actor in self._actors])
            for name, given in heard[0].events:
                self._pass_on(name, given)
            final = next((h for h in heard if h.ended == "failed" and h.is_final), None)
            if final is not None:
                raise UserError(str(final.result))
            failed = next((h for h in heard if h.ended == "failed"), None)
            if failed is not None:
                raise _Lost(str(failed.result))
            if heard[0].ended == "stopped":
                return None
            if heard[0].ended == "done":
                self._fetch("adapter", self._out)
                result: TrainingResult = heard[0].result
                return replace(result, adapter_dir=self._out)
            now = sum(h.moved for h in heard)
            if now != moved:
                moved, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > self._limits.loading:
                raise _Lost(f"no worker made progress for {self._limits.loading:,.0f} seconds")

    def _pass_on(self, name: str, given: tuple[Any, ...]) -> None:
        """An event of the first worker's, to the engine's listener; checkpoints are fetched first."""
        if name == "saved":
            written: WrittenCheckpoint = given[0]
            target = self._root / written.path.name
            if self._fetch(f"checkpoints/{target.name}", target) and not checkpoints.fault(
                target, self._fingerprint
            ):
                self._listener.saved(replace(written, path=target))
                for gone in checkpoints.prune(self._root, self._task.data.settings.checkpoints_kept):
                    self._listener.removed(gone)
            return
        if name == "metric":
            seconds = given[1].get("seconds") or 0.0
            self._rate = given[1]["tokens"] / seconds if seconds else 0.0
        getattr(self._listener, name)(*given)

    def _fetch(self, folder: str, target: Path) -> bool:
        """Bring a folder of the first worker's to ``target``, whole or not at all; False where it is gone there."""
        first = self._actors[0]
        (files,) = self._wait([first.files.remote(folder)])
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for name, size in files:
                with (part / Path(name).name).open("wb") as file:
                    for offset in range(0, max(size, 1), _PIECE):
                        (piece,) = self._wait([first.read.remote(f"{folder}/{name}", offset, _PIECE)])
                        file.write(piece)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise UserError(
                f"{target}: cannot be written ({error.strerror or error}); the last checkpoint is kept. Make room and run "
                "the same command again."
            ) from error
        if not files:
            shutil.rmtree(part, ignore_errors=True)
            return False
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        return True

    def workers(self) -> list[dict[str, Any]]:
        """Of each worker what faces show."""
        share = self._rate / max(1, len(self._actors))
        return [
            {
                "worker": f"trainer {n + 1}",
                "node": node,
                "device": seat.device,
                "state": "working",
                "tokens_s": round(share, 1),
                "window": 0,
                "tasks": 0,
                "restarts": self._restarts,
            }
            for n, (seat, node) in enumerate(zip(self._seats, self._nodes, strict=False))
        ]

    def close(self) -> None:
        """End all workers and what they kept."""
        ray = self._session.ray
        for actor in self._actors:
            if self._session.lost:
                break
            with contextlib.suppress(Exception):  # it may be gone already
                ray.get(actor.leave.remote(), timeout=5)
            ray.kill(actor)
        self._actors, self._nodes = [], []


def _why(ray: Any, error: Exception) -> str:
    if isinstance(error, ray.exceptions.RayActorError):
        return "a worker's process ended"
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
