"""Recipes: every shipped one is valid, and a mistake is one sentence with the fix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from srtui import recipe
from srtui.cli import app
from srtui.errors import UserError
from srtui.recipe.reference import find_keys, markdown, recipe_keys
from tests.conftest import ROOT


def test_the_preference_recipe_chooses_as_the_quickstart_does() -> None:
    """Else its run would find none of the texts, and start from an adapter of other choices."""
    first, second = (recipe.load(ROOT / "recipes" / f"{name}.toml") for name in ("quickstart", "preference"))
    alone = {"name", "description", "training"}
    assert first.model_dump(exclude=alone) == second.model_dump(exclude=alone)
    assert second.training.from_run == first.name
    for name in ("lora_rank", "lora_alpha", "held_out"):
        assert getattr(first.training, name) == getattr(second.training, name)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert recipe.load(path).name == path.stem


@pytest.mark.parametrize("name", ["paper-alpaca-llama2-7b", "paper-wizardlm-llama2-7b"])
def test_the_paper_recipes_have_the_papers_numbers_and_for_the_adapter_qloras(name: str) -> None:
    r = recipe.load(ROOT / "recipes" / f"{name}.toml")
    t = r.training
    assert (t.batch_size, t.epochs, t.warmup_ratio, t.scheduler) == (128, 3, 0.03, "cosine")
    qlora = (2e-4, 0.3, 64, 16, 0.1)
    assert (t.learning_rate, t.max_grad_norm, t.lora_rank, t.lora_alpha, t.lora_dropout) == qlora
    assert (r.prompt.max_length, r.scoring.protocol, r.reflection.mode, r.reflection.candidates) == (
        2048,
        "paper",
        "free",
        1,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'dataset = "d"\n[training]\nlearning_rte = 1',
            ["training.learning_rte", "did you mean learning_rate"],
        ),
        ('dataset = "d"\n[tranning]\nepochs = 1', ["tranning", "did you mean training"]),
        ('dataset = "d"\n[student]\nquantization = "nf5"', ["student.quantization", "'nf5'", "'nf4'"]),
        ('dataset = "d"\n[teacher]\nslots = "lots"', ["teacher.slots", "'lots'", "auto"]),
        ('dataset = "d"\n[teacher]\nslots = 0', ["teacher.slots", "greater than or equal to 1"]),
        ('dataset = "d"\n[training]\nbatch_size = 5', ["batch_size = 5", "multiple of micro_batch_size = 4"]),
        ('name = "x"', ["dataset", "missing"]),
        ("dataset = ", ["not valid TOML"]),
        ('dataset = "d"\nname = "../x"', ["name"]),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text('dataset = "d"')
    with pytest.raises(UserError, match=r"did you mean quickstart\.toml"):
        recipe.load(tmp_path / "quikstart.toml")


def test_overrides() -> None:
    path = ROOT / "recipes" / "quickstart.toml"
    changed = recipe.load(
        path, ["training.epochs=1", "student.quantization=bf16", "teacher.slots=4"], limit=3
    )
    assert (changed.training.epochs, changed.student.quantization, changed.teacher.slots, changed.limit) == (
        1,
        "bf16",
        4,
        3,
    )
    with pytest.raises(UserError, match=r"section\.key=value"):
        recipe.load(path, ["epochs"])
    with pytest.raises(UserError, match=r"training\.epoch is not a key; did you mean epochs"):
        recipe.load(path, ["training.epoch=1"])


def test_fingerprint_follows_what_decides() -> None:
    path = ROOT / "recipes" / "quickstart.toml"
    same = recipe.load(path).fingerprint
    assert recipe.load(path, ["teacher.threads=1", "description=other"]).fingerprint == same
    assert recipe.load(path, ["seed=8"]).fingerprint != same
    assert recipe.load(path, ["training.epochs=9"]).fingerprint != same


def test_a_gguf_student_is_not_trained() -> None:
    data: dict[str, Any] = {"name": "a", "dataset": "d", "student": {"quantization": "gguf"}}
    with pytest.raises(UserError, match="can choose and not be trained; set training"):
        recipe.parse(data, "a.toml")
    assert recipe.parse({**data, "training": {"enabled": False}}, "a.toml").student.quantization == "gguf"


# -- the reference of keys


def test_every_key_says_what_it_does() -> None:
    keys = recipe_keys()
    dumped = recipe.Recipe(name="a", dataset="d").model_dump()
    assert {k.name for k in keys} == {
        f"{name}.{inner}" if inner else name
        for name, value in dumped.items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    for key in keys:
        assert len(key.what) > 15 and key.what.endswith("."), key.name
        assert key.change == "" or key.change.endswith("."), key.name
        # Who does not know where a number is from cannot judge it.
        if re.search(r"[0-9]|auto", key.default):
            assert key.source, key.name
        word = key.name.rpartition(".")[2]
        if word.endswith(("_tokens", "_steps", "_length", "_size")) or word in ("epochs", "slots", "limit"):
            assert key.unit, key.name


def test_keys_have_their_limits_in_words() -> None:
    values = {k.name: (k.default, k.values) for k in recipe_keys()}
    assert values["teacher.slots"] == ('"auto"', '"auto" or a whole number from 1')
    assert values["training.learning_rate"] == ("0.0002", "a number above 0")
    assert values["selection.top_percent"] == ("100.0", "a number above 0, at most 100")
    assert values["training.packing"] == ('"auto"', '"auto" or true or false')
    assert values["selection.top_count"] == ("", "a whole number from 1")
    assert values["prompts"] == ("", "the path of a file")


def test_the_document_is_what_is_generated() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page == markdown(), "write it again: srtui recipes --markdown > docs/recipes.md"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("learning_rate", "did you mean training.learning_rate?"),
        ("teacher.slotz", "did you mean teacher.slots"),
        ("learnin_rate", "training.learning_rate"),
        ("trainin", "did you mean training"),
        ("xyzzy", "srtui recipes lists them all"),
    ],
)
def test_an_unknown_key_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(UserError, match="is not a key of a recipe") as caught:
        find_keys(name)
    assert near in str(caught.value)


def test_the_command_prints_all_keys_or_one() -> None:
    def srtui(*words: str) -> Result:
        return CliRunner().invoke(app, ["recipes", *words])

    table = srtui().output
    for key in recipe_keys():
        assert re.search(rf"^ *{re.escape(key.name)} .*{re.escape(key.default)}", table, re.MULTILINE), (
            key.name
        )
    one = " ".join(srtui("training.learning_rate").output.split())
    for words in (
        "The highest step size",
        "When to change it",
        "0.0002",
        "a number above 0",
        "QLoRA (Dettmers",
    ):
        assert words in one
    (key,) = find_keys("prompt.max_length")
    assert json.loads(srtui("prompt.max_length", "--json").output) == {
        "srtui_json": 1, "type": "recipe-key",
        "name": "prompt.max_length", "default": "2048", "values": "a whole number from 16", "unit": "tokens",
        "what": key.what, "change": key.change, "source": "the paper",
    }  # fmt: skip
    section = json.loads(srtui("prompt", "--json").output)["keys"]
    assert [k["name"] for k in section] == ["prompt.template", "prompt.max_length"]
    assert len(json.loads(srtui("--json").output)["keys"]) == len(recipe_keys())
    assert srtui("--markdown").output == markdown()
    assert isinstance(srtui("learning_rate").exception, UserError)
    assert isinstance(srtui("--markdown", "--json").exception, UserError)
