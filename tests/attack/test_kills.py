"""Processes that end where nobody would choose to: nothing stored is lost, and the same command resumes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtui.workspace import Workspace
from tests.attack.ground import Attack, Ground, Outcome
from tests.commands import Command
from tests.conftest import make_workspace, small_recipe

# A run of all stages that needs no model: what is compared is what is there.
PLAIN = """name = "plain"
dataset = "quickstart"
reflection = {source = "store"}
selection = {instruction_by = "original", response_by = "original", policy = "all"}
training = {enabled = false}
"""
IMPORT = ["import", "many.jsonl", "--name", "many"]
RUN = ["run", "recipes/plain.toml"]
WHAT = {
    "import": "SELECT count(*) FROM sample s JOIN dataset d ON d.id = s.dataset_id WHERE d.name = 'many'",
    "run": "SELECT group_concat(sample_id || kept || variant_id || reason) FROM outcome o JOIN run r "
    "ON r.id = o.run_id WHERE r.name = 'plain'",
}


def prepare(ground: Ground) -> None:
    ground.put("recipes/plain.toml", PLAIN)
    rows = (f'{{"instruction": "say {n}", "output": "{n}"}}' for n in range(3000))
    ground.put("many.jsonl", "\n".join(rows))


def killed_at(ground: Ground, words: list[str], statement: int) -> bool:
    """Run it in a process that kills itself (SIGKILL) at its n-th SQL statement; whether it came to that."""
    child = os.fork()
    if child == 0:
        count = 0
        connect = sqlite3.connect

        def count_commits(_: str) -> None:
            nonlocal count
            count += 1
            if count == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        def traced(*given: Any, **more: Any) -> sqlite3.Connection:
            conn = connect(*given, **more)
            conn.set_trace_callback(count_commits)
            return conn

        sqlite3.connect = traced  # type: ignore[assignment]
        ground.run(*words)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def asked(ground: Ground, sql: str) -> Any:
    conn = sqlite3.connect(ground.store)
    try:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        return conn.execute(sql).fetchone()[0]
    finally:
        conn.close()


@pytest.fixture(scope="module")
def undisturbed(attacked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command leaves when nobody kills it."""
    import shutil

    folder = tmp_path_factory.mktemp("undisturbed") / "ground"
    shutil.copytree(attacked, folder)
    ground = Ground(folder)
    prepare(ground)
    assert ground.run(*IMPORT).code == 0
    assert ground.run(*RUN).code == 0
    return {name: asked(ground, sql) for name, sql in WHAT.items()}


@pytest.mark.parametrize("statement", [1, 10, 30, 100, 300, 1000, 3000])
@pytest.mark.parametrize("what", ["import", "run"])
def test_kill_9_at_a_statement_and_again(
    ground: Ground, undisturbed: dict[str, Any], what: str, statement: int
) -> None:
    words = {"import": IMPORT, "run": RUN}[what]
    prepare(ground)
    killed = killed_at(ground, words, statement)
    asked(ground, "SELECT 1")
    again = ground.run(*words)
    assert again.code == 0, again.text
    assert asked(ground, WHAT[what]) == undisturbed[what]
    if not killed and statement < 100:
        pytest.fail("it did not come to that statement, so nothing was shown")


WRITE = ["export quickstart --out x.json", "scores quickstart --csv x.csv", "report quickstart --out x.html"]


@pytest.mark.parametrize("words", WRITE)
def test_kill_9_while_a_file_is_written(ground: Ground, words: str) -> None:
    """Half of a file is not left behind, under whatever name."""
    before = ground.files().keys()
    child = os.fork()
    if child == 0:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        ground.run(*words.split())
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    until = time.monotonic() + 10
    while time.monotonic() < until and ground.files().keys() != before:
        time.sleep(0.02)
    assert ground.files().keys() == before


def detached(script: str, **more: Any) -> Any:
    def act(ground: Ground) -> Outcome:
        done = subprocess.run(
            ["bash", "-c", script.replace("$S", f"{sys.executable} -m srtui")],
            capture_output=True,
            cwd=ground.root,
            env=ground.environment(),
            timeout=60,
            **more,
        )
        state = asked(ground, "SELECT status FROM run WHERE name = 'plain'")
        return Outcome(done.returncode, f"{done.stdout.decode()}\n{state}", done.stderr.decode())

    return act


R = "$S run recipes/plain.toml"
ATTACKS = [
    Attack(
        f"a face that goes away: {name}",
        detached(script),
        (0, 2, 130, 141),
        "\n(done|stopped)",
        prepare=prepare,
        keeps=False,
    )
    for name, script in [
        ("a pipe that nobody reads", f"{R} | true"),
        ("head of one line", f"{R} | head -n 1"),
        ("JSON that nobody reads", f"{R} --json | true"),
        ("stdout closed", f"{R} >&-"),
        ("stderr closed", f"{R} 2>&-"),
        ("all closed", f"{R} <&- >&- 2>&-"),
        ("a full device", f"{R} > /dev/full"),
    ]
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_faces(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


@pytest.mark.model
def test_sigterm_stops_a_run_as_if_asked_to_where_nobody_is_left_to_tell(
    tmp_path: Path, pair_folder: Path
) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    environment = os.environ | {"SRTUI_WORKSPACE": str(workspace.root)}
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$0" -m srtui run "$1" 2>&-', sys.executable, str(small_recipe(workspace, 56))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=workspace.root,
    )  # fmt: skip
    until(workspace, lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=90)[1].decode()
    assert (process.returncode, said) == (130, "")
    stopped(workspace)


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["SIGHUP", "SIGINT"])
def test_a_signal_stops_a_run_as_if_asked_to(
    tmp_path: Path, pair_folder: Path, number: signal.Signals
) -> None:
    workspace = make_workspace(tmp_path / "ws", pair_folder)
    command = Command(workspace, "run", str(small_recipe(workspace, 56)))
    until(workspace, lambda: command.poll() is None)
    command.send_signal(number)
    done = command.wait(90)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    stopped(workspace)


def stopped(workspace: Workspace) -> None:
    """The run is stopped, not failed, and its lease is free."""
    with sqlite3.connect(workspace.store_path) as conn:
        assert conn.execute("SELECT status, error FROM run").fetchone() == ("stopped", None)
        assert conn.execute("SELECT count(*) FROM lease").fetchone() == (0,)


def until(workspace: Workspace, works: Callable[[], bool]) -> None:
    """Wait until an engine has the run."""
    for _ in range(6000):
        time.sleep(0.01)
        assert works()
        try:
            with sqlite3.connect(f"{workspace.store_path.as_uri()}?mode=ro", uri=True) as conn:
                if conn.execute("SELECT count(*) FROM lease").fetchone() == (1,):
                    return
        except sqlite3.OperationalError:
            continue
    pytest.fail("the run never came so far")
