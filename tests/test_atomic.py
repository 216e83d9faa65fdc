"""Files written whole or not at all, and the process that waits for the end of who writes them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from srtui.atomic import gone_if_killed


def test_the_end_waits_for_no_other_process(tmp_path: Path) -> None:
    """One that was forked meanwhile holds all that was open then, for as long as it lives."""
    with gone_if_killed(tmp_path / "x.part"):
        child = os.fork()
        if child == 0:
            time.sleep(40)
            os._exit(0)
        began = time.monotonic()
    took = time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert took < 30


def test_what_is_left_is_removed_at_the_end_and_when_killed(tmp_path: Path) -> None:
    """Names may hold what is no text, or looks like an option."""
    odd = tmp_path / os.fsdecode(b"we\xffird -c\n'q\" $x")
    odd.mkdir()
    part = odd / "-rf.part"
    with gone_if_killed(part):
        part.write_bytes(b"1")
    assert not part.exists()
    child = os.fork()
    if child == 0:
        with gone_if_killed(part):
            part.write_bytes(b"1")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    until = time.monotonic() + 60
    while part.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not part.exists()
