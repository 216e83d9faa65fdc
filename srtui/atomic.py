"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from srtui.errors import UserError
from srtui.files import open_regular


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises OSError, and UserError for what is no regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sqlite(path: Path) -> bool:
    """Whether a file begins as every SQLite database does, or as the write-ahead log of one."""
    with path.open("rb") as file:
        begins = file.read(16)
    return begins == b"SQLite format 3\0" or begins[:4] in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


# Reads until it gets a zero, or nobody holds the other end of the pipe; then removes what it was given. Whoever
# closed the standard files before srtui began may print into the pipe: that is no zero.
_GUARD = (
    "import contextlib, os, sys\n"
    "while (got := os.read(0, 4096)) and not got.endswith(b'\\0'): pass\n"
    "for path in sys.argv[1:]:\n"
    "    with contextlib.suppress(OSError): os.unlink(path)"
)


@contextmanager
def gone_if_killed(*paths: Path) -> Iterator[None]:
    """These files are gone soon after this process, should it be killed within the block in whatever way;
    nothing runs in a process that gets SIGKILL, so another one, in a session of its own, waits for its end.

    They are also removed where they are still there when the block ends: name files that are renamed when
    they are whole. Where no process can be started, or all are killed at once (a power cut), they stay.
    """
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *(str(path.absolute()) for path in paths)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        guard = None
    try:
        yield
    finally:
        if guard is not None:
            if guard.stdin is not None:
                # A zero, for a process that was forked in the block holds the pipe too, and may live on.
                with contextlib.suppress(OSError):  # the guard itself was killed
                    guard.stdin.write(b"\0")
                guard.stdin.close()
            guard.wait()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` when the block ends well, and leaves no trace when not.

    Raises UserError where ``path`` is no regular file, a SQLite database, or cannot be written. Whether it may be written
    over is asked before: ``srtui.store.outputs``.
    """
    part: Path | None = None
    try:
        target = path.resolve()  # through a link, so that the link stays one
        mode = 0o666
        if target.exists():
            target_mode = target.stat().st_mode
            if not stat.S_ISREG(target_mode):
                raise UserError(f"{path} is not a regular file; name one to write.")
            mode = stat.S_IMODE(target_mode)
        partial = target.with_name(f".srtui-{secrets.token_hex(8)}.part")
        with gone_if_killed(partial):
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
            part = partial
            with open(handle, "wb", buffering=1 << 20) as file:  # noqa: PTH123 - a descriptor, not a path
                yield file
                file.flush()
                os.fsync(file.fileno())
            # Whoever asked whether it may be written asked a while ago, and a link may lead elsewhere by now.
            if target.is_file() and is_sqlite(target):
                raise UserError(
                    f"{path} is a SQLite database, which nothing is written over; name another file."
                )
            part.replace(target)
            part = None
    except OSError as error:
        raise UserError(_cannot_write(path, error)) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} cannot be written, for the disk is full; free some space and try again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written, for its folder does not allow it; choose another folder."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} cannot be written, for its folder does not exist; make the folder first."
    return f"{path} cannot be written ({error.strerror or error}); choose another place."
