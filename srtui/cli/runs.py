"""Runs: run, resume, status, scores."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.cli.base import AsJson, RunName, app, open_store, plain_data, print_json, short, stop_on_signals
from srtui.errors import UserError
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.runs import Run


def _stage(word: str | None) -> str | None:
    from srtui.store.runs import STAGES

    if word is not None and word not in STAGES:
        raise UserError(f"--until {word}: the stages are {', '.join(STAGES)}.")
    return word


Until = Annotated[str | None, typer.Option(help="Stop after this stage.", callback=_stage)]


@app.command(epilog="Example: srtui run recipes/quickstart.toml --limit 16 --set training.epochs=1")
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
    until: Until = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    teacher_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="The next round: the tuned student of this run is the teacher."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reflect, choose, reflect, choose, train. Run it again after any stop: it goes on where it was."""
    from srtui import recipe as recipes

    what = recipes.load(recipe, set_, limit)
    workspace, store = open_store()
    with store:
        from srtui.pipeline import next_round, prepare

        again = f"srtui run {recipe}"
        if teacher_from is not None:
            before = store.runs.named(teacher_from)
            what = next_round(workspace, store, what, before, lambda line: print(line, file=sys.stderr))
            again += f" --teacher-from {before.name}"
        this, is_new = prepare(workspace, store, what, recipe.resolve())
        _work(workspace, store, this, until, as_json, is_new, again)


@app.command(epilog="Example: srtui resume quickstart")
def resume(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")],
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped, just as it was started, whatever its recipe says by now."""
    workspace, store = open_store()
    with store:
        this = store.runs.named(name)
        _work(workspace, store, this, until, as_json, False, f"srtui resume {this.name}")


def _work(
    workspace: Workspace, store: Store, this: Run, until: str | None, as_json: bool, is_new: bool, again: str
) -> None:
    from srtui.console import out, print_summary, reporter
    from srtui.pipeline import Engine
    from srtui.progress import Stopped
    from srtui.store.summary import summarise

    if this.status == "done" and not store.work.unscored_by_hand(this.id):
        if as_json:
            print_json({"type": "summary", **summarise(store, this.id)})
        else:
            print_summary(summarise(store, this.id), _files(workspace, store, this))
            print("\nThis run is done already; nothing was left to do.")
        return
    stop = stop_on_signals()
    with reporter(as_json) as face:
        if not is_new:
            face.event("info", f"Going on with run {this.name}.")
        try:
            this = Engine(workspace, store, this, face, stop.is_set).work(until)
            stopped = False
        except Stopped:
            stopped = True
    if as_json:
        print_json({"type": "summary", **summarise(store, this.id)})
    elif stopped:
        out.print(f"Stopped; everything finished is stored. Go on with: {again}", soft_wrap=True)
    else:
        print_summary(summarise(store, this.id), _files(workspace, store, this))
    if stopped:
        sys.exit(130)


@app.command(epilog="Example: srtui ablate recipes/quickstart.toml --only original,random --seeds 3")
def ablate(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    only: Annotated[
        str | None, typer.Option(help="Only these arms, with commas between; all if absent.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each arm.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is each part of the method worth? Other ways to choose, the same texts, scores and steps."""
    from srtui import recipe as recipes
    from srtui.console import out, print_comparison, reporter
    from srtui.pipeline.ablate import Ablation, check_arms
    from srtui.progress import Stopped

    names = [word.strip() for word in (only or "").split(",") if word.strip()]
    check_arms(names)
    what = recipes.load(recipe, set_, limit)
    workspace, store = open_store()
    stop = stop_on_signals()
    with store:
        try:
            with reporter(as_json) as face:
                found = Ablation(workspace, store, what, recipe.resolve(), face, stop.is_set).work(
                    names, seeds
                )
        except Stopped:
            print("Stopped; everything finished is stored. Go on with the same command.", file=sys.stderr)
            sys.exit(130)
    if as_json:
        print_json({"type": "ablation", **plain_data(found)})
    else:
        print_comparison(found, out)


def _files(workspace: Workspace, store: Store, this: Run) -> list[tuple[str, str]]:
    training = store.runs.training(this.id)
    files = [("store", short(store.path))]
    if training and training["adapter"]:
        files.append(("adapter", short(workspace.root / training["adapter"])))
    files.append(("selected data", f"srtui export {this.name} --format alpaca --out {this.name}.json"))
    return files


@app.command(epilog="Example: srtui status --json")
def status(
    name: Annotated[str | None, typer.Argument(help="A run; all of them if absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far every run is; with a run's name, its whole summary."""
    from rich.table import Table

    from srtui.console import out, plain, print_summary, title
    from srtui.store.runs import state_now
    from srtui.store.summary import summarise

    workspace, store = open_store(read_only=True)
    with store:
        if name is not None:
            this = store.runs.named(name)
            figures = summarise(store, this.id)
            if as_json:
                print_json(figures)
            else:
                print_summary(figures, _files(workspace, store, this))
            return
        runs = store.runs.all()
        if as_json:
            print_json([summarise(store, r.id) for r in runs])
            return
        from srtui.store.figures import counts
        if not runs:
            print("No runs yet. Start one with: srtui run recipes/quickstart.toml")
            return
        table = Table("run", "status", "stage", "progress", "kept", "engine", box=None, header_style="bold")
        for r in runs:
            count, holder = counts(store.conn, r.id), store.runs.holder(r.id)
            stage = store.runs.stages(r.id).get(r.stage) if r.stage else None
            engine = f"process {holder['pid']} on {holder['host']}" if holder else ""
            table.add_row(
                plain(r.name),
                state_now(r.status, holder is not None),
                title(r.stage) if r.stage else "",
                f"{stage['done']:,}/{stage['total']:,}" if stage else "",
                f"{count.kept:,}/{count.samples:,}",
                plain(engine),
            )
        out.print(table)


@app.command(epilog="Example: srtui scores quickstart --csv scores.csv")
def scores(
    run_name: RunName,
    templates: Annotated[
        bool,
        typer.Option("--templates", help="Score some originals under every prompt template, and compare."),
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="With --templates: how many originals.")] = 48,
    csv: Annotated[
        Path | None, typer.Option(help="Every score as a row, into this file; - for the screen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How IFD and r-IFD are spread, by kind of variant; the share over 1, what was cut, what failed."""
    from srtui.console import err, out, print_distributions, print_templates
    from srtui.store.distributions import distributions, score_columns, score_rows

    workspace, store = open_store(read_only=not templates)
    with store:
        this = store.runs.named(run_name)
        if templates:
            from srtui.pipeline import compare_templates

            found = compare_templates(
                workspace, store, this, sample, lambda line: err.print(line, style="dim")
            )
            if as_json:
                print_json(found)
            else:
                print_templates(found, out)
            return
        if csv is not None:
            _write_csv(csv, score_columns(), score_rows(store, this.id))
            return
        figures = distributions(store, this.id)
        if as_json:
            print_json({"run": this.name, "scores": figures})
        elif not figures:
            print(f"Run {this.name} has no scores yet; they come with: srtui run")
        else:
            print_distributions(figures, out)


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    import csv

    def write(file: Any) -> int:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        written = 0
        for row in rows:
            writer.writerow(row)
            written += 1
        return written

    if str(path) == "-":
        write(sys.stdout)
        return
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            print(f"{path}: {write(file):,} scores.")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error
