"""What happens at the end of a run: a command of the person's, and a bell where one was asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from srtui.cli.base import announce_end, shlex_words
from srtui.cli.completion import run_names
from srtui.errors import UserError
from tests.commands import srtui
from tests.conftest import make_workspace
from tests.tui.scripted_store import make_demo_store


def test_a_command_learns_how_it_ended(tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = "import os, sys; open(sys.argv[1], 'a').write(os.environ['SRTUI_RUN'] + ' ' + os.environ['SRTUI_STATUS'] + chr(10))"
    words = f'{sys.executable} -c "{script}" {said}'
    with announce_end("mine", words, False) as set_status:
        set_status("done")
    with pytest.raises(ValueError, match="broken"), announce_end("mine", words, False):
        raise ValueError("broken")
    with pytest.raises(SystemExit), announce_end("mine", words, False):  # as stopped work ends a command
        raise SystemExit(130)
    assert said.read_text() == "mine done\nmine failed\nmine stopped\n"
    assert "SRTUI_STATUS" not in os.environ
    with announce_end("mine", "no-such-command-at-all", False) as set_status:  # the run's end stays its end
        set_status("done")


def test_what_a_command_prints_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with announce_end("mine", f"{sys.executable} -c \"print('ready')\"", False) as set_status:
        set_status("done")
    assert capfd.readouterr() == ("", "ready\n")  # stdout may be JSON for a program


def test_a_command_that_is_none_is_refused_before_any_work() -> None:
    with pytest.raises(UserError, match="--on-done"):
        shlex_words('say "done')
    worked = []
    with pytest.raises(UserError), announce_end("mine", 'say "', False):
        worked.append(1)
    assert worked == []


def test_the_shell_completes_names_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws")
    monkeypatch.setenv("SRTUI_WORKSPACE", str(workspace.root))
    assert run_names("") == []
    make_demo_store(workspace)
    assert sorted(run_names("")) == ["another-seed", "at-work", "quickstart"]
    assert run_names("q") == ["quickstart"]
    shown = srtui(workspace, "--show-completion", env={"SHELL": "/bin/bash"})
    assert "--show-completion" in srtui(workspace, "--help").stdout
    assert shown.returncode in (0, 1)
