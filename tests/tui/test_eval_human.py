"""``srtui eval human`` as a person meets it: a command, a real terminal, files of answers."""

from __future__ import annotations

import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl

import pytest

from srtui.store import Store
from srtui.workspace import Workspace

WORDS = ["eval", "human", "new.json", "old.json", "--prompts", "prompts.jsonl"]


@pytest.fixture
def asked(empty: Workspace) -> Workspace:
    """A workspace with four prompts and two files of answers."""
    rows = [{"instruction": f"Name {n} things.", "category": "lists"} for n in range(1, 5)]
    (empty.root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("new", "old"):
        answers = [
            {"instruction": r["instruction"], "output": f"{name} answer {n}"} for n, r in enumerate(rows)
        ]
        (empty.root / f"{name}.json").write_text(json.dumps(answers), encoding="utf-8")
    return empty


def srtui(workspace: Workspace, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "srtui", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=workspace.root,
        env=os.environ | {"SRTUI_WORKSPACE": str(workspace.root)},
        timeout=120,
    )


def test_mistakes_are_one_sentence(asked: Workspace) -> None:
    for words, sentence in (
        ((), "Who judges? Give a name with --annotator NAME"),
        (("--annotator", "ada"), "needs a terminal that can be drawn on"),
    ):
        done = srtui(asked, *WORDS, *words)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_answers_without_asking(asked: Workspace) -> None:
    done = srtui(asked, *WORDS, "--no-ask")
    assert done.returncode == 0, done.stderr
    assert "the answers are there, and nobody has judged yet" in done.stdout
    again = json.loads(srtui(asked, *WORDS, "--no-ask", "--json").stdout)
    assert again["id"] == 1
    assert again["result"]["judgements"] == 0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, workspace: Workspace, *words: str) -> None:
        self.seen = b""
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "srtui", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=workspace.root,
            env=os.environ | {"SRTUI_WORKSPACE": str(workspace.root), "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)

    def wait(self, until: Callable[[], bool], seconds: float = 60) -> None:
        """Read what it draws until something is so."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self._master, 65536)
                except OSError:  # the other side is closed
                    self.process.wait(10)

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)


def test_two_people_judge_in_a_terminal_and_their_agreement_is_told(asked: Workspace) -> None:
    def said(name: str) -> dict[int, str]:
        with Store(asked.store_path) as store:
            return {j.item: str(j.choice) for j in store.evaluations.judgements(1, annotator=name)}

    for name in ("ada", "grace"):
        terminal = Terminal(asked, *WORDS, "--annotator", name)
        try:
            terminal.wait(lambda t=terminal: b"Which answer is better?" in t.seen)  # type: ignore[misc]
            for n, key in enumerate(b"12tb"):
                terminal.press(bytes([key]))
                terminal.wait(lambda count=n, who=name: len(said(who)) > count)  # type: ignore[misc]
            terminal.wait(lambda t=terminal: b"Nothing is left to judge" in t.seen)  # type: ignore[misc]
            before = terminal.seen
            terminal.press(b"q")
            terminal.wait(lambda t=terminal: t.process.poll() is not None)  # type: ignore[misc]
        finally:
            terminal.close()
        assert b"new.json" not in before, "while it asks, nothing says whose answers these are"
        assert sorted(said(name).values())[-1] == "tie"
    done = srtui(asked, "eval", "show", "1", "--json")
    result = json.loads(done.stdout)["result"]
    assert result["judgements"] == 8
    assert result["agreement"]["method"] == "Cohen"
    assert result["win_rate"]["low"] < result["win_rate"]["value"] < result["win_rate"]["high"]
