"""Diff: two runs beside each other."""

from __future__ import annotations

from typing import Annotated

import typer

from srtui.cli.base import MOST, AsJson, app, open_store
from srtui.cli.completion import run_names
from srtui.cli.output import fields_of, print_json, print_line


@app.command(epilog="Example: srtui diff quickstart quickstart.original")
def diff(
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's name.", autocompletion=run_names)],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="Another run's name.", autocompletion=run_names)],
    limit: Annotated[int, typer.Option(min=0, max=MOST, help="List at most so many samples.")] = 20,
    as_json: AsJson = False,
) -> None:
    """How two runs differ: their recipes, and the samples that they decided otherwise, with both reasons."""
    from srtui.cli.terminal import out, plain
    from srtui.store.compare import compare_runs, decided_otherwise
    from srtui.wording import compared_words, otherwise_words

    _, store = open_store(read_only=True)
    with store:
        first, second = store.runs.named(a), store.runs.named(b)
        compared = compare_runs(store.conn, first.id, second.id)
        samples = decided_otherwise(store.conn, first.id, second.id, limit)
    if as_json:
        print_json("diff", {**fields_of(compared), "samples": [s._asdict() for s in samples]})
        return
    for line in compared_words(compared):
        print_line(line)
    for sample in samples:
        head, *reasons = otherwise_words(sample, compared.a, compared.b)
        out.print(f"\n[bold]{plain(head)}[/]")
        for reason in reasons:
            out.print(f"  {plain(reason)}", soft_wrap=True)
    total = sum(compared.otherwise.values())
    if total > len(samples):
        print_line(f"\n{total - len(samples):,} more; --limit {total} lists all.")
