"""The commands as a tree: what is asked of every one of them is asked of the program itself, not of a list."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer.main
from typer.core import TyperGroup

from srtui.cli import app


@cache
def _program() -> Any:
    return typer.main.get_command(app)


def commands() -> dict[tuple[str, ...], Any]:
    """Every command by its words; a group that does something by itself is one too."""
    return dict(_within(_program(), ()))


def _within(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    if command.invoke_without_command and path:
        yield path, command
    for name, inner in command.commands.items():
        yield from _within(inner, (*path, name))


def parse(words: list[str]) -> Any:
    """``srtui WORDS`` as its command parses it, without doing it: the context. Raises Typer's usage error where it
    does not parse."""
    name, command, parent = "srtui", _program(), None
    while True:
        context = command.make_context(name, list(words), parent=parent)
        if not isinstance(command, TyperGroup):
            return context
        rest = [*context._protected_args, *context.args]
        if not rest:
            return context
        name, command, words = command.resolve_command(context, rest)
        parent = context


def example(command: Any) -> list[str]:
    """The words of a command's example, without ``srtui``."""
    words = shlex.split((command.epilog or "").partition("Example: ")[2])
    assert words[:1] == ["srtui"], command.epilog
    return words[1:]
