"""Data, prompts and answers of other people's making."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

from tests.attack.ground import Attack, Ground

DEEP = "[" * 100_000
GOOD = '{"instruction": "a", "output": "b"}'


def has(name: str, content: bytes | str) -> Callable[[Ground], object]:
    return lambda ground: ground.put(name, content)


def refused(name: str, content: bytes | str, says: str = "", file: str = "f.json") -> Attack:
    return Attack(f"import: {name}", f"import {file}", says=says, prepare=has(file, content), keeps=True)


def rows(name: str, content: bytes | str, says: str) -> Attack:
    """An import that takes what can be taken, and counts the rest."""
    return Attack(
        f"import: {name}", "import f.json", code=0, says=says, prepare=has("f.json", content), keeps=False
    )


def prompts(name: str, content: bytes | str, says: str) -> Attack:
    return Attack(
        f"prompts: {name}",
        "eval pairwise quickstart base:quickstart --prompts p.jsonl --judge nobody",
        says=says,
        prepare=has("p.jsonl", content),
    )


def known(name: str, content: bytes | str, says: str) -> Attack:
    return Attack(
        f"known judgements: {name}",
        "eval calibrate j.json --judge nobody",
        says=says,
        prepare=has("j.json", content),
    )


def worded(name: str, content: bytes | str, says: str) -> Attack:
    """A prompts file that a recipe names."""
    return Attack(
        f"a recipe's prompts: {name}",
        """run recipes/quickstart.toml --set 'prompts="w.toml"'""",
        says=says,
        prepare=has("w.toml", content),
    )


def released(name: str, file: str, content: bytes | str, says: str) -> Attack:
    return Attack(
        f"released scripts: {name}",
        f"prompts from-released {file} --out p.toml",
        says=says,
        prepare=has(file, content),
    )


def anchored(name: str, content: bytes | str, says: str) -> Attack:
    def prepare(ground: Ground) -> None:
        ground.put("anchors.csv", content)
        ground.put("reference.json", f"[{GOOD}]")

    return Attack(
        f"anchors: {name}",
        "eval winrate quickstart --reference reference.json --judge nobody --anchors anchors.csv",
        says=says,
        prepare=prepare,
    )


# Where the prompts themselves are fine, what is refused next is that nobody judges.
FINE = "nobody is neither a model|adapter|has not trained"

ATTACKS = [
    refused("nested a hundred thousand deep", DEEP),
    refused("objects nested as deep", '{"a":' * 100_000),
    refused("empty", ""),
    refused("blank", " \n \n"),
    refused("a NUL", "\0"),
    refused("a thousand NULs", "\0" * 1000),
    refused("a byte order mark and nothing", b"\xef\xbb\xbf"),
    refused("UTF-16", '[{"instruction": "a"}]'.encode("utf-16"), "UTF-16"),
    refused("UTF-32", '[{"instruction": "a"}]'.encode("utf-32")),
    refused("a pickle", b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "pickle"),
    refused("a zip", b"PK\x03\x04" + bytes(40), "zip"),
    refused("a model", b"GGUF" + bytes(40), "model"),
    refused("an SQLite file", b"SQLite format 3\0" + bytes(84), "SQLite"),
    refused("a Parquet file cut short", b"PAR1" + bytes(40) + b"PAR1"),
    refused("gzip cut short", gzip.compress(GOOD.encode() * 999)[:60]),
    refused("gzip in gzip", gzip.compress(gzip.compress(GOOD.encode())), "twice"),
    refused("a gzip bomb", gzip.compress(bytes(400_000_000), 1), "binary data"),
    refused("an endless line of quotes", '"' * 1_000_000),
    refused("HTML", "<!doctype html><html><body>404</body></html>"),
    refused("a header alone", "instruction,output\n", "no rows"),
    refused("a column of a name that a terminal obeys", "\x1b[31mred,\x1b]0;x\x07\n1,2\n"),
    rows("a bad row among good ones", f"{GOOD}\n{{bad\n{GOOD}\n", "3 rows read, 1 new samples, 1 duplicates, 1 bad"),
    rows("nested too deep among good ones", f"{GOOD}\n{DEEP}\n", "1 new samples, 0 duplicates, 1 bad"),
    rows("numbers of a million digits", f'{GOOD}\n{{"instruction": "a", "output": "b", "n": {"9" * 10**6}}}\n', "bad"),
    rows("lone surrogates", f'{GOOD}\n{{"instruction": "\\ud800", "output": "b"}}\n', "1 bad"),
    rows("NaN for an answer", f'{GOOD}\n{{"instruction": "a", "output": NaN}}\n', "1 bad"),
    rows("a key twice", '{"instruction": "a", "instruction": "z", "output": "b"}', "1 new"),
    rows("U+2028 in a text", '{"instruction": "a\u2028b", "output": "c\u0085d"}\n', "1 rows read, 1 new"),
    rows("a table with lone carriage returns", "instruction,output\ra,b\rc,d\r", "2 rows read, 2 new"),
    rows("as that, with new lines in a cell", 'instruction,output\r"a\nb",c\rd,e\r', "2 rows read, 2 new"),
    rows("as that, a quote at the end of the head", 'instruction,output\r"' + "x" * 70_000 + '",c\rd,e\r', "2 new"),
    rows("a table with both line ends", "instruction,output\r\na,b\r\nc,d\r\n", "2 rows read, 2 new"),
    rows("escape sequences", json.dumps({"instruction": "\x1b]0;x\x07", "output": "\u202ex\u009b31m"}), "1 new"),
    rows("SQL in a text", json.dumps({"instruction": "'); DROP TABLE sample; --", "output": "x"}), "1 new"),
    rows("markup in a text", json.dumps({"instruction": "[/bold][link=x]", "output": "[red]"}), "1 new"),
    rows("a template in a text", json.dumps({"instruction": "{{ 7*7 }}{% raw %}", "output": "{0.__class__}"}), "1 new"),
    rows("a formula in a text", json.dumps({"instruction": "=cmd|' /C calc'!A0", "output": "@SUM(1)"}), "1 new"),
    Attack(
        "import: a name that is a path",
        "import f.json --name ../../etc/x",
        code=(0, 2),
        prepare=has("f.json", GOOD),
        keeps=False,
    ),
    Attack("import: an unknown format", "import recipes/quickstart.jsonl --format pickle", says="--format pickle"),
    Attack("import: a column that is not there", "import recipes/quickstart.jsonl --column response=x", says="no field"),
    Attack("import: a column option of a wrong shape", "import recipes/quickstart.jsonl --column x", says="name=value"),
    prompts("nested a hundred thousand deep", DEEP, "not valid JSON: nested too deeply"),
    prompts("objects nested as deep", '{"a":' * 100_000, "not valid JSON"),
    prompts("a number of ten thousand digits", '[{"instruction": ' + "9" * 10_000 + "}]", "not valid JSON"),
    prompts("empty", "", "nothing in it"),
    prompts("an empty list", "[]", "nothing in it"),
    prompts("not UTF-8", '{"instruction": "é"}'.encode("latin-1"), "UTF-8"),
    prompts("a list of numbers", "[1, 2]", "row 1 is not an object"),
    prompts("a list of lists", "[[]]", "row 1 is not an object"),
    prompts("a number alone", "7", "row 1 is not an object"),
    prompts("null", "null", "row 1 is not an object"),
    prompts("no instruction", '{"x": 1}', 'row 1 has no "instruction"'),
    prompts("an instruction that is a number", '{"instruction": 1}', "must be a text"),
    prompts("an input that is a list", '{"instruction": "a", "input": [1]}', '"input" must be a text'),
    prompts("turns that are numbers", '{"turns": [1]}', 'row 1 has no "instruction"'),
    prompts("the same twice", f"{GOOD}\n{GOOD}\n", "rows 1 and 2 ask the same"),
    prompts("U+2028 in a text", '{"instruction": "a\u2028b"}\n{"instruction": "a\u2029b"}\n', FINE),
    prompts("U+0085 in a text", '{"instruction": "a\u0085b"}\n', FINE),
    prompts("form feeds and separators in a text", '{"instruction": "a\u001cb"}\n', "not valid JSON"),
    prompts("a vertical tab between lines", '{"instruction": "a"}\n\v\n{"instruction": "b"}', FINE),
    prompts("carriage returns and new lines", '{"instruction": "a"}\r\n{"instruction": "b"}\r\n', FINE),
    prompts("a byte order mark", b"\xef\xbb\xbf" + b'{"instruction": "a"}', FINE),
    known("nested a hundred thousand deep", DEEP, "nested too deeply"),
    known("scores that are words", '[{"instruction": "a", "scores": ["x", 1]}]', '"scores" must be two numbers'),
    known("scores that are infinite", '[{"instruction":"a","answer_1":"x","answer_2":"y",'
          '"scores":[Infinity,1],"scores_reversed":[1,NaN]}]', "must be two numbers"),
    known("scores beyond a float", '[{"instruction":"a","answer_1":"x","answer_2":"y",'
          '"scores":[1' + "0" * 400 + ',1],"scores_reversed":[1,2]}]', "must be two numbers"),
    worded("nested a hundred thousand deep", f"a = {DEEP}", "nested too deeply"),
    worded("not UTF-8", 'name = "é"'.encode("latin-1"), "not UTF-8"),
    worded("UTF-16", 'name = "x"'.encode("utf-16"), "not UTF-8"),
    worded("no TOML", "name", "not valid TOML"),
    worded("a byte order mark and a wrong key", b'\xef\xbb\xbfnome = "x"', "nome"),
    Attack("a recipe's prompts: nobody's home", """run recipes/quickstart.toml --set 'prompts="~nouser/x"'""",
           says="does not exist"),
    released("nested a hundred thousand deep", "s.json", DEEP, "nested too deeply"),
    released("a list", "s.json", "[]", "cannot be read as a released script"),
    released("templates that are a list", "s.json", '{"templates": []}', "cannot be read as a released script"),
    released("a sum of a hundred thousand", "s.py", "a = " + "+".join(["1"] * 100_000), "cannot be read as"),
    released("brackets", "s.py", f"a = {DEEP}", "cannot be read as a released script"),
    released("a NUL", "s.py", "a = 1\0", "cannot be read as a released script"),
    anchored("empty", "", "not a table of anchors"),
    anchored("not UTF-8", b"index,instruction_difficulty\n1,\xe9\n", "not UTF-8"),
    anchored("a cell of a megabyte", f'index,instruction_difficulty\n1,"{"x" * 10**6}"\n', "is not CSV|must be a number, and is 'xxx"),
    anchored("a number that is none", "index,instruction_difficulty\n1,inf\n", "must be a number"),
    anchored("an index beyond counting", "index,instruction_difficulty\n1e300,1\n", "no difficulty for row 1"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_data_files(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)
