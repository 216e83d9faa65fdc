"""Recipes: every shipped one is valid, and a mistake is one sentence with the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srtui import recipe
from srtui.errors import UserError
from tests.conftest import ROOT


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
