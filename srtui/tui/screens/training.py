"""Training: its curves, and those of a second run over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from srtui.store.training import StoredCheckpoint, TrainingView
from srtui.store.views import RunRow
from srtui.text import bytes_text, duration, number
from srtui.tui.screens.dashboard_screen import DashboardScreen
from srtui.tui.widgets.empty import Empty
from srtui.tui.widgets.plot import Plot, Series
from srtui.tui.widgets.words import Words, shown
from srtui.wording import LABELS, held_out_name, held_out_words, reward_words, training_words

Points = list[tuple[int, float]]
_HELD_OUT = "held_out_"
_PACE = 20


class TrainingScreen(DashboardScreen):
    """Loss, learning rate and speed by step; held-out loss before and after."""

    MODE = "training"
    HELP_TEXT = (
        "The training of the run: loss of each step (points), smoothed (line), and of samples that are held out (◆ ◇); "
        "the learning rate, tokens a second in each step, the engine's memory (of pairs, the margin of their rewards). Losses in the line above are of single "
        "steps, the first and the last; time in steps leaves out loading and held-out losses. v lays the training of another run over it, dashed, "
        "its held-out losses as ▲ △."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("v", "overlay", "Compare with another run")]
    DEFAULT_CSS = """
    TrainingScreen #facts { height: auto; padding: 0 2; background: $surface; }
    TrainingScreen #loss { height: 2fr; }
    TrainingScreen #small { height: 1fr; min-height: 7; }
    TrainingScreen #small Plot { width: 1fr; }
    TrainingScreen.-narrow #memory { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._other: int | None = None

    def body(self) -> ComposeResult:
        """The facts of the training and its curves."""
        with Vertical(id="all"):
            yield Words(id="facts")
            yield Plot("loss", id="loss")
            with Horizontal(id="small"):
                yield Plot("learning rate", id="rate")
                yield Plot("tokens a second", id="speed")
                yield Plot("memory, GB", id="memory")
                yield Plot(LABELS["reward margin"], id="margin")
        yield Empty(
            "No training yet",
            "A run trains its student when both choices are made, unless its recipe says training.enabled = false.",
            id="none",
        )

    def on_mount(self) -> None:
        """Show nothing before the first reading."""
        self.query_one("#all").add_class("hidden")
        self.query_one("#none").add_class("hidden")
        self.query_one("#margin").add_class("hidden")
        self.on_resize()

    def on_resize(self) -> None:
        """Another layout where there are fewer than 100 columns."""
        self.set_class(self.app.size.width < 100, "-narrow")

    async def read(self) -> None:
        """The training of the current run, and of the one that it is compared with."""
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
        other_run = next((r for r in app.runs if r.id == other_id), None) if other else None
        facts = _facts(run, training, other_run, other, short=self.has_class("-narrow"))
        held_out_samples = (
            None if other_run is None else await app.ask(lambda v: v.held_out(run.id, other_run.id))
        )
        if (
            held_out_samples is not None and not held_out_samples.same
        ):  # points that do not compare are not drawn beside each other
            facts += Content("\n") + shown(
                f"! A is {run.name}, B {other_run.name if other_run else ''}. ", "$text-warning"
            )
            facts += shown(held_out_words(held_out_samples), "$text-warning")
        self.query_one("#facts", Words).show(facts)
        drawn = [(run, training, False)] + ([(other_run, other, True)] if other_run and other else [])
        losses: list[Series] = []
        # A loss of pairs and one of tokens have no axis together.
        for r, t, dashed in [d for d in drawn if by_pairs(d[1]) == by_pairs(training)]:
            points = t.metrics.get("loss", [])
            style = "$text-accent" if dashed else "$text-primary"
            losses.append(Series("" if dashed else "each step", points, "$dim", "dots"))
            losses.append(Series(r.name, smoothed(points), style, dashed=dashed))
            if dashed and held_out_samples is not None and not held_out_samples.same:
                continue
            for sign, (name, points) in zip("▲△" if dashed else "◆◇", comparable(t).items(), strict=False):
                losses.append(
                    Series(
                        name if dashed else f"held out, {name}", points, style, "dots", sign=sign, aside=True
                    )
                )
        unit = "nats a token (lower is better)" if training.method == "sft" else "loss of a pair"
        self.query_one("#loss", Plot).show(losses, names=("step", unit))
        with_margin = bool(training.metrics.get("reward_margin"))
        self.query_one("#margin").set_class(not with_margin, "hidden")
        self.query_one("#memory").set_class(with_margin, "hidden")
        small: dict[str, Callable[[TrainingView], Points]] = {
            "rate": lambda t: t.metrics.get("learning_rate", []),
            "speed": speeds,
            "memory": lambda t: [(step, mb / 1000) for step, mb in t.metrics.get("memory_mb", [])],
        }
        if with_margin:
            small["margin"] = lambda t: t.metrics.get("reward_margin", [])
        for id, points_of in small.items():
            self.query_one(f"#{id}", Plot).show(
                [
                    Series("", points_of(t), "$text-accent" if dashed else "$text-primary", dashed=dashed)
                    for _, t, dashed in drawn
                ],
                from_zero=True,
            )

    async def action_overlay(self) -> None:
        """The next run that has a training, and after the last of them none."""
        run_id = self.dashboard.run_id
        try:
            trained = await self.dashboard.ask(lambda v: v.trained())
        except Exception as error:
            self.dashboard.report_error(error)
            return
        order: list[int | None] = [None, *(i for i in trained if i != run_id)]
        if len(order) == 1:
            self.notify("No other run has a training to lay over this one.", timeout=3)
            return
        index = order.index(self._other) if self._other in order else 0
        self._other = order[(index + 1) % len(order)]
        self.reread()


