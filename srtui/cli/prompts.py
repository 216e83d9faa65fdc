"""Prompt files: srtui's own to start from, and the released ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import app
from srtui.cli.output import print_line
from srtui.errors import UserError

prompts_app = typer.Typer(
    help="Prompts files, which a recipe names with prompts = FILE.", no_args_is_help=True
)
app.add_typer(prompts_app, name="prompts")

Out = Annotated[Path, typer.Option("--out", help="The prompts file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


@prompts_app.command("new", epilog="Example: srtui prompts new --out recipes/mine.toml")
def new(out: Out, force: Force = False) -> None:
    """Write srtui's own templates and reverse prompt to a file, to be edited."""
    from importlib.resources import files

    _write(out, (files("srtui.prompts") / "default.toml").read_text(encoding="utf-8"), force)


@prompts_app.command(
    "from-released",
    epilog="Example: srtui prompts from-released Reflection_Tuning --out recipes/released.toml",
)
def from_released(
    sources: Annotated[
        list[Path],
        typer.Argument(help="A checkout of the authors' repository, or its scripts; they are read, not run."),
    ],
    out: Out,
    force: Force = False,
) -> None:
    """Make a prompts file of the scripts that the paper's authors released."""
    from srtui.prompts.released import released_prompts, to_toml

    prompts = released_prompts(sources)
    _write(out, to_toml(prompts, "Read from the scripts that the paper's authors released."), force)


def _write(out: Path, text: str, force: bool) -> None:
    from srtui.atomic import replacing
    from srtui.store.outputs import refuse_store
    from srtui.workspace import Workspace

    try:
        store: Path | None = Workspace.find().store_path
    except UserError:
        store = None
    refuse_store(out, store)
    if out.exists() and not force:
        raise UserError(f"{out} is there already; --force replaces it.")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"{out}: name a file in a folder that exists.")
    with replacing(out) as file:
        file.write(text.encode("utf-8"))
    print_line(f'{out} written. Name it in a recipe beside it: prompts = "{out.name}"')
