"""Evaluation prompts that are asked in other words, embeddings of datasets by a command, and imports that drop by meaning."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from srtui.pipeline import import_file
from srtui.pipeline.decontaminate import QuestionSearch, decontaminate
from srtui.pipeline.embedding import EncoderEmbedder, embed_dataset, encoder_setting, plain_text
from srtui.progress import Stopped
from srtui.sample import Pair, Turn
from srtui.store import Store
from srtui.store.summary import summarise
from srtui.student.sentence_encoder import SentenceEncoder
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import small_recipe
from tests.student.test_sentence_encoder import encoder_folder

__all__ = ["encoder_folder"]
SUBJECTS = [f"subject{n}" for n in range(30)]


class Bags:
    """Embeds a text as the counts of the subjects in it; counts what it was asked."""

    setting_id = 1

    def __init__(self) -> None:
        self.asked = 0

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        self.asked += len(texts)
        return [
            np.array([t.split().count(word) for word in SUBJECTS], dtype=np.float16) if t.strip() else None
            for t in texts
        ]


def rows() -> list[dict[str, str]]:
    made = [
        {"instruction": f"Say something of {s} now.", "input": "", "output": "So it is."} for s in SUBJECTS
    ]
    made[3]["output"] = (
        "They asked: tell us a little about subject3 and about whatever else you may know of it."
    )
    return made


PROMPTS = [
    "tell us a little about subject3 and about whatever else you may know of it",
    "I would hear of subject7 from you",
    "subject8 subject9 subject10 subject11",
]


@pytest.fixture
def filled(workspace: Workspace, tmp_path: Path) -> tuple[Workspace, Path]:
    data, prompts = tmp_path / "data.json", tmp_path / "prompts.json"
    data.write_text(json.dumps(rows()), encoding="utf-8")
    prompts.write_text(json.dumps([{"instruction": one} for one in PROMPTS]), encoding="utf-8")
    with Store(workspace.store_path) as store:
        import_file(store, data, "d")
    return workspace, prompts


def test_what_asks_the_same_in_other_words_is_found_behind_what_has_its_words(
    filled: tuple[Workspace, Path],
) -> None:
    workspace, prompts = filled
    with Store(workspace.store_path) as store:
        by_words = decontaminate(store, [1], [prompts])
        assert ([one.kind for one in by_words.found], by_words.contamination.meaning) == (["long"], None)
        found = decontaminate(store, [1], [prompts], embedder=Bags())  # type: ignore[arg-type]
        assert [(one.sample_id, one.kind) for one in found.found] == [(4, "long"), (8, "meaning")]
        assert found.found[1].prompt == PROMPTS[1]
        assert found.found[1].cosine == pytest.approx(1, abs=0.02)
        assert found.contamination.meaning == 1
        assert found.texts_found == 1  # what is near in meaning is not held for sure
        lower = decontaminate(store, [1], [prompts], embedder=Bags(), threshold=0.4)  # type: ignore[arg-type]
        assert {one.sample_id for one in lower.found} == {4, 8, 9, 10, 11, 12}
        with pytest.raises(Stopped):
            decontaminate(store, [1], [prompts], embedder=Bags(), should_stop=lambda: True)  # type: ignore[arg-type]


def test_too_few_questions_have_no_mean() -> None:
    search = QuestionSearch(Bags(), PROMPTS[:2], ["subject7"])  # type: ignore[arg-type]
    assert not search.can_tell
    assert search.nearest([["subject7"]]) == [None]


def test_every_question_of_a_text_is_compared() -> None:
    search = QuestionSearch(Bags(), PROMPTS, SUBJECTS)  # type: ignore[arg-type]
    near = search.nearest([["subject1", "subject7 please"], ["subject1"], ["  "]])
    assert near[0] is not None
    assert near[0].prompt == 1
    assert near[1:] == [None, None]


def test_the_commands_embed_look_and_drop(pair_workspace: Workspace, tmp_path: Path) -> None:
    """By a real student: a dataset is embedded once, copies with other signs are alike in meaning, an import drops them,
    and a prompt is found in other signs."""
    data = tmp_path / "twice.json"
    some = [
        json.loads(line)
        for line in (pair_workspace.recipes / "quickstart.jsonl").read_text().splitlines()[:24]
    ]
    data.write_text(json.dumps([*some, {**some[0], "output": f"{some[0]['output']}!"}]), encoding="utf-8")
    done = srtui(
        pair_workspace, "import", str(data), "--name", "twice", "--dedup", "drop", "--dedup-by", "meaning",
        "--student", "tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "twice: 1 near-duplicates left out of new runs" in done.stdout
    with Store(pair_workspace.store_path) as store:
        assert list(store.corpus.each_sample_id(1)) == list(range(1, 25))
        setting = store.embeddings.setting_of_dataset(1)
        assert setting is not None
        assert store.embeddings.count_of_dataset(1, setting) == 25
    again = json.loads(srtui(pair_workspace, "data", "embed", "twice", "--student", "tiny", "--json").stdout)
    assert again == {"srtui_json": 1, "type": "embeddings", "dataset": "twice", "samples": 25, "embedded": 25}
    near = json.loads(srtui(pair_workspace, "data", "neighbours", "1", "--json").stdout)["neighbours"]
    assert near[0]["sample_id"] == 25
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        json.dumps({"instruction": some[4]["instruction"] + " Please"}) + "\n", encoding="utf-8"
    )
    found = json.loads(
        srtui(pair_workspace, "data", "decontaminate", str(prompts), "--student", "tiny", "--json").stdout
    )
    assert found["prompts"] == 1
    assert found["samples"] == 25
    assert 5 in {one["sample_id"] for one in found["found"]}
    data.write_text(json.dumps(some[:1]), encoding="utf-8")
    srtui(pair_workspace, "import", str(data), "--name", "one")
    words = ("data", "decontaminate", str(prompts), "--dataset", "one", "--student", "tiny")
    few = srtui(pair_workspace, *words).stdout
    assert "Nothing was looked for by meaning: that takes 20 questions and prompts" in few
    assert json.loads(srtui(pair_workspace, *words, "--json").stdout)["meaning"] is None
    srtui(pair_workspace, "data", "embed", "one", "--student", "tiny")
    assert "Sample 26 is the only one" in srtui(pair_workspace, "data", "neighbours", "26").stdout
    topics = srtui(pair_workspace, "data", "look", "twice").stdout
    assert "topic" in topics and "kept" not in topics  # nothing has chosen yet


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "embed", "d"], "What embeds? Name a student with --student"),
        (["data", "embed", "d", "--student", "a", "--encoder", "b"], "What embeds?"),
        (["data", "embed", "nothing", "--student", "a"], "There is no dataset 'nothing'"),
        (["data", "decontaminate", "--threshold", "0.9"], "--threshold is for a search by meaning"),
        (["import", "x.json", "--dedup", "drop", "--dedup-by", "smell"], "--dedup-by smell: it can be"),
        (["import", "x.json", "--student", "a"], "embed for --dedup with --dedup-by meaning"),
        (["import", "x.json", "--dedup", "drop", "--dedup-by", "meaning"], "What embeds?"),
        (["import", "x.json", "--dedup", "drop", "--dedup-by", "meaning", "--student", "a"], "a is neither a model"),
    ],
)  # fmt: skip
def test_bad_words_are_refused(filled: tuple[Workspace, Path], words: list[str], message: str) -> None:
    done = srtui(filled[0], *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_sentence_encoder_embeds_a_dataset_once(
    filled: tuple[Workspace, Path], encoder_folder: Path
) -> None:
    encoder = SentenceEncoder(encoder_folder)
    with Store(filled[0].store_path) as store:
        embedder = EncoderEmbedder(store, encoder)
        assert embed_dataset(store, 1, embedder) == 30
        (block,) = store.embeddings.of_dataset(1, encoder_setting(store, encoder))
        pairs = store.corpus.original_pairs_of(block.samples.tolist())
        expected = encoder.embed([plain_text(pairs[sample]) for sample in block.samples.tolist()])
        assert np.allclose(block.vectors.astype(np.float32), expected, atol=2e-3)
        assert list(embedder.embed(block.variants.tolist())) == []
        one, none = embedder.embed_texts(["name three trees", " "])
        assert one is not None
        assert none is None
        with pytest.raises(Stopped):
            embed_dataset(store, 1, embedder, should_stop=lambda: True)


def test_a_run_chooses_by_an_encoders_embeddings(pair_workspace: Workspace, encoder_folder: Path) -> None:
    recipe = small_recipe(
        pair_workspace,
        8,
        selection={
            "instruction_by": "original", "response_by": "original", "policy": "all", "top_by": "facility", "top_count": 3,
            "embedded_by": "encoder", "encoder": str(encoder_folder),
        },
        training={"held_out": 0.0},
    )  # fmt: skip
    done = srtui(pair_workspace, "run", str(recipe))
    assert done.returncode == 0, done.stderr
    with Store(pair_workspace.store_path, read_only=True) as store:
        run = store.runs.named("small")
        assert run.embedding_setting_id not in (None, run.setting_id)
        training = store.training.of_run(run.id)
        assert training is not None
        assert training.examples == 3
        assert summarise(store, run.id).contamination is None  # nothing was evaluated with


def test_a_plain_text_has_what_came_before_it() -> None:
    pair = Pair("Go on.", "", "Yes.", (Turn("user", "Say it."), Turn("assistant", "It.")))
    assert plain_text(pair) == "Say it.\nIt.\nGo on.\nYes."
