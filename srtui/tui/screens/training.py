"""Training: its curves, and those of a second run over them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from srtui.console import bytes_text, duration, number
from srtui.store.views import RunRow
from srtui.tui.screens.base import DashboardScreen
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.plot import Plot, Series
from srtui.tui.widgets.words import Words, shown

Points = list[tuple[int, float]]


class TrainingScreen(DashboardScreen):
    """Loss, learning rate and speed by step; held-out loss before and after."""

    MODE = "training"
    HELP_TEXT = (
        "The training of the run: loss raw (points) and smoothed (line), the learning rate, tokens a second. v lays "
        "the training of another run over it, dashed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("v", "overlay", "Compare with another run")]
    DEFAULT_CSS = """
    TrainingScreen #facts { height: auto; padding: 0 2; background: $surface; }
    TrainingScreen #loss { height: 2fr; }
    TrainingScreen #small { height: 1fr; min-height: 7; }
    TrainingScreen #small Plot { width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._other: int | None = None

    def body(self) -> ComposeResult:
        with Vertical(id="all"):
            yield Words(id="facts")
            yield Plot("loss", id="loss")
            with Horizontal(id="small"):
                yield Plot("learning rate", id="rate")
                yield Plot("tokens so far", id="tokens")
        yield Empty(
            "No training yet",
            "A run trains its student when both choices are made, unless its recipe says training.enabled = false.",
            id="none",
        )

    def on_mount(self) -> None:
        self.query_one("#all").add_class("hidden")
        self.query_one("#none").add_class("hidden")

    async def read(self) -> None:
        app = self.dashboard
        if not app.watched:
            return
        run, run_id, other_id = app.current_run, app.run_id, self._other
        training = None if run_id is None else await app.ask(lambda v: v.training(run_id))
        other = None if other_id in (None, run_id) else await app.ask(lambda v: v.training(other_id or 0))
        self.query_one("#all").set_class(training is None, "hidden")
        self.query_one("#none").set_class(training is not None, "hidden")
        if training is None or run is None:
            return
        beside = next((r for r in app.runs if r.id == other_id), None) if other else None
        self.query_one("#facts", Words).say(_facts(run, training, beside, other))
        drawn = [(run, training, False)] + ([(beside, other, True)] if beside and other else [])
        losses: list[Series] = []
        for r, t, dashed in drawn:
            points = t["metrics"].get("loss", [])
            style = "$text-accent" if dashed else "$text-primary"
            losses.append(Series("", points, "$dim", "dots"))
            losses.append(Series(f"{r.name}, smoothed", smoothed(points), style, dashed=dashed))
        self.query_one("#loss", Plot).show(losses, names=("step", "nats a token"))
        for id, metric in (("rate", "learning_rate"), ("tokens", "tokens")):
            self.query_one(f"#{id}", Plot).show(
                [
                    Series(
                        "",
                        t["metrics"].get(metric, []),
                        "$text-accent" if dashed else "$text-primary",
                        dashed=dashed,
                    )
                    for _, t, dashed in drawn
                ],
                from_zero=True,
            )

    def action_overlay(self) -> None:
        others = [r.id for r in self.dashboard.runs if r.id != self.dashboard.run_id]
        if not others:
            self.notify("There is no other run to lay over this one.", timeout=3)
            return
        order: list[int | None] = [None, *others]
        at = order.index(self._other) if self._other in order else 0
        self._other = order[(at + 1) % len(order)]
        self.reread()


def smoothed(points: Points, weight: float = 0.85) -> list[tuple[float, float]]:
    """An exponential mean, corrected for its start, so that the first value is the first point."""
    mean, done = 0.0, []
    for n, (step, value) in enumerate((p for p in points if math.isfinite(p[1])), 1):
        mean = weight * mean + (1 - weight) * value
        done.append((float(step), mean / (1 - weight**n)))
    return done


def _facts(run: RunRow, t: dict[str, Any], beside: RunRow | None, other: dict[str, Any] | None) -> Content:
    lines = [_line(run, t)]
    if beside is not None and other is not None:
        lines.append(_line(beside, other))
    elif beside is None:
        for name, held in t["result"].get("held_out", {}).items():
            lines.append(
                shown(
                    f"held-out loss, {name}: {number(held['before'])} before, {number(held['after'])} after "
                    f"({held['samples']} samples)"
                )
            )
    if t["adapter"]:
        lines.append(shown(f"adapter: {t['adapter']}", "$dim"))
    return Content("\n").join(lines)


def _line(run: RunRow, t: dict[str, Any]) -> Content:
    losses = t["metrics"].get("loss", [])
    step = losses[-1][0] if losses else 0
    rate = t["tokens"] / t["seconds"] if t["seconds"] else 0
    words = [
        f"{t['status']}",
        f"step {step:,} of {t['steps']:,}",
        f"loss {number(losses[0][1])} → {number(losses[-1][1])}" if losses else "",
        f"{t['examples']:,} samples",
        f"{rate:,.0f} tokens/s" if rate else "",
        duration(t["seconds"]) if t["seconds"] else "",
        f"at most {bytes_text(run.peak_memory_mb * 1e6)} of memory" if run.peak_memory_mb else "",
    ]
    return Content.assemble(shown(run.name, "bold"), "  ", shown("  ·  ".join(w for w in words if w)))
