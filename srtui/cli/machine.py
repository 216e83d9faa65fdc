"""The machine and the store: doctor, db."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import AsJson, app, open_store, stop_on_signals
from srtui.cli.output import outputs_of, print_json, print_line
from srtui.errors import UserError
from srtui.workspace import Workspace

db_app = typer.Typer(
    help="The store: path, size and counts; check, vacuum, backup, merge.", invoke_without_command=True
)
app.add_typer(db_app, name="db")


@app.command(epilog="Example: srtui doctor")
def doctor(as_json: AsJson = False) -> None:
    """Does everything work on this machine? Each line is ok, or says what to do."""
    from srtui.cli.terminal import out, plain
    from srtui.doctor import checks

    try:
        root: Path | None = Workspace.find().root
    except UserError:
        root = None
    failed = False
    for check in checks(root):
        failed |= check.ok is False
        if as_json:
            # Scripts know the key by its first name.
            print_json(
                "check", {"name": check.name, "ok": check.ok, "detail": check.detail, "mend": check.fix}
            )
            continue
        sign = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        fix = f" [bold]{plain(check.fix)}[/]" if check.fix and check.ok is not True else ""
        out.print(f"{sign} {plain(check.name)}: {plain(check.detail)}{fix}", soft_wrap=True)
    if failed:
        sys.exit(2)


@db_app.callback(epilog="Example: srtui db check")
def db(context: typer.Context, as_json: AsJson = False) -> None:
    """Path, size and row counts of the store."""
    if context.invoked_subcommand is not None:
        return
    from srtui.text import bytes_text

    _, store = open_store(read_only=True)
    with store:
        counts, logged = store.counts(), store.pages_in_log()
        if as_json:
            facts = {"path": str(store.path), "bytes": store.size(), "pages_in_log": logged, "rows": counts}
            print_json("store", facts)
            return
        print_line(f"{store.path}  {bytes_text(store.size())}")
        if logged:
            print_line(
                f"{logged:,} pages of it lie in {store.path.name}-wal alone: copy it with srtui db backup, or bring "
                "them into the file first, with srtui db checkpoint."
            )
        for name, count in counts.items():
            print_line(f"  {name:<18} {count:>12,}")


@db_app.command("checkpoint", epilog="Example: srtui db checkpoint")
def db_checkpoint() -> None:
    """Bring everything into the one file, so that a copy of it has all rows."""
    _, store = open_store()
    with store:
        if not store.checkpoint(30):
            raise UserError(f"{store.path} is being read or written; stop the run, or use srtui db backup.")
    print_line(f"{store.path} holds everything.")


@db_app.command("check", epilog="Example: srtui db check")
def db_check(
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="All rows: every text by its digest, scores, choices and counts by what they follow from.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Is the file sound, and does it say what was stored?"""
    from srtui.cli.reporters import progress_line
    from srtui.store import DatabaseError

    _, store = open_store(read_only=True)
    show, clear = progress_line(as_json)
    verified = None
    with store:
        problems = store.check()
        try:
            verified = store.verify(deep, lambda done, total: show(done, done, total))
            problems += verified.problems
            if deep:
                from srtui.pipeline.rederive import faults
                from srtui.store.verify import first_of

                problems += first_of(faults(store, lambda done, total: show(done, done, total)))
        except DatabaseError as error:
            if not problems:
                problems.append(str(error))
    clear()
    if as_json:
        checked = {"texts": verified.texts, "checked": verified.checked} if verified else {}
        print_json(
            "store-check",
            {"path": store.path, "sound": not problems, "texts": 0, "checked": 0}
            | checked
            | {"problems": problems},
        )
    for problem in [] if as_json else problems:
        print_line(problem)
    if problems:
        raise UserError(f"{store.path} is damaged; restore a copy made by srtui db backup.")
    if as_json or verified is None:
        return
    uncompared = (
        "" if verified.checked == verified.texts else f" of {verified.texts:,}; --deep compares them all"
    )
    print_line(f"{store.path} is sound; {verified.checked:,} texts compared with their digests{uncompared}.")


@db_app.command("vacuum", epilog="Example: srtui db vacuum")
def db_vacuum() -> None:
    """Give unused space back to the disk."""
    from srtui.text import bytes_text

    _, store = open_store()
    with store:
        print_line(f"{bytes_text(max(0, store.vacuum()))} given back.")


@db_app.command("merge", epilog="Example: srtui db merge ../shard-1 ../shard-2 --as alpaca")
def db_merge(
    shards: Annotated[list[Path], typer.Argument(help="Workspaces, or the files of their stores.")],
    run: Annotated[
        str | None, typer.Option(help="The run to take; the only one that a shard has where it is left out.")
    ] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help="What run and dataset are called here; as there by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the shards of one run together: samples, texts, scores and choices of each, by their content."""
    from srtui.pipeline.shards import merge

    _, store = open_store()
    stop = stop_on_signals()
    with store:
        merged = merge(
            store,
            shards,
            run,
            as_,
            (lambda line: None) if as_json else print_line,
            stop.is_set,
        )
    if as_json:
        print_json("merge", merged._asdict())
        return
    print_line(
        f"Run {merged.run}: {merged.samples:,} samples, {merged.settled:,} of them settled. Continue with: srtui resume {merged.run}"
    )


@db_app.command("backup", epilog="Example: srtui db backup store/yesterday.sqlite")
def db_backup(
    target: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """A consistent, verified copy, also while a run writes."""
    from srtui.store.backup import BackupStopped

    workspace, store = open_store(read_only=True)
    stop = stop_on_signals()
    with store:
        outputs_of(store, workspace).refuse_store(target)
        try:
            rows = store.backup(target, stop.is_set)
        except BackupStopped:
            print_line("Stopped; nothing was written.", to=sys.stderr)
            sys.exit(130)
    if as_json:
        print_json("backup", {"path": target, "rows": rows})
        return
    print_line(f"Copied to {target}: {sum(rows.values()):,} rows, checked.")
