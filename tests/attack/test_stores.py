"""Stores that are damaged, foreign, newer, locked, or no store at all."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attack.ground import Attack, Ground

DEEP = "[" * 100_000
COMMANDS = ["status", "status quickstart", "status --json", "show 1", "scores quickstart", "db", "db check"]
ALL = [*COMMANDS, "export quickstart --out x.json", "report quickstart --out x.html", "eval list",
       "resume another-seed", "run recipes/quickstart.toml", "import recipes/quickstart.jsonl",
       "db backup b.sqlite", "db vacuum", "chat quickstart --say x"]  # fmt: skip


def whole(content: bytes | None = None) -> Callable[[Ground], object]:
    """The store's file is this."""

    def do(ground: Ground) -> None:
        for path in ground.store.parent.glob("srtui.sqlite*"):
            path.unlink()
        if content is not None:
            ground.store.write_bytes(content)

    return do


def damaged(at: float, size: int = 4096) -> Callable[[Ground], object]:
    def do(ground: Ground) -> None:
        length = ground.store.stat().st_size
        with ground.store.open("r+b") as file:
            file.seek(int(length * at) // 4096 * 4096)
            file.write(b"\xa5" * size)

    return do


def cut(share: float) -> Callable[[Ground], object]:
    return lambda ground: os.truncate(ground.store, int(ground.store.stat().st_size * share))


def instead(make: Callable[[str], object]) -> Callable[[Ground], object]:
    def do(ground: Ground) -> None:
        ground.store.unlink()
        make(str(ground.store))

    return do


def says(*statements: str) -> Callable[[Ground], object]:
    return lambda ground: ground.sql(*statements)


def foreign(ground: Ground) -> None:
    ground.store.unlink()
    with sqlite3.connect(ground.store) as conn:
        conn.execute("CREATE TABLE bookmark(url TEXT)")


STORES: dict[str, Callable[[Ground], object]] = {
    "empty": whole(b""),
    "no SQLite file": whole(b"hello"),
    "zeros": whole(bytes(8192)),
    "only the magic": whole(b"SQLite format 3\0"),
    "its first page overwritten": damaged(0),
    "its first page but the magic": whole(b"SQLite format 3\0" + b"\xff" * 4080),
    "another program's": foreign,
    "newer": says("INSERT INTO _sqlite_migrations SELECT 99, migration_set, '2099', applied_at FROM _sqlite_migrations "
                  "LIMIT 1"),
    "a folder": instead(lambda path: Path(path).mkdir()),
    "a loop": instead(lambda path: Path(path).symlink_to(path)),
    "a dangling link": instead(lambda path: Path(path).symlink_to("/nowhere/at/all")),
    "an empty device": instead(lambda path: Path(path).symlink_to("/dev/null")),
    "a full device": instead(lambda path: Path(path).symlink_to("/dev/full")),
    "a pipe": instead(os.mkfifo),
    "a table dropped": says("DROP TABLE run"),
    "cut in half": cut(0.5),
    "cut to a page": cut(0.001),
}  # fmt: skip
DAMAGE: dict[str, Callable[[Ground], object]] = {
    "its middle overwritten": damaged(0.5, 40960),
    "its end overwritten": damaged(0.9, 20480),
    "a recipe that is no JSON": says("UPDATE run SET recipe = 'x'"),
    "a recipe that is a list": says("UPDATE run SET recipe = '[]'"),
    "a recipe nested too deep": says(f"UPDATE run SET recipe = '{DEEP}'"),
    "a teacher that is no JSON": says("UPDATE run SET teacher = 'x'"),
    "progress that is no JSON": says("UPDATE stage_progress SET detail = 'x'"),
    "progress nested too deep": says(f"UPDATE stage_progress SET detail = '{DEEP}'"),
    "a result that is no JSON": says("UPDATE training_run SET result = 'x'"),
    "comparisons that are no JSON": says("UPDATE decision SET compared = 'x'"),
    "sums that are no JSON": says(
        "DELETE FROM run_sums", "INSERT INTO run_sums SELECT id, 'x', 'x' FROM run"
    ),
    "infinite scores": says("UPDATE score SET value = 9e999"),
}


def an_evaluation(column: str, text: str) -> Callable[[Ground], object]:
    """A pairwise evaluation that is done, one of whose columns says this."""

    def do(ground: Ground) -> None:
        columns = {"identity_a": "{}", "identity_b": "{}", "settings": "{}", "result": "{}", column: text}
        with contextlib.closing(sqlite3.connect(ground.store)) as conn, conn:
            conn.execute(
                "INSERT INTO evaluation(kind, fingerprint, contestant_a, contestant_b, identity_a, identity_b, run_a_id, "
                "source, source_sha256, settings, status, result, created_at) "
                "VALUES ('pairwise', 'f', 'a', 'b', ?, ?, 1, 's', 's', ?, 'done', ?, 0)",
                tuple(columns.values()),
            )

    return do


def row(name: str, command: str, prepare: Callable[[Ground], object], code: int | tuple[int, ...]) -> Attack:
    return Attack(
        f"a store that is {name}: {command.split(' --', maxsplit=1)[0]}",
        command,
        code,
        prepare=prepare,
        keeps=False,
        leaves=("ws/x.json", "ws/x.html", "ws/y.md", "ws/b.sqlite"),
    )


def a_few(commands: list[str], n: int, every: int) -> list[str]:
    """Each store meets some of the commands, each command some of the stores."""
    return [command for m, command in enumerate(commands) if (m + n) % every == 0]


ATTACKS = [
    *(row(name, c, make, (0, 2)) for n, (name, make) in enumerate(STORES.items()) for c in a_few(ALL, n, 5)),
    *(row(f"whole but for {name}", c, make, (0, 2)) for n, (name, make) in enumerate(DAMAGE.items())
      for c in a_few(ALL, n, 4)),
]  # fmt: skip
SEGMENTS = {
    "no JSON": "x",
    "nested too deep": DEEP,
    "a number": "7",
    "numbers": "[1, 2]",
    "pairs": '[["critique", "end"]]',
    "of a wrong type": '[["critique", "end", "many"]]',
}
ATTACKS += [
    row(
        f"whole but for segments that are {name}",
        command,
        says(f"UPDATE generation SET segments = '{text}'"),
        (0, 2),
    )
    for name, text in SEGMENTS.items()
    for command in ("show 1 --raw", "report quickstart --out x.html --markdown y.md")
]
ATTACKS += [
    row(f"whole but for an evaluation whose {column} is {name}", command, an_evaluation(column, text), (0, 2))
    for column in ("settings", "identity_a", "result")
    for name, text in {"no JSON": "x", "nested too deep": DEEP, "a list": "[1]"}.items()
    for command in ("eval list", "eval show 1", "report quickstart --out x.html")
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_stores(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


def test_a_lock_is_waited_for_and_then_named(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program holds the store; nobody waits for ever, and nothing is lost."""
    connect = sqlite3.connect
    holder = connect(ground.store, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.2}))
    try:
        done = ground.run("import", "recipes/quickstart.jsonl", "--name", "again")
        assert done.code == 2 and "locked" in done.err
    finally:
        holder.close()
    assert json.loads(ground.run("status", "--json").out)
