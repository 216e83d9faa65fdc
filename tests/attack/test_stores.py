"""Stores that are damaged, foreign, newer, locked, or no store at all."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from srtui.store import Store
from tests.attack.ground import Attack, Ground, check

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

ONE = "(SELECT sample_id FROM decision WHERE run_id = 1 AND stage = 'response' AND reflected = 1 LIMIT 1)"
CHANGED = {
    "a teacher's answer": ("UPDATE generation SET text = substr(text, 1, length(text) - 2) || '~.' WHERE id = 3",
                           "generation 3: the answer that was read from its text is not in it"),
    "a teacher's critique": ("UPDATE generation SET critique = '~' || substr(critique, 2) WHERE id = 3",
                             "generation 3: the critique"),
    "a record": ("UPDATE sample SET record = replace(record, 'e', 'f') WHERE id = 2",
                 "sample 2: its original text is not in its record"),
    "a score": ("UPDATE score SET value = value * 1.000001 WHERE variant_id = 2 AND metric = 'ifd'",
                "score ifd of variant 2: it is .*, by its losses"),
    "a score that is gone": ("UPDATE score SET value = NULL WHERE variant_id = 2 AND metric = 'ifd'",
                             "score ifd of variant 2: it says None, its losses"),
    "a loss": ("UPDATE span_loss SET nll = nll + 0.001 WHERE key = (SELECT conditional_key FROM score WHERE "
               "variant_id = 2 AND metric = 'ifd')", "score ifd of variant 2: it is"),
    "a loss that is gone": ("DELETE FROM span_loss WHERE key = (SELECT conditional_key FROM score WHERE "
                            "variant_id = 2 AND metric = 'ifd')", "score ifd of variant 2: a loss"),
    "a choice": (f"UPDATE decision SET chosen_id = json_extract(compared, '$[0][0]'), reflected = 0 WHERE run_id = 1 "
                 f"AND stage = 'response' AND sample_id = {ONE}", r"decision 1/\d+/response: it chose variant"),
    "a compared score": ("UPDATE decision SET compared = replace(compared, ',0.', ',0.0') WHERE run_id = 1 "
                         "AND stage = 'instruction' AND sample_id = 1", r"decision 1/1/instruction: .* has no score"),
    "what is kept": ("UPDATE outcome SET kept = 1 - kept WHERE run_id = 1 AND sample_id = 1", "outcome 1/1: it was"),
    "an outcome's score": (f"UPDATE outcome SET ifd = ifd + 1e-9 WHERE run_id = 1 AND sample_id = {ONE}",
                           "outcome .* has no ifd"),
    "an outcome's text": (f"UPDATE outcome SET variant_id = {ONE} WHERE run_id = 1 AND sample_id = {ONE}",
                          "outcome 1/.* was chosen"),
    "a count": ("UPDATE tally SET n = n + 1 WHERE run_id = 2 AND what = 'reflection' AND stage = 'response'",
                "tally 2/reflection/response/.*its counts are not"),
    "a count of nothing": ("INSERT INTO tally VALUES (1, 'outcome', '', 'of a kind', 0, 3)", "tally 1/outcome/-/of a kind"),
    "a histogram": ("UPDATE score_bin SET total = total + 1 WHERE run_id = 1 AND metric = 'ifd'", "score_bin 1/ifd"),
    "sums": ("UPDATE run_sums SET sums = json_set(sums, '$.kept_length', 7.0)", "run_sums 1: the sums"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGED)
def test_what_has_no_digest_is_derived_again(ground: Ground, what: str) -> None:
    """A change that is sound to SQLite and to every digest: what follows from other rows no longer does."""
    statement, sentence = CHANGED[what]
    check(ground.run("status", "quickstart"), 0)
    ground.sql(statement)
    check(ground.run("db", "check"), 0)
    check(ground.run("db", "check", "--deep"), 2, sentence)


def test_a_sound_store_is_sound_to_the_last_row(ground: Ground) -> None:
    """Also where a person has overruled the student."""
    check(ground.run("status", "quickstart"), 0)
    with Store(ground.store) as store:
        for sample in (2, 5, 9):
            store.marks.overrule(1, sample, store.corpus.variants_of(sample)[-1].id, "better")
    check(ground.run("status", "quickstart"), 0)
    check(ground.run("db", "check", "--deep"), 0, "is sound")


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
