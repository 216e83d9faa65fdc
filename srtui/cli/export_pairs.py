"""The export of preference pairs: its options, and its report of what was written."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from srtui.cli.base import open_store
from srtui.cli.output import is_stdout, outputs_of, print_json, print_line, stdout_for_data
from srtui.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from srtui.preferences import PairMaker, PreferencePair
    from srtui.store import Store
    from srtui.store.runs import Run
    from srtui.workspace import Workspace

Layout = Annotated[str, typer.Option(help="Of preference pairs: trl, axolotl, llama-factory or text.")]
Rejected = Annotated[
    str, typer.Option(help="Of preference pairs: each beaten answer (rest), or the worst alone (worst).")
]
MinMargin = Annotated[
    float, typer.Option(min=0, help="Of preference pairs: those that the measure sets so far apart.")
]
OnlyAgreed = Annotated[
    bool, typer.Option("--only-agreed", help="Of preference pairs: those that two choosers agree on.")
]
PeopleFirst = Annotated[
    bool,
    typer.Option(
        "--people-first", help="Of preference pairs: a person's stand first, whatever their margin."
    ),
]

_WHOSE = {
    "student": "the student",
    "person": "a person",
    "encoder": "the sentence encoder",
    "proxy": "the proxy",
}


class PairOptions(NamedTuple):
    """What was asked of an export of pairs; the filters are those of srtui.preferences.PairMaker."""

    layout: str = "trl"
    rejected: str = "rest"
    min_margin: float = 0.0
    only_agreed: bool = False
    people_first: bool = False

    def refuse(self) -> None:
        """For an export of another format. Raises UserError where one of these was asked for: it would do nothing."""
        for name, value in self._asdict().items():
            if value != self._field_defaults[name]:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is for preference pairs alone; add --format preference.")


def export_pairs(run_name: str, out_file: Path, options: PairOptions, force: bool, as_json: bool) -> None:
    """Write a run's preference pairs, and report who chose them. Raises UserError where there are none."""
    from srtui import datasets

    workspace, store = open_store(read_only=True)
    with store:
        outputs = outputs_of(store, workspace)
        stream = stdout_for_data(f"--out {out_file}") if is_stdout(out_file) else None
        if stream is None:
            outputs.check(out_file, force)
        run = store.runs.named(run_name)
        maker = _maker(run, options)
        maker.rater = _rater(workspace, store, run)
        probe = replace(maker, made=Counter(), left_out=Counter())
        typed = next((pair for pair in _pairs(store, run, probe) if pair.margin is not None), None)
        pairs = datasets.led_by(typed, _pairs(store, run, maker))
        first = next(pairs, None)
        if first is None:
            raise UserError(_no_pairs(run_name, maker))
        rows = (pair.record() for pair in chain([first], pairs))
        written = datasets.write_preferences(rows, out_file, options.layout, stream)
        if stream is None:
            outputs.wrote(out_file)
    if as_json:
        counts = {"chosen": dict(maker.made), "left_out": {k: n for k, n in maker.left_out.items() if n}}
        written_to = {"run": run_name, "path": out_file, "format": "preference", "rows": written}
        print_json("export", written_to | counts)
        return
    messages = sys.stderr if stream else None
    print_line(f"{written:,} preference pairs written to {'stdout' if stream else out_file}.", to=messages)
    chosen = ", ".join(f"{count:,} by {_WHOSE.get(name, name)}" for name, count in sorted(maker.made.items()))
    left_out = _left_out(maker)
    print_line(f"Chosen: {chosen}." + (f" Left out: {left_out}." if left_out else ""), to=messages)


def _maker(run: Run, options: PairOptions) -> PairMaker:
    from srtui.preferences import pair_maker
    from srtui.recipe import Recipe

    if options.rejected not in ("rest", "worst"):
        raise UserError(f"--rejected {options.rejected}: it can be rest or worst.")
    if not math.isfinite(options.min_margin):
        raise UserError(f"--min-margin {options.min_margin}: it is a number from 0.")
    return pair_maker(
        Recipe.model_validate(run.recipe),
        rejected=options.rejected,
        min_margin=options.min_margin,
        only_agreed=options.only_agreed,
        people_first=options.people_first,
    )


def _rater(workspace: Workspace, store: Store, run: Run) -> Callable[..., list[float | None]] | None:
    """The preferences that the run's rater was asked for before, by its gate for example; None where the rater is not here."""
    from srtui.evaluation.rater import Rater

    recipe = run.recipe
    name = recipe.get("selection", {}).get("rater") or recipe["teacher"]["model"]
    try:
        return Rater(store, workspace.models, name).known_preferences
    except UserError:
        return None


def _pairs(store: Store, run: Run, maker: PairMaker) -> Iterator[PreferencePair]:
    """A run's pairs, with ``people_first`` those of people before the others."""
    from srtui.store.comparisons import answer_comparisons

    for by_person in (True, False) if maker.people_first else (None,):
        yield from maker.pairs(
            answer_comparisons(store.conn, run.id, maker.stored_metric, by_person=by_person)
        )


def _no_pairs(run_name: str, maker: PairMaker) -> str:
    left_out = _left_out(maker)
    if not left_out:
        return f"Run {run_name!r} has chosen no answer yet; srtui status {run_name} says how far it is."
    if maker.only_agreed and maker.left_out["pairs that nobody else was asked about"]:
        left_out += ": a second chooser is a person who takes a text in the dashboard, or a rater (gates.rater), beside the student"
    return f"Run {run_name!r} gives no such preference pair ({left_out}); srtui show SAMPLE says what a sample has."


def _left_out(maker: PairMaker) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(maker.left_out.items()) if count)
