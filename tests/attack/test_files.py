"""Paths that are not what they seem, and places where nothing can be written."""

from __future__ import annotations

import os

import pytest

from .ground import Attack, Ground

READERS = {
    "import": "import {path}",
    "a recipe": "run {path}",
    "models add": "models add {path}",
    "models inspect": "models inspect {path}",
    "prompts": "eval pairwise quickstart base:quickstart --prompts {path} --judge smollm2-135m",
    "known judgements": "eval calibrate {path} --judge smollm2-135m",
}
PLACES = {
    "absent": "nothing.json",
    "a folder": "recipes",
    "in a file": "recipes/quickstart.toml/x.json",
    "an empty device": "/dev/null",
    "an empty name": "''",
    "a name too long": "n" * 300,
    "an escape sequence": "$'\\x1b[31mred'",
}


def odd_places(ground: Ground) -> None:
    os.mkfifo(ground.root / "fifo")
    (ground.root / "loop").symlink_to("loop")
    (ground.root / "dangling").symlink_to("nowhere")


READ = [
    Attack(
        f"read by {reader}: {place}",
        command.replace("{path}", path.replace("$'\\x1b[31mred'", "\x1b[31mred")),
    )
    for reader, command in READERS.items()
    for place, path in PLACES.items()
    if (reader, place) != ("models inspect", "a name too long")
]


@pytest.mark.parametrize("attack", READ, ids=str)
def test_files(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)
