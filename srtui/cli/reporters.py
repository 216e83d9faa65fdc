"""How a command shows its progress: bars on a terminal, plain lines in a log, JSON lines for a program."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from rich import progress as bars

from srtui.cli.base import libraries_log, stop_on_signals
from srtui.cli.output import print_json
from srtui.cli.terminal import err, out, plain
from srtui.noise import screen
from srtui.progress import Progress, Stopped, left_words
from srtui.store.stages import STEPS
from srtui.text import duration, safe
from srtui.wording import stage_title


def _details(detail: dict[str, Any]) -> str:
    parts = []
    if detail.get("reused"):
        parts.append(f"reused {detail['reused']:,}")
    if "parsed" in detail:
        parts.append(f"parsed {detail['parsed'] + detail['retried']}, unparsed {detail['unparsed']}")
    if detail.get("slots_in_use"):
        parts.append(f"{detail['slots_in_use']}/{detail['slots']} slots")
    if "taken" in detail:
        parts.append(f"taken {detail['taken']}")
    if "loss" in detail:
        parts.append(f"loss {detail['loss']:.3f}")
    return ", ".join(parts)


class _Rate:
    """Units a second over this process's part of a stage, for the ETA."""

    def __init__(self) -> None:
        self.stage, self.first_done, self.started = "", 0, 0.0

    def eta(self, progress: Progress) -> str:
        """How long the rest of the stage takes, in words; nothing before there is a rate."""
        fresh = progress.done - int(progress.detail.get("reused", 0))
        if progress.stage != self.stage:
            self.stage, self.first_done, self.started = progress.stage, fresh, time.monotonic()
        return left_words(
            fresh - self.first_done, time.monotonic() - self.started, progress.total - progress.done
        )


class LiveReporter:
    """A progress display for a terminal, one bar a stage."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._bars = bars.Progress(
            bars.SpinnerColumn(finished_text="[green]✓[/]"),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            bars.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[rate]}", style="cyan"),
            bars.TextColumn("{task.fields[eta]}", style="magenta"),
            bars.TextColumn("{task.fields[details]}", style="dim"),
            console=out,
            expand=True,
            redirect_stderr=False,  # srtui.noise does
        )
        self._tasks: dict[str, bars.TaskID] = {}

    def __enter__(self) -> LiveReporter:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def progress(self, progress: Progress) -> None:
        """How far a stage is, in its bar."""
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(
                stage_title(progress.stage), total=progress.total, rate="", eta="", details=""
            )
        self._bars.update(
            self._tasks[progress.stage],
            completed=progress.done,
            total=progress.total,
            rate=f"{progress.rate:.0f} tok/s" if progress.rate else "",
            eta=self._rate.eta(progress),
            details=_details(progress.detail),
        )

    def event(self, level: str, message: str) -> None:
        """One sentence above the bars."""
        colour = {"warning": "yellow", "error": "red"}.get(level, "dim")
        self._bars.console.print(f"[{colour}]{level}: {plain(message)}[/]")


class _NothingToEnd:
    """A reporter that has nothing to set up or to put back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class PlainReporter(_NothingToEnd):
    """A line every few seconds and at the end of each stage, for pipes and logs."""

    def __init__(self) -> None:
        self._rate, self._shown_at, self._shown_step = _Rate(), 0.0, ("", -1)

    def progress(self, progress: Progress) -> None:
        """How far a stage is, at most every five seconds, and at its end."""
        eta = self._rate.eta(progress)
        finished = progress.done >= progress.total
        if progress.stage in STEPS:
            if not finished:  # its end is said by an event
                print(safe(f"{stage_title(progress.stage)} ..."), flush=True)
            return
        if (progress.stage, progress.done) == self._shown_step or not (
            finished or time.monotonic() - self._shown_at > 5
        ):
            return
        self._shown_at, self._shown_step = time.monotonic(), (progress.stage, progress.done)
        rate = f"{progress.rate:.0f} tok/s" if progress.rate else ""
        words = [w for w in (rate, _details(progress.detail), eta) if w]
        line = f"{stage_title(progress.stage)}: {progress.done}/{progress.total}  {', '.join(words)}".rstrip()
        print(safe(line), flush=True)

    def event(self, level: str, message: str) -> None:
        """One sentence in a line."""
        print(safe(f"{level}: {message}"), flush=True)


class JsonReporter(_NothingToEnd):
    """One JSON document a line, on stdout or another stream."""

    def __init__(self, to: Callable[[], TextIO] | None = None) -> None:
        self._to = to

    def progress(self, progress: Progress) -> None:
        """How far a stage is, as a line of type progress."""
        self._line(
            "progress",
            {
                "stage": progress.stage,
                "done": progress.done,
                "total": progress.total,
                "tokens": progress.tokens,
                "seconds": round(progress.seconds, 2),
                **progress.detail,
            },
        )

    def event(self, level: str, message: str) -> None:
        """One sentence, as a line of type event."""
        self._line("event", {"level": level, "message": message})

    def _line(self, type_: str, fields: dict[str, Any]) -> None:
        print_json(type_, fields, to=self._to() if self._to else None)


