"""Small files that people write, read with suspicion: regular, of bounded size, UTF-8, and in one
sentence what is wrong with one that is not.

A path on a command line or in a recipe can name anything: a pipe that nobody writes to would hold the
program for good, a device such as /dev/zero never ends, and brackets nested a hundred thousand deep
end Python's parsers in a RecursionError.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from srtui.errors import UserError

MOST_TEXT = 64_000_000
"""Bytes of the largest file that is read whole, where a caller does not allow more."""


def open_regular(path: Path) -> io.BufferedReader:
    """An ordinary file, opened for reading. Raises UserError for anything else, without waiting for it."""
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer; an ordinary file does not know the flag.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise UserError(cannot_read(path, error)) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise UserError(not_a_file(path, mode))
    return open(handle, "rb")  # noqa: PTH123 - a descriptor, not a path


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """All of an ordinary file of at most ``most`` bytes. Raises UserError."""
    with open_regular(path) as file:
        try:
            content = file.read(most + 1) or b""
        except OSError as error:
            raise UserError(cannot_read(path, error)) from error
    if len(content) > most:
        raise UserError(
            f"{path} is larger than {most / 1e6:,.0f} MB, the most that is read here; make it smaller."
        )
    return content


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The same as text in UTF-8, with or without a byte order mark. Raises UserError."""
    return decoded(read_bytes(path, most), path)


def decoded(content: bytes, path: Path) -> str:
    """``content`` of ``path`` as text, as :func:`read_text` reads it. Raises UserError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start + 1} is not UTF-8 ({error.reason}); save it as UTF-8 text."
        ) from None


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Raises UserError, with ``source`` as the name of what is wrong."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{source}: not valid TOML: nested too deeply; make it flatter.") from None
    except ValueError as error:
        raise UserError(
            f"{source}: not valid TOML: {str(error).split(';')[0].rstrip('.')}; correct it."
        ) from None


def parse_json(text: str | bytes, source: str) -> Any:
    """Raises UserError, with ``source`` (a file, or a file and a line) as the name of what is wrong."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{source} is not valid JSON: nested too deeply; make it flatter.") from None
    except ValueError as error:
        raise UserError(
            f"{source} is not valid JSON: {str(error).split(';')[0].rstrip('.')}; correct it."
        ) from None


def cannot_read(path: Path, error: OSError | ValueError) -> str:
    """The sentence for what the system said when ``path`` was opened or read."""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOENT, errno.ENOTDIR):
        return f"{path} does not exist; check the path."
    if code in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read; give yourself permission to read it."
    if code == errno.EISDIR:
        return f"{path} is a folder; name a file in it."
    if code == errno.ENXIO:
        return not_a_file(path, 0)
    why = getattr(error, "strerror", None) or error
    return f"{path} cannot be read ({why}); check the disk and the path."


def not_a_file(path: Path, mode: int) -> str:
    """The sentence for a path that is no ordinary file."""
    if stat.S_ISDIR(mode):
        return f"{path} is a folder; name a file in it."
    return f"{path} is not a regular file but a pipe, socket or device; save its content to a file first."


def expand_home(name: str) -> Path:
    """``name`` as a path, with ~ and ~user filled in; as it stands where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def current_folder() -> Path | None:
    """The folder that relative paths start from; None where it has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def remembered(path: Path) -> Any:
    """The JSON in a file that srtui itself wrote; None where it is absent or anything else by now."""
    try:
        return parse_json(read_bytes(path), str(path))
    except UserError:
        return None
