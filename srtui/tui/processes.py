"""Starting engines: processes of their own, that continue when the dashboard is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from srtui.text import safe
from srtui.workspace import Workspace

_TAIL = 4000


@dataclass
class Started:
    """An engine that this dashboard started. Its output goes to ``log``."""

    words: list[str]
    log: Path
    process: subprocess.Popen[bytes]

    def _output(self) -> str:
        """The end of its output; "" where there is none to read."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        except OSError:
            return ""

    def last_line(self) -> str:
        """The last line of its output; "" where there is none."""
        output = self._output()
        return safe(output.splitlines()[-1]) if output else ""

    def failure(self) -> str | None:
        """Why it failed; None while it runs, where it succeeded, and after a stop that was asked for."""
        code = self.process.poll()
        if code in (None, 0, 130):
            return None
        return self._output() or f"the engine ended with exit code {code}"


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
