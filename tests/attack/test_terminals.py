"""Terminals: what they would obey, what they cannot show, and those that go away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.attack.ground import Attack, Ground, Outcome

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\u2066\u061c\u200b\u2028\u2029\x85\U000e0041\x7f\r"
    " \\[ x \\] :smile: [bold]b[/bold] [/] [link=file:///etc/passwd]here[/link] \\"
)


def evil_sample(ground: Ground) -> None:
    """Sample 1 says what a terminal would obey, in every one of its texts; so do notes, events and names."""
    quoted = "'" + EVIL.replace("'", "''") + "'"
    ground.sql(
        f"UPDATE variant SET instruction = {quoted}, input = {quoted}, response = {quoted} WHERE sample_id = 1",
        f"UPDATE generation SET text = {quoted}, critique = {quoted}",
        f"UPDATE decision SET reason = {quoted}",
        f"UPDATE outcome SET reason = {quoted}",
        f"UPDATE run SET name = 'evil' || {quoted}, error = {quoted} WHERE id = 2",
        f"UPDATE dataset SET name = {quoted}",
    )


def shell(script: str, **env: str) -> Callable[[Ground], Outcome]:
    """``srtui`` as $S in a shell, for what only a shell does to a process."""

    def act(ground: Ground) -> Outcome:
        done = subprocess.run(
            ["bash", "-c", script.replace("$S", f"{sys.executable} -m srtui")],
            capture_output=True,
            cwd=ground.root,
            env=ground.environment(env),
            timeout=60,
        )
        return Outcome(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return act


ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def same_json(ground: Ground) -> Outcome:
    plain = ground.start("show", "1", "--json")
    narrow = ground.start("show", "1", "--json", env=ASCII)
    assert json.loads(plain.out) == json.loads(narrow.out)
    assert json.loads(plain.out)["variants"][0]["instruction"] == EVIL
    return narrow


def attack(name: str, command: str, says: str = "", never: str = "", **more: object) -> Attack:
    return Attack(f"evil texts: {name}", command, 0, says, never, prepare=evil_sample, **more)  # type: ignore[arg-type]


ATTACKS = [
    attack("show", "show 1", r"␛\]0;owned.*\\\[ x \\\] :smile: \[bold\]b\[/bold\]", "😄"),
    attack("show --raw", "show 1 --raw", ":smile:", "😄"),
    attack(
        "show --json",
        "show 1 --json",
        r"\\u202e",
        "[\u202a-\u202e\u2066\u200b\u2028\u061c\x7f-\x9f\U000e0041]",
    ),
    attack("status", "status"),
    attack("status --json", "status --json", "", "[\u202a-\u202e\u200b\x7f-\x9f]"),
    attack("status of one", "status 2", "evil"),
    attack("scores", "scores 1"),
    attack("scores as a table", "scores 1 --csv -"),
    attack("report, as HTML", "report 1 --out r.html", never="\u202e", leaves=("ws/r.html",)),
    attack("report, as Markdown", "report 1 --markdown r.md", never="\u202e", leaves=("ws/r.md",)),
    attack("report --json", "report 1 --json", "", "[\u202a-\u202e\u200b\x7f-\x9f]"),
    attack("export", "export 1 --out x.json", leaves=("ws/x.json",)),
    attack("db", "db"),
    attack("eval list", "eval list"),
    Attack("evil names: a sample", "show '\x1b[31m'", never="\x1b"),
    Attack("evil names: a run", "status '\x1b[31m\u202e'", says="x1b"),
    Attack("evil names: a file", "import '\x1b[31m\u202e.json'", says="␛"),
    Attack("evil names: a recipe's key", "run recipes/quickstart.toml --set '\x1b[31m=1'", says="␛"),
    Attack("evil names: a recipe's value", "run recipes/quickstart.toml --set 'limit=\x1b[31m'", says="x1b"),
    Attack("evil names: a stage", "run recipes/quickstart.toml --until '\x1b[31m'", says="␛"),
    Attack("evil names: a model", "models inspect '\x1b[31m'", says="␛"),
    Attack("evil names: a format", "export 1 --out x.json --format '\x1b[31m'", says="␛"),
    Attack("evil names: an option", "status '--\x1b[31m'"),
    Attack("evil names: a command", "'\x1b[31m'"),
    Attack(
        "evil names: a folder for a workspace",
        "init '\x1b[31m\u202e'",
        code=0,
        says="␛",
        leaves=("ws/\x1b*",),
    ),
    *(
        Attack(f"a stdout that is not UTF-8: {name}", command, 0, env=env, prepare=prepare, process=True)
        for name, command, env, prepare in [
            ("show, ascii", "show 7", ASCII, None),
            ("show of emoji, ascii", "show 9", ASCII, None),
            ("show of evil, latin-1", "show 1", {"PYTHONIOENCODING": "latin-1"}, evil_sample),
            ("status, C locale", "status", C_LOCALE, None),
            ("report, C locale", "status quickstart", C_LOCALE, None),
        ]
    ),
    Attack("a stdout that is not UTF-8: JSON", same_json, 0, prepare=evil_sample),
    Attack("a stdout nobody reads: closed", shell("$S show 1 >&-"), (0, 1, 2, 141)),
    Attack("a stdout nobody reads: head", shell("$S show 1 --json | head -c 1"), 0),
    Attack("a stdout nobody reads: a long table", shell("$S scores 1 --csv - | head -n 1"), 0),
    Attack("a stdout nobody reads: true", shell("$S show 1 | true"), 0),
    Attack("a stdout nobody reads: a full device", shell("$S show 1 > /dev/full"), 2, "No space"),
    Attack("a stdout nobody reads: help", shell("$S --help | true"), 0),
    Attack("a stderr that is closed", shell("$S show 100000 2>&-; echo $?"), 0, "^2$"),
    Attack("a stdin that is closed", shell("$S status <&-"), 0),
    Attack("no stream at all", shell("$S status <&- >&- 2>&-"), (0, 1, 2)),
    Attack("no terminal: the dashboard", shell("$S"), 2, "needs a terminal"),
    Attack("no terminal: dumb", shell("$S", TERM="dumb"), 2, "needs a terminal"),
    Attack("no width", "status", 0, env={"COLUMNS": "1"}),
    Attack("a negative width", "status", 0, env={"COLUMNS": "-5"}),
    Attack("a width of no number", "show 1", 0, env={"COLUMNS": "²", "LINES": "x"}),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_terminals(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


def test_what_is_read_back_by_a_person_is_what_is_there(ground: Ground) -> None:
    """``show`` neither loses a character of a text nor makes a picture of one."""
    text = "\\[ x \\] :smile: [bold] \\\\[/] end\\"
    ground.sql(f"UPDATE variant SET response = '{text}' WHERE sample_id = 1")
    assert text in ground.run("show", "1").out
