"""Pilot: a small sample of a run first, and what it says about the rest."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import MOST, AsJson, app, open_store, seconds_here
from srtui.cli.elsewhere import On, Workers, WorkerTimeout, elsewhere_of, placed
from srtui.cli.output import fields_of, print_json
from srtui.pilot import DEFAULT_SAMPLES

if TYPE_CHECKING:
    from srtui.pilot.result import PilotExample, PilotResult


@app.command(epilog="Example: srtui pilot recipes/quickstart.toml --samples 24")
def pilot(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    samples: Annotated[
        int, typer.Option(min=1, max=MOST, help="How many samples, drawn from every kind and length.")
    ] = DEFAULT_SAMPLES,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Of the first N samples, as the run would have it.")
    ] = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Some samples through the whole loop without training, in minutes: shall the rest run like this?

    What came through, what the whole data set would take, examples before and after, and one verdict. Nothing
    of it is computed again by the run itself.
    """
    from srtui import recipe as recipes
    from srtui.cli.reporters import reported_work
    from srtui.pipeline.pilot_run import pilot as run_pilot

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    settings = recipes.load(recipe, set_, limit)
    words = [*(w for s in set_ or [] for w in ("--set", s)), *(["--limit", str(limit)] if limit else [])]
    workspace, store = open_store()
    with (
        store,
        reported_work(as_json, workspace.store_path.parent) as (face, should_stop),
        placed(elsewhere, face, should_stop) as place,
    ):
        result = run_pilot(
            workspace,
            store,
            settings,
            recipe.resolve(),
            face,
            samples=samples,
            should_stop=should_stop,
            before=seconds_here(),
            place=place,
        )
    if as_json:
        print_json({"type": "pilot", **fields_of(result)})
    else:
        _print(result, shlex.join(["srtui", "run", str(recipe), *words]))


def _print(r: PilotResult, command: str) -> None:
    from srtui.cli.terminal import out, plain, print_facts
    from srtui.pilot import SIGNS
    from srtui.pilot.pilot_words import NOTES, advice, facts

    out.print()
    out.print(
        f"[bold]{plain(r.run)}[/]  teacher {plain(r.teacher)}, student {plain(r.student)}", soft_wrap=True
    )
    print_facts([(name, plain(value)) for name, value in facts(r)])
    out.print(NOTES, style="dim")
    for n, example in enumerate(r.examples, 1):
        _print_example(n, len(r.examples), example)
    colour = {"go": "green", "worse": "red"}.get(r.verdict.word, "yellow")
    out.print()
    out.print(f"[bold {colour}]{SIGNS[r.verdict.word]} {plain(r.verdict.sentence)}[/]")
    for sentence in r.verdict.also:
        out.print(f"  also: {plain(sentence)}")
    out.print(f"Then: {plain(advice(r, command))}", soft_wrap=True)


def _print_example(n: int, count: int, e: PilotExample) -> None:
    from rich.table import Table
    from rich.text import Text

    from srtui.cli.terminal import out, plain
    from srtui.text import safe

    out.print()
    talk = "".join(f"; {plain(reason)}" for reason in e.gates.values())
    out.print(f"[bold]example {n} of {count}[/], sample {e.sample}: {plain(e.why)}{talk}")
    table = Table("before", "after", box=None, pad_edge=False, header_style="dim", expand=True)
    for column in table.columns:
        column.ratio = 1
    after = e.after or ("no rewrite", "", "")
    for old, new in zip(e.before, after, strict=True):
        if old or new:
            table.add_row(Text(safe(_short(old))), Text(safe(_short(new))))
    out.print(table)


def _short(text: str, most: int = 400) -> str:
    """The beginning of a text: ``srtui show`` has all of it."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
