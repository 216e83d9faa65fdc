"""Runs on the terminal: a summary, its rounds, how scores are spread, templates and ablations compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from srtui.cli.terminal import out, plain, print_facts
from srtui.gates import GATES
from srtui.measures import FILTERS, MEASURES
from srtui.store.distributions import ScoreSpread
from srtui.store.summary import Round, RunSummary
from srtui.store.training import StoredTraining
from srtui.text import bytes_text, duration, number, share
from srtui.wording import (
    LABELS,
    STAGE_TITLES,
    WORKER_COLUMNS,
    contamination_words,
    held_out_name,
    kept_words,
    measures_words,
    reward_words,
    stage_title,
    training_words,
    worker_rows,
)

if TYPE_CHECKING:
    from srtui.pipeline.ablate import Comparison, Interval
    from srtui.pipeline.template_check import TemplateScores


def print_summary(summary: RunSummary, files: Iterable[tuple[str, str]]) -> None:
    """The summary at the end of a run; every figure comes from the store."""
    out.print()
    out.print(f"[bold]{plain(summary.run)}[/]  {summary.status}", soft_wrap=True)
    if summary.error:
        out.print(f"[red]{plain(summary.error)}[/]", soft_wrap=True)
    print_facts(_summary_rows(summary))
    stages = summary.stages
    if stages:
        table = Table(
            "stage", "done", "time", "tokens", "tokens/s", box=None, pad_edge=False, header_style="bold"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for name in STAGE_TITLES:
            s = stages.get(name)
            if s:
                rate = f"{s.tokens / s.seconds:,.0f}" if s.tokens and s.seconds else "-"
                if s.done and s.detail.get("reused") == s.done:
                    rate = "reused"
                table.add_row(
                    stage_title(name),
                    f"{s.done:,}/{s.total:,}",
                    duration(s.seconds),
                    f"{s.tokens:,}",
                    rate,
                )
        out.print()
        out.print(table)
        out.print(
            f"{duration(summary.seconds)} in its stages, peak memory {bytes_text(summary.peak_memory_mb * 1e6)}"
        )
    if summary.workers:
        out.print()
        workers = Table(*WORKER_COLUMNS, box=None, pad_edge=False, header_style="bold")
        for row in worker_rows(summary.workers):
            workers.add_row(*map(plain, row))
        out.print(workers)
    if len(summary.rounds) > 1:
        out.print()
        _print_rounds(summary.rounds)
    named_files = list(files)
    if named_files:
        out.print()
        for name, path in named_files:
            out.print(f"{name}: {plain(path)}", soft_wrap=True)


def _print_rounds(rounds: Sequence[Round]) -> None:
    table = Table("round", "run", "teacher", box=None, pad_edge=False, header_style="bold")
    for name in ("parsed", "instructions", "answers", "kept", "IFD", "r-IFD", "held-out loss"):
        table.add_column(name, justify="right")
    for n, r in enumerate(rounds, 1):
        shares = [r.parsed_share, r.taken_share["instruction"], r.taken_share["response"]]
        table.add_row(
            str(n),
            plain(r.run),
            plain(r.teacher),
            *("-" if s is None else f"{s:.0%}" for s in shares),
            f"{r.kept:,}",
            number(r.ifd),
            number(r.rifd),
            f"{number(r.held_out_before)} to {number(r.held_out_after)}",
        )
    out.print(table)


def _summary_rows(f: RunSummary) -> list[tuple[str, str]]:
    held_out = f", {f.held_out:,} {LABELS['held out']}" if f.held_out else ""
    rows = [(LABELS["samples"], f"{f.samples:,}{held_out}")]
    for target, name in (("instruction", "instructions"), ("response", "answers")):
        r, a = f.reflections[target], f.accepted[target]
        failed = ", ".join(f"{n} {plain(reason)}" for reason, n in r.failed.items())
        rows.append(
            (
                f"new {name} parsed",
                f"{r.parsed:,} of {r.asked:,}: {r.first_try:,} at the first try, "
                f"{r.after_retries:,} after retries" + (f"; {failed}" if failed else ""),
            )
        )
        if stopped := f.gated[target]:
            reasons = ", ".join(
                f"{n:,} {GATES[gate].words if gate in GATES else plain(gate)}" for gate, n in stopped.items()
            )
            rows.append(
                (
                    f"new {name} stopped by gates",
                    f"{sum(stopped.values()):,} rewrites, not compared: {reasons}",
                )
            )
        rows.append((f"{name} taken", f"{a.taken:,} of {a.choices:,} ({share(a.taken, a.choices)})"))
    for key in FILTERS:
        s = getattr(f, key)
        over = f"mean over {s.samples:,} with both"
        rows.append((LABELS[f"{key} before"], f"{number(s.before)} ({over})"))
        rows.append((LABELS[key], f"{number(s.after)} ({over})"))
        rows.append((LABELS[f"kept {key}"], f"{number(getattr(f.kept_scores, key))} (mean)"))
    length = f.length
    rows.append(
        (
            "response length",
            f"{number(length.before, 0)} characters in, {number(length.after, 0)} in what is kept"
            + (f" ({length.after / length.before:.1f} x)" if length.before and length.after else ""),
        )
    )
    rows.append(
        (
            "with code",
            f"{share(length.code_before or 0, 1)} in, "
            + (share(length.code_after, 1) if length.code_after is not None else "-")
            + " in what is kept",
        )
    )
    rows.append((LABELS["kept"], kept_words(f.kept, f.samples, f.kept_held_out)))
    if f.overruled:
        rows.append((f"of these {LABELS['overruled']}", f"{f.overruled:,}"))
    for reason, n in f.dropped.items():
        rows.append(("dropped", f"{n:,}  {plain(reason)}"))
    endings = f.endings
    if endings["cut"]:
        rows.append(("cut short", f"{endings['cut']:,} of what is kept, by an older srtui"))
    if endings["unknown"]:
        words = "imported, or made by an older srtui: whether they were cut short is not known"
        rows.append(("ending unknown", f"{endings['unknown']:,} of what is kept, {words}"))
    if f.truncated:
        rows.append(("cut by max_length", f"{f.truncated:,}"))
    for sentence in measures_words(f):
        rows.append(("measure", plain(sentence)))
    if f.contamination is not None:
        rows.append(("evaluation prompts", contamination_words(f.contamination)))
    t = f.training
    if t is not None:
        rows += training_rows(t)
    return rows


def training_rows(t: StoredTraining) -> list[tuple[str, str]]:
    """A training as names and values."""
    result = t.result
    if t.status != "done":
        return [("training", plain(t.status))]
    rows = [
        (
            "training",
            f"{t.steps:,} steps, "
            + ", ".join(
                training_words(
                    t.trained_on, t.step_losses, t.seconds, t.tokens_a_second, t.changed_since, t.method
                )
            ),
        )
    ]
    if not result.get("changed", True):
        rows.append(("training", "changed nothing: the adapter is what it was made with"))
    if rewards := reward_words(result):
        rows.append(("held-out pairs", "; ".join(rewards)))
    for name, losses in result.get("held_out", {}).items():
        rows.append(
            (
                f"held-out loss, {held_out_name(name)}",
                f"{number(losses['before'])} before, {number(losses['after'])} after "
                f"({losses['samples']} {'pairs' if name == 'preference' else 'samples'})",
            )
        )
    return rows


_KINDS = {"instruction_reflected": "new instruction", "response_reflected": "new answer"}
_BARS = " ▁▂▃▄▅▆▇█"


def histogram_text(counts: Sequence[int]) -> str:
    """One character a bin, as high as its count; a bin with anything in it shows something."""
    highest = max(counts, default=0)
    return "".join(_BARS[-(-8 * c // highest)] if highest else " " for c in counts)


def print_distributions(spreads: Sequence[ScoreSpread]) -> None:
    """Scores by metric and kind of variant, a line each, and what could not be scored."""
    table = Table("", "variants", box=None, header_style="bold")
    for name in ("scored", "25 %", "median", "75 %", "95 %", ">= 1"):
        table.add_column(name, justify="right")
    table.add_column("0    1    2", no_wrap=True)
    for f in spreads:
        quantiles = [number(f.quantiles.get(q)) for q in ("0.25", "0.5", "0.75", "0.95")]
        over = f"{f.at_or_over_one / f.scored:.0%}" if f.scored else "-"
        bins = f.histogram
        bars = histogram_text([a + b for a, b in zip(bins[::2], bins[1::2], strict=True)])
        half = len(bars) // 2
        table.add_row(
            MEASURES[f.metric].label,
            _KINDS.get(f.kind, f.kind),
            f"{f.scored:,}",
            *quantiles,
            over,
            f"[green]{bars[:half]}[/]│[yellow]{bars[half:]}[/]",
        )
    out.print(table)
    for f in spreads:
        scored = f"{MEASURES[f.metric].label}, {_KINDS.get(f.kind, f.kind)}"
        if f.truncated:
            out.print(f"{scored}: {f.truncated:,} truncated at max_length")
        for reason, count in f.invalid.items():
            out.print(f"{scored}: {count:,} without a score ({plain(reason)})")


def print_templates(templates: Sequence[TemplateScores]) -> None:
    """IFD of the same originals under each prompt template; the run's own is marked."""
    table = Table("template", box=None, header_style="bold")
    for name in ("scored", "median IFD", "IFD >= 1"):
        table.add_column(name, justify="right")
    for f in templates:
        table.add_row(
            plain(f.template) + (" *" if f.chosen else ""),
            f"{f.scored:,}",
            number(f.quantiles.get("0.5")),
            f"{f.at_or_over_one / f.scored:.0%}" if f.scored else plain(f.problem or "-"),
        )
    out.print(table)
    out.print(
        "* is the run's own. A template that the student knows has the fewest at 1 or over.", style="dim"
    )


