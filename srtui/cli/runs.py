"""Runs: run, resume, retrain, status, scores."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.atomic import replacing
from srtui.cli.base import (
    MOST,
    AsJson,
    Bell,
    Force,
    OnDone,
    RunName,
    announce_end,
    app,
    libraries_log,
    open_store,
    seconds_here,
    stop_on_signals,
)
from srtui.cli.elsewhere import On, Opens, Workers, WorkerTimeout, elsewhere_of, placed
from srtui.cli.output import fields_of, is_stdout, outputs_of, print_json, print_line, short
from srtui.errors import UserError
from srtui.noise import screen
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.pipeline.template_check import TemplateScores
    from srtui.store import Store
    from srtui.store.runs import Run


def _stage(word: str | None) -> str | None:
    from srtui.store.stages import STAGES

    if word is not None and word not in STAGES:
        raise UserError(f"--until {word}: the stages are {', '.join(STAGES)}.")
    return word


Until = Annotated[str | None, typer.Option(help="Stop after this stage.", callback=_stage)]


@app.command(epilog="Example: srtui run recipes/quickstart.toml --limit 16 --set training.epochs=1")
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    limit: Annotated[int | None, typer.Option(min=1, max=MOST, help="Only the first N samples.")] = None,
    until: Until = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    teacher_from: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="The next round: the tuned student of this run is the teacher."),
    ] = None,
    on_done: OnDone = None,
    bell: Bell = False,
    as_json: AsJson = False,
) -> None:
    """Reflect, choose, reflect, choose, train. Run it again after any stop: it resumes where it was."""
    from srtui import recipe as recipes

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    settings = recipes.load(recipe, set_, limit)
    workspace, store = open_store()
    with store:
        from srtui.pipeline import next_round, prepare
        from srtui.pipeline.prepare import turns_begun_with

        resume_command = f"srtui run {recipe}"
        if teacher_from is not None:
            earlier = store.runs.named(teacher_from)
            with libraries_log(workspace.store_path.parent):
                settings = next_round(
                    workspace, store, settings, earlier, lambda line: print_line(line, to=screen())
                )
            resume_command += f" --teacher-from {earlier.name}"
        seconds_before = seconds_here()
        run, is_new = prepare(workspace, store, settings, recipe.resolve())
        seconds_before["prepare"] = seconds_here()["start"] - seconds_before["start"]
        resume_command += f" --on {on}" if on else ""
        if turns := turns_begun_with(store, run, settings):
            print_line(
                f"Run {run.name} was begun over the file's conversations with --turns {turns}, and resumes so; with "
                f'turns = "{settings.turns}" in the recipe it is a run over other samples.',
                to=screen(),
            )
        _work(
            workspace,
            store,
            run,
            until,
            as_json,
            is_new,
            resume_command,
            seconds_before,
            on_done,
            bell,
            elsewhere,
        )


@app.command(epilog="Example: srtui resume quickstart")
def resume(
    name: RunName,
    until: Until = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    on_done: OnDone = None,
    bell: Bell = False,
    as_json: AsJson = False,
) -> None:
    """Resume a run that was stopped, just as it was started, whatever its recipe says by now; it may continue elsewhere
    than it began."""
    elsewhere = elsewhere_of(on, workers, worker_timeout)
    workspace, store = open_store()
    with store:
        run = store.runs.named(name)
        resume_command = f"srtui resume {run.name}" + (f" --on {on}" if on else "")
        _work(
            workspace,
            store,
            run,
            until,
            as_json,
            False,
            resume_command,
            seconds_here(),
            on_done,
            bell,
            elsewhere,
        )


@app.command(epilog="Example: srtui retrain quickstart")
def retrain(name: RunName, as_json: AsJson = False) -> None:
    """Train again with what you have overruled in a run: a run beside it that reuses every text, score and choice."""
    workspace, store = open_store()
    with store:
        from srtui.pipeline.prepare import with_changes

        seconds_before = seconds_here()
        run, is_new = with_changes(store, store.runs.named(name))
        _work(workspace, store, run, None, as_json, is_new, f"srtui resume {run.name}", seconds_before)


def _work(
    workspace: Workspace,
    store: Store,
    run: Run,
    until: str | None,
    as_json: bool,
    is_new: bool,
    resume_command: str,
    seconds_before: dict[str, float],
    on_done: str | None = None,
    bell: bool = False,
    elsewhere: Opens | None = None,
) -> None:
    from srtui.cli.reporters import reporter
    from srtui.cli.run_tables import print_summary
    from srtui.cli.terminal import out
    from srtui.pipeline import Engine
    from srtui.progress import Stopped
    from srtui.store.summary import summarise

    if run.status == "done" and not store.scores.unscored_by_hand(run.id):
        if as_json:
            print_json({"type": "summary", **fields_of(summarise(store, run.id))})
        else:
            print_summary(summarise(store, run.id), _files(workspace, store, run))
            print_line("\nThis run is done already; nothing was left to do.")
        return
    stop = stop_on_signals()
    with (
        announce_end(run.name, on_done, bell) as set_status,
        libraries_log(workspace.runs / run.name),
        reporter(as_json, stop.set) as face,
    ):
        if not is_new:
            face.event("info", f"Resuming run {run.name}.")
        try:
            with placed(elsewhere, face, stop.is_set) as place:
                engine = Engine(workspace, store, run, face, stop.is_set, before=seconds_before, place=place)
                run = engine.work(until)
            stopped = False
        except Stopped:
            stopped = True
        set_status("stopped" if stopped or run.status != "done" else "done")
    if as_json:
        print_json({"type": "summary", **fields_of(summarise(store, run.id))})
    elif stopped:
        out.print(f"Stopped; everything finished is stored. Resume with: {resume_command}", soft_wrap=True)
    else:
        print_summary(summarise(store, run.id), _files(workspace, store, run))
    if stopped:
        sys.exit(130)


def _files(workspace: Workspace, store: Store, run: Run) -> list[tuple[str, str]]:
    training = store.training.of_run(run.id)
    files = [("store", short(store.path))]
    if training and training.adapter:
        files.append(("adapter", short(workspace.root / training.adapter)))
    files.append(("selected data", f"srtui export {run.name} --format alpaca --out {run.name}.json"))
    return files


@app.command(epilog="Example: srtui status --json")
def status(
    name: Annotated[str | None, typer.Argument(help="A run; all of them if absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far every run is; with a run's name, its whole summary."""
    from rich.table import Table

    from srtui.cli.run_tables import print_summary
    from srtui.cli.terminal import out, plain
    from srtui.store.runs import state_now
    from srtui.store.summary import summarise
    from srtui.wording import stage_title

    workspace, store = open_store(read_only=True)
    with store:
        if name is not None:
            run = store.runs.named(name)
            figures = summarise(store, run.id)
            if as_json:
                print_json(figures)
            else:
                print_summary(figures, _files(workspace, store, run))
            return
        runs = store.runs.all()
        if as_json:
            print_json([summarise(store, r.id) for r in runs])
            return
        from srtui.store.figures import counts

        if not runs:
            print_line("No runs yet. Start one with: srtui run recipes/quickstart.toml")
            return
        table = Table("run", "status", "stage", "progress", "kept", "engine", box=None, header_style="bold")
        for r in runs:
            count, holder = counts(store.conn, r.id), store.runs.holder(r.id)
            stage = store.runs.stages(r.id).get(r.stage) if r.stage else None
            engine = f"process {holder.pid} on {holder.host}" if holder else ""
            if workers := len(store.runs.workers(r.id)):
                engine += f", {workers} workers"
            table.add_row(
                plain(r.name),
                state_now(r.status, holder is not None),
                stage_title(r.stage) if r.stage else "",
                f"{stage.done:,}/{stage.total:,}" if stage else "",
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
    sample: Annotated[int, typer.Option(min=1, max=MOST, help="With --templates: how many originals.")] = 48,
    csv: Annotated[
        Path | None, typer.Option(help="Every score as a row, into this file; - for stdout.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """How IFD and r-IFD are spread, by kind of variant; the share over 1, what was cut, what failed."""
    from srtui.cli.run_tables import print_distributions, print_templates
    from srtui.cli.terminal import err
    from srtui.store.distributions import ScoreRow, distributions, score_rows

    workspace, store = open_store(read_only=not templates)
    with store:
        run = store.runs.named(run_name)
        if templates:
            from srtui.pipeline import compare_templates

            with libraries_log(workspace.store_path.parent):
                compared = compare_templates(
                    workspace, store, run, sample, lambda line: err.print(line, style="dim")
                )
            if as_json:
                print_json([_without_empty_problem(t) for t in compared])
            else:
                print_templates(compared)
            return
        if csv is not None:
            outputs = outputs_of(store, workspace)
            if not is_stdout(csv):
                outputs.check(csv, force)
            _write_csv(csv, ScoreRow._fields, score_rows(store, run.id))
            if not is_stdout(csv):
                outputs.wrote(csv)
            return
        figures = distributions(store, run.id)
        if as_json:
            print_json({"run": run.name, "scores": figures})
        elif not figures:
            print_line(f"Run {run.name} has no scores yet; they come with: srtui run")
        else:
            print_distributions(figures)


def _without_empty_problem(template: TemplateScores) -> dict[str, Any]:
    """The key ``problem`` is there only where there is one."""
    return {key: value for key, value in fields_of(template).items() if key != "problem" or value}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    import csv

    def write(file: Any) -> int:
        writer = csv.writer(file)
        writer.writerow(columns)
        written = 0
        for row in rows:
            writer.writerow(row)
            written += 1
        return written

    if is_stdout(path):
        write(sys.stdout)
        return
    with replacing(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            written = write(text)
        finally:
            text.detach()
    print_line(f"{path}: {written:,} scores.")
