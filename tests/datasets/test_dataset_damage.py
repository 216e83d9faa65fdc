"""Bad rows, damaged files and hostile ones."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srtui import datasets
from srtui.datasets import MAX_FIELD, MAX_RECORD, REASONS, BadRow, DataRow
from srtui.errors import UserError

GOOD = '{"instruction": "a", "output": "b"}'
BAD = {
    '{"instruction": "a"}': "missing_field",
    '{"instruction": "a", "output": null}': "missing_field",
    '{"instruction": 1, "output": "b"}': "wrong_type",
    '{"instruction": "a", "input": ["x"], "output": "b"}': "wrong_type",
    '{"instruction": " \\n", "output": "b"}': "empty_instruction",
    '{"instruction": "a", "output": "\\t"}': "empty_output",
    '{"instruction": "a\\ud800", "output": "b"}': "lone_surrogate",
    '{"instruction": "a", "output": "\\udc00b"}': "lone_surrogate",
    '{"instruction": "a", "output": "b\\u0000"}': "nul_byte",
    '{"instruction": "a", "output": "b\0"}': "nul_byte",
    '{"instruction": "a", "output": "b", "id": "\\u0000"}': "nul_byte",
    '{"instruction": "a", "output": "b",}': "not_json",
    '{"instruction": "a" "output": "b"}': "not_json",
    "[1, 2]": "not_an_object",
    '"text"': "not_an_object",
    "12.5": "not_an_object",
    "null": "not_an_object",
    '{"instruction": "a", "output": "' + "x" * (MAX_FIELD + 1) + '"}': "too_large",
    '{"instruction": "a", "output": "' + "é" * (MAX_FIELD // 2 + 1) + '"}': "too_large",
    '{"instruction": "a", "output": "' + "x" * 5_000_000 + '"}': "too_large",
    '{"instruction": "a", "output": "' + "x" * (MAX_RECORD + 1) + '"}': "too_large",
}
CONVERSATIONS = {
    '{"conversations": 1}': "wrong_type",
    '{"conversations": ["hi", "ho"]}': "wrong_type",
    '{"conversations": []}': "no_turn_pair",
    '{"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}': "no_turn_pair",
    '{"conversations": [{"from": "human", "value": "a"}]}': "no_turn_pair",
    '{"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]}': "missing_field",
    '{"conversations": [{"value": "a"}, {"from": "gpt", "value": "b"}]}': "missing_field",
    '{"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "b"}]}': "wrong_type",
    '{"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "b"}]}': "empty_instruction",
    '{"conversation": 1}': "missing_field",
}


def put(folder: Path, content: bytes | str, name: str = "data") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def outline(path: Path, **options: Any) -> list[tuple[int, str]]:
    """(line, reason or "good") of every row, the row numbers checked."""
    rows = list(datasets.read(path, **options))
    assert [r.number for r in rows] == list(range(len(rows)))
    for row in rows:
        if isinstance(row, BadRow):
            assert row.reason in REASONS and row.detail.isprintable() and len(row.detail) < 300
    return [(r.line, r.reason if isinstance(r, BadRow) else "good") for r in rows]


@pytest.mark.parametrize("bad", BAD, ids=lambda b: f"{BAD[b]}-{len(b)}")
def test_each_reason_in_lines_and_in_an_array(tmp_path: Path, bad: str) -> None:
    expected = [(1, "good"), (2, BAD[bad]), (3, "good")]
    assert outline(put(tmp_path, f"{GOOD}\n{bad}\n{GOOD}")) == expected
    assert outline(put(tmp_path, f"[{GOOD},\n{bad},\n{GOOD}]")) == expected
    assert outline(put(tmp_path, f"\n[\n{bad},\n{GOOD}\n]\n")) == [(3, BAD[bad]), (4, "good")]


@pytest.mark.parametrize("bad", CONVERSATIONS)
def test_each_reason_in_conversations(tmp_path: Path, bad: str) -> None:
    good = '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'
    assert outline(put(tmp_path, f"{good}\n{bad}\n{good}")) == [
        (1, "good"),
        (2, CONVERSATIONS[bad]),
        (3, "good"),
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_turns_in_a_row_are_one_text_with_the_limit_of_one(tmp_path: Path, role: str) -> None:
    """Each is within it; what they are joined to is history, which the check of pairs does not see."""

    def conversation(parts: int) -> str:
        turns = [("user", "a"), ("assistant", "b")] if role == "assistant" else []
        turns += [(role, "x" * (MAX_FIELD // 2 - 9))] * parts
        turns += [("user", "a"), ("assistant", "b")] * 2
        return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})

    rows = "\n".join(conversation(parts) for parts in (1, 2, 3))
    read = datasets.read(put(tmp_path, rows), turns="last").conversations()
    assert [row.reason if isinstance(row, BadRow) else "good" for row in read] == [
        "good",
        "good",
        "too_large",
    ]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    latin = '{"instruction": "é", "output": "b"}'.encode("latin-1")
    surrogate = b'{"instruction": "\xed\xa0\x80", "output": "b"}'
    good = GOOD.encode()
    expected = [(1, "good"), (2, "bad_encoding"), (3, "lone_surrogate"), (4, "good")]
    assert outline(put(tmp_path, b"\n".join([good, latin, surrogate, good]))) == expected
    assert outline(put(tmp_path, b"[" + b",\n".join([good, latin, surrogate, good]) + b"]")) == expected
    rows = [b"instruction,output", b"a,b", "é,b".encode("latin-1"), b"\xed\xa0\x80,b", b"a,b"]
    shifted = [(line + 1, reason) for line, reason in expected]
    assert outline(put(tmp_path, b"\n".join(rows))) == shifted


def test_bad_rows_of_tables(tmp_path: Path) -> None:
    rows = {
        "a,b,i": "good",
        "a,b": "good",
        "a": "missing_field",
        ",b,": "empty_instruction",
        "a, ,": "empty_output",
        "a,b,c,d": "not_csv",
        "a,b\0,": "nul_byte",
        'a,"' + "x" * 5_000_000 + '",': "too_large",
        'a,"' + ("x" * 1000 + "\n\n") * 9_000 + '",': "too_large",
        'a,"' + "x" * (MAX_RECORD + 1) + '\n",': "too_large",
        "e,f,": "good",
    }
    text = "instruction,output,input\n" + "\n".join(rows) + '\ng,"h\n'
    found = outline(put(tmp_path, text))
    assert [reason for _, reason in found] == [*rows.values(), "not_csv"]
    line = 2
    for row, (at, _) in zip([*rows, ""], found, strict=True):
        assert at == line
        line += row.count("\n") + 1


@pytest.mark.parametrize(
    "broken",
    [
        '{"instruction": "a',
        '{"instruction": "a" b", "output": "c"}',
        '{"instruction": ["a", "output": "b"}',
        "junk",
        "{,}",
    ],
)
def test_an_array_goes_on_behind_a_broken_row(tmp_path: Path, broken: str) -> None:
    text = f"[\n{GOOD},\n{broken},\n{GOOD},\n{GOOD}\n]"
    assert outline(put(tmp_path, text)) == [(2, "good"), (3, "not_json"), (4, "good"), (5, "good")]


def test_an_array_cut_short_anywhere_keeps_what_is_whole(tmp_path: Path) -> None:
    text = json.dumps([{"instruction": f"a{n}", "output": 'b"}, {'} for n in range(4)], indent=1)
    ends = [m.end() for m in re.finditer(r"\n \}", text)]
    for cut in range(ends[0], len(text) - 1):
        found = outline(put(tmp_path, text[:cut]))
        whole = sum(end <= cut for end in ends)
        assert [reason for _, reason in found] == ["good"] * whole + ["not_json"], text[:cut]


def test_text_behind_the_array(tmp_path: Path) -> None:
    assert outline(put(tmp_path, f"[{GOOD}]\n\nmore")) == [(1, "good"), (3, "not_json")]


def test_no_good_row_is_for_the_caller_to_judge(tmp_path: Path) -> None:
    reader = datasets.read(put(tmp_path, '{"instruction": "a"}\n{nothing\n{"output": "b"}\n'))
    assert len(list(reader)) == 3
    assert reader.good == 0 and dict(reader.bad) == {"missing_field": 2, "not_json": 1}


ROWS = "\n".join(json.dumps({"instruction": f"row {n}", "output": str(n * n)}) for n in range(2000)).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n\t\n", "neither|no rows"),
        (b"\xef\xbb\xbf", "neither|no rows"),
        (b"[]", "no rows"),
        (b"hello\nworld\n", "neither JSON"),
        (b"instruction,output\n", "no rows"),
        (b'{"a": 1, "b": 2}', "fields a, b"),
        (b"a,b\n1,2\n", "--column instruction=NAME"),
        (b"PK\x03\x04 and so on", "zip"),
        (b"BZh91AY", "bzip2"),
        (b"\x80\x04\x95pickle", "pickle"),
        ("[1]".encode("utf-16"), "UTF-16"),
        (b"\x7fELF\x02\0\0\0", "binary"),
        (b"PAR1 but no more", "damaged"),
        (gzip.compress(b"", mtime=0), "empty once decompressed"),
        (gzip.compress(gzip.compress(ROWS, mtime=0), mtime=0), "twice"),
        (gzip.compress(b"PAR1", mtime=0), "compressed Parquet"),
        (gzip.compress(ROWS, mtime=0)[:-9], "damaged or cut short"),
        (gzip.compress(ROWS, mtime=0)[:-4] + b"1234", "damaged or cut short"),
        (gzip.compress(ROWS, mtime=0) + b"tail", "damaged or cut short"),
        (zstandard.compress(ROWS)[:-9], "damaged or cut short"),
        (zstandard.compress(ROWS)[:50] + bytes(50), "damaged or cut short"),
        (zstandard.compress(GOOD.encode() + b"\n" + b" " * (600 << 20)), "500 times"),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v[:6]!r}",
)
def test_what_is_no_data_file_says_so_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(UserError, match=says) as caught:
        list(datasets.read(path))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "folder"), (tmp_path / "no", "not exist"), (Path("/dev/null"), "regular")):
        with pytest.raises(UserError, match=says):
            datasets.read(path)
    with pytest.raises(UserError, match="not exist"):
        datasets.read(put(tmp_path, GOOD) / "below")
    with pytest.raises(UserError):
        datasets.read(tmp_path / "nul\0byte")


# -- properties -----------------------------------------------------------------------------


def take_all(path: Path) -> list[DataRow | BadRow]:
    """Every row, or those before the one error that is allowed."""
    rows: list[DataRow | BadRow] = []
    with contextlib.suppress(UserError):
        for row in datasets.read(path):
            rows.append(row)
            if isinstance(row, BadRow):
                assert row.reason in REASONS
                row.detail.encode()
                continue
            for text in (*row.pair.texts, row.record, row.id or ""):
                assert b"\0" not in text.encode()
            assert row.pair.instruction.strip() and row.pair.response.strip()
            assert isinstance(json.loads(row.record), dict)
        assert [r.number for r in rows] == list(range(len(rows)))
        assert all(a.line <= b.line for a, b in pairwise(rows))
    return rows


_PIECES = st.sampled_from(
    [
        GOOD,
        "{",
        "}",
        "[",
        "]",
        ",",
        '"',
        "\\",
        "\n",
        " ",
        "\ufeff",
        "\0",
        '{"instruction":',
        '"output":',
        '"a"',
        "}, {",
        "instruction,output\n",
        "a,b\n",
        '"a\n',
        "\t",
        "1",
        "null",
        "\\ud800",
        "é",
        '{"messages": [',
        '"role": "user"',
    ]
).map(str.encode)
_BYTES = st.one_of(
    st.binary(max_size=200), st.lists(st.one_of(_PIECES, st.binary(max_size=3)), max_size=25).map(b"".join)
)
_QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_QUICK
@given(content=_BYTES)
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes) -> None:
    take_all(put(tmp_path, content))


@_QUICK
@given(content=_BYTES, pack=st.sampled_from([gzip.compress, zstandard.compress]), cut=st.integers(0, 40))
def test_no_compressed_bytes_crash_the_reader(tmp_path: Path, content: bytes, pack: Any, cut: int) -> None:
    packed = pack(content)
    take_all(put(tmp_path, packed[: len(packed) - cut]))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(["instruction", "input", "output", "id", "conversations", "x"])
_RECORDS = st.lists(
    st.dictionaries(_FIELDS, _JSON | st.text(min_size=1, max_size=20), max_size=5), max_size=8
)


@_QUICK
@given(records=_RECORDS, indent=st.sampled_from([None, 0, 2]), raw=st.booleans())
def test_an_array_is_cut_as_the_standard_library_parses_it(
    tmp_path: Path, records: list[Any], indent: int | None, raw: bool
) -> None:
    text = json.dumps(records, indent=indent, ensure_ascii=not raw)
    path = put(tmp_path, text.encode("utf-8", "surrogatepass"))
    whole = [r for r in take_all(path) if isinstance(r, DataRow)]
    with contextlib.suppress(UserError):
        assert len(list(datasets.read(path, "alpaca"))) == len(records)
    for row in whole:
        # repr, for NaN is not equal to itself
        assert repr(json.loads(row.record)) == repr(json.loads(text)[row.number])


@_QUICK
@given(st.data())
def test_flipped_bytes_of_an_array(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(
        json.dumps([{"instruction": f"a{n}", "output": "b\u2028"} for n in range(6)]).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    take_all(put(tmp_path, bytes(content)))


@_QUICK
@given(cut=st.integers(0, 9), block=st.integers(1, 9))
def test_blocks_may_end_anywhere(tmp_path: Path, cut: int, block: int) -> None:
    """The same rows however the stream is cut into blocks."""
    from srtui.datasets import source
    from srtui.datasets.containers import json_text

    records = [{"instruction": 'q\\"}, {' * n + "é", "output": "{\n" * n + "a"} for n in range(6)]
    array = json.dumps(records, indent=1, ensure_ascii=False)
    for text in (array, array[: len(array) - cut], "\n".join(map(json.dumps, records)) + " " * cut):
        path = put(tmp_path, "\ufeff" + text)
        expected = list(datasets.read(path))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source, "BLOCK", block)
            patch.setattr(json_text, "BLOCK", block)
            assert list(datasets.read(path)) == expected


def test_flipped_bytes_of_a_parquet_file(tmp_path: Path) -> None:
    """Always the same flips: the decoder is C++, and an unlucky new one would end the test run."""
    path = tmp_path / "data"
    rows = ({"instruction": f"a{n}", "input": "", "response": "b" * n, "ifd": 0.5} for n in range(1, 100))
    datasets.write(rows, path, "parquet")
    whole, rng = path.read_bytes(), random.Random(1)
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        take_all(put(tmp_path, bytes(content)))


# -- bounds ---------------------------------------------------------------------------------


def peak_of_reading(path: Path) -> tuple[int, dict[str, int]]:
    """Peak memory in MB, and good and bad rows, of a fresh process that reads the file."""
    script = """
        import json, resource, sys
        from pathlib import Path
        from srtui.datasets import read
        reader = read(Path(sys.argv[1]))
        for row in reader:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 ** 2 if sys.platform == "darwin" else 1024)
        status = Path("/proc/self/status")  # on Linux ru_maxrss begins at what the parent had
        if status.exists():
            peak = int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
        print(json.dumps([peak, {"good": reader.good} | reader.bad]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    peak, counts = json.loads(done.stdout)
    return peak, counts


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    row = json.dumps({"instruction": "Say something " * 10, "output": "A long answer. " * 30})
    with path.open("w") as file:
        file.write("[" + row)
        file.writelines(f",\n{row}" for _ in range(199_999))
        file.write("]")
    assert path.stat().st_size > 100_000_000
    peak, counts = peak_of_reading(path)
    assert counts == {"good": 200_000}
    assert peak < 120


@pytest.mark.parametrize("shape", ["line", "field in an array", "never closed", "table"])
def test_a_row_of_200_megabytes_is_not_held(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "huge.gz"
    before, after = {
        "line": (f'{GOOD}\n{{"instruction": "', f'", "output": "b"}}\n{GOOD}'),
        "field in an array": (f'[{GOOD}, {{"instruction": "', f'", "output": "b"}},\n{GOOD}]'),
        "never closed": (f"[{GOOD}, [[[", f",\n{GOOD}]"),
        "table": ('instruction,output\na,b\na,"', '"\na,b'),
    }[shape]
    with gzip.open(path, "wb", compresslevel=1) as file:  # not so well compressed as to be called a bomb
        file.write(before.encode())
        noise = bytes(97 + (n * n // 7) % 25 for n in range(1 << 20))
        for _ in range(200):
            file.write(noise)
        file.write(after.encode())
    peak, counts = peak_of_reading(path)
    assert counts == {"good": 2, "too_large": 1}
    assert peak < 120


def test_many_unclosed_rows_take_no_square_of_their_number(tmp_path: Path) -> None:
    """Each of these could be counted through to the end of the file; that would take hours."""
    path = put(tmp_path, "[" + '{"instruction": [' * 60_000)
    reader = datasets.read(path, "alpaca")
    assert sum(1 for _ in reader) >= 60_000


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    script = "import sys, srtui.datasets; print(*[m for m in ('pyarrow', 'zstandard', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
