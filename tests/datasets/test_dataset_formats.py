"""Every format in, whatever the file is called: texts, records, ids and line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from srtui import datasets
from srtui.datasets import BadRow, DataRow
from srtui.errors import UserError
from srtui.sample import Pair

ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Say hello\nin Japanese.", "input": "", "output": '今日は \U0001f600 "}, {" [x]'},
    {"instruction": "No input here", "output": 'fine {\\ \\" }'},
]
PAIRS = [Pair(r["instruction"], r.get("input", ""), r["output"]) for r in ALPACA]


def put(folder: Path, content: bytes | str, name: str = "data.bin") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def good(path: Path, **options: Any) -> list[DataRow]:
    rows = list(datasets.read(path, **options))
    assert not [r for r in rows if isinstance(r, BadRow)], rows
    return [r for r in rows if isinstance(r, DataRow)]


def turns(pair: Pair, list_key: str, role: str, text: str, names: tuple[str, str]) -> dict[str, Any]:
    system = {role: "system", text: "Be kind."}
    said = [{role: names[0], text: pair.instruction}, {role: names[1], text: pair.response}]
    return {list_key: [system, *said, {role: names[0], text: "More?"}, {role: names[1], text: "No."}]}


JSON_TEXTS = {
    "array": json.dumps(ALPACA),
    "pretty array": json.dumps(ALPACA, indent=4, ensure_ascii=False),
    "array with a trailing comma": json.dumps(ALPACA)[:-1] + " , ]\n",
    "lines": "\n".join(json.dumps(r) for r in ALPACA),
    "lines, blank ones and CRLF": "\r\n\r\n".join(json.dumps(r) for r in ALPACA) + "\r\n \r\n",
    "objects over lines": "\n".join(json.dumps(r, indent=1) for r in ALPACA),
    "blank before": " \n\t\n" + json.dumps(ALPACA),
    "byte order mark": "\ufeff" + json.dumps(ALPACA),
    "byte order mark, lines": "\ufeff" + "\n".join(json.dumps(r) for r in ALPACA),
}


@pytest.mark.parametrize("name", ["data.csv", "data.parquet", "data"])
@pytest.mark.parametrize("kind", JSON_TEXTS)
def test_alpaca_json_of_every_shape(tmp_path: Path, kind: str, name: str) -> None:
    reader = datasets.read(put(tmp_path, JSON_TEXTS[kind], name))
    rows = list(reader)
    assert reader.format == "alpaca"
    assert [r.pair for r in rows if isinstance(r, DataRow)] == PAIRS
    assert [r.number for r in rows] == [0, 1, 2]
    assert [json.loads(r.record) for r in rows if isinstance(r, DataRow)] == ALPACA
    assert reader.good == 3 and reader.bytes_read == reader.bytes_total
    assert list(reader) == rows  # again, from the beginning


def test_the_record_is_untouched(tmp_path: Path) -> None:
    spaced = '{ "output" :"b" ,\n "instruction": "\\u0061",  "n": 1.50e0 }'
    for text in (f"[\n{spaced},\n{spaced} ]", f"{spaced}\n{spaced}"):
        assert [r.record for r in good(put(tmp_path, text))] == [spaced, spaced]


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, lambda b: gzip.compress(b[:50]) + gzip.compress(b[50:])]
)
def test_compressed_by_content_and_not_by_name(tmp_path: Path, pack: Any) -> None:
    packed = pack(json.dumps(ALPACA).encode())
    for name in ("data.json", "data.gz", "data.zst"):
        assert [r.pair for r in good(put(tmp_path, packed, name))] == PAIRS


def test_zstd_frames_one_after_the_other(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(r) for r in ALPACA).encode()
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    packed = skippable + zstandard.compress(text[:40]) + zstandard.compress(text[40:])
    assert [r.pair for r in good(put(tmp_path, packed))] == PAIRS


@pytest.mark.parametrize("layout", ["sharegpt", "messages"])
@pytest.mark.parametrize("as_lines", [True, False])
def test_conversations(tmp_path: Path, layout: str, as_lines: bool) -> None:
    shape = {
        "sharegpt": ("conversations", "from", "value", ("human", "gpt")),
        "messages": ("messages", "role", "content", ("user", "assistant")),
    }[layout]
    records = [{"id": f"c{n}"} | turns(p, *shape) for n, p in enumerate(PAIRS)]
    text = "\n".join(map(json.dumps, records)) if as_lines else json.dumps(records, indent=2)
    reader = datasets.read(put(tmp_path, text, "x.csv"))
    rows = list(reader)
    assert reader.format == layout
    assert [(r.pair, r.id) for r in rows if isinstance(r, DataRow)] == [
        (Pair(p.instruction, "", p.response), f"c{n}") for n, p in enumerate(PAIRS)
    ]


def test_content_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Describe "}, {"type": "text", "text": "it."}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Done."}]}
    assert good(put(tmp_path, json.dumps([record])))[0].pair == Pair("Describe it.", "", "Done.")
    parts[1] = {"type": "image", "url": "x"}
    (row,) = datasets.read(put(tmp_path, json.dumps([record])))
    assert isinstance(row, BadRow) and row.reason == "wrong_type"


def table(delimiter: str, header: list[str]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(p.texts for p in PAIRS)
    return out.getvalue()


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["data.json", "data"])
def test_tables(tmp_path: Path, delimiter: str, name: str) -> None:
    reader = datasets.read(
        put(tmp_path, "\ufeff" + table(delimiter, ["Prompt", "input", "Completion"]), name)
    )
    rows = list(reader)
    assert reader.format == ("tsv" if delimiter == "\t" else "csv")
    assert [r.pair for r in rows if isinstance(r, DataRow)] == PAIRS
    assert [r.line for r in rows] == [2, 3, 5]  # the second row has a line break in it
    assert json.loads(rows[0].record)["Prompt"] == "Add."  # type: ignore[union-attr]


def test_mapped_columns(tmp_path: Path) -> None:
    mapping = {"instruction": "frage", "response": "antwort"}
    text = table(",", ["frage", "nichts", "antwort"])
    with pytest.raises(UserError, match="--column instruction=NAME"):
        datasets.read(put(tmp_path, text))
    assert [r.pair for r in good(put(tmp_path, text), columns=mapping)] == [
        p._replace(input="") for p in PAIRS
    ]
    as_json = json.dumps([{"frage": "a", "antwort": "b", "conversations": []}])
    with pytest.raises(UserError, match=r"instrukton.*instruction"):
        datasets.read(put(tmp_path, as_json), columns={"instrukton": "frage"})
    with pytest.raises(UserError, match="'gibtsnicht'"):
        datasets.read(put(tmp_path, as_json), columns={"instruction": "gibtsnicht"})
    assert good(put(tmp_path, as_json), columns=mapping)[0].pair == Pair("a", "", "b")
    assert good(put(tmp_path, as_json), columns={"instruction": "frage", "output": "antwort"})


def test_parquet_flat_nested_and_mapped(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "data.json"
    columns = {"q": [p.instruction for p in PAIRS], "a": [p.response for p in PAIRS], "id": [7, 8, 9]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match="no column for the instruction among q, a, id"):
        datasets.read(path)
    rows = good(path, columns={"instruction": "q", "response": "a"})
    assert [(r.pair, r.id, r.line) for r in rows] == [
        (p._replace(input=""), str(7 + n), n + 1) for n, p in enumerate(PAIRS)
    ]
    nested = [turns(p, "conversations", "from", "value", ("human", "gpt")) for p in PAIRS]
    pq.write_table(pa.Table.from_pylist(nested), path)
    reader = datasets.read(path)
    assert reader.format == "parquet"
    assert [r.pair.response for r in reader if isinstance(r, DataRow)] == [p.response for p in PAIRS]
    assert reader.bytes_read == reader.bytes_total


def test_parquet_with_odd_values(tmp_path: Path) -> None:
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "odd"
    pq.write_table(
        pa.table(
            {
                "instruction": ["a", None, "c"],
                "output": ["x", "y", " "],
                "when": [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)] * 3,
                "price": [decimal.Decimal("1.10")] * 3,
                "blob": [b"\xff\x00"] * 3,
                "took": [datetime.timedelta(1)] * 3,
            }
        ),
        path,
    )
    rows = list(datasets.read(path))
    assert [type(r) for r in rows] == [DataRow, BadRow, BadRow]
    assert [r.reason for r in rows if isinstance(r, BadRow)] == ["missing_field", "empty_output"]
    assert json.loads(rows[0].record)["price"] == "1.10"  # type: ignore[union-attr]
    text = pa.array([b"ok", b"\xff", b"ok"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(3, text.buffers()[1], text.buffers()[2])
    pq.write_table(pa.table({"instruction": broken, "output": ["x", "y", "z"]}), path)
    assert [getattr(r, "reason", None) for r in datasets.read(path)] == [None, "bad_encoding", None]


def test_ids_and_other_names(tmp_path: Path) -> None:
    records = [
        {"id": 5, "prompt": "a", "completion": "b"},
        {"sample_id": "s", "question": "a", "answer": "b", "context": "c"},
        {"idx": True, "query": "a", "response": "b"},
        {"instruction": "a", "input": None, "output": "b", "id": ""},
    ]
    rows = good(put(tmp_path, json.dumps(records)))
    assert [r.id for r in rows] == ["5", "s", None, None]
    assert [r.pair.input for r in rows] == ["", "c", "", ""]


def test_forced_formats(tmp_path: Path) -> None:
    both = {"instruction": "a", "output": "b", "messages": []}
    path = put(tmp_path, json.dumps([both]))
    assert datasets.read(path).format == "messages"
    assert [type(r) for r in datasets.read(path, "alpaca")] == [DataRow]
    with pytest.raises(UserError, match="did you mean alpaca"):
        datasets.read(path, "alpacca")
    with pytest.raises(UserError, match="not a Parquet"):
        datasets.read(path, "parquet")
    table_path = put(tmp_path, "instruction\toutput, or so\tinput\n", "t")
    with pytest.raises(UserError, match="no column for the instruction"):
        datasets.read(table_path, "csv")


def test_keys_in_any_order_and_nested_alike(tmp_path: Path) -> None:
    """What misleads the cutter: other first keys, nested records that look like rows, marks in strings."""
    tricky = [
        {"instruction": 'a }, { "instruction": 1', "output": '"},{"instruction":"'},
        {"output": "b", "instruction": "x", "also": [{"instruction": "n", "output": "n"}] * 3},
        {"instruction": "c\\", "output": "\\\\", "deep": {"instruction": {"instruction": "}, {"}}},
        {"": "odd", "instruction": "d", "output": "e"},
        {"instruction": "f", "output": "g", "list": [[{}], "]}", {"a": []}]},
    ] * 5
    for text in (json.dumps(tricky), json.dumps(tricky, indent=3), json.dumps(tricky, separators=(",", ":"))):
        assert [json.loads(r.record) for r in good(put(tmp_path, text))] == tricky


def test_real_data(alpaca_file: Path) -> None:
    reference = json.loads(alpaca_file.read_text(encoding="utf-8"))
    rows = good(alpaca_file)
    assert [r.pair for r in rows] == [Pair(r["instruction"], r["input"], r["output"]) for r in reference]
    lines = alpaca_file.read_bytes().split(b"\n")
    assert all(lines[r.line - 1].strip() == b"{" for r in rows)
