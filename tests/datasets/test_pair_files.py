"""Files of preference pairs: as trainers read them, refused as a dataset with one sentence, made without memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui import datasets
from srtui.cli import app
from srtui.errors import UserError
from srtui.preferences import PreferencePair
from srtui.sample import Turn
from srtui.store import Store
from srtui.workspace import Workspace
from tests.tui.scripted_store import make_demo_store

ROW = {"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "four", "margin": 0.5, "sample": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace, _ = Workspace.create(tmp_path_factory.mktemp("pairs") / "ws")
    make_demo_store(workspace)
    return workspace


def srtui(workspace: Workspace, *words: object) -> str:
    done = CliRunner().invoke(
        app, [str(w) for w in words], env={"SRTUI_WORKSPACE": str(workspace.root)}, catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        (
            "trl",
            {
                "prompt": [{"role": "user", "content": "Add.\n1 2"}],
                "chosen": [{"role": "assistant", "content": "3"}],
                "rejected": [{"role": "assistant", "content": "four"}],
            },
        ),
        (
            "axolotl",
            {
                "messages": [{"role": "user", "content": "Add.\n1 2"}],
                "chosen": {"role": "assistant", "content": "3"},
                "rejected": {"role": "assistant", "content": "four"},
            },
        ),
        (
            "llama-factory",
            {
                "conversations": [{"from": "human", "value": "Add.\n1 2"}],
                "chosen": {"from": "gpt", "value": "3"},
                "rejected": {"from": "gpt", "value": "four"},
            },
        ),
        ("text", {"prompt": "Add.\n1 2", "chosen": "3", "rejected": "four"}),
    ],
)
def test_a_layout_and_the_turns_before(tmp_path: Path, layout: str, record: dict[str, Any]) -> None:
    path = tmp_path / "pairs.jsonl"
    assert datasets.write_preferences([ROW], path, layout) == 1
    assert lines(path) == [{**record, "margin": 0.5, "sample": 1}]
    history = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Good day")]
    if layout == "text":
        with pytest.raises(UserError, match="no place for the turns"):
            datasets.write_preferences([{**ROW, "history": history}], path, layout)
        assert len(lines(path)) == 1  # the older file is whole
        return
    datasets.write_preferences([{**ROW, "history": history}], path, layout)
    (longer,) = lines(path)
    (name,) = {"prompt", "messages", "conversations"} & set(longer)
    assert [next(iter(reversed(turn.values()))) for turn in longer[name]] == [
        *(t for _, t in history),
        "Add.\n1 2",
    ]
    if layout == "llama-factory":
        assert [t["from"] for t in longer[name]] == ["system", "human", "gpt", "human"]


def test_trl_reads_what_is_written(made: Workspace, tmp_path: Path, student_folder: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational

    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.chat_template = (
        tokenizer.chat_template or "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    for layout in ("trl", "text"):
        path = tmp_path / f"{layout}.jsonl"
        srtui(made, "export", "quickstart", "--format", "preference", "--layout", layout, "--out", path)
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert {"prompt", "chosen", "rejected", "margin"} <= set(rows.column_names)
        assert len(rows) == 57
        first, written = rows[0], lines(path)[0]
        assert is_conversational(first) is (layout == "trl")
        assert {k: first[k] for k in ("prompt", "chosen", "rejected")} == {
            k: written[k] for k in ("prompt", "chosen", "rejected")
        }
        if layout == "trl":
            laid_out = apply_chat_template({k: first[k] for k in ("prompt", "chosen", "rejected")}, tokenizer)
            assert written["chosen"][0]["content"] in laid_out["chosen"]
            assert written["prompt"][0]["content"] in laid_out["prompt"]


def test_a_large_file_has_its_types_in_its_first_rows(tmp_path: Path) -> None:
    """``datasets`` takes them from the first 10 MB, and fails on what is typed only behind these."""
    from datasets import load_dataset

    bare = PreferencePair(
        1, False, "Add.", "", "3 " * 900, "4 " * 900, 1, 2, None, "rifd", "student", None, (), ()
    )
    full = bare._replace(
        margin=0.5, agreed=True, gates=("rater",), history=(Turn("user", "Hi"), Turn("assistant", "Ho"))
    )
    path = tmp_path / "pairs.jsonl"
    for layout in ("trl", "axolotl", "llama-factory"):
        pairs = datasets.led_by(full, (full if n in (4999, 5005) else bare for n in range(5010)))
        count = datasets.write_preferences((pair.record() for pair in pairs), path, layout)
        assert count == 5010 and path.stat().st_size > 15_000_000
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert [rows[n]["margin"] for n in (0, 1, 5004, 5005, 5006)] == [0.5, None, None, 0.5, None]
        assert [rows[n]["gates"] for n in (0, 1, 5005)] == [["rater"], ["none"], ["rater"]]
    assert {tuple(json.loads(line)) for line in path.open(encoding="utf-8")} == {tuple(rows.column_names)}


@pytest.mark.parametrize("layout", ["trl", "axolotl", "llama-factory", "text"])
def test_an_import_refuses_pairs_in_one_sentence(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "pairs.jsonl"
    datasets.write_preferences([ROW] * 3, path, layout)
    with pytest.raises(UserError, match=r"holds preference pairs .*--column instruction=prompt"):
        datasets.read(path)
    if layout == "text":
        (row, *_) = datasets.read(path, columns={"instruction": "prompt", "response": "chosen"})
        assert isinstance(row, datasets.DataRow) and row.pair.texts == ("Add.\n1 2", "", "3")


def test_a_dataset_that_has_pairs_beside_its_answers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    path.write_text(json.dumps({"instruction": "Add.", "output": "3", "chosen": "3", "rejected": "4"}))
    (row,) = datasets.read(path)
    assert isinstance(row, datasets.DataRow) and row.pair.response == "3"


def test_pairs_are_those_of_the_decisions(made: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    said = srtui(made, "export", "quickstart", "--format", "preference", "--out", out)
    assert "57 preference pairs" in said and "Chosen: 57 by the student" in said
    with Store(made.store_path, read_only=True) as store:
        run = store.runs.named("quickstart").id
        for record in lines(out):
            decision = store.decisions.of_sample(run, record["sample"])["response"]
            scores = {v: s for v, s, _ in decision.compared}
            texts = store.corpus.variants([record["chosen_variant"], record["rejected_variant"]])
            chosen, rejected = texts[record["chosen_variant"]], texts[record["rejected_variant"]]
            assert decision.chosen_id == chosen.id and rejected.id in scores
            assert chosen.pair[:2] == rejected.pair[:2]
            assert record["chosen"][0]["content"] == chosen.pair.response
            assert record["rejected"][0]["content"] == rejected.pair.response
            assert record["margin"] > 0


def test_people_first(tmp_path: Path) -> None:
    workspace, _ = Workspace.create(tmp_path / "ws")
    make_demo_store(workspace)
    with Store(workspace.store_path) as store:
        run = store.runs.named("quickstart").id
        decision = store.decisions.of_sample(run, 9)["response"]
        other = next(v for v, *_ in decision.compared if v != decision.chosen_id)
        store.marks.overrule(run, 9, other)
    found = {}
    for words in ([], ["--people-first"], ["--people-first", "--min-margin", "0.1"], ["--min-margin", "0.1"]):
        out = tmp_path / "pairs.jsonl"
        srtui(workspace, "export", "quickstart", "--format", "preference", "--out", out, *words)
        found[" ".join(words)] = lines(out)
    assert len(found[""]) == len(found["--people-first"]) == 57
    assert found[""][0]["sample"] == 1
    first = found["--people-first"][0]
    assert (first["sample"], first["chosen_by"], first["agreed"]) == (9, "person", "no")
    assert first["chosen_variant"] == other and first["margin"] < 0
    clear = found["--people-first --min-margin 0.1"]
    assert clear[0] == first and all(r["margin"] >= 0.1 for r in clear[1:])
    assert found["--min-margin 0.1"] == clear[1:]


def test_a_pair_with_a_margin_stands_first(tmp_path: Path) -> None:
    workspace, _ = Workspace.create(tmp_path / "ws")
    make_demo_store(workspace)
    with Store(workspace.store_path) as store:
        run = store.runs.named("quickstart").id
        final = store.decisions.of_sample(run, 1)["response"].chosen_id
        pair = store.corpus.variants([final])[final].pair
        by_hand, _ = store.marks.write_variant(1, final, pair._replace(response="My own."))
        store.marks.overrule(run, 1, by_hand)
    out = tmp_path / "pairs.jsonl"
    srtui(workspace, "export", "quickstart", "--format", "preference", "--out", out, "--people-first")
    first, *others = lines(out)
    assert first["chosen_by"] == "student" and first["margin"] > 0
    assert [(r["sample"], r["margin"]) for r in others[:2]] == [(1, None)] * 2
    assert first not in others and len(others) == 56 + 2 - 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layout", "text"], "--layout is for preference pairs alone"),
        (["--only-agreed"], "--only-agreed is for preference pairs alone"),
        (["--format", "preference", "--layout", "x"], "--layout x: it can be trl, axolotl"),
        (["--format", "preference", "--min-margin", "inf"], "--min-margin inf: it is a number from 0"),
        (["--format", "preference", "--rejected", "x"], "--rejected x: it can be rest or worst"),
        (["--format", "preference", "--top-k-percent", "3"], "not for preference pairs"),
        (["--format", "preference", "--only-agreed"], "57 pairs that nobody else was asked about"),
        (["--format", "preference", "--min-margin", "99"], "57 pairs with a margin below 99"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    made: Workspace, tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        srtui(made, "export", "quickstart", "--out", tmp_path / "x.jsonl", *words)
    assert not (tmp_path / "x.jsonl").exists()


def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    def rows(count: int) -> Iterator[dict[str, Any]]:
        return ({**ROW, "sample": n} for n in range(count))

    peaks = []
    for count in (200, 20_000):
        tracemalloc.start()
        assert datasets.write_preferences(rows(count), tmp_path / "many.jsonl") == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
