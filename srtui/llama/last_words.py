"""What is said where llama.cpp ends this process.

Where a GPU is gone, its memory runs out in the middle of a pass, or an assertion does not hold, llama.cpp calls abort()
or lets a C++ exception go: neither can be caught in Python. But both call a function first, and here it is ours. It says
one sentence, lets whoever works note it, and ends the process as any failed command ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from srtui.llama.llama_log import log_lines
from srtui.noise import screen
from srtui.text import safe

_GPU = re.compile(r"cuda|hip|rocm|vulkan|vk|metal|sycl|device", re.IGNORECASE)
_hooks: list[Callable[[str], None]] = []
_kept: list[Any] = []  # C calls them as long as the process lives


@contextlib.contextmanager
def at_the_end(hook: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, ``hook`` hears the sentence before the process ends."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def say_last_words(*, gpu: bool) -> None:
    """Have it said from now on. With a ``gpu``, whose drivers throw, of uncaught C++ exceptions too."""
    from llama_cpp._ggml import libggml

    if not _kept:
        aborts = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda said: _end(said.decode("utf-8", "replace")))
        _kept.append(aborts)
        libggml.ggml_set_abort_callback(aborts)
    if gpu and len(_kept) == 1:
        # C++'s std::set_terminate, where the standard library is one that exports it by this name.
        with contextlib.suppress(AttributeError):
            throws = ctypes.CFUNCTYPE(None)(lambda: _end(_uncaught()))
            _kept.append(throws)
            libggml._ZSt13set_terminatePFvvE(throws)


def _uncaught() -> str:
    """The type of the C++ exception that nobody caught, by its name: the second field of its std::type_info."""
    from llama_cpp._ggml import libggml

    with contextlib.suppress(AttributeError, ValueError):
        libggml.__cxa_current_exception_type.restype = ctypes.POINTER(ctypes.c_void_p)
        kind = libggml.__cxa_current_exception_type()
        if kind:
            name = (ctypes.string_at(kind[1]) or b"").decode("ascii", "replace")
            words = re.findall(r"[A-Za-z_]+", name.removeprefix("N").removesuffix("E"))
            return f"{'::'.join(words) or name} was thrown"
    return "an exception was thrown"


def _end(said: str) -> None:
    errors = [line for line in log_lines() if "error" in line.lower() or "lost" in line.lower()]
    why = "; ".join(dict.fromkeys([*errors[-1:], said.replace("\n", " ").strip()]))[:400]
    sentence = f"llama.cpp could not continue ({why})."
    if _GPU.search(why):
        sentence += (
            " The GPU is gone, or its memory or its driver gave out: see what nvidia-smi and dmesg say of it."
        )
    sentence += " Everything finished is stored, and the same command resumes."
    for hook in reversed(_hooks):
        with contextlib.suppress(Exception):  # another thread's store, say: the sentence is still said
            hook(sentence)
    with contextlib.suppress(OSError, ValueError):
        print(safe(f"srtui: {sentence}"), file=screen(), flush=True)
    os._exit(2)
