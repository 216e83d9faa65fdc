"""What llama.cpp has said last: it writes to stderr by itself; its warnings and errors are kept to explain failures."""

from __future__ import annotations

from collections import deque

_WARNING = 3  # the lowest of llama.cpp's levels that is kept
_lines: deque[str] = deque(maxlen=20)


def keep_line(level: int, text: bytes) -> None:
    """Keep one line of llama.cpp's, where its ``level`` says that it matters."""
    if level >= _WARNING:
        _lines.append(text.decode("utf-8", "replace").strip())


def log_lines() -> list[str]:
    """llama.cpp's last warnings and errors."""
    return list(_lines)


def forget_log() -> None:
    """What llama.cpp said so far is not about what comes."""
    _lines.clear()
