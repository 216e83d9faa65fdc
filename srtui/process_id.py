"""Which process this is, and whether another one still runs.

A process id alone is given out again, and a start time read off the wall clock moves when the clock is
set. On Linux a process is named by the boot, the process-id namespace, its id and the clock ticks since
boot at which it started; elsewhere by its id and the start time that the system recorded when it began.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import psutil


def token(pid: int | None = None) -> str | None:
    """The name of a running process, of this one by default; None where no such process runs.

    Raises PermissionError where the process exists and may not be looked at.
    """
    pid = os.getpid() if pid is None else pid
    started = _ticks(pid) if sys.platform == "linux" else _recorded_start(pid)
    return None if started is None else f"{_here()}/{pid}/{started}"


def runs(name: str) -> bool | None:
    """Whether the process called ``name`` still runs; None where that cannot be seen from here: it was
    started before another boot, on another machine, or in another container."""
    namespace, _, rest = name.rpartition("/")[0].rpartition("/")
    if namespace != _here() or not rest.isdigit():
        return None
    try:
        return token(int(rest)) == name
    except PermissionError:
        return True


@cache
def _here() -> str:
    """The boot, and the namespace in which process ids are counted."""
    if sys.platform != "linux":
        return sys.platform
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink().name}"
    except OSError:
        return "linux"


def _ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; a zombie has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        # A /proc that hides other people's processes says the same of those that run.
        if psutil.pid_exists(pid):
            raise PermissionError(f"process {pid} is hidden") from None
        return None
    # The second field is the program's name in parentheses, and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _recorded_start(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time() * 1e6)
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error
    except psutil.NoSuchProcess:
        return None
