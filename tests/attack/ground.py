"""What an attack is, where it happens, and what must be true after every one of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from srtui.workspace import Workspace
from tests.conftest import ROOT

SECONDS = 20
"""An attack that takes longer hangs."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what it wrote to each stream."""

    code: int | str
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Ground:
    """Where one attack happens: a folder of its own with a workspace in it that has three runs."""

    folder: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "ws")

    @property
    def root(self) -> Path:
        return self.folder / "ws"

    @property
    def store(self) -> Path:
        return self.workspace.store_path

    def put(self, name: str, content: bytes | str) -> Path:
        """A file in the workspace."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    def sql(self, *statements: str) -> None:
        """Change the store behind srtui's back."""
        with contextlib.closing(sqlite3.connect(self.store)) as conn, conn:
            for statement in statements:
                conn.execute(statement)

    def files(self) -> dict[str, str]:
        """Every file and link here but SQLite's own companions, and what is in it."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            for name in [*names, *(n for n in folders if (Path(folder) / n).is_symlink())]:
                path = Path(folder) / name
                if name.startswith("srtui.sqlite"):
                    continue
                shown = str(path.relative_to(self.folder))
                found[shown] = "" if path.is_symlink() or not path.is_file() else _sha256(path)
        return found

    def memory(self) -> str:
        """A hash of all that the store says, whatever pages it lies on; "" where there is none to read.

        Sums that a reader may keep, and what srtui noted of its own outputs, say nothing new.
        """
        if not self.store.is_file():
            return ""
        try:
            with contextlib.closing(sqlite3.connect(f"{self.store.as_uri()}?mode=ro", uri=True)) as conn:
                conn.text_factory = bytes
                whole = hashlib.sha256()
                for (table,) in conn.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'variant_text%' "
                    "AND name NOT LIKE 'sqlite_%' AND name NOT IN ('output', 'run_sums') ORDER BY name"
                ):
                    name = table.decode()
                    whole.update(table)
                    for row in sorted(map(repr, conn.execute(f'SELECT * FROM "{name}"'))):
                        whole.update(row.encode())
                return whole.hexdigest()
        except sqlite3.Error as error:
            return f"unreadable: {error}"

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, stdin: str = "", at: str = ""
    ) -> Outcome:
        """``srtui`` with these words, in this process."""
        return in_process(words, self.root / at, {"SRTUI_WORKSPACE": str(self.root), **(env or {})}, stdin)

    def start(self, *words: str, env: Mapping[str, str] | None = None, at: str = "", **more: Any) -> Outcome:
        """``srtui`` with these words, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "srtui", *words],
            capture_output=True,
            cwd=self.root / at,
            env=self.environment(env),
            timeout=60,
            **more,
        )
        return Outcome(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a process that this test starts itself."""
        return os.environ | {"SRTUI_WORKSPACE": str(self.root), "PYTHONPATH": str(ROOT)} | dict(more or {})


@dataclass(frozen=True)
class Attack:
    """One row of a table. ``command`` is what follows ``srtui``, with ``{ws}`` for the workspace; or a
    function that does the deed and returns the outcome.

    ``says`` and ``never`` are patterns that the output must, must not hold. ``leaves`` are the files
    that may be new or changed, as glob patterns below the test's folder. ``keeps`` is False where the
    command is meant to write to the store.
    """

    name: str
    command: str | Callable[[Ground], Outcome]
    code: int | tuple[int, ...] = 2
    says: str = ""
    never: str = ""
    prepare: Callable[[Ground], object] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    at: str = ""
    process: bool = False
    keeps: bool = True
    leaves: tuple[str, ...] = ()
    models: bool = False

    def __str__(self) -> str:
        return self.name

    def hold(self, ground: Ground) -> Outcome:
        """Attack, and assert everything."""
        if self.prepare is not None:
            self.prepare(ground)
        files, memory = ground.files(), ground.memory()
        with _no_longer_than(SECONDS if not self.process else 60):
            if callable(self.command):
                outcome = self.command(ground)
            else:
                words = shlex.split(self.command.replace("{ws}", str(ground.root)))
                outcome = (
                    ground.start(*words, env=self.env, at=self.at)
                    if self.process
                    else ground.run(*words, env=self.env, stdin=self.stdin, at=self.at)
                )
        check(outcome, self.code, self.says, self.never)
        if self.keeps:
            assert ground.memory() == memory, "the store is not what it was"
        after = ground.files()
        new = {n for n in after if files.get(n) != after[n]} | (files.keys() - after.keys())
        besides = {n for n in new if not any(fnmatch(n, pattern) for pattern in self.leaves)}
        assert not besides, f"files that nobody asked for, or changed, or gone: {sorted(besides)}"
        return outcome


def check(outcome: Outcome, code: int | tuple[int, ...] = 2, says: str = "", never: str = "") -> None:
    """What must be true of any command's outcome."""
    wanted = (code,) if isinstance(code, int) else code
    assert outcome.code in wanted, f"exit {outcome.code}, not {code}:\n{outcome.text}"
    assert "Traceback" not in outcome.text and "Exception ignored" not in outcome.text, outcome.text
    assert not (bad := unshowable(outcome.text)), f"a terminal gets {bad}:\n{outcome.text!a}"
    if outcome.code == 2 and outcome.err.startswith("srtui: "):
        assert len(outcome.err.rstrip("\n").split("\n")) == 1, f"more than a sentence:\n{outcome.err}"
        assert len(outcome.err) < 1200, "a sentence that long is none"
    if outcome.code == 2:
        last = outcome.err.rstrip("\n").rpartition("\n")[2]
        assert last.startswith("srtui: ") or outcome.err.startswith("Usage: ") or "FAIL" in outcome.out, (
            outcome.text
        )
    if says:
        assert re.search(says, outcome.text, re.DOTALL), f"{says!r} is not in:\n{outcome.text}"
    if never:
        assert not re.search(never, outcome.text, re.DOTALL), f"{never!r} is in:\n{outcome.text}"


def unshowable(text: str) -> list[str]:
    """The characters that must not reach a terminal raw: those that it obeys, and those that reorder."""
    return sorted(
        {
            f"U+{ord(c):04X}"
            for c in text.replace("\r\n", "\n")
            if (unicodedata.category(c) == "Cc" and c not in "\n\t")
            or "\u202a" <= c <= "\u202e"
            or "\u2066" <= c <= "\u2069"
        }
    )


def in_process(words: tuple[str, ...], where: Path, env: Mapping[str, str], stdin: str = "") -> Outcome:
    """``srtui`` with these words in this process, by the same door as a person's, in the folder ``where``."""
    from srtui.__main__ import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    code: int | str
    with _as_if(where, env), contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        before = sys.argv, sys.stdin
        sys.argv, sys.stdin = ["srtui", *words], io.StringIO(stdin)
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException as error:
            if isinstance(error, Hangs):
                raise
            code = type(error).__name__
            traceback.print_exc(file=streams[1])
        finally:
            sys.argv, sys.stdin = before
    said = []
    for stream in streams:
        stream.flush()
        said.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
    return Outcome(code, said[0], said[1])


@contextlib.contextmanager
def _as_if(where: Path, env: Mapping[str, str]) -> Iterator[None]:
    """In another folder, with another environment; signals and threads' count as before afterwards."""
    environ, here = dict(os.environ), Path.cwd()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    threads = threading.active_count()
    os.environ.update(env)
    os.environ.pop("FORCE_COLOR", None)
    os.chdir(where)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environ)
        for s, handler in handlers.items():
            signal.signal(s, handler)
    assert threading.active_count() <= threads + 2


class Hangs(BaseException):
    """Not an Exception: nothing on the way may swallow it."""


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hangs(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)
