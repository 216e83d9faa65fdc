"""Keys: one canonical encoding, pinned byte by byte, and what was stored under the keys before it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from srtui import today
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.writing import AnswerSettings, answer_key, first_answer_key
from srtui.hashing import (
    Keys,
    canonical,
    digest,
    draw,
    draw_of_each,
    first_of_ids,
    key,
    key_of_ids,
    scheme_1,
)
from srtui.llama import Sampler, TeacherIdentity
from srtui.llama.chat_prompt import TeacherTemplate
from srtui.measures import SpanLoss
from srtui.recipe import TrainingSettings, parse
from srtui.reflection import ReflectionPrompt, load_criteria
from srtui.sample import History, Pair, Turn
from srtui.store import Store
from srtui.store.generations import GenerationRow
from srtui.store.imports import NewRow
from srtui.store.scores import setting_key
from srtui.student.spans import Span
from srtui.training.plan import fingerprint
from tests.conftest import RECIPE

GOLDEN = Path(__file__).with_name("keys.json")
PAIR = Pair("Name a prime.", "", "Seven.")
TEACHER = TeacherIdentity("t", "ab" * 32, "llama", 1, "Q8_0", 2048)


def recipe(**sections: Any) -> Any:
    return parse({"name": "r", "dataset": "d"} | sections, "test")


def protocol(**sections: Any) -> ReflectionPrompt:
    return ReflectionPrompt(load_criteria("response", "response"), recipe(**sections))


def pinned() -> dict[str, bytes]:
    """Every key that the store keeps, for work that is described here."""
    dated = TeacherIdentity("t", "ab" * 32, "llama", 1, "Q8_0", 2048, "cd" * 32, "2026-01-31")
    gguf = Contestant("x", "gguf", Path("none.gguf"), "ab" * 32)
    return {
        "canonical": canonical(
            "example",
            {
                "text": 'ä "\\ \n\u2028 🙂', "lone": "\ud83d", "int": 1, "float": 1.0, "small": 1e-7, "zero": -0.0,
                "bool": True, "none": None, "bytes": b"\x00\xff", "list": [1, (2.5, None)], "map": {"b": 1, "a": {}},
                "sampler": Sampler(temperature=1, top_k=0),
            },
        ),
        "pair": PAIR.digest,
        "pair with an input": Pair("a", "b", "ü\ud800").digest,
        "generation": protocol().key(PAIR, 1, 0, TEACHER),
        "generation, dated": protocol(
            teacher={"kv_type": "q8_0", "flash_attention": True}, sampler={"temperature": 0.0}
        ).key(PAIR, 2, 1, dated),
        "loss": Span((1, 2, 70000), 2).key("student", "default"),
        "setting": setting_key("student", "alpaca", "default", 2048),
        "setting, dated": setting_key("student", "chat", "paper", 512, "v1", "2026-01-31"),
        "answer": answer_key(gguf, AnswerSettings(), (("Hello", ""),)),
        "recipe": recipe(seed=7, training={"epochs": 2}, teacher={"slots": 3}).fingerprint.encode(),
        "training": fingerprint(
            TrainingSettings(epochs=2.0), "student", [Span((1, 2, 3), 1)], ""
        ).encode(),
    }  # fmt: skip


def test_the_bytes_of_every_key_are_what_they_always_were() -> None:
    """Where this fails, stored work is lost: give what is new a default that keys leave out."""
    found = {name: value.hex() for name, value in pinned().items()}
    assert found == json.loads(GOLDEN.read_text())


def test_defaults_that_keys_leave_out_never_change() -> None:
    assert Sampler() == Sampler(0.7, 0.95, 40, 0.05, 1.1, 256)
    assert AnswerSettings() == AnswerSettings(512, 0.0, 1.0, 0)


def test_a_value_is_known_by_its_type() -> None:
    values = [1, "1", 1.0, True, "True", None, "None", b"1", "", b"", 0, False, 0.0]
    assert len({digest(v) for v in values}) == len(values)
    assert digest("ab", "c") != digest("a", "bc")
    assert len({canonical("k", {"v": [v]}) for v in values}) == len(values)
    assert digest(-0.0) == digest(0.0)
    for bad in (math.nan, math.inf, object(), {1: 2}, {"$bytes": "00"}, {3}):
        with pytest.raises((TypeError, ValueError)):
            key("k", v=bad)


def test_a_field_that_a_later_version_adds_changes_no_key() -> None:
    fields = [(f, type(v), field(default=v)) for f, v in vars(Sampler()).items()]
    later = make_dataclass("Later", [*fields, ("mirostat", float, field(default=0.0))], frozen=True)
    assert key("k", s=later(temperature=0.3)) == key("k", s=Sampler(temperature=0.3))
    assert key("k", s=later(mirostat=0.5)) != key("k", s=Sampler())
    assert key("k", new=None, old=1) == key("k", old=1)

    @dataclass(frozen=True)
    class Of:
        weight: float = 1.0

    assert key("k", s=Of(2)) == key("k", s=Of(2.0))  # type: ignore[arg-type]


def test_draws_are_what_they_always_were() -> None:
    assert draw(7, "held out", 3).hex() == "07c05e7e0680d1aefcf6938daab79136"
    assert digest("a", "b") == scheme_1("a", "b")  # texts' addresses are those of the first scheme


# -- what was stored before ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "s.sqlite")
    store.imports.add_samples("d", "f", "sha", "alpaca", [NewRow(0, PAIR, "{}")])
    return store


def test_a_generation_stored_before_is_found(store: Store) -> None:
    asked = protocol(sampler={"temperature": 0.5})
    old = scheme_1(
        PAIR.digest, asked.version, "guided", 256, 256, 768, TEACHER.sha256, None,
        "Sampler(temperature=0.5, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=1.1, repeat_window=256)",
        asked.seed(PAIR, 1),
    )  # fmt: skip
    made = GenerationRow(
        id=0, variant_id=None, created_at=0.0, key=old, parent_variant_id=1, stage="response", model="t", model_sha256=TEACHER.sha256,
        prompt_version="v", mode="guided", sampler="{}", seed=1, attempt=1, candidate=0, prompt="p", text="text",
        thinking="", critique="", prompt_tokens=1, new_tokens=1, seconds=1.0, finish="end", parsed="parsed",
        segments="[]",
    )  # fmt: skip
    store.generations.add(made)
    of = (PAIR, 1, 0, TEACHER)
    found = store.generations.with_key(asked.key(*of), asked.first_key(*of))
    assert found is not None
    assert found.text == "text"
    # Whatever that key did not hold is asked again.
    for other in (
        protocol(sampler={"temperature": 0.5}, teacher={"kv_type": "q8_0"}),
        protocol(sampler={"temperature": 0.5}, teacher={"flash_attention": False}),
    ):
        assert other.first_key(*of) is None
        assert other.key(*of) != asked.key(*of)
    dated = TeacherIdentity("t", "ab" * 32, "llama", 1, "Q8_0", 2048, None, "2026-01-31")
    assert asked.first_key(PAIR, 1, 0, dated) is None


def test_a_run_stored_before_resumes(store: Store) -> None:
    from srtui.pipeline import prepare
    from srtui.workspace import Workspace

    what = recipe(seed=5, training={"epochs": 2})
    old = f"{what.first_fingerprint}-{scheme_1('[1]').hex()[:8]}"
    run = store.runs.create("r", 1, "r.toml", what.model_dump_json(), old, [(1, False)])
    found, new = prepare(Workspace(store.path.parent), store, what, Path("r.toml"))
    assert (found.id, new) == (run.id, False)
    other, new = prepare(Workspace(store.path.parent), store, recipe(seed=6), Path("r.toml"))
    assert new
    assert prepare(Workspace(store.path.parent), store, recipe(seed=6), Path("r.toml"))[0].id == other.id


def test_an_answer_stored_before_is_found_where_its_key_held_everything() -> None:
    gguf = Contestant("x", "gguf", Path("none.gguf"), "sha")
    old = scheme_1(
        "gguf", "sha", "", None, "",
        "[('max_tokens', 512), ('seed', 0), ('temperature', 0.0), ('top_p', 1.0)]", "Hello", "",
    )  # fmt: skip
    assert first_answer_key(gguf, AnswerSettings(), (("Hello", ""),)) == old
    assert (
        first_answer_key(Contestant("x", "student", Path("m"), "sha"), AnswerSettings(), (("Hello", ""),))
        is None
    )


def test_losses_stored_before_are_found_and_stored_anew(store: Store) -> None:
    span = Span((5, 6, 7), 2)
    store.scores.add_losses({span.first_key("weights:nf4:float32"): SpanLoss(1.5, 2)})
    assert store.scores.has_first_losses()

    class Stored:
        first_losses_id = "weights:nf4:float32"

    from srtui.pipeline.variants import VariantScorer

    judge = VariantScorer.__new__(VariantScorer)
    judge._store, judge.student = store, Stored()  # type: ignore[assignment]
    new = span.key("weights:nf4:float32:cpu", "default")
    assert judge._stored_before({new: span}) == {new: SpanLoss(1.5, 2)}
    assert store.scores.losses([new]) == {new: SpanLoss(1.5, 2)}


# -- what keys left out ----------------------------------------------------------------------------


DATED = "{{ strftime_now('%d %B %Y') }}|{% for m in messages %}{{ m.content }}{% endfor %}"


def test_the_date_of_a_prompt_is_that_of_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from srtui.llama import Message

    monkeypatch.setattr(today, "_frozen", list(today._frozen))
    run = store.runs.create("r", 1, "r.toml", RECIPE, "f", [])
    assert run.date == today.now().date().isoformat()
    store.runs.update(run.id, date="2024-02-29")
    today.freeze(store.runs.get(run.id).date)
    template = TeacherTemplate(DATED)
    assert template.date == "2024-02-29"
    assert template.pieces([Message("user", "u")])[0] == ("29 February 2024|", False)
    assert TeacherTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").date is None
    # A run of before knows its day by when it was made.
    store.conn.execute("UPDATE run SET date = NULL, created_at = 1700000000")
    store.conn.commit()
    assert store.runs.get(run.id).date in ("2023-11-14", "2023-11-15")


def test_a_students_template_writes_the_date_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from srtui.prompts import template

    monkeypatch.setattr(today, "_frozen", list(today._frozen))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<e>": 0}, "<e>")), eos_token="<e>"
    )
    tokenizer.chat_template = DATED
    today.freeze("2024-02-29")
    dated = template("chat", tokenizer)
    assert dated.chat is not None
    assert dated.chat.date == "2024-02-29"
    assert dated.forward("hello", "").startswith("29 February 2024|")
    assert template("alpaca", tokenizer).chat is None


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
)
def test_every_file_that_a_score_depends_on_is_in_a_students_identity(tmp_path: Path, name: str) -> None:
    from srtui.student.model import model_sha256, weights_sha256

    for file in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "README.md").write_text("first")
    before, model = weights_sha256(tmp_path), model_sha256(tmp_path)
    (tmp_path / "README.md").write_text("second")
    assert weights_sha256(tmp_path) == before
    (tmp_path / name).write_text('{"edited": 1}')
    assert weights_sha256(tmp_path) != before
    # The loss of given tokens does not depend on how text becomes tokens.
    assert (model_sha256(tmp_path) != model) == (
        name in ("config.json", "tokenizer.json", "model.safetensors")
    )


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30), st.sampled_from(("ids", "a", "zz")))
@example([], "ids")
def test_ids_read_one_by_one_have_the_bytes_of_the_whole_list(ids: list[int], name: str) -> None:
    assert key_of_ids("samples", name, iter(ids)) == key("samples", **{name: ids})
    assert first_of_ids(lambda: iter(ids)) == scheme_1(repr(ids))


@pytest.mark.parametrize("size", [8191, 8192, 8193, 20_000])
def test_ids_in_several_pieces_have_the_bytes_of_the_whole_list(size: int) -> None:
    ids = [7 * n for n in range(size)]
    assert key_of_ids("samples", "ids", iter(ids)) == key("samples", ids=ids)
    assert first_of_ids(lambda: iter(ids)) == scheme_1(repr(ids))


VALUES = st.binary(max_size=20) | st.integers(-(2**70), 2**70) | st.booleans() | st.text(max_size=8) | st.floats(
    allow_nan=False, allow_infinity=False
)  # fmt: skip


@given(VALUES, VALUES, st.text(max_size=5))
@example(b"", True, "")
@example(0, -0.0, "\ud800")
def test_keys_that_share_what_is_laid_out_once_are_those_of_each(
    first: Any, second: Any, shared: str
) -> None:
    """Whatever the values are, and wherever they stand among what is shared."""
    keys = Keys("k", ("a", "z"), m=shared, b=1)
    for _ in range(2):  # the second is made of the same beginning
        assert keys.key(first, second) == key("k", a=first, z=second, m=shared, b=1)


@given(st.text(max_size=6), st.binary(max_size=6), st.integers(-(2**63), 2**63 - 1))
def test_draws_for_many_numbers_are_those_of_each(word: str, data: bytes, number: int) -> None:
    drawn = draw_of_each(7, word, data)
    assert drawn(number) == drawn(number) == draw(7, word, data, number)


def test_a_history_is_in_a_key_as_the_tuple_of_its_turns() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    assert key("k", v=History(turns, 2)) == key("k", v=tuple(turns[:2])) != key("k", v=tuple(turns))