def print_comparison(comparison: Comparison) -> None:
    """The arms of an ablation, their held-out losses, and what follows."""
    kinds = list(comparison.sets)
    table = Table("arm", "what", box=None, header_style="bold")
    judged = any(row.judged for row in comparison.rows)
    chosen = any(row.accuracy is not None for row in comparison.rows)
    evaluation_columns = [
        *(["win rate to full"] if judged else []),
        *(["accuracy", "to full"] if chosen else []),
    ]
    for name in (
        "samples",
        "length",
        *(f"loss, {k}" for k in kinds),
        *(f"to full, {k}" for k in kinds),
        *evaluation_columns,
    ):
        table.add_column(name, justify="right", overflow="fold")
    for row in comparison.rows:
        if row.problem:
            table.add_row(row.arm, f"{row.words}: {plain(row.problem)}")
            continue
        differences = []
        for kind in kinds:
            i = row.against_full.get(kind)
            differences.append(f"{i.mean:+.3f} ({i.low:+.3f} to {i.high:+.3f})" if i else "")
        table.add_row(
            row.arm,
            row.words,
            f"{row.samples:,}" if row.runs else "",
            f"{row.mean_length:,.0f}" if row.runs else "",
            *(number(row.losses.get(kind)) for kind in kinds),
            *differences,
            *([_points(row.judged, 0.5)] if judged else []),
            *(["" if row.accuracy is None else f"{row.accuracy:.1%}", _points(row.choice)] if chosen else []),
        )
    out.print(table)
    out.print(
        f"{comparison.steps} steps each; losses in nats a token; length in characters; differences with 95 % intervals.",
        style="dim",
    )
    for sentence in comparison.words:
        out.print(sentence)


def _points(interval: Interval | None, plus: float = 0.0) -> str:
    """A share with its interval, in per cent."""
    if interval is None:
        return ""
    sign = "" if plus else "+"
    value, low, high = (f"{x + plus:{sign}.1%}" for x in (interval.mean, interval.low, interval.high))
    return f"{value} ({low} to {high})"
