"""recipes: what each key of a recipe does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import AsJson, app
from srtui.cli.output import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srtui.recipe.reference import RecipeKey


@app.command(epilog="Example: srtui recipes training.learning_rate")
def recipes(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="section.key, or a section; all keys if absent.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All keys as docs/recipes.md has them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What can be written in a recipe: each key with its default, unit, source, and when to change it."""
    from srtui.errors import UserError
    from srtui.recipe import reference

    if markdown and (as_json or key is not None):
        raise UserError("--markdown writes all keys; leave KEY and --json out.")
    if markdown:
        print(reference.markdown(), end="")
        return
    keys = reference.recipe_keys() if key is None else reference.find_keys(key)
    if as_json:
        if len(keys) == 1:
            print_json("recipe-key", keys[0])
        else:
            print_json("recipe-keys", {"keys": keys})
    elif len(keys) == 1:
        _print_key(keys[0])
    else:
        _print_table(keys)


def _print_table(keys: Sequence[RecipeKey]) -> None:
    from rich.table import Table

    from srtui.cli.terminal import out, plain

    table = Table(box=None, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=16)
    table.add_column("what it does")
    for key in keys:
        table.add_row(plain(key.name), plain(key.default), plain(key.first_sentence))
    out.print(table)
    out.print("srtui recipes KEY prints one of them whole.", style="dim")


def _print_key(key: RecipeKey) -> None:
    from srtui.cli.terminal import out, plain, print_facts

    out.print(f"[bold]{plain(key.name)}[/]")
    out.print(plain(key.what))
    if key.change:
        out.print(f"\n[bold]When to change it[/]\n{plain(key.change)}")
    out.print()
    facts = (
        ("default", key.default or "none"),
        ("values", key.values),
        ("unit", key.unit),
        ("source", key.source),
    )
    print_facts([(name, plain(value)) for name, value in facts if value])
