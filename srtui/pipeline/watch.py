"""What a working engine reports, and what it is asked: progress, events; pause, stop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from srtui.energy import EnergyMeter
from srtui.errors import UserError
from srtui.progress import Progress, Reporter, Stopped
from srtui.store import Store
from srtui.store.leases import Lease


class Watch:
    """One engine's line to the store and to a face, both ways.

    ``stop_wanted`` is asked often (each decode step, each batch, each training step) and must be cheap.
    """

    def __init__(
        self,
        store: Store,
        run_id: int,
        reporter: Reporter,
        stop_wanted: Callable[[], bool],
        workers: Callable[[], list[dict[str, Any]]] | None = None,
    ) -> None:
        """``workers`` says what other processes do for this engine; faces are shown it."""
        self._runs, self._run_id, self._reporter = store.runs, run_id, reporter
        self._stop_wanted, self._workers = stop_wanted, workers
        self._live: dict[str, Any] = {}
        self.lease: Lease | None = None
        self._energy = EnergyMeter()
        self._stopped = self._paused = False
        self._asked_at = 0.0
        self.start("")

    # -- reports

    def start(self, stage: str) -> None:
        """A stage begins: what is reported from now on is of it."""
        self._stage = stage
        self.waited = 0.0
        self._clock = self._kept = time.monotonic()
        self._kept_tokens = 0
        self._reported_at = 0.0
        self._spent_before: float | None = 0.0
        self._energy.spent()  # between two stages it is of neither

    def _energy_of(self, seconds: float) -> dict[str, float]:
        """What the machine has used in these seconds, since the last call, for the detail of what it was used for;
        nothing where it does not tell."""
        spent, before = self._energy.spent(), self._spent_before
        self._spent_before = 0.0
        if spent is None or before is None:
            return {}
        return {"joules": round(spent + before, 3), "joule_seconds": round(seconds, 3)}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time that belongs to ``name``, a part of no stage (loading a model, say): shown while it lasts, stored as a
        stage of its own, and taken out of the rates and estimates of the stage that waits for it."""
        began = time.monotonic()
        stage_spent, stage_before = self._energy.spent(), self._spent_before
        self._spent_before = 0.0
        self.show(step=name, since=time.time())
        self._runs.progress(self._run_id, name, 0, 1)
        self._reporter.progress(Progress(name, 0, 1, 0, 0.0))
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._clock, self._kept = self._clock + seconds, self._kept + seconds
            self.show()
            energy = self._energy_of(seconds)
            self._spent_before = (
                None if stage_spent is None or stage_before is None else stage_spent + stage_before
            )
        self.record_step(name, seconds, detail=energy)

    def record_step(
        self,
        name: str,
        seconds: float,
        done: int = 1,
        tokens: int = 0,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """The same of a step that is over, or was done beside what is in hand.

        Args:
            name: of the step.
            seconds: that it took.
            done: what it did, which was all that it had to do.
            tokens: through a model.
            detail: what the step counts besides.
        """
        self._runs.progress(self._run_id, name, done, done, tokens, seconds, detail)
        self._reporter.progress(Progress(name, done, done, tokens, seconds, detail or {}))

    @property
    def due(self) -> bool:
        """Whether it is time to report progress again."""
        return time.monotonic() - self._reported_at > 0.5

    def report_progress(
        self, done: int, total: int, tokens: int, detail: dict[str, Any], now: bool = False
    ) -> None:
        """Progress to the face and the store, twice a second at most.

        Args:
            done: of ``total``.
            total: samples, or steps.
            tokens: through a model in this stage, in this process.
            detail: what the stage counts besides.
            now: whether it is reported even if the last report was a moment ago.
        """
        moment = time.monotonic()
        if not now and not self.due:
            return
        self._reported_at = moment
        seconds = moment - self._kept
        self._runs.progress(
            self._run_id,
            self._stage,
            done,
            total,
            tokens - self._kept_tokens,
            seconds,
            {**detail, **self._energy_of(seconds)},
        )
        self._kept, self._kept_tokens = moment, tokens
        if self._workers is not None:
            self.show(**self._live)
        self._reporter.progress(Progress(self._stage, done, total, tokens, moment - self._clock, detail))

    def show(self, **live: Any) -> None:
        """What the engine is doing this second, for faces that look."""
        self._live = live
        if self.lease is not None:
            workers = self._workers() if self._workers is not None else []
            self.lease.show(**live, **({"workers": workers} if workers else {}))

    def event(self, level: str, message: str) -> None:
        """Log a message (level info, warning or error) in the store and on the face."""
        self._runs.event(self._run_id, level, message)
        self._reporter.event(level, message)

    def note_memory(self) -> None:
        """Store this process's peak of memory with the run, where it is the run's highest."""
        peak = peak_memory_mb()
        if peak > self._runs.get(self._run_id).peak_memory_mb:
            self._runs.update(self._run_id, peak_memory_mb=peak)

    # -- requests

    def should_stop(self) -> bool:
        """Sees to requests that faces left in the store, at most once a second; a pause holds the
        engine right here, with its sequences in place."""
        if self._stopped or self._stop_wanted() or self.lost:
            self._stopped = True
            return True
        if time.monotonic() - self._asked_at > 1.0:
            self._carry_out_requests()
            if self._paused:
                self._wait_paused()
        return self._stopped

    @property
    def lost(self) -> str | None:
        """The sentence that says who has taken the run over, where somebody has."""
        return None if self.lease is None else self.lease.lost

    def raise_if_lost(self) -> None:
        """Raises UserError where somebody has taken the run over."""
        if self.lost:
            raise UserError(self.lost)

    def raise_if_stopped(self) -> None:
        """Raises Stopped where a stop was asked for."""
        if self._stopped:
            raise Stopped

    def _wait_paused(self) -> None:
        began = time.monotonic()
        spent = self._energy.spent()
        if spent is None or self._spent_before is None:
            self._spent_before = None
        else:
            self._spent_before += spent
        while self._paused and not self._stopped:
            time.sleep(0.25)
            self._stopped = self._stopped or self._stop_wanted() or bool(self.lost)
            self._carry_out_requests()
        # Rates and estimates are of work: the time of a pause is in none of them.
        waited = time.monotonic() - began
        self.waited += waited
        self._clock, self._kept = self._clock + waited, self._kept + waited
        self._energy.spent()

    def _carry_out_requests(self) -> None:
        self._asked_at = time.monotonic()
        for kind in self._runs.take_requests(self._run_id):
            self._stopped |= kind == "stop"
            if kind in ("pause", "resume") and self._paused != (kind == "pause"):
                self._paused = kind == "pause"
                self._runs.update(self._run_id, status="paused" if self._paused else "running")
                self.event("info", "Paused." if self._paused else "Resumed.")


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    with suppress(OSError):  # Linux: its ru_maxrss begins at what the process had that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    try:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset) / 1e6
