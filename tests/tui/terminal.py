"""A real terminal for a test: a child on a pty, and what an emulator makes of all that it prints."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

import pyte

KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "down": "\x1b[B",
    "up": "\x1b[A",
    "f2": "\x1bOQ",
    "ctrl+s": "\x13",
}


class Terminal:
    """A program in a terminal of its own; ``shows`` waits for words on the screen."""

    def __init__(
        self, words: list[str], environment: dict[str, str], columns: int = 120, lines: int = 40
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, environment)  # noqa: S606
        self.code: int | None = None
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """As when a person drags the window's corner."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)

    def press(self, *keys: str) -> None:
        """Keys by name, or text as it is typed."""
        for key in keys:
            os.write(self._fd, KEYS.get(key, key).encode())
            # A key right behind Escape would be read as one with Alt.
            self.read(0.2 if key == "escape" else 0.03)

    def read(self, seconds: float) -> None:
        """Draw what comes within ``seconds``."""
        until = time.monotonic() + seconds
        while self.code is None and (left := until - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                continue
            try:
                came = os.read(self._fd, 1 << 16)
            except OSError:  # Linux says so when the child has closed its side
                came = b""
            if not came:
                self._reap()
                return
            self._stream.feed(came)

    @property
    def text(self) -> str:
        """What is on the screen, as lines."""
        return "\n".join(self._screen.display)

    @property
    def ground(self) -> str:
        """The background in the middle of the screen, as rrggbb."""
        return str(self._screen.buffer[self._screen.lines // 2][2].bg)

    @property
    def has_cursor(self) -> bool:
        """Whether the cursor can be seen: programs that draw hide it, and must give it back."""
        return not self._screen.cursor.hidden

    def shows(self, *wanted: str, within: float = 60) -> None:
        """Wait until all of these words stand on the screen; AssertionError shows what does."""
        until = time.monotonic() + within
        while not all(words in self.text for words in wanted):
            assert self.code is None, f"it ended with {self.code} before {wanted}:\n{self.text}"
            assert time.monotonic() < until, f"no {wanted} in {within:.0f} s:\n{self.text}"
            self.read(0.1)

    def ends(self, within: float = 20) -> int:
        """Wait for the end; its exit code."""
        until = time.monotonic() + within
        while self.code is None:
            assert time.monotonic() < until, f"it does not end:\n{self.text}"
            self.read(0.1)
        return self.code

    def kill(self) -> None:
        """End it as a crash does, whatever state it is in."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
