"""Live: what the engine is doing this second."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import psutil
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content

from srtui.progress import SURE_FROM, left_words
from srtui.store.figures import Counts
from srtui.store.stages import STEPS
from srtui.store.views import LiveView
from srtui.text import duration, safe, share
from srtui.tui.machine_lines import machine_lines as _machine
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.screens.live_room import (
    acceptance_series,
    decided_words,
    rate_text,
    speed_series,
    wall_words,
    worker_lines,
)
from srtui.tui.tabs import numbered
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.plot import Plot
from srtui.tui.widgets.words import Words, bar, shown, sparkline
from srtui.wording import energy_words, server_words, stage_title

_STAGES = ("reflect-instruction", "choose-instruction", "reflect-response", "choose-response", "train")
_GOING = ("running", "stopping")
_WRITING = ("reflect-instruction", "reflect-response")
_HISTORY = 240
_WINDOW = 10.0


@dataclass
class _Pace:
    """Where a stage was when this dashboard first looked, for its rate now."""

    measured_at: float
    done: int
    """Samples that cost time: those reused from the store are none."""


class LiveScreen(DashboardScreen):
    """Stages, speed, acceptance, machine, events, and the text that is being written."""

    MODE = "live"
    HELP_TEXT = (
        "The stages of the run with their rates, and what the engine is doing this second. Rates of the running "
        "stage are those of the last minute; of a finished one, its mean. The machine's figures are of this "
        "machine, whichever one the engine runs on; its power is that of all that runs on it. With 110 columns and 34 lines "
        "or more there is what every slot writes with how much of its room for tokens it has used, curves of the time "
        "that this dashboard has watched, and the last decisions in their own words."
    )
    EVERY_SECOND = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Start/pause"),
        Binding("x", "stop", "Stop"),
    ]
    DEFAULT_CSS = """
    LiveScreen .box { padding: 0 1; border: round $panel; border-title-color: $text-primary; height: auto; }
    LiveScreen #middle { height: auto; }
    LiveScreen #middle .box { width: 1fr; height: 6; }
    LiveScreen #workers-box { max-height: 8; }
    LiveScreen.-narrow #machine { width: 39; }
    LiveScreen.-narrow #workers-box { max-height: 5; }
    LiveScreen #bottom { height: 1fr; min-height: 5; }
    LiveScreen #bottom .box { width: 1fr; height: 1fr; }
    LiveScreen.-narrow #bottom { layout: vertical; }
    LiveScreen.-narrow #room { height: 4; }
    LiveScreen #room { width: 1fr; height: 1fr; }
    LiveScreen #room .box { width: 1fr; height: 1fr; }
    LiveScreen #room #curves { height: 10; }
    LiveScreen #room Plot { width: 1fr; }
    LiveScreen.-roomy #events-box { height: 5; }
    LiveScreen.-tall #room #curves { height: 16; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._pace: dict[tuple[int, str], deque[_Pace]] = {}
        self._speed_of = 0  # the run whose tokens these are
        self._speeds: deque[float] = deque(maxlen=_HISTORY)
        self._read_at: deque[float] = deque(maxlen=_HISTORY)  # when each speed was read
        self._counts: deque[tuple[float, int]] = deque(maxlen=64)
        self._choices = Counts()
        self._taken: deque[dict[str, tuple[int, int]]] = deque(maxlen=_HISTORY)
        self._decided: list[dict[str, Any]] = []  # those of the last choice that it saw
        self._view: LiveView | None = None

    def body(self) -> ComposeResult:
        """Stages, speeds, the machine, what is being written, and events."""
        with Vertical(id="all"):
            yield Words(id="stages", classes="box")
            with Horizontal(id="middle"):
                yield Words(id="speed", classes="box")
                yield Words(id="machine", classes="box")
            with VerticalScroll(id="workers-box", classes="box", can_focus=False):
                yield Words(id="workers")
            with Horizontal(id="bottom"):
                with VerticalScroll(id="writing-box", classes="box", can_focus=False):
                    yield Words(id="writing")
                with Vertical(id="room"):
                    with Horizontal(id="curves"):
                        yield Plot("tokens a second", id="speeds")
                        yield Plot("taken, %", id="acceptance")
                    with VerticalScroll(id="decided-box", classes="box", can_focus=False):
                        yield Words(id="decided")
                    with VerticalScroll(id="events-box", classes="box", can_focus=False):
                        yield Words(id="events")
        yield Empty(
            "Nothing is running",
            f"Start a run on {numbered('runs')}; what its engine does is shown here.",
            id="none",
        )

    def on_mount(self) -> None:
        """Name the boxes, and show nothing before the first reading."""
        self.query_one("#all").add_class("hidden")
        self.query_one("#none").add_class("hidden")
        for id, name in (
            ("stages", "stages"),
            ("speed", "so far"),
            ("machine", "this machine"),
            ("workers-box", "workers"),
            ("writing-box", "being written"),
            ("events-box", "events"),
            ("decided-box", "last decisions"),
        ):
            self.query_one(f"#{id}").border_title = name
        self.on_resize()

    def on_resize(self) -> None:
        """Another layout where there are fewer than 100 columns; more on it where there is room to spare."""
        width, height = self.app.size
        self.set_class(width < 100, "-narrow")
        self.set_class(self._roomy, "-roomy")
        self.set_class(height >= 50, "-tall")
        for id in ("curves", "decided-box"):
            self.query_one(f"#{id}").set_class(not self._roomy, "hidden")

    @property
    def _roomy(self) -> bool:
        """Whether there is room for every slot, for curves and for decisions."""
        return self.app.size.width >= 110 and self.app.size.height >= 34

    async def read(self) -> None:
        """What the engine of the current run does now, and how fast."""
        app = self.dashboard
        run_id = app.run_id
        view = None if run_id is None else await app.ask(lambda v: v.live(run_id))
        self._view = view
        self.query_one("#all").set_class(view is None, "hidden")
        self.query_one("#none").set_class(view is not None or not app.watched, "hidden")
        if view is None or run_id is None:
            return
        self._choices = await app.ask(lambda v: v.counts(run_id))
        # psutil measures from one question to the next of the same thread, so it is asked in this one.
        machine = await asyncio.to_thread(_machine, str(app.workspace.root), psutil.cpu_percent())
        self._measure(view)
        self._show(view, machine)

    def _measure(self, view: LiveView) -> None:
        now = time.monotonic()
        tokens = sum(s.tokens for s in view.stages.values())
        if self._speed_of != view.run.id:
            self._speed_of = view.run.id
            self._speeds.clear()
            self._read_at.clear()
            self._counts.clear()
            self._taken.clear()
            self._decided = []
        if not self._counts or tokens != self._counts[-1][1]:
            self._counts.append((now, tokens))
        self._speeds.append(tokens_a_second(self._counts, now))
        self._read_at.append(now)
        self._taken.append({name: (t.taken, t.choices) for name, t in self._choices.targets.items()})
        for stage, s in view.stages.items():
            past = self._pace.setdefault((view.run.id, stage), deque(maxlen=90))
            past.append(_Pace(now, s.done - s.reused))
            while len(past) > 2 and now - past[0].measured_at > 60:
                past.popleft()

    def _show(self, view: LiveView, machine: list[str]) -> None:
        width = self.app.size.width
        going = view.run.state in _GOING
        self.query_one("#stages", Words).show(
            Content("\n").join(self._stage(view, s, width, going) for s in self._stages(view))
        )
        self.query_one("#speed", Words).show(self._speed(view, width, going))
        self.query_one("#speed").border_title = "in all" if view.run.state == "done" else "so far"
        self.query_one("#machine", Words).show(shown("\n".join(machine)))
        workers = view.live.get("workers", [])
        self.query_one("#workers-box").set_class(not workers, "hidden")
        self.query_one("#workers", Words).show(worker_lines(workers))
        wall = view.live.get("wall") or []
        is_wall = self._roomy and bool(wall) and _at_work(view) in _WRITING
        room = max(20, width // 2 - 6)
        self.query_one("#writing", Words).show(wall_words(wall, room) if is_wall else _writing(view))
        self.query_one("#writing-box").border_title = (
            f"being written in {len(wall)} slots" if is_wall else "being written"
        )
        # Where nothing is written, decisions and curves have the whole width.
        self.query_one("#writing-box").set_class(
            self._roomy and going and _at_work(view) not in _WRITING, "hidden"
        )
        if self._roomy:
            self._show_room(view)
        self.query_one("#writing-box").border_subtitle = safe(server_words(view.run.recipe))
        if not is_wall:  # what is new stands at the end
            self.query_one("#writing-box").scroll_end(animate=False)
        events = [
            Content.assemble(
                (time.strftime("%H:%M:%S ", time.localtime(e.at)), "$dim"),
                ({"info": "", "warning": "! ", "error": "✗ "}[e.level], "bold"),
                shown(e.message, {"info": "", "warning": "$text-warning", "error": "$text-error"}[e.level]),
            )
            for e in view.events[:20]
        ]
        self.query_one("#events", Words).show(Content("\n").join(events) if events else Content("none yet"))

    def _show_room(self, view: LiveView) -> None:
        """Curves of the time that this dashboard has watched, and the last decisions."""
        self.query_one("#speeds", Plot).show(
            speed_series(self._speeds, self._read_at), names=("minutes ago", ""), from_zero=True
        )
        self.query_one("#acceptance", Plot).show(
            acceptance_series(self._taken, self._read_at), names=("minutes ago", ""), from_zero=True
        )
        if decided := view.live.get("decided"):
            self._decided = decided
        self.query_one("#decided", Words).show(decided_words(self._decided))

    def _stages(self, view: LiveView) -> list[str]:
        stages = [
            s for s in _STAGES if s != "train" or view.run.recipe.get("training", {}).get("enabled", True)
        ]
        current = _at_work(view)
        return stages if current is None or current in stages else [current, *stages]

    def _stage(self, view: LiveView, stage: str, width: int, going: bool) -> Content:
        s = view.stages.get(stage)
        is_current = _at_work(view) == stage
        done, total = (s.done, s.total) if s else (0, view.run.samples if stage != "train" else 0)
        over = s is not None and total > 0 and done >= total and not is_current
        sign = (
            "✓"
            if over
            else "▶"
            if is_current and going
            else "‖"
            if is_current and view.run.state == "paused"
            else "■"
            if is_current
            else "○"
        )
        style = "bold $text-accent" if is_current else "$text-success" if over else "$dim"
        size = max(6, min(40, width - 80))
        head = Content.assemble(
            (f"{sign} {stage_title(stage):<26}", style),
            (bar(done, total, size).rstrip(), style),
            ("─" * (size - len(bar(done, total, size).rstrip())), "$panel"),
            f" {done:>7,}/{total:<7,}" if total else f" {'-':>9}{'':<6}",
        )
        rate, time_left = self._rate(view, stage, done, total, is_current and going)
        room = max(0, width - head.cell_length - 4)
        # Where both find no room, what is left is worth more than the rate.
        words = (f"{rate:>9} {time_left:>15}", f"{rate} {time_left}", time_left)
        return head + Content.styled(next((w for w in words if len(w) <= room), time_left[:room]), "$dim")

    def _rate(self, view: LiveView, stage: str, done: int, total: int, active: bool) -> tuple[str, str]:
        s = view.stages.get(stage)
        if view.live.get("step") == stage:
            return "", f"for {duration(max(0.0, time.time() - view.live.get('since', time.time())))}"
        if s is None or (view.run.state == "paused" and view.run.stage == stage):
            return "", ""
        fresh = done - s.reused
        if not active:
            if done and fresh <= 0:
                return "reused", ""
            rated = s.seconds and done and stage not in STEPS
            return (rate_text(fresh / s.seconds) if rated else ""), (duration(s.seconds) if s.seconds else "")
        past = self._pace.get((view.run.id, stage))
        finished = past[-1].done - past[0].done if past else 0
        seconds = past[-1].measured_at - past[0].measured_at if past else 0.0
        if seconds <= 2 or finished < SURE_FROM:
            finished, seconds = fresh, s.seconds
        rate = finished / seconds if finished > 0 and seconds else 0.0
        if not rate:
            return "", "the first ones" if stage in _WRITING and view.live.get("slots_in_use") else ""
        return rate_text(rate), left_words(finished, seconds, total - done)

    def _speed(self, view: LiveView, width: int, going: bool) -> Content:
        room = max(8, (width // 2 if width >= 100 else width - 39) - 24)
        rate = self._speeds[-1] if self._speeds else 0.0
        current_speed = Content.assemble(
            (f"{rate:>7,.0f} tokens/s  ", "bold"), (sparkline(list(self._speeds), room), "$text-accent")
        )
        lines = [current_speed if going else _mean_speed(view)]
        live = view.live
        writing = _at_work(view) in _WRITING and view.run.state in (*_GOING, "paused")
        slots = (
            f"{live['slots_in_use']}/{live['slots']} used, {live['waiting']:,} waiting"
            if writing and live.get("slots")
            else "not writing now"
        )
        spent = energy_words(view.stages, self._choices.kept) if not writing else ""
        lines.append(Content.assemble((f"{'energy' if spent else 'slots':<13}", "$dim"), spent or slots))
        for stage, name in (("instruction", "instructions"), ("response", "answers")):
            target = self._choices.targets[stage]
            words = (
                f"{target.taken:,} of {target.choices:,} taken ({share(target.taken, target.choices)})"
                if target.decided
                else "no choice yet"
            )
            lines.append(Content.assemble((f"{name:<13}", "$dim"), words))
        return Content("\n").join(lines)

    # -- what a person does -----------------------------------------------------------------

    def action_pause(self) -> None:
        """Ask the run's engine to pause or to resume; start one where none works."""
        run = self.dashboard.current_run
        if run is None:
            return
        if run.state in ("running", "paused"):
            kind = "pause" if run.state == "running" else "resume"
            self.dashboard.write(lambda store: store.runs.ask(run.id, kind))
            self.notify(f"Asked to {kind}; it does so after this step.", timeout=3)
        elif run.state == "stopping":
            self.notify("It is stopping; p resumes it when it has.")
        elif run.state != "done":
            self.dashboard.start_engine(["resume", run.name])

    def action_stop(self) -> None:
        """Ask the run's engine to stop, once confirmed."""
        from srtui.tui.screens.dialogs import Confirm

        run = self.dashboard.current_run
        if run is None or run.pid is None:
            self.notify("No engine works on this run.")
            return

        def stop(yes: bool | None) -> None:
            if yes:
                self.dashboard.write(lambda store: store.runs.ask(run.id, "stop"))

        words = "It finishes the step that it is in. Everything finished is stored, and p resumes from there."
        self.app.push_screen(Confirm(f"Stop {run.name}?", words, "Stop"), stop)


def _mean_speed(view: LiveView) -> Content:
    """Of a run that does nothing now: over all that it has done."""
    stages = view.stages.values()
    tokens, seconds = sum(s.tokens for s in stages), sum(s.seconds for s in stages)
    if not tokens or not seconds:
        return Content.styled("      - tokens/s", "$dim")
    return Content.assemble((f"{tokens / seconds:>7,.0f} tokens/s on the mean", "bold"))


def tokens_a_second(counts: Sequence[tuple[float, int]], now: float) -> float:
    """The speed by the last reports, each a time in seconds and a count of tokens that has changed.

    Engines report after each batch, which takes from milliseconds to many seconds: differences from
    second to second would be all or nothing. Nothing for three times as long as usual is 0.
    """
    if len(counts) < 2:
        return 0.0
    end, tokens = counts[-1]
    start, tokens_before = next((c for c in reversed(counts) if end - c[0] >= _WINDOW), counts[0])
    usual = (end - start) / (sum(1 for reported_at, _ in counts if reported_at >= start) - 1)
    return max(0.0, (tokens - tokens_before) / (end - start)) if now - end < max(5.0, 3 * usual) else 0.0


def _at_work(view: LiveView) -> str | None:
    """The stage that the engine is in; the check of the template comes within the first."""
    if view.live.get("step"):
        return str(view.live["step"])
    check = view.stages.get("check-template")
    if view.run.stage == "reflect-instruction" and check and check.done < check.total:
        return "check-template"
    return view.run.stage if view.run.state != "done" else None


def _writing(view: LiveView) -> Content:
    live: dict[str, Any] = view.live
    stage = _at_work(view)
    if view.run.state == "done" and view.run.pid:
        return Content.styled("The student scores the texts that were written by hand.", "$dim")
    if view.run.state not in _GOING or not live.get("text") or stage not in _WRITING:
        going = (
            f"{stage_title(stage)}: a step of its own, nothing is written in it."
            if stage in STEPS
            else "About to begin."
            if stage not in view.stages
            else "Between two texts."
            if stage in _WRITING
            else "Nothing is written in this stage."
        )
        words = {
            "running": going,
            "stopping": "Stopping: it finishes the step that it is in.",
            "paused": "Paused; its texts are held in memory.",
            "done": "This run is done.",
        }.get(view.run.state, "No engine works on this run; p starts it.")
        return Content.styled(words, "$dim")
    head = Content.styled(f"sample {live.get('sample_id') or '?'}\n", "$dim")
    return head + shown(live["text"]) + Content.styled("▌", "$text-accent")
