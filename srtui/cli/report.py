"""Report: a run told in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import (
    MOST,
    AsJson,
    RunName,
    app,
    libraries_log,
    open_store,
    plain_data,
    print_json,
    say,
    short,
)
from srtui.errors import UserError


@app.command(epilog="Example: srtui report quickstart --out quickstart.html")
def report(
    run_name: RunName,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; RUN-report.html if neither file is named.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="The same as Markdown, into this file.")] = None,
    examples: Annotated[
        int, typer.Option(min=0, max=MOST, help="Examples of each sort: best, worst, random.")
    ] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=-MOST, max=MOST, help="Draws the random examples; the recipe's if absent."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was done, what came of it, and what could not be concluded, in one self-contained file."""
    workspace, store = open_store()
    with store:
        this = store.runs.named(run_name)
        with libraries_log(workspace.store_path.parent):  # matplotlib tells of its fonts
            from srtui import report as reports

        facts = reports.gather(store, workspace.root, this.id, examples=examples, seed=seed)
    if as_json:
        print_json(plain_data(facts) | {"open": reports.open_questions(facts)})
        if out is None and markdown is None:
            return
    if out is None and markdown is None:
        out = Path(f"{this.name}-report.html")
    for path, render in ((out, reports.html), (markdown, reports.markdown)):
        if path is not None:
            _write(path, render(facts))
            if not as_json:
                say(f"{short(path.resolve())}: {path.stat().st_size / 1000:,.0f} kB.")


def _write(path: Path, text: str) -> None:
    """All of the file or the one that was there before."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"{path}: {error.strerror or error}.") from error
