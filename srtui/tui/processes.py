"""Starting engines: processes of their own, that continue when the dashboard is gone. Each has a log of what it
printed, and beside it a note of what it is, so that a later dashboard knows it again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from srtui import process_id
from srtui.text import safe
from srtui.workspace import Workspace

SERVER = "SRTUI_SERVER"
"""The environment variable that tells a dashboard in a browser which process serves it."""
_TAIL = 4000
_REMEMBERED = 40
JobState = Literal["running", "stopping", "done", "failed", "stopped", "ended"]
"""``ended``: by an earlier dashboard's process, of whose end nothing but its output is known."""


@dataclass
class Started:
    """An engine that a dashboard started, this one (``process``) or an earlier one (by its ``token``). Its output goes
    to ``log``."""

    words: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None
    started_at: float = field(default_factory=time.time)
    token: str = ""
    stop_asked: bool = False

    @property
    def pid(self) -> int | None:
        """Its process id, while it is known to run."""
        if self.process is not None:
            return self.process.pid if self.process.poll() is None else None
        return int(self.token.split("/")[-2]) if self.token and process_id.runs(self.token) else None

    @property
    def state(self) -> JobState:
        """What became of it."""
        if self.pid is not None:
            return "stopping" if self.stop_asked else "running"
        if self.process is None:
            return "ended"
        code = self.process.poll()
        return "done" if code == 0 else "stopped" if code in (130, -signal.SIGINT) else "failed"

    @property
    def command(self) -> str:
        """What a person would have typed; long options' values are cut by whoever shows it."""
        return shlex.join(["srtui", *self.words])

    def output(self) -> str:
        """The end of its output; "" where there is none to read."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 4 * _TAIL))
                return file.read().decode("utf-8", errors="replace")[-_TAIL:].strip()
        except OSError:
            return ""

    def last_line(self) -> str:
        """The last line of its output; "" where there is none."""
        output = self.output()
        return safe(output.splitlines()[-1]) if output else ""

    def failure(self) -> str | None:
        """Why it failed; None while it runs, where it succeeded, after a stop that was asked for, and where that is not
        known."""
        if self.state != "failed" or self.process is None:
            return None
        return self.output() or f"the engine ended with exit code {self.process.poll()}"

    def stop(self) -> bool:
        """Ask it to stop, as Ctrl-C does; False where it does not run any more."""
        pid = self.pid
        if pid is None:
            return False
        self.stop_asked = True
        with contextlib.suppress(OSError):  # for the dashboards that come after this one
            self.log.with_suffix(".stopping").touch()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        return True


def start(workspace: Workspace, words: list[str]) -> Started:
    """Run ``srtui`` with these words, detached from this terminal."""
    workspace.runs.mkdir(parents=True, exist_ok=True)
    stem = f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    log = next(
        p for n in range(1000) if not (p := workspace.runs / f"{stem}{f'-{n}' if n else ''}.log").exists()
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            command_line(words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=workspace.root,
            env=environment(workspace),
            start_new_session=True,
        )
    engine = Started(words, log, process, token=process_id.token(process.pid) or "")
    note = {"words": words, "token": engine.token, "started_at": engine.started_at}
    with contextlib.suppress(OSError):  # it is started all the same
        log.with_suffix(".json").write_text(json.dumps(note), encoding="utf-8")
    return engine


def command_line(words: Sequence[str]) -> list[str]:
    """What starts ``srtui`` with these words."""
    # -P: a folder called srtui in the workspace must not be taken for the program.
    return [sys.executable, "-P", "-m", "srtui", *words]


def environment(workspace: Workspace) -> dict[str, str]:
    """The environment of an engine of this workspace."""
    return os.environ | {"SRTUI_WORKSPACE": str(workspace.root)}


def server_is_gone() -> bool:
    """Whether this is a dashboard in a browser whose server has ended without a word: nobody can reach it any more."""
    server = os.environ.get(SERVER)
    return server is not None and process_id.runs(server) is False


def earlier(workspace: Workspace, known: Sequence[Started] = ()) -> list[Started]:
    """Engines that other dashboards of this workspace started, the newest first; those in ``known`` are left out. A
    note that cannot be read is none."""
    logs = {engine.log for engine in known}
    found = []
    for note in sorted(workspace.runs.glob("engine-*.json"), reverse=True)[:_REMEMBERED]:
        if note.with_suffix(".log") in logs:
            continue
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
            words = [str(word) for word in said["words"]]
            engine = Started(
                words,
                note.with_suffix(".log"),
                None,
                float(said["started_at"]),
                str(said["token"]),
                note.with_suffix(".stopping").exists(),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(engine)
    return found
