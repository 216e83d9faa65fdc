"""Calibrations of measures on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from srtui.cli.terminal import out, plain
from srtui.measures import AT_LENGTH
from srtui.store.calibrations import Calibration
from srtui.text import share

_COLOURS = {"better than chance": "green", "no better than length": "yellow", "no better than chance": "red"}


def print_calibration(calibration: Calibration) -> None:
    """What each measure agrees in, with intervals at 95 %, and its verdict."""
    r = calibration.result
    out.print(
        f"\n[bold]Calibration {calibration.id}[/]: {plain(r['student'])} on {plain(calibration.source)}",
        soft_wrap=True,
    )
    left_out = "".join(f"; {n:,} rows {plain(why)} left out" for why, n in r["skipped"].items())
    out.print(
        f"{r['pairs']:,} pairs{_of_questions(r)}, {r['decided']:,} of them decided (ties do not count); of like length, within 1.5 "
        f"times, {r['like_length']:,}{left_out}.",
        soft_wrap=True,
    )
    table = Table("measure", box=None, header_style="bold", pad_edge=False)
    for name in ("agrees", "of like length", "AUC", "by length"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for name, m in r["measures"].items():
        table.add_row(
            plain(name),
            _percent(m["agreement"]),
            _percent(m["like_length"]),
            _number(m["auc"]),
            _number(m["with_length"]),
            f"[{_COLOURS.get(m['verdict'], 'default')}]{plain(m['verdict'])}[/]",
        )
    out.print(table)
    out.print(
        "agrees: with the known preference, per cent (95 %); by length: rank correlation of the measure's lead with "
        "the length's. srtui choose calibrate --json has more; docs/method.md says what each figure is.",
        style="dim",
    )
    for m in r["measures"].values():
        out.print(plain(m["sentence"]))
    _print_between(r["between"])


def _of_questions(result: Mapping[str, Any]) -> str:
    """How many questions the pairs are of, where some have several."""
    questions = result.get("questions", result["pairs"])  # calibrations before it was counted had no number
    return "" if questions == result["pairs"] else f" of {questions:,} questions (intervals count these)"


def _print_between(between: Mapping[str, Mapping[str, float | None]]) -> None:
    """How often each measure makes the same choice as those that are no versions of others."""
    names = [name for name in between if not name.endswith(AT_LENGTH)]
    out.print()
    table = Table("same choice as", *map(plain, names), box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in names:
        cells = [between[name][other] for other in names]
        table.add_row(plain(name), *("-" if c is None else share(c, 1) for c in cells))
    out.print(table)


def _percent(bounds: Sequence[Any]) -> str:
    value, low, high = bounds
    if value is None:
        return "-"
    return (
        f"{100 * value:.0f} ({100 * low:.0f}-{100 * high:.0f})" if low is not None else f"{100 * value:.0f}"
    )


def _number(bounds: Sequence[Any]) -> str:
    return "-" if bounds[0] is None else f"{bounds[0]:.2f}"
