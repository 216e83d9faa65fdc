"""A bundle is made, installed where there is no network, and runs the quickstart there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from srtui.bundle import Target, make, plan
from tests.conftest import ROOT

SAMPLES = 6
TINY = [
    "--set",
    "teacher.model=tiny.F16",
    "--set",
    "student.model=tiny",
    "--set",
    "reflection.answer_tokens=56",
]


@pytest.fixture
def no_network() -> list[str]:
    """Words before a command that put it where no interface is, not even a loopback that is up."""
    words = ["unshare", "-rn"]
    asked = subprocess.run([*words, "true"], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip(f"unshare -rn is not allowed here ({asked.stderr.strip()})")
    unreachable = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    tried = subprocess.run([*words, sys.executable, "-c", unreachable], capture_output=True, text=True)
    assert "Network is unreachable" in tried.stderr
    return words


def in_bundle(folder: Path, words: Sequence[str], **more: str) -> str:
    """What a command in the bundle's folder prints, in an environment that knows nothing of this one."""
    names = ("PYTHONPATH", "SRTUI_", "PIP_", "VIRTUAL_ENV", "XDG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(names)} | more
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def finished(folder: Path, no_network: list[str], settings: Sequence[str] = ()) -> None:
    """Run the quickstart with some samples to its end; a second time nothing is left to do."""
    words = [
        *no_network,
        ".venv/bin/srtui",
        "run",
        "recipes/quickstart.toml",
        "--limit",
        str(SAMPLES),
        *settings,
    ]
    lines = in_bundle(folder, [*words, "--json"]).splitlines()
    summary = json.loads(lines[-1])
    assert (summary["type"], summary["status"], summary["samples"]) == ("summary", "done", SAMPLES)
    assert "nothing was left to do" in in_bundle(folder, words)


@pytest.mark.model
def test_a_bundle_installs_without_a_network_and_runs_the_quickstart(
    pair_folder: Path, tmp_path: Path, no_network: list[str]
) -> None:
    """All packages are those of this environment, so that nothing is fetched and nothing is built."""
    there = {
        re.sub(r"[-_.]+", "-", one.name).lower() for one in importlib.metadata.distributions() if one.name
    }
    what = plan(ROOT, pair_folder, Target.of(None, None, None), sorted(there - {"srtui"}), ["tiny"])
    made = make(what, tmp_path / "bundle", lambda line: None)
    said = in_bundle(made.path, [*no_network, "./install.sh"], PYTHON=sys.executable)
    assert re.search(r"ok +llama\.cpp: ", said) and "FAIL" not in said
    own = "import srtui, numpy; print(srtui.__file__, numpy.__file__, sep='\\n')"
    ours, theirs = in_bundle(made.path, [".venv/bin/python", "-c", own]).splitlines()
    assert ours.startswith(str(made.path)) and not theirs.startswith(str(made.path))
    finished(made.path, no_network, TINY)


@pytest.mark.slow
def test_a_whole_bundle(tmp_path: Path, no_network: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is fetched, llama.cpp is built from the source in the bundle, the demo model runs. `make bundle-test`."""
    if not (ROOT / "models" / "smollm2-135m").is_dir():
        pytest.skip("the demo model is not there: srtui models add smollm2-135m")
    out, seconds, began = tmp_path / "bundle", {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name], began = round(time.monotonic() - began), time.monotonic()

    words = [sys.executable, "-m", "srtui", "bundle", "--out", str(out), "--model", "smollm2-135m", "--json"]
    env = os.environ | {"SRTUI_WORKSPACE": str(ROOT), "PYTHONPATH": str(ROOT)}
    made = subprocess.run(words, check=True, env=env, stdout=subprocess.PIPE, text=True)
    lap("make_s")
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    in_bundle(out, [*no_network, "./install.sh"], PYTHON=python)
    assert (out / ".venv" / "llama.log").is_file(), "llama.cpp was not built"
    lap("install_s")
    finished(out, no_network)
    lap("quickstart_s")
    facts = json.loads(made.stdout.splitlines()[-1])
    with capsys.disabled():
        print(
            "\n" + json.dumps({"bench": "bundle", "files": facts["files"], "bytes": facts["size"], **seconds})
        )
