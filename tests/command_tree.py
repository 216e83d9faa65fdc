"""The commands as a tree: what is asked of every one of them is asked of the program itself, not of a list."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import typer.main

from srtui.cli import app


def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command by its words; a group that does something by itself is one too."""
    return dict(_within(typer.main.get_command(app), ()))


def _within(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command and path:
        yield path, command
    for name, inner in command.commands.items():
        yield from _within(inner, (*path, name))


def parse(words: list[str]) -> click.Context:
    """``srtui WORDS`` as its command parses it, without doing it. Raises click's UsageError where it does not parse."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="srtui")
    while isinstance(command, click.Group):
        with command.make_context(context.info_name, list(words), parent=context.parent) as made:
            rest = [*made._protected_args, *made.args]
            if not rest:
                return made
            name, inner, words = command.resolve_command(made, rest)
        assert inner is not None, rest
        command, context = inner, click.Context(inner, info_name=name, parent=made)
    return command.make_context(context.info_name, list(words), parent=context.parent)


def example(command: click.Command) -> list[str]:
    """The words of a command's example, without ``srtui``."""
    words = shlex.split((command.epilog or "").partition("Example: ")[2])
    assert words[:1] == ["srtui"], command.epilog
    return words[1:]
