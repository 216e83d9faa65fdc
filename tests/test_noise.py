"""What libraries say reaches a log, from Python and from native code, and never the screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SAYS = """
import ctypes, logging, os, sys, warnings
from pathlib import Path
from srtui.noise import screen, to_log

path = Path(sys.argv[1])
with to_log(path / "runs" / "libraries.log"):
    ctypes.CDLL(None).perror(b"native code")
    os.write(2, b"descriptor two\\n")
    print("python's stream", file=sys.stderr)
    logging.getLogger("x").warning("a logger")
    warnings.warn("a warning")
    print("for the screen", file=screen())
with to_log(path / "quiet" / "libraries.log"):
    pass
print("after it", file=sys.stderr)
os.write(2, b"and natively\\n")
"""


@pytest.mark.parametrize("closed", ["", "2>&-", "<&- 2>&-"])
def test_libraries_go_to_the_log_and_our_words_to_the_screen(tmp_path: Path, closed: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" "$2" {closed}', sys.executable, SAYS, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if not closed:
        assert done.returncode == 0, done.stderr
        assert done.stderr == "for the screen\nafter it\nand natively\n"
    assert done.stdout == ("after it\n" if closed else "")  # print() takes a closed stderr for stdout
    log = (tmp_path / "runs" / "libraries.log").read_text()
    for words in ("native code", "descriptor two", "python's stream", "a logger", "a warning"):
        assert words in log
    assert "for the screen" not in log
    assert not (tmp_path / "quiet").exists()


def test_what_libraries_say_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    code = f"from srtui.noise import show_noise\nshow_noise()\n{SAYS}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    for words in ("native code", "descriptor two", "python's stream", "a warning", "for the screen"):
        assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder is wanted")
    done = subprocess.run(
        [sys.executable, "-c", SAYS, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "for the screen\nafter it\nand natively\n")


def test_no_kernel_is_fetched_and_nobody_is_told_to_install_one(tmp_path: Path) -> None:
    """bitsandbytes asks ``kernels`` for compiled code from a hub where a CPU has AVX-512 with bf16."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('kernels was imported')")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from srtui.workspace import go_offline; go_offline()\n"
        "import torch; torch.cpu._is_avx512_bf16_supported = lambda: True\n"
        "import bitsandbytes.cextension as c, bitsandbytes.utils as u\n"
        "import bitsandbytes.functional as f; f.has_avx512bf16 = lambda: True\n"
        "import importlib, bitsandbytes.backends.cpu.ops\n"
        "from transformers.integrations import hub_kernels\n"
        "from transformers.utils import is_kernels_available\n"
        "print(hub_kernels._kernels_enabled, is_kernels_available())\n"
        "try:\n    import kernels\nexcept ImportError:\n    print('not to be had')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "False False\nnot to be had\n"
    assert "kernels" not in done.stderr


@pytest.mark.model
@pytest.mark.parametrize(
    "how", ["sys.kept = model", "model.itself = model; del model", "LlamaLosses(Path('none.gguf'))"]
)
def test_a_model_that_nobody_closed_says_nothing_at_the_end(teacher_file: Path, how: str) -> None:
    """llama.cpp's functions are gone when Python calls ``__del__`` at its own end."""
    script = (
        "import gc, sys; from pathlib import Path; gc.disable()\n"
        "from srtui.llama.losses import LlamaLosses\n"
        f"model = LlamaLosses(Path({str(teacher_file)!r}))\n"
        f"try:\n    {how}\nexcept Exception as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("UserError\n" if "none" in how else "")
