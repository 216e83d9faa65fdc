"""The machine and the store: doctor, db."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import AsJson, app, open_store, plain_data, print_json, say
from srtui.errors import UserError
from srtui.workspace import Workspace

db_app = typer.Typer(
    help="The store: path, size and counts; check, vacuum, backup.", invoke_without_command=True
)
app.add_typer(db_app, name="db")


@app.command(epilog="Example: srtui doctor")
def doctor(as_json: AsJson = False) -> None:
    """Does everything work on this machine? Each line is ok, or says what to do."""
    from srtui.console import out, plain
    from srtui.doctor import checks

    try:
        root: Path | None = Workspace.find().root
    except UserError:
        root = None
    failed = False
    for check in checks(root):
        failed |= check.ok is False
        if as_json:
            print_json(plain_data(check))
            continue
        sign = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        mend = f" [bold]{plain(check.mend)}[/]" if check.mend and check.ok is not True else ""
        out.print(f"{sign} {plain(check.name)}: {plain(check.detail)}{mend}", soft_wrap=True)
    if failed:
        sys.exit(2)


@db_app.callback(epilog="Example: srtui db check")
def db(context: typer.Context, as_json: AsJson = False) -> None:
    """Path, size and row counts of the store."""
    if context.invoked_subcommand is not None:
        return
    from srtui.console import bytes_text

    _, store = open_store(read_only=True)
    with store:
        counts = store.counts()
        if as_json:
            print_json({"path": str(store.path), "bytes": store.size(), "rows": counts})
            return
        say(f"{store.path}  {bytes_text(store.size())}")
        for name, count in counts.items():
            say(f"  {name:<18} {count:>12,}")


@db_app.command("check", epilog="Example: srtui db check")
def db_check() -> None:
    """Is the file sound?"""
    _, store = open_store(read_only=True)
    with store:
        problems = store.check()
    for problem in problems:
        say(problem)
    if problems:
        raise UserError(f"{store.path} is damaged; restore a copy made by srtui db backup.")
    say(f"{store.path} is sound.")


@db_app.command("vacuum", epilog="Example: srtui db vacuum")
def db_vacuum() -> None:
    """Give unused space back to the disk."""
    from srtui.console import bytes_text

    _, store = open_store()
    with store:
        say(f"{bytes_text(max(0, store.vacuum()))} given back.")


@db_app.command("backup", epilog="Example: srtui db backup store/yesterday.sqlite")
def db_backup(target: Annotated[Path, typer.Argument(help="A file that does not exist yet.")]) -> None:
    """A consistent copy, also while a run writes."""
    _, store = open_store(read_only=True)
    with store:
        store.backup(target)
    say(f"Copied to {target}.")
