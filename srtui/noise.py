"""What libraries write on standard error goes to a log; the screen is for srtui's own messages.

PyTorch, transformers, bitsandbytes and llama.cpp warn of things that a user of srtui can do nothing
about, some from Python and some from native code, which writes to file descriptor 2 whatever
``sys.stderr`` is. So both are redirected: the descriptor, and Python's stream.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_redirected: list[TextIO] = []
_shown: list[bool] = []


def show_noise() -> None:
    """From now on, what libraries write stays on the screen (``-v``)."""
    _shown.append(True)


def screen() -> TextIO:
    """Where srtui's own messages go that are no results: standard error as it was before it was redirected."""
    return _redirected[-1] if _redirected else sys.stderr or io.StringIO()


@contextlib.contextmanager
def to_log(path: Path) -> Iterator[None]:
    """Until the end of the block, append to ``path`` what is written to standard error by anything
    but :func:`screen`. No file is left where nothing was; where none can be written, the output is lost. After
    :func:`show_noise` nothing is redirected.
    """
    if _shown:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError:
        log = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    before, saved = sys.stderr, _duplicate(2)
    stream: TextIO = before or io.StringIO()
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    if saved is not None and before is not None and _number(before) == 2:
        stream = _writer(saved, before.encoding)
    os.dup2(log.fileno(), 2)
    sys.stderr = log
    _redirected.append(stream)
    try:
        yield
    finally:
        _redirected.pop()
        sys.stderr = before
        with contextlib.suppress(OSError, ValueError):
            log.flush()
        with contextlib.suppress(OSError, ValueError):
            if saved is None:
                os.close(2)
            else:
                os.dup2(saved, 2)
                os.close(saved) if stream is before else stream.close()
        with contextlib.suppress(OSError, ValueError):
            log.close()
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()
                path.parent.rmdir()  # a run's folder, if nothing came of it


def _writer(descriptor: int, encoding: str) -> TextIO:
    raw = open(descriptor, "wb")  # noqa: SIM115 - a descriptor, not a path
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:  # closed before this process began
        return None


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
