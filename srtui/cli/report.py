"""Report: a run in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtui.atomic import replacing
from srtui.cli.base import MOST, AsJson, Force, RunName, app, libraries_log, open_store
from srtui.cli.output import fields_of, is_stdout, outputs_of, print_json, print_line, short, stdout_for_data
from srtui.errors import UserError


@app.command(epilog="Example: srtui report quickstart --out quickstart.html")
def report(
    run_name: RunName,
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file, - for stdout; RUN-report.html if neither file is named."),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="The same as Markdown, into this file.")] = None,
    examples: Annotated[
        int, typer.Option(min=0, max=MOST, help="Examples of each sort: best, worst, random.")
    ] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=-MOST, max=MOST, help="Draws the random examples; the recipe's if absent."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """What was done, what came of it, and what could not be concluded, in one self-contained file."""
    workspace, store = open_store(read_only=True)
    with store:
        run = store.runs.named(run_name)
        if out is None and markdown is None and not as_json:
            out = Path(f"{run.name}-report.html")
        outputs = outputs_of(store, workspace)
        streams = [path for path in (out, markdown) if is_stdout(path)]
        if len(streams) + as_json > 1:
            raise UserError(
                "Only one of --out, --markdown and --json can go to stdout; name files for the others."
            )
        for path in (out, markdown):
            if path is not None and path not in streams:
                outputs.check(path, force)
        stream = stdout_for_data(f"--out {streams[0]}") if streams else None
        with libraries_log(workspace.store_path.parent):  # matplotlib logs what fonts it looks for
            from srtui import report as reports

        facts = reports.gather(store, workspace.root, run.id, examples=examples, seed=seed)
        if as_json:
            sources = [
                dict(zip(("file", "sha256", "format", "kind", "rows", "refused"), source, strict=True))
                for source in facts.sources
            ]
            print_json(
                "report",
                fields_of(facts) | {"sources": sources, "open": reports.open_questions(facts)},
            )
        for path, render in ((out, reports.html), (markdown, reports.markdown)):
            if path is None:
                continue
            if stream is not None and path in streams:
                stream.write(render(facts).encode("utf-8"))
                continue
            with replacing(path) as file:
                file.write(render(facts).encode("utf-8"))
            outputs.wrote(path)
            if not as_json and stream is None:
                print_line(f"{short(path.resolve())}: {path.stat().st_size / 1000:,.0f} kB.")