def by_pairs(t: TrainingView) -> bool:
    """Whether it is trained on pairs, whose losses have another unit than those of tokens."""
    return bool(t.method != "sft")


def smoothed(points: Points, weight: float = 0.85) -> list[tuple[float, float]]:
    """An exponential mean, corrected for its start, so that the first value is the first point."""
    mean, means = 0.0, []
    for n, (step, value) in enumerate((p for p in points if math.isfinite(p[1])), 1):
        mean = weight * mean + (1 - weight) * value
        means.append((float(step), mean / (1 - weight**n)))
    return means


def held_out(t: TrainingView) -> dict[str, Points]:
    """Held-out losses by name: before, where they were measured on the way, and after."""
    by_name: dict[str, dict[int, float]] = {}
    for name, points in t.metrics.items():
        if name.startswith(_HELD_OUT):
            by_name[name.removeprefix(_HELD_OUT)] = dict(points)
    for name, held in t.result.get("held_out", {}).items():
        by_step = by_name.setdefault(name, {})
        by_step.setdefault(0, held["before"])
        by_step.setdefault(t.steps, held["after"])
    return {name: sorted(points.items()) for name, points in by_name.items()}


def comparable(t: TrainingView) -> dict[str, Points]:
    """Those of :func:`held_out` that have the unit of the steps' losses."""
    return {name: held for name, held in held_out(t).items() if (name == "preference") == by_pairs(t)}


def rewards_on_the_way(t: TrainingView) -> list[str]:
    """The margin and the accuracy of the last steps, before held-out pairs have been measured."""
    words = []
    for key in ("reward margin", "reward accuracy"):
        recent = [value for _, value in t.metrics.get(key.replace(" ", "_"), [])[-_PACE:]]
        if recent:
            words.append(f"{LABELS[key]} {number(sum(recent) / len(recent))}, mean of {len(recent)} steps")
    return words


def before_and_after(t: TrainingView) -> dict[str, tuple[float, float]]:
    """Held-out loss by name, before the training and of the weights that were kept, which after early
    stopping are not those measured last; while it runs, the last that was measured."""
    so_far = {name: (points[0][1], points[-1][1]) for name, points in held_out(t).items() if points}
    ended = t.result.get("held_out", {})
    return so_far | {name: (held["before"], held["after"]) for name, held in ended.items()}


def speeds(t: TrainingView) -> Points:
    """Tokens a second of each step: its tokens over its seconds, where both were stored."""
    seconds = dict(t.metrics.get("seconds", []))
    timed = [(step, tokens, seconds[step]) for step, tokens in t.metrics.get("tokens", []) if step in seconds]
    # Both start again at the checkpoint from which an interrupted training was resumed.
    return [
        (step, (tokens - before) / (now - earlier))
        for (_, before, earlier), (step, tokens, now) in pairwise([(0, 0.0, 0.0), *timed])
        if now > earlier and tokens > before
    ]


def seconds_left(t: TrainingView) -> float | None:
    """Seconds that a training still takes by the pace of its last steps; None where it is not known."""
    recent = t.metrics.get("seconds", [])[-_PACE:]
    paces = [
        (now - earlier) / (step - before)
        for (before, earlier), (step, now) in pairwise(recent)
        if now > earlier
    ]
    if t.status != "running" or not paces:
        return None
    return float((t.steps - recent[-1][0]) * sum(paces) / len(paces))


