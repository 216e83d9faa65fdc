"""What a recipe takes on a card, planned without one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srtui.errors import UserError
from srtui.pipeline.fit import (
    CARDS,
    DECODERS,
    DRIVER_BYTES,
    plan_choosing,
    plan_recipe,
    plan_reflecting,
    plan_training,
    usual_student,
    usual_teacher,
)
from srtui.recipe import Recipe, load
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import ROOT, small_recipe

GB = 10**9
WORKSTATION = load(ROOT / "recipes" / "workstation-24gb.toml")
sizes = st.sampled_from(sorted(DECODERS))
quantizations = st.sampled_from(["Q4_K_M", "Q8_0", "F16"])
memory = st.integers(0, 160 * GB)


def recipe_with(**sections: dict[str, Any]) -> Recipe:
    """The workstation's recipe with other settings."""
    plain = WORKSTATION.model_dump()
    return Recipe.model_validate({k: {**v, **sections[k]} if k in sections else v for k, v in plain.items()})


@given(sizes, quantizations, memory, memory, st.sampled_from([512, 2048, 8192]))
def test_a_teacher_is_never_planned_over_what_is_free(
    size: str, quantization: str, free: int, more: int, context: int
) -> None:
    shape, recipe = usual_teacher(f"{size}-{quantization}"), recipe_with(teacher={"context": context})

    def plan(free: int, host: int = 64 * GB) -> tuple[int, int, bool]:
        stage = plan_reflecting(shape, size, recipe, free, host)
        layers = int(re.findall(r"(\d+)", stage.words)[0])
        slots = int(re.findall(r"; (\d+) of", stage.words)[0])
        assert stage.total <= free or not stage.fits
        assert stage.fits == (slots > 0)
        return layers, slots, stage.fits

    layers, slots, fits = plan(free)
    more_layers, more_slots, still = plan(free + more)
    assert more_layers >= layers
    # More of a card can take layers in place of slots, and never fewer slots for the same layers.
    assert more_slots >= slots or more_layers > layers
    assert still or not fits


@given(sizes, st.sampled_from(["nf4", "int8", "bf16"]), memory, memory)
def test_more_memory_never_gives_a_shorter_pass(size: str, quantization: str, free: int, more: int) -> None:
    needs = usual_student(size, quantization, 16)
    small, large = plan_choosing(needs, size, free), plan_choosing(needs, size, free + more)
    assert not small.fits or small.total <= free
    assert large.fits or not small.fits
    assert not small.fits or large.parts["activations"] >= small.parts["activations"]


@settings(max_examples=30)
@given(sizes, st.integers(1, 120), st.sampled_from([512, 2048]), st.sampled_from([1, 4]))
def test_what_would_fit_does(size: str, card: int, length: int, micro: int) -> None:
    recipe = recipe_with(
        prompt={"max_length": length}, training={"micro_batch_size": micro, "gradient_checkpointing": False}
    )
    needs = usual_student(size, "nf4", recipe.training.lora_rank)
    plan = plan_training(needs, size, recipe, card * GB)
    if plan.fits:
        assert plan.total <= card * GB
        return
    change = dict(re.findall(r"(training\.\w+|prompt\.max_length) = (\w+)", plan.words))
    if not change:
        assert "choose a smaller student" in plan.words
        return
    made = recipe_with(
        prompt={"max_length": int(change.get("prompt.max_length", length))},
        training={
            "micro_batch_size": int(change.get("training.micro_batch_size", micro)),
            "gradient_checkpointing": "training.gradient_checkpointing" in change,
        },
    )
    assert plan_training(needs, size, made, card * GB).fits


@pytest.mark.parametrize("size", sorted(DECODERS))
def test_adapters_are_counted_beside_what_training_takes(size: str) -> None:
    """They lie there in float32 before a training looks at what is free."""
    small, large = (usual_student(size, "nf4", rank) for rank in (16, 256))
    more = large.shape.trainable - small.shape.trainable
    plans = [plan_training(needs, size, WORKSTATION, 141 * GB) for needs in (small, large)]
    # Its weights, its gradient, and two moments of a byte.
    assert plans[1].total - plans[0].total == more * (4 + 4 + 2)


def test_usual_sizes_weigh_what_published_files_weigh() -> None:
    """llama.cpp's own Q4_K_M and Q8_0 files of Llama 3.1 8B have 4.92 and 8.54 GB, embeddings (a Q4_K or
    Q8_0 matrix that stays in RAM) counted; NF4 of the same model takes 5.7 GB in QLoRA's arithmetic."""
    teacher = usual_teacher("8B-Q4_K_M")
    embeddings = 128_256 * 4096 * 4.5 / 8
    assert sum(teacher.layers) + teacher.output + embeddings == pytest.approx(4.92 * GB, rel=0.02)
    eight = usual_teacher("8B-Q8_0")
    assert sum(eight.layers) + eight.output + 128_256 * 4096 * 8.5 / 8 == pytest.approx(8.54 * GB, rel=0.02)
    assert usual_student("8B", "nf4", 16).weights == pytest.approx(5.7 * GB, rel=0.02)
    assert usual_student("8B", "bf16", 16).weights == pytest.approx(2 * 8.03 * GB, rel=0.01)
    assert usual_student("8B", "nf4", 16).shape.trainable == 41_943_040  # as peft counts it for Llama 3.1 8B


