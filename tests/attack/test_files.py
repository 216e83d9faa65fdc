"""Paths that are not what they seem, and places where nothing can be written."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.attack.ground import Attack, Ground, Outcome

READERS = {
    "import": "import {path}",
    "a recipe": "run {path}",
    "models add": "models add {path}",
    "models inspect": "models inspect {path}",
    "prompts": "eval pairwise quickstart base:quickstart --prompts {path} --judge smollm2-135m",
    "known judgements": "eval calibrate {path} --judge smollm2-135m",
    "a recipe's prompts": "run recipes/quickstart.toml --set 'prompts=\"{path}\"'",
    "released scripts": "prompts from-released {path} --out p.toml",
    "anchors": "eval winrate quickstart --reference reference.json --judge nobody --anchors {path}",
}
PLACES = {
    "absent": "nothing.json",
    "a folder": "recipes",
    "in a file": "recipes/quickstart.toml/x.json",
    "an endless device": "/dev/zero",
    "an empty device": "/dev/null",
    "a memory file": "/proc/self/mem",
    "a pipe": "pipe",
    "a pipe called .toml": "pipe.toml",
    "a socket": "socket",
    "a loop": "loop",
    "a dangling link": "dangling",
    "a link to a device": "zero",
    "an empty name": "''",
    "a name too long": "n" * 300,
    "a path too long": "n/" * 3000,
    "an escape sequence": "\x1b[31mred",
    "a name that is no UTF-8": "'\udcff'",
}


def odd_places(ground: Ground) -> None:
    ground.put("reference.json", '[{"instruction": "a", "output": "b"}]')
    for name in ("pipe", "pipe.toml"):
        os.mkfifo(ground.root / name)
    for name, to in (("loop", "loop"), ("dangling", "nowhere"), ("zero", "/dev/zero")):
        (ground.root / name).symlink_to(to)
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(ground.root):
        made.bind("socket")


READ = [
    Attack(f"read by {reader}: {place}", command.replace("{path}", path), prepare=odd_places)
    for reader, command in READERS.items()
    for place, path in PLACES.items()
    if (reader, place) != ("a recipe's prompts", "an empty name")  # which means srtui's own
]
WRITERS = {
    "export": "export quickstart --out {path}",
    "report": "report quickstart --out {path}",
    "scores": "scores quickstart --csv {path}",
    "backup": "db backup {path}",
}
NOWHERE = {
    "a folder that is not there": "nowhere/x.out",
    "a folder": "recipes",
    "in a file": "recipes/quickstart.toml/x",
    "a loop": "loop/x",
    "a name too long": "n" * 300,
    "proc": "/proc/x",
}
WRITE = [
    Attack(f"written by {writer}: {place}", command.replace("{path}", path), prepare=odd_places)
    for writer, command in WRITERS.items()
    for place, path in NOWHERE.items()
]
INIT = [
    Attack(f"a workspace made in {place}", f"init {path}", prepare=odd_places)
    for place, path in {
        "a file": "recipes/quickstart.toml",
        "a file's inside": "recipes/quickstart.toml/x",
        "a pipe": "pipe",
        "a loop": "loop",
        "a name too long": "n" * 300,
        "proc": "/proc/x",
    }.items()
]


@pytest.mark.parametrize("attack", [*READ, *WRITE, *INIT], ids=lambda a: ascii(a.name)[1:-1])
def test_files(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


def in_a_deleted_folder(command: str) -> Callable[[Ground], Outcome]:
    """From a folder that is deleted while the shell is in it, as `git clean` leaves one."""

    def act(ground: Ground) -> Outcome:
        done = subprocess.run(
            ["bash", "-c", f'mkdir x; cd x; rmdir ../x; exec "$0" -m srtui {command}', sys.executable],
            capture_output=True,
            text=True,
            cwd=ground.root,
            env=ground.environment({} if "status" in command else {"SRTUI_WORKSPACE": ""}),
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return act


@pytest.mark.parametrize(
    "attack",
    [
        Attack("a deleted current folder: help", in_a_deleted_folder("--help"), 0),
        Attack("a deleted current folder: status", in_a_deleted_folder("status quickstart"), 0),
        Attack("a deleted current folder: no workspace", in_a_deleted_folder("db"), says="has been deleted"),
    ],
    ids=str,
)
def test_deleted(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)
