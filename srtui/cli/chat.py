"""chat: the student before and after training, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import MOST, AsJson, RunName, app, libraries_log, open_store
from srtui.cli.output import print_json, print_line
from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.pipeline.side_by_side import SideBySide


@app.command(epilog="Example: srtui chat quickstart --say 'Name three trees.'")
def chat(
    run_name: RunName,
    say: Annotated[
        list[str] | None, typer.Option(help="Ask this, and end; may be given several times.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=MOST, help="The most tokens of an answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0 always takes the likeliest token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST)] = 0,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="With --json: a line when it is loaded, the prompt as the student sees it, and a line for each piece.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the student of a run, before and after training, the same thing.

    Without --say it asks what you type, one instruction a line; lines from a pipe too.
    """
    from srtui.cli.terminal import err
    from srtui.pipeline.side_by_side import SideBySide

    if stream and not as_json:
        raise UserError("--stream is for --json; without it answers are shown as they are written.")
    workspace, store = open_store(read_only=True)
    with store:
        run = store.runs.named(run_name)
        if not as_json:
            err.print(f"Loading the student of {run.name} ...", style="dim")
        with libraries_log(workspace.store_path.parent):
            students = SideBySide(workspace, store, run, tokens=tokens, temperature=temperature, seed=seed)
    with libraries_log(workspace.store_path.parent):
        if as_json and stream:
            print_json("ready", {"run": run.name})
        for instruction in say or _lines():
            if as_json:
                _print_json_answers(students, instruction, stream)
            else:
                _print_answers(students, instruction)


def _print_json_answers(students: SideBySide, instruction: str, stream: bool) -> None:
    """The answers as one JSON object; with ``stream`` each piece as it is written in front of it."""
    answers = {"base": "", "tuned": ""}
    if stream:
        print_json("prompt", {"text": students.prompt(instruction)})
    for side, piece in students.ask(instruction):
        answers[side] += piece
        if stream:
            print_json("piece", {"side": side, "text": piece})
    print_json("answers", {"instruction": instruction, **answers})


def _lines() -> Iterator[str]:
    """What is typed or piped, without blank lines; an end of file or /quit ends it."""
    interactive = sys.stdin.isatty()
    if interactive:
        print_line("Type an instruction; /quit or Ctrl-D ends.")
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        if line.strip() == "/quit":
            return
        if line.strip():
            yield line


def _print_answers(students: SideBySide, instruction: str) -> None:
    """Two columns that grow, on a terminal; the two answers one after the other elsewhere."""
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.panel import Panel
    from rich.table import Table

    from srtui.cli.terminal import out, plain

    answers = {"base": "", "tuned": ""}
    if not out.is_terminal:
        for side, piece in students.ask(instruction):
            answers[side] += piece
        for name, text in answers.items():
            print_line(f"{name}: {text.strip()}")
        return

    def panels() -> RenderableType:
        boxes = [Panel(plain(text.strip()), title=name, title_align="left") for name, text in answers.items()]
        if out.width < 80:
            return Group(*boxes)
        grid = Table.grid(expand=True)
        for _ in boxes:
            grid.add_column(ratio=1)
        grid.add_row(*boxes)
        return grid

    with Live(panels(), console=out, refresh_per_second=8, vertical_overflow="visible") as live:
        for side, piece in students.ask(instruction):
            answers[side] += piece
            live.update(panels())