@pytest.mark.parametrize(("asked", "held"), [(0, 0), (1, 0), (12, 11), (33, 32), (99, 32), (-1, 32)])
def test_a_number_of_layers_counts_the_output_as_llama_cpp_does(asked: int, held: int) -> None:
    recipe = recipe_with(teacher={"gpu_layers": asked})
    plan = plan_reflecting(usual_teacher("8B-Q4_K_M"), "8B", recipe, 80 * GB, 64 * GB)
    assert plan.words.startswith("all 32 layers" if held == 32 else f"{held} of 32 layers")


@pytest.mark.parametrize("words", ["9B", "8B-Q9", "", "8b-Q4_K_M"])
def test_an_unknown_size_is_refused(words: str) -> None:
    with pytest.raises(UserError, match="write a size of 1B, 3B, 8B, 14B, 32B"):
        usual_teacher(words)


def test_the_workstation_recipe_fits_its_card() -> None:
    plans = plan_recipe(
        ROOT / "models", WORKSTATION, 24 * GB, host_memory=64 * GB, teacher="8B-Q4_K_M", student="8B"
    )
    assert [(p.stage, p.fits) for p in plans] == [("reflect", True), ("choose", True), ("train", True)]
    assert plans[0].words == "all 32 layers; 32 of 32 sequences of 4,096 tokens at once"
    assert all(p.free == 24 * GB - DRIVER_BYTES for p in plans)


def test_the_command_plans_with_the_models_that_are_here(pair_workspace: Workspace) -> None:
    recipe = small_recipe(pair_workspace)
    done = srtui(pair_workspace, "models", "fit", str(recipe), "--gpu-memory", "8GB", "--json")
    assert done.returncode == 0, done.stderr
    (card,) = json.loads(done.stdout)["cards"]
    assert card["gpu_memory"] == 8 * GB
    assert [s["stage"] for s in card["stages"]][:2] == ["reflect", "choose"]
    assert all(s["fits"] and 0 < s["total"] <= s["free"] for s in card["stages"])
    student = pair_workspace.models / "tiny"
    stored = sum(f.stat().st_size for f in student.glob("*.safetensors"))
    assert 0 < card["stages"][1]["parts"]["weights"] < 2 * stored

    table = srtui(pair_workspace, "models", "fit", str(recipe))
    assert table.returncode == 0 and all(f"{n}.0 GB" in table.stdout for n in CARDS)
    for words, message in (
        (("--gpu-memory", "much"), "--gpu-memory much: write a size, as in 24GB."),
        (("--gpu-memory", "0GB"), "--gpu-memory 0GB: write a size"),
        (("--teacher", "7B"), "--teacher 7B: write a size of 1B"),
        (("--set", "teacher.model=none"), "To plan without it, give a size: --teacher 8B-Q4_K_M."),
    ):
        refused = srtui(pair_workspace, "models", "fit", str(recipe), *words)
        assert refused.returncode == 2 and message in refused.stderr.replace("\n", " ")


def test_the_documented_table_is_what_is_planned() -> None:
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\| (1B|3B|8B|14B|32B) \|", line)
    ]
    assert rows == [row for table in (teacher_table(), student_table()) for row in table]


def teacher_table() -> list[list[str]]:
    """Slots of 4,096 tokens, and layers on the card where not all are, by size of a Q4_K_M teacher and card."""
    rows = []
    for size in DECODERS:
        cells = []
        for card in CARDS:
            plan = plan_reflecting(
                usual_teacher(f"{size}-Q4_K_M"), size, WORKSTATION, card * GB - DRIVER_BYTES, 64 * GB
            )
            layers, slots = re.match(r"(all|\d+ of) .*?; (\d+) of", plan.words).groups()  # type: ignore[union-attr]
            cells.append(slots if layers == "all" else f"{slots} ({layers} {DECODERS[size].layers})")
        rows.append([size, *cells])
    return rows


def student_table() -> list[list[str]]:
    """Whether an NF4 student trains at 2,048 tokens, and what it takes, by size and card."""
    rows = []
    for size in DECODERS:
        needs = usual_student(size, "nf4", WORKSTATION.training.lora_rank)
        plans = [plan_training(needs, size, WORKSTATION, card * GB - DRIVER_BYTES) for card in CARDS]
        rows.append([size, f"{plans[0].total / GB:.1f}", *("yes" if p.fits else "no" for p in plans)])
    return rows
