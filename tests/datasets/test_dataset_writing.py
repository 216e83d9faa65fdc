"""Exports: they come back as they went, and a failure leaves the older file."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from srtui import datasets
from srtui.cli import app
from srtui.datasets import FORMATS, WRITABLE, DataRow
from srtui.errors import UserError
from srtui.sample import Pair, Turn

ROWS = [
    {
        "sample": 1,
        "variant": 4,
        "kind": "original",
        "instruction": "a",
        "input": "i",
        "response": "b",
        "ifd": 0.5,
        "rifd": None,
    },
    {
        "sample": 2,
        "variant": 5,
        "kind": "original",
        "instruction": "c\n",
        "input": "",
        "response": "d",
        "ifd": None,
        "rifd": None,
    },
]


def pairs_in(path: Path) -> list[Pair]:
    rows = list(datasets.read(path))
    assert all(isinstance(r, DataRow) for r in rows), rows
    return [r.pair for r in rows if isinstance(r, DataRow)]


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_FULL = _TEXT.filter(str.strip)
_PAIRS = st.lists(st.builds(Pair, _FULL, _TEXT, _FULL, st.just(())), min_size=1, max_size=6)
_NAMES = st.sampled_from(["out", "out.json", "out.jsonl", "out.json.gz", "out.jsonl.zst"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=_PAIRS, format=st.sampled_from(WRITABLE), name=_NAMES)
def test_round_trip(tmp_path: Path, pairs: list[Pair], format: str, name: str) -> None:
    path = tmp_path / (name if format != "parquet" else "out")
    rows = [
        {"instruction": p.instruction, "input": p.input, "response": p.response, "ifd": 0.5} for p in pairs
    ]
    assert datasets.write(rows, path, format) == len(pairs)
    assert datasets.read(path).format == format
    assert pairs_in(path) == pairs


@pytest.mark.parametrize("format", WRITABLE)
def test_many_rows_and_their_extras(tmp_path: Path, format: str) -> None:
    path = tmp_path / "out"
    pairs = [Pair(f"q{n}", "x" * (n % 3), f"a{n}") for n in range(3000)]
    rows = (
        {
            **dict(zip(("instruction", "input", "response"), p.texts, strict=True)),
            "sample": n,
            "kind": "original" if n % 2 else None,
            "ifd": None if n < 2000 else n / 7,
        }
        for n, p in enumerate(pairs)
    )
    assert datasets.write(rows, path, format) == 3000
    read_back = list(datasets.read(path))
    assert [r.pair for r in read_back if isinstance(r, DataRow)] == pairs
    record = json.loads(read_back[2999].record)  # type: ignore[union-attr]
    assert (record["sample"], record["kind"]) == (2999, "original") and math.isclose(record["ifd"], 2999 / 7)


def test_the_shapes_that_trainers_expect(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    extras = {"sample": 1, "variant": 4, "kind": "original", "ifd": 0.5, "rifd": None}
    datasets.write(ROWS, path, "alpaca")
    assert json.loads(path.read_text())[0] == {"instruction": "a", "input": "i", "output": "b"} | extras
    datasets.write(ROWS, path, "sharegpt")
    said = [{"from": "human", "value": "a\ni"}, {"from": "gpt", "value": "b"}]
    assert json.loads(path.read_text())[0] == {"conversations": said, "input": "i"} | extras
    datasets.write(ROWS, path.with_suffix(""), "messages")
    first, second = path.with_suffix("").read_text().splitlines()
    said = [{"role": "user", "content": "c\n"}, {"role": "assistant", "content": "d"}]
    assert json.loads(second)["messages"] == said and json.loads(first)["sample"] == 1
    datasets.write(ROWS, path.with_suffix(".jsonl"), "alpaca")
    assert [json.loads(x)["output"] for x in path.with_suffix(".jsonl").read_text().splitlines()] == [
        "b",
        "d",
    ]
    datasets.write([], path, "alpaca")
    assert json.loads(path.read_text()) == []


@pytest.mark.parametrize("format", ["parquet", "alpaca"])
def test_a_history_that_comes_late_fits_into_its_column(tmp_path: Path, format: str) -> None:
    from datasets import load_dataset

    row: dict[str, Any] = {"instruction": "q" * 2000, "response": "a", "history": ()}
    late = {**row, "history": (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a"))}
    rows = (late if n == 5500 else row for n in range(5600))
    path = tmp_path / f"out.{'parquet' if format == 'parquet' else 'json'}"
    assert datasets.write(datasets.led_by(late if format == "alpaca" else None, rows), path, format) == 5600
    kind = "parquet" if format == "parquet" else "json"
    loaded = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    turns = [r for r in loaded["history"] if r]
    if format == "alpaca":
        assert turns == [[["u", "a"]]] and loaded[0]["system"] == "s" and loaded[1]["history"] == []
    else:
        assert [[turn["role"] for turn in r] for r in turns] == [["system", "user", "assistant"]]


def test_parquet_columns_have_types(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "out.parquet"
    datasets.write(ROWS, path, "parquet")
    table = pq.read_table(path)
    types = {f.name: str(f.type) for f in table.schema}
    texts = dict.fromkeys(("instruction", "input", "response", "kind"), "string")
    assert types == texts | {"ifd": "double", "rifd": "double", "sample": "int64", "variant": "int64"}
    assert table.to_pylist()[0]["instruction"] == "a"
    assert datasets.write([], path, "parquet") == 0
    with pytest.raises(UserError, match=r"leave the ending \.gz away"):
        datasets.write(ROWS, tmp_path / "x.parquet.gz", "parquet")


@pytest.mark.parametrize("format", WRITABLE)
def test_a_failure_leaves_the_older_file_and_no_trace(tmp_path: Path, format: str) -> None:
    path = tmp_path / "out"
    path.write_text("older")

    def rows(last: Any) -> Iterator[dict[str, Any]]:
        yield from ROWS * 2000
        if isinstance(last, BaseException):
            raise last
        yield last

    lone = {"instruction": "\ud800", "input": "", "response": "b"}
    for last, error in (
        (RuntimeError("store"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        ({"instruction": "a"}, UserError),
        (lone, UserError),
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
    ):
        with pytest.raises(error):
            datasets.write(rows(last), path, format)
        assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
@pytest.mark.parametrize("format", WRITABLE)
def test_a_file_that_may_not_grow(tmp_path: Path, format: str) -> None:
    """The kernel refuses the write, as a full disk does."""
    script = (
        "import resource, sys; from pathlib import Path; from srtui import datasets\n"
        "from srtui.errors import UserError\n"
        "import pyarrow.parquet, random\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "rows = ({'instruction': 'a', 'input': '', 'response': random.randbytes(500).hex()} for _ in range(9000))\n"
        "try: datasets.write(rows, Path(sys.argv[1]), sys.argv[2])\n"
        "except UserError as error: print(error)\n"
    )
    path = tmp_path / "out"
    path.write_text("older")
    done = subprocess.run([sys.executable, "-c", script, str(path), format], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path} cannot be written") and done.stdout.count("\n") == 1
    assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (
        tmp_path / "no" / "out",
        tmp_path / "file" / "out",
        tmp_path,
        Path("/dev/null"),
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(UserError, match=r"^[^\n]+\.$"):
            datasets.write(ROWS, path, "alpaca")
    with pytest.raises(UserError, match="it can be sharegpt, messages, alpaca, parquet"):
        datasets.write(ROWS, tmp_path / "out", "csv")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid():
        with pytest.raises(UserError, match="another folder"):
            datasets.write(ROWS, closed / "out", "alpaca")


def test_links_modes_and_compression(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json.gz", tmp_path / "link.json.gz"
    real.write_text("older")
    real.chmod(0o640)
    link.symlink_to(real)
    datasets.write(ROWS, link, "alpaca")
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert json.loads(gzip.decompress(real.read_bytes()))[1]["output"] == "d"
    first = real.read_bytes()
    datasets.write(ROWS, link, "alpaca")
    assert real.read_bytes() == first


@pytest.mark.parametrize(("command", "formats"), [("import", FORMATS), ("export", WRITABLE)])
def test_help_names_every_format(command: str, formats: tuple[str, ...]) -> None:
    """Help cannot read the list, which would double the start of every command; so it is compared with it."""
    shown = CliRunner().invoke(app, [command, "--help"]).output
    of_format = re.split(r"\n  --", shown.split("\n  --format")[1])[0]
    assert set(formats) <= set(re.findall(r"\w+", of_format)), (
        "the help of --format in srtui/cli/import_export.py"
    )
