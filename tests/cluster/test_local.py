"""``srtui run --on ray`` on one machine, from the command line: its results, and that nothing leaves the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import ROOT, small_recipe

pytestmark = pytest.mark.model

ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
LOOPBACK = re.compile(r"127\.[\d.]+|::1|::ffff:127\.[\d.]+")


@pytest.fixture
def environment(ray_environment: None, pair_workspace: Workspace) -> dict[str, str]:
    """As a user's, without what the tests' own cluster has."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return plain | {"SRTUI_WORKSPACE": str(pair_workspace.root), "PYTHONPATH": str(ROOT)}


def command(workspace: Workspace, *words: str) -> list[str]:
    return [sys.executable, "-m", "srtui", "run", str(small_recipe(workspace, 4)), "--on", "ray", *words]


def test_no_connection_leaves_the_machine(
    pair_workspace: Workspace, environment: dict[str, str], tmp_path: Path
) -> None:
    """Every process of a run with its training, Ray's and the workers', with each address that the system was asked
    for. What is not the loopback address shows, whether it was reached or not."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed here")
    seen = tmp_path / "calls"
    traced = [
        strace,
        "-f",
        "-qq",
        "-e",
        "trace=connect,bind,sendto,sendmsg",
        "-e",
        "signal=none",
        "-o",
        str(seen),
    ]
    temporary = Path(tempfile.mkdtemp(prefix="t"))  # short, for Ray's sockets lie in it
    done = subprocess.run(
        [*traced, *command(pair_workspace, "--workers", "2", "--json")],
        env=environment | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=900,
        cwd=pair_workspace.root,
    )
    if "PTRACE_TRACEME" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    asked = [
        (found[0] or found[1], line)
        for line in seen.read_text(errors="replace").splitlines()
        if "AF_INET" in line
        for found in ADDRESS.findall(line)
    ]
    assert len(asked) > 20  # it did see what Ray does
    assert [line for address, line in asked if not LOOPBACK.fullmatch(address)] == []
    summary = [json.loads(line) for line in done.stdout.splitlines()][-1]
    assert summary["type"] == "summary" and summary["status"] == "done"
    assert summary["training"]["status"].startswith(("done", "skipped"))
    assert list(temporary.glob("srtui-*")) == []
    shutil.rmtree(temporary)
    with Store(pair_workspace.store_path, read_only=True) as store:
        said = [event.message for event in store.runs.events(1, 500)]
    assert any("Loaded teacher" in line for line in said)


def test_ctrl_c_stops_it_and_leaves_no_process(
    pair_workspace: Workspace, environment: dict[str, str]
) -> None:
    """As a terminal sends it: to every process of the group."""
    process: Any = subprocess.Popen(
        command(pair_workspace, "--workers", "1"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=pair_workspace.root,
    )
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        with Store(pair_workspace.store_path) as store:
            runs = store.runs.all()
            if runs and runs[0].status == "running":
                break
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, (out, err)
    assert "Resume with: srtui run" in out and "--on ray" in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
