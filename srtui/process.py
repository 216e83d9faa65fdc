"""The process around a command: its streams, its exit code, and the one sentence where it fails."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from srtui.errors import UserError

_LONGEST = 1000  # characters of a sentence: a name on the command line can be of any length


def work(command: Callable[[], None]) -> NoReturn:
    """Run ``command`` and exit: 0; 2 and one sentence for anything that the user can put right; 130
    where it was interrupted; 141 where nobody reads what it writes, as the shell has it."""
    from srtui.workspace import go_offline

    take_any_text()
    go_offline()
    try:
        command()
        _flush()
    except SystemExit:
        try:
            _flush()
        except (OSError, ValueError):
            _let_go()
        raise
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        _let_go()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _fail(_of_system(error))
    except MemoryError:
        _fail("The memory of this machine ran out; close something first. Nothing already stored is lost.")
    except Exception as error:
        from srtui.gpu_errors import gpu_sentence
        from srtui.store import DatabaseError, explain

        if sentence := gpu_sentence(error):
            _fail(sentence)
        if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # Path.resolve, before 3.13
            _fail(f"{error}.")
        if not isinstance(error, DatabaseError):
            raise
        _fail(str(explain(error, _store_path())))
    sys.exit(0)


def take_any_text() -> None:
    """Let stdout and stderr take any text: what their encoding has no sign for is written as an escape.
    A terminal's size that is no number (Rich would trip over it) is not one."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[0-9]{1,4}", os.environ.get(name, "1")):
            del os.environ[name]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """While it can still be said that nobody read it: at exit, Python would print a traceback."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _fail(sentence: str) -> NoReturn:
    from srtui.text import safe

    if len(sentence) > _LONGEST:
        sentence = f"{sentence[: _LONGEST // 2]} … {sentence[-_LONGEST // 2 :]}"
    with contextlib.suppress(OSError, ValueError):
        # print() takes None, which a closed stderr is, for stdout.
        print(safe(f"srtui: {' '.join(sentence.split())}"), file=sys.stderr or io.StringIO())
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            _let_go()
    sys.exit(2)


def _let_go() -> None:
    """Nobody reads stdout: what Python still holds of it goes nowhere, without a complaint at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _of_system(error: OSError) -> str:
    why = error.strerror or str(error) or type(error).__name__
    if error.errno in (28, 30, 122):  # no space, read-only file system, quota
        return f"{error.filename or 'The disk'}: {why}; nothing already stored is lost."
    return f"{error.filename}: {why}." if error.filename else f"The system refused: {why}."


def _store_path() -> Path:
    from srtui.workspace import Workspace

    try:
        return Workspace.find().store_path
    except UserError:
        return Path("store/srtui.sqlite")
