"""Commands that write a file, pointed at files that must not be lost."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attack.ground import Attack, Ground, Outcome, check

WRITERS = {
    "export": "export quickstart --out {path}",
    "scores --csv": "scores quickstart --csv {path}",
    "report --out": "report quickstart --out {path}",
    "report --markdown": "report quickstart --markdown {path}",
    "db backup": "db backup {path}",
    "prompts new": "prompts new --out {path} --force",
    "eval anchors": "eval anchors 1 2 --out {path}",
    "export-model": "export-model quickstart --to gguf --out {path} --force",
}
STORE = {
    "the store": "store/srtui.sqlite",
    "the store, relative": "recipes/../store/./srtui.sqlite",
    "the store, absolute": "{ws}/store/srtui.sqlite",
    "the store, in capitals": "store/SRTUI.SQLITE",
    "its log": "store/srtui.sqlite-wal",
    "its index": "store/srtui.sqlite-shm",
    "its journal": "store/srtui.sqlite-journal",
    "a link to the store": "link.json",
    "a link to its log": "log.json",
    "a link to its folder": "folder/srtui.sqlite",
    "a hard link to the store": "hard.json",
    "another store": "other.sqlite",
}


def links(ground: Ground) -> None:
    (ground.root / "link.json").symlink_to("store/srtui.sqlite")
    (ground.root / "log.json").symlink_to("store/srtui.sqlite-wal")
    (ground.root / "folder").symlink_to("store", target_is_directory=True)
    os.link(ground.store, ground.root / "hard.json")
    (ground.root / "other.sqlite").write_bytes(ground.store.read_bytes())


FEW = ("the store", "a link to the store", "a hard link to the store", "its log")

OVER_THE_STORE = [
    Attack(
        f"{writer} over {place}{force}",
        command.replace("{path}", path) + force,
        says=r"nothing is written over|exists already",
        prepare=links,
        leaves=("ws/hard.json",),  # which is the store; what it says is compared
    )
    for writer, command in WRITERS.items()
    for place, path in STORE.items()
    for force in ("", " --force")
    if writer == "export" or (place in FEW and not force)
]

THEIRS = {
    "the source data": "recipes/quickstart.jsonl",
    "a recipe": "recipes/quickstart.toml",
    "the catalogue": "models/models.toml",
    "somebody's file": "notes.txt",
    "a link to the source data": "data.json",
    "a hard link to the source data": "hard.json",
}


def somebodys(ground: Ground) -> None:
    (ground.root / "notes.txt").write_text("a year of work")
    (ground.root / "data.json").symlink_to("recipes/quickstart.jsonl")
    os.link(ground.root / "recipes" / "quickstart.jsonl", ground.root / "hard.json")


OVER_THEIRS = [
    Attack(
        f"{writer} over {place}",
        WRITERS[writer].replace("{path}", path),
        says="--force|exists already",
        prepare=somebodys,
    )
    for writer in ("export", "scores --csv", "report --out", "report --markdown", "eval anchors", "db backup")
    for place, path in THEIRS.items()
    if writer == "export" or place in ("the source data", "somebody's file")
]

NOWHERE = {"a folder": "recipes", "no folder": "none/x.json", "a device": "/dev/null", "a loop": "loop"}


def loop(ground: Ground) -> None:
    (ground.root / "loop").symlink_to("loop")


NO_PLACE = [
    Attack(f"{writer} to {place}", WRITERS[writer].replace("{path}", path), prepare=loop)
    for writer in ("export", "scores --csv", "report --out", "db backup")
    for place, path in NOWHERE.items()
]


@pytest.mark.parametrize("attack", [*OVER_THE_STORE, *OVER_THEIRS, *NO_PLACE], ids=str)
def test_outputs(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


OWN = ["export", "scores --csv", "report --out", "report --markdown"]


@pytest.mark.parametrize("writer", OWN)
def test_ones_own_file_is_written_over_unasked(writer: str, ground: Ground) -> None:
    words = WRITERS[writer].replace("{path}", "out.json").split()
    for _ in range(2):
        check(ground.run(*words), code=0)
    written = ground.root / "out.json"
    # Under another name it is still srtui's; with a word added it is not.
    written.rename(ground.root / "moved.json")
    check(ground.run(*WRITERS[writer].replace("{path}", "moved.json").split()), code=0)
    check(ground.run(*words), code=0)
    with written.open("a") as file:
        file.write("a remark")
    check(ground.run(*words), says="changed since.*--force")
    assert written.read_text().endswith("a remark")
    check(ground.run(*words, "--force"), code=0)
    assert not written.read_text().endswith("a remark")
    empty = ground.root / "empty.json"
    empty.touch()
    check(ground.run(*WRITERS[writer].replace("{path}", "empty.json").split()), code=0)


def test_data_that_srtui_wrote_and_took_in_again_is_data(ground: Ground) -> None:
    check(ground.run("export", "quickstart", "--out", "next.json"), code=0)
    check(ground.run("import", "next.json"), code=0)
    check(ground.run("export", "quickstart", "--out", "next.json"), says="was imported.*--force")


def killed(ground: Ground) -> Outcome:
    """A full disk or a kill in the middle of writing leaves what was there."""
    from srtui import atomic

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before: Callable[..., object] = atomic.os.fsync
    atomic.os.fsync = full  # type: ignore[assignment]
    try:
        return ground.run("scores", "quickstart", "--csv", "notes.csv", "--force")
    finally:
        atomic.os.fsync = before  # type: ignore[assignment]


def test_a_full_disk_leaves_what_was_there(ground: Ground) -> None:
    (ground.root / "notes.csv").write_text("a year of work")
    Attack("scores on a full disk", killed, says="disk is full").hold(ground)
    assert Path(ground.root / "notes.csv").read_text() == "a year of work"


@pytest.mark.parametrize("place", ["store/srtui.sqlite", "store/srtui.sqlite-wal"])
def test_a_link_to_the_store_that_comes_after_the_question(
    place: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it may be written was asked when nothing was there."""
    from srtui.store.outputs import Outputs

    asked, out = Outputs.check, ground.root / "out.json"

    def check_then_link(self: Outputs, path: Path, force: bool = False) -> None:
        asked(self, path, force)
        out.symlink_to(ground.root / place)

    monkeypatch.setattr(Outputs, "check", check_then_link)
    writer = sqlite3.connect(ground.store)  # keeps a log beside the store
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("CREATE TABLE theirs(x)")
    writer.commit()
    before = (ground.root / place).read_bytes()
    assert before
    check(ground.run("export", "quickstart", "--out", "out.json", "--force"), says="nothing is written over")
    assert (ground.root / place).read_bytes() == before
    writer.close()