class AttendedReporter:
    """A reporter whose audience may go away: a terminal that hangs up, a pipe that nobody reads. ``lost`` is
    called then, once, and nothing more is shown; the work itself never fails for it."""

    def __init__(
        self, reporter: LiveReporter | PlainReporter | JsonReporter, lost: Callable[[], None]
    ) -> None:
        self._reporter, self._lost, self._detached = reporter, lost, False

    def __enter__(self) -> AttendedReporter:
        self._try(self._reporter.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        self._try(self._reporter.__exit__)

    def progress(self, progress: Progress) -> None:
        """How far a stage is."""
        self._try(self._reporter.progress, progress)

    def event(self, level: str, message: str) -> None:
        """One sentence; ``level`` is info, warning or error."""
        self._try(self._reporter.event, level, message)

    def _try(self, call: Callable[..., object], *arguments: object) -> None:
        if self._detached:
            return
        try:
            call(*arguments)
        except (OSError, ValueError):  # Python's word for a stream that was closed is ValueError
            self._detached = True
            self._lost()


def reporter(as_json: bool, lost: Callable[[], None], *, json_lines: bool = True) -> AttendedReporter:
    """Bars on a terminal, else plain lines; with ``as_json`` JSON lines, which go to standard error without
    ``json_lines``, for a command whose stdout is its result alone. ``lost`` is called where nobody sees them any more."""
    if as_json:
        return AttendedReporter(JsonReporter(None if json_lines else screen), lost)
    return AttendedReporter(LiveReporter() if out.is_terminal else PlainReporter(), lost)


@contextlib.contextmanager
def reported_work(
    as_json: bool, log_folder: Path, *, json_lines: bool = True, stored: str = "everything finished"
) -> Iterator[tuple[AttendedReporter, Callable[[], bool]]]:
    """The long work of a command that the same command resumes: yields its reporter, and what says whether to stop.

    Ctrl-C asks it to stop, and so does a terminal that goes away. Work that stopped (it raises
    ``srtui.progress.Stopped``) ends the command, with a sentence on standard error and exit code 130.

    Args:
        as_json: whether the command prints JSON.
        log_folder: where ``libraries.log`` is written.
        json_lines: as :func:`reporter` has it.
        stored: what of stopped work is in the store.
    """
    stop = stop_on_signals()
    try:
        with libraries_log(log_folder), reporter(as_json, stop.set, json_lines=json_lines) as face:
            yield face, stop.is_set
    except Stopped:
        err.print(f"Stopped; {stored} is stored. The same command resumes.", soft_wrap=True)
        sys.exit(130)


def progress_line(as_json: bool) -> tuple[Callable[[int, int, int], None], Callable[[], None]]:
    """An import's progress (rows, share, rows/s, ETA): one line on a terminal, a line every few seconds in a log."""
    if as_json:
        return (lambda rows, done, total: None), (lambda: None)
    started, shown_at = time.monotonic(), [0.0]

    def show(rows: int, done: int, total: int) -> None:
        now = time.monotonic()
        if not _is_due(now, started, shown_at[0]):
            return
        shown_at[0] = now
        share = done / total if total else 0
        eta = duration((now - started) * (1 - share) / share) if share else "?"
        _show_line(f"{rows:,} rows, {share:.0%}, {rows / (now - started):,.0f} rows/s, {eta} left")

    def clear() -> None:
        if shown_at[0] and out.is_terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    return show, clear


def _is_due(now: float, started: float, shown_at: float) -> bool:
    """Whether a line of progress is to be shown: often on a terminal, where it stands in place of the one before; in a
    log, which keeps them all, every few seconds of work that takes some."""
    first, between = (1, 0.2) if out.is_terminal else (5, 5)
    return now - started >= first and now - shown_at >= between


def _show_line(words: str) -> None:
    sys.stdout.write(f"\r\x1b[K{words}" if out.is_terminal else f"{words}\n")
    sys.stdout.flush()


def steps_line(as_json: bool) -> tuple[Callable[[str, int, int], None], Callable[[], None]]:
    """A line of (step, done, total) with the time that the step has left, on a terminal always the same line, in a log
    another every few seconds; and what takes it away."""
    if as_json:
        return (lambda step, done, total: None), (lambda: None)
    step_now, started, shown_at = "", time.monotonic(), 0.0

    def show(step: str, done: int, total: int) -> None:
        nonlocal step_now, started, shown_at
        now = time.monotonic()
        if step != step_now:
            step_now, started = step, now
        if not _is_due(now, started, shown_at) or not done:
            return
        shown_at = now
        time_left = duration((now - started) * (total - done) / done)
        _show_line(f"{step}: {done:,} of {total:,}, {time_left} left")

    def clear() -> None:
        if shown_at and out.is_terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    return show, clear
