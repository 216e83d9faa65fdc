"""Evaluation prompts in data: found, left out on request, and said by a run that trains on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.datasets.overlap import PromptIndex
from srtui.evaluation.sources import all_turns
from srtui.pipeline import import_file
from srtui.pipeline.decontaminate import decontaminate
from srtui.pipeline.holdout import question_key
from srtui.report.facts import gather
from srtui.report.open_questions import open_questions
from srtui.store import Store
from srtui.store.evaluations import Item, NewEvaluation
from srtui.store.summary import summarise
from srtui.wording import contamination_words
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe

LONG = (
    "Describe in your own words how a town with two rivers and three bridges plans its new library building."
)
ASKED = ["Name a prime.", LONG]


def row(instruction: str, output: str = "Seven.") -> dict[str, str]:
    return {"instruction": instruction, "input": "", "output": output}


DATA = [
    row("name a PRIME"),
    row("Tell a story.", f"She said: {LONG.lower()} Nobody did."),
    row("Plan it: how a town with two rivers and three bridges would."),
    row("Name a prime and say why it is one."),
]


@pytest.fixture
def filled(workspace: Workspace, tmp_path: Path) -> tuple[Workspace, Path]:
    data, prompts = tmp_path / "data.json", tmp_path / "prompts.json"
    data.write_text(json.dumps(DATA), encoding="utf-8")
    prompts.write_text(json.dumps([{"instruction": one} for one in ASKED]), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, data, "d")
    return workspace, prompts


def test_vowel_signs_and_soft_hyphens_end_no_word() -> None:
    """Hindi writes its vowels as marks on letters; if these ended words, four words of it would pass for eight."""
    index = PromptIndex(question_key)
    index.add("क्या आप मुझे बता सकते हैं कि भारत की राजधानी में कौन सी इमारतें देखने लायक हैं")
    assert index.find(["?"], "सुनिए, क्या आप मुझे बता सकते हैं: यह क्या है?") is None  # six words
    found = index.find(["?"], "क्या आप मुझे बता सकते हैं कि भारत बड़ा है?")
    assert found is not None and found.kind == "short"
    index.add("the quick brown fox jumps over the la\u00adzy dog and then runs away from here")
    found = index.find(["?"], "so the quick brown fox jumps over the lazy dog and then runs away from there")
    assert found is not None and found.kind == "long"


def test_a_prompt_in_an_earlier_turn_is_found(workspace: Workspace, tmp_path: Path) -> None:
    said = [
        "Name a prime!",
        "Seven.",
        "Why?",
        "It is one.",
        "What else?",
        f"They say: {LONG}",
        "Go on.",
        "No more.",
    ]
    talks = [
        {"conversations": [{"from": "gpt" if n % 2 else "human", "value": t} for n, t in enumerate(turns)]}
        for turns in (said[:4], said[2:])
    ]
    data, prompts = tmp_path / "talk.json", tmp_path / "prompts.json"
    data.write_text(json.dumps(talks), encoding="utf-8")
    prompts.write_text(json.dumps([{"instruction": one} for one in ASKED]), encoding="utf-8")
    with Store(workspace.store_path) as store:
        dataset_id = import_file(store, data, "d").dataset_id
        found = decontaminate(store, [dataset_id], [prompts]).found
    assert [(one.sample_id, one.kind) for one in found] == [(1, "question"), (2, "long")]


def test_the_strongest_overlap_is_found() -> None:
    index = PromptIndex(question_key)
    for prompt in ASKED:
        index.add(prompt)

    def kind(question: str, text: str = "") -> tuple[str, int] | None:
        found = index.find([question], f"{question}\n{text}")
        return (found.kind, found.prompt) if found else None

    assert kind("Name a prime!") == ("question", 0)
    words = LONG.split()
    assert kind(" ".join(words[:13])) == ("long", 1)
    assert kind(" ".join(words[3:15])) == ("short", 1)  # twelve words
    assert kind("x", " ".join(words[5:13])) == ("short", 1)  # eight
    assert kind(" ".join(words[5:12])) is None  # seven
    assert kind("") is None


CHINESE = "请用自己的话说明一座有两条河和三座桥的小城怎样规划它的新图书馆"
JAPANESE = "二本の川と三つの橋がある町が新しい図書館をどのように計画するか説明してください"
THAI = "จงอธิบายด้วยคำพูดของคุณเองว่าเมืองที่มีแม่น้ำสองสายวางแผนสร้างห้องสมุดใหม่อย่างไร"


@pytest.mark.parametrize("prompt", [CHINESE, JAPANESE, THAI])
def test_a_prompt_without_spaces_is_found_inside_a_longer_text(prompt: str) -> None:
    """Red when a run without spaces counted as one word: only whole clauses were found then."""
    index = PromptIndex(question_key)
    index.add(f"{prompt}?")

    def kind(text: str) -> str | None:
        found = index.find(["x"], text)
        return found.kind if found else None

    around = CHINESE[:6][::-1]
    letters = [place for place, sign in enumerate(prompt) if sign.isalnum()]  # marks of Thai stand with them
    assert kind(f"{around}{prompt}{around}") == "long"
    assert kind(f"{around}{prompt[: letters[20]]}{around}") == "long"
    assert kind(f"{around}{prompt[letters[2] : letters[21]]}{around}") == "short"
    assert kind(f"{around}{prompt[letters[2] : letters[12]]}{around}") == "short"
    assert kind(f"{around}{prompt[letters[2] : letters[11]]}{around}") is None


def test_words_and_letters_are_counted_together() -> None:
    index = PromptIndex(question_key)
    index.add("用 Python 写一个函数，读取 CSV 文件并返回每一列的平均值")
    found = index.find(["x"], "题目：用python写一个函数,读取csv文件并返回每一列的平均值。谢谢")
    assert found is not None
    assert found.kind == "long"
    index.add(LONG)
    found = index.find(["x"], f"他说：{LONG}，对吗")  # English inside Chinese: thirteen words, as everywhere
    assert found is not None
    assert (found.kind, found.prompt) == ("long", 1)
    assert index.find(["x"], "한국어는 띄어쓰기가 있다") is None


def test_chinese_prompts_in_a_dataset(workspace: Workspace, tmp_path: Path) -> None:
    data, prompts = tmp_path / "data.json", tmp_path / "prompts.json"
    rows = [row("写一个故事。", f"她问：“{CHINESE}？”没有人回答。"), row("写一个故事。", "没有人回答。")]
    data.write_text(json.dumps(rows), encoding="utf-8")
    prompts.write_text(json.dumps([{"instruction": f"{CHINESE}。"}]), encoding="utf-8")
    with Store(workspace.store_path) as store:
        dataset_id = import_file(store, data, "d").dataset_id
        found = decontaminate(store, [dataset_id], [prompts]).found
    assert [(one.sample_id, one.kind) for one in found] == [(1, "long")]


def test_the_command_counts_and_names_them(filled: tuple[Workspace, Path]) -> None:
    workspace, prompts = filled
    found = json.loads(srtui(workspace, "data", "decontaminate", str(prompts), "--json").stdout)
    assert {k: found[k] for k in ("prompts", "samples", "question", "long", "short")} == {
        "prompts": 2, "samples": 4, "question": 1, "long": 1, "short": 1,
    }  # fmt: skip
    assert [(one["sample_id"], one["kind"], one["source"]) for one in found["found"]] == [
        (1, "question", "prompts.json"), (2, "long", "prompts.json"), (3, "short", "prompts.json"),
    ]  # fmt: skip
    words = " ".join(srtui(workspace, "data", "decontaminate", str(prompts), "--drop").stdout.split())
    assert "2 of 4 samples hold one of 2 prompts" in words
    assert "New runs leave out 2 samples" in words
    with Store(workspace.store_path, read_only=True) as store:
        assert list(store.corpus.each_sample_id(1)) == [3, 4]
    assert "2 samples are taken" in srtui(workspace, "data", "decontaminate", "--undo").stdout
    with Store(workspace.store_path, read_only=True) as store:
        assert len(list(store.corpus.each_sample_id(1))) == 4


def test_without_a_file_it_needs_an_evaluation(filled: tuple[Workspace, Path]) -> None:
    done = srtui(filled[0], "data", "decontaminate")
    assert done.returncode == 2
    assert "has evaluated with no prompts yet; name files of them" in done.stderr


def test_without_a_dataset_nothing_is_said_to_be_clean(workspace: Workspace, tmp_path: Path) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps([{"instruction": "Hi."}]), encoding="utf-8")
    Store(workspace.store_path).close()
    done = srtui(workspace, "data", "decontaminate", str(prompts))
    assert "There are no samples to look in; bring a dataset in with srtui import." in done.stdout


def evaluated(store: Store, prompts: list[str]) -> None:
    """An evaluation that asked these prompts."""
    with store.transaction():
        made = store.conn.execute(
            "INSERT INTO evaluation(kind, fingerprint, contestant_a, identity_a, source, source_sha256, settings, status, "
            "created_at) VALUES ('pairwise', 'f', 'a', '{}', 'asked.json', 'x', '{}', 'done', 1)"
        )
        store.conn.executemany(
            "INSERT INTO evaluation_item(evaluation_id, item, category, turns) VALUES (?,?,?,?)",
            [(made.lastrowid, n, "all", json.dumps([prompt])) for n, prompt in enumerate(prompts)],
        )


def test_a_run_that_trains_on_evaluation_prompts_says_so(pair_workspace: Workspace) -> None:
    recipe = small_recipe(
        pair_workspace,
        6,
        selection={"instruction_by": "original", "response_by": "original", "policy": "all"},
        training={"held_out": 0.0},
    )
    first = json.loads((pair_workspace.recipes / "small.jsonl").read_text(encoding="utf-8").splitlines()[0])
    with Store(pair_workspace.store_path) as store:
        evaluated(store, [first["instruction"], "What is asked nowhere else?"])
    done = srtui(pair_workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        this = store.runs.named("small")
        found = summarise(store, this.id).contamination
        assert found is not None
        assert (found.prompts, found.texts, found.question, found.long, found.short) == (2, 6, 1, 0, 0)
        facts = gather(store, pair_workspace.root, this.id)
        assert any(contamination_words(found) in sentence for sentence in open_questions(facts))
        assert any("hold a prompt" in warning for warning in facts.warnings)
    printed = " ".join(srtui(pair_workspace, "status", "small").stdout.split())
    assert (
        "1 of the 6 texts trained on hold one of the 2 prompts that this workspace has evaluated with"
        in printed
    )


def test_a_prompt_in_other_words_is_found_before_training(pair_workspace: Workspace) -> None:
    """By itself, with the student that is trained: no command asks for it."""
    recipe = small_recipe(
        pair_workspace,
        24,
        selection={"instruction_by": "original", "response_by": "original", "policy": "all"},
        training={"held_out": 0.0},
    )
    asked = json.loads((pair_workspace.recipes / "small.jsonl").read_text(encoding="utf-8").splitlines()[8])
    assert asked["instruction"] == "What are the advantages and drawbacks of working from home?"
    with Store(pair_workspace.store_path) as store:
        evaluated(store, ["What are the drawbacks and advantages of working from home?", "Bake 7 loaves!"])
    done = srtui(pair_workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        this = store.runs.named("small")
        found = summarise(store, this.id).contamination
        assert found is not None
        assert (found.prompts, found.texts, found.held, found.short) == (2, 24, 0, 0)
        assert found.meaning == 1
        (sample_id,) = (
            sample
            for sample, pair in store.corpus.original_pairs(this.dataset_id)
            if pair.instruction == asked["instruction"]
        )
        said = [event.message for event in store.runs.events(this.id) if "in other words" in event.message]
        assert len(said) == 1
        assert f"(samples {sample_id} (" in said[0]
        assert any(
            contamination_words(found) in line
            for line in open_questions(gather(store, pair_workspace.root, this.id))
        )
    printed = " ".join(srtui(pair_workspace, "status", "small").stdout.split())
    assert "1 more are near one in meaning" in printed


def test_later_turns_of_a_file_are_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    file.write_text(json.dumps({"turns": ["Name a prime.", LONG]}) + '\n{"instruction": "Name a river."}\n')
    assert all_turns(file) == ["Name a prime.", "Name a river.", LONG]


def test_a_part_of_a_file_hides_no_earlier_whole_of_it(tmp_path: Path) -> None:
    """Both evaluations have the file's hash: the smaller one came last."""
    asked = [Item(n, "all", (text,)) for n, text in enumerate(ASKED)]
    with Store(tmp_path / "s.sqlite") as store:
        for items in (asked, asked[:1]):
            store.evaluations.prepare(
                NewEvaluation(
                    kind="winrate", fingerprint=f"f{len(items)}", contestant_a="m", identity_a={}, contestant_b=None,
                    identity_b=None, run_a_id=None, run_b_id=None, source="prompts.jsonl", source_sha256="0" * 64,
                    settings={}, items=items,
                )
            )  # fmt: skip
        assert {turn for _, turns in store.datasets.evaluation_prompts() for turn in turns} == set(ASKED)