STDOUT = {
    "export quickstart --out {}": lambda out: len(json.loads(out)) > 10,
    "export quickstart --format messages --out {}": lambda out: all(map(json.loads, out.splitlines())),
    "scores quickstart --csv {}": lambda out: out.startswith("sample,variant,kind"),
    "report quickstart --out {}": lambda out: out.startswith("<!doctype html>") and out.rstrip().endswith("</html>"),
    "report quickstart --markdown {}": lambda out: out.startswith("# "),
}  # fmt: skip


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
@pytest.mark.parametrize("words", STDOUT)
def test_stdout_is_a_place_to_write_to(ground: Ground, words: str, name: str) -> None:
    """What is said beside the data goes to stderr; no file of that name comes to be."""
    before = ground.files()
    done = ground.run(*words.format(name).split())
    assert done.code == 0, done.text
    assert STDOUT[words](done.out), done.out[:200]
    assert ground.files() == before


def test_a_terminal_gets_no_data_and_stdout_only_one_file(ground: Ground) -> None:
    terminal, here = os.openpty()
    words = [sys.executable, "-m", "srtui", "export", "quickstart", "--out", "-"]
    done = subprocess.run(
        words, stdout=here, stderr=subprocess.PIPE, cwd=ground.root, env=ground.environment()
    )
    os.close(here)
    os.close(terminal)
    assert done.returncode == 2
    assert (
        done.stderr.decode()
        == "srtui: --out -: that is this terminal; name a file, or send it to a program with |.\n"
    )
    check(ground.run("report", "quickstart", "--out", "-", "--markdown", "-"), says="Only one of")
    check(ground.run("report", "quickstart", "--out", "-", "--json"), says="Only one of")