def _facts(
    run: RunRow, t: TrainingView, other_run: RunRow | None, other: TrainingView | None, *, short: bool
) -> Content:
    """The lines above the curves; ``short`` leaves out what a training that is done is not needed for."""
    lines = [_line(run, t)]
    if other_run is not None and other is not None:
        lines.append(_line(other_run, other))
        if by_pairs(t) != by_pairs(other):
            lines.append(
                shown(f"{other_run.name}: its loss is of {_unit(other)}, of which no axis is here.", "$dim")
            )
    losses = [
        f"{held_out_name(name)} {number(before)} → {number(after)}"
        for name, (before, after) in before_and_after(t).items()
    ]
    if losses:
        lines.append(shown(f"held-out loss: {'  ·  '.join(losses)}"))
    if rewards := reward_words(t.result):
        lines.append(shown(f"held-out pairs: {'  ·  '.join(rewards)}"))
    elif rewards := rewards_on_the_way(t):
        lines.append(shown("  ·  ".join(rewards)))
    if t.plan and not (short and t.status == "done"):
        lines.append(shown(_plan(t.plan), "$dim"))
    if t.checkpoints:
        lines.append(shown(_checkpoints(t.checkpoints, t.status == "running"), "$dim"))
    if t.adapter:
        lines.append(shown(f"adapter: {t.adapter}", "$dim"))
    return Content("\n").join(lines)


def _unit(t: TrainingView) -> str:
    return "pairs" if by_pairs(t) else "tokens"


def _plan(plan: dict[str, Any]) -> str:
    """What was expected before the first step."""
    words = f"planned: {plan['tokens']:,} tokens, about {duration(plan['seconds'])} and {bytes_text(plan['memory'])}"
    ways = [name for name in ("packed", "gradient_checkpointing") if plan[name]]
    cut = f", {plan['truncated']:,} texts cut" if plan["truncated"] else ""
    return words + "".join(f", {w.replace('_', ' ')}" for w in ways) + cut


def _checkpoints(checkpoints: list[StoredCheckpoint], going: bool) -> str:
    """Which can be resumed from, and what became of the others."""
    good = [c for c in checkpoints if c.state == "good"]
    words = []
    if good:
        steps = ", ".join(str(c.step) for c in good[-6:])
        last = good[-1]
        words.append(
            f"checkpoints: step {'… ' if len(good) > 6 else ''}{steps} "
            f"({bytes_text(last.bytes)} in {duration(last.seconds)} each)"
        )
    elif going:
        words.append("checkpoints: none to resume from")
    else:
        return f"checkpoints: {len(checkpoints)} were written, none is needed any more"
    for state, name in (("removed", "removed for room"), ("corrupt", "damaged")):
        count = sum(c.state == state for c in checkpoints)
        if count:
            words.append(f"{count} {name}")
    return "  ·  ".join(words)


def _line(run: RunRow, t: TrainingView) -> Content:
    losses = t.metrics.get("loss", [])
    step = int(losses[-1][0]) if losses else 0
    fast = [] if t.tokens_a_second else speeds(t)[-_PACE:]
    remaining = seconds_left(t)
    chosen_from = f"of {run.kept:,} kept"
    if by_pairs(t):  # whether a sample is kept decides nothing of its pairs
        chosen_from = f"of the choices in {run.samples:,} samples"
    elif t.changed_since:
        chosen_from = f"{run.kept:,} kept now"
    if run.kept_held_out and not by_pairs(t):
        chosen_from += f", {run.kept_held_out:,} held out"
    words = [
        # An engine that died leaves its training as running.
        run.state if t.status == "running" and run.state != "running" else t.status,
        f"step {step:,} of {t.steps:,}",
        f"{duration(remaining)} left" if remaining is not None and run.state == "running" else "",
        *training_words(
            t.trained_on,
            t.step_losses,
            t.seconds,
            t.tokens_a_second,
            t.changed_since,
            t.method,
        ),
        chosen_from,
        f"{sum(s for _, s in fast) / len(fast):,.0f} tokens/s now" if fast else "",
        f"at most {bytes_text(run.peak_memory_mb * 1e6)} of memory" if run.peak_memory_mb else "",
    ]
    return Content.assemble(shown(run.name, "bold"), "  ", shown("  ·  ".join(w for w in words if w)))
