"""Starting engines: processes of their own, that continue when the dashboard is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from srtui.text import safe
from srtui.workspace import Workspace

_TAIL = 4000


@dataclass
class Started:
    """An engine that this dashboard started. What it says goes to ``log``."""

    words: list[str]
    log: Path
    process: subprocess.Popen[bytes]
    at: float = field(default_factory=time.time)

    def last_line(self) -> str:
        """What it said last; "" where it said nothing."""
        try:
            said = self.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        except OSError:
            return ""
        return safe(said.splitlines()[-1]) if said else ""

    def failure(self) -> str | None:
        """Why it ended, where it ended badly; None while it runs, and after a stop that was asked for."""
        code = self.process.poll()
        if code in (None, 0, 130):
            return None
        try:
            said = self.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        except OSError:
            said = ""
        return said or f"the engine ended with exit code {code}"


def start(workspace: Workspace, words: list[str]) -> Started:
    """Run ``srtui`` with these words, detached from this terminal."""
    workspace.runs.mkdir(parents=True, exist_ok=True)
    log = workspace.runs / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            # -P: a folder called srtui in the workspace must not be taken for the program.
            [sys.executable, "-P", "-m", "srtui", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=workspace.root,
            env=os.environ | {"SRTUI_WORKSPACE": str(workspace.root)},
            start_new_session=True,
        )
    return Started(words, log, process)
