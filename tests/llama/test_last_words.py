"""What is said where llama.cpp ends the process: in processes of their own, by its own functions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BEGIN = """
import ctypes, sys
from llama_cpp._ggml import libggml
from srtui.llama.last_words import at_the_end, say_last_words
say_last_words(gpu=True)
say_last_words(gpu=True)
"""
THROWS = """
#include <stdexcept>
namespace vk { struct DeviceLostError : std::runtime_error { using std::runtime_error::runtime_error; }; }
extern "C" int lose() { throw vk::DeviceLostError("lost"); }
"""


def ended(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python that does so after BEGIN."""
    return subprocess.run(
        [sys.executable, "-c", BEGIN + script, *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_an_assertion_that_is_no_gpus() -> None:
    done = ended("libggml.ggml_abort(b'ggml.c', 12, b'GGML_ASSERT(%s) failed', b'n > 0')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "srtui: llama.cpp could not continue (ggml.c:12: GGML_ASSERT(n > 0) failed). Everything finished is stored, and "
        "the same command resumes.\n"
    )


def test_who_works_hears_it_and_cannot_stop_it() -> None:
    done = ended(
        "with at_the_end(lambda said: print('heard', said)), at_the_end(lambda said: 1 / 0):\n"
        "    libggml.ggml_abort(b'ggml-cuda.cu', 98, b'CUDA error')"
    )
    assert done.returncode == 2
    assert done.stdout.startswith(
        "heard llama.cpp could not continue (ggml-cuda.cu:98: CUDA error). The GPU is gone"
    )
    assert done.stdout.removeprefix("heard ") == done.stderr.removeprefix("srtui: ")


def test_an_exception_of_a_driver(tmp_path: Path) -> None:
    """Vulkan's loader throws where a device is lost, and nobody between it and Python catches it."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "lose.cpp").write_text(THROWS)
    library = tmp_path / "lose.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "lose.cpp"], check=True)
    done = ended("ctypes.CDLL(sys.argv[1]).lose()", str(library))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "srtui: llama.cpp could not continue (vk::DeviceLostError was thrown). The GPU is gone"
    )
    assert done.stderr.count("\n") == 1
