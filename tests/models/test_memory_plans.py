"""Memory is never planned over what is free, and more of it never gives less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srtui.models.gguf_header import read_gguf
from srtui.models.memory import (
    TeacherShape,
    cells_that_fit,
    inner_width,
    layers_of,
    plan_teacher,
    scoring_tokens,
    share_out,
    slots_that_fit,
    token_bytes,
)

GB = 10**9
shapes = st.builds(
    TeacherShape,
    layers=st.lists(st.integers(1, 2 * GB), min_size=1, max_size=40).map(tuple),
    output=st.integers(0, 3 * GB),
    kv=st.integers(1, 16384),
    vocabulary=st.integers(1000, 300_000),
    hidden=st.integers(64, 16384),
    inner=st.integers(64, 65536),
)
free = st.integers(0, 200 * GB)
cells = st.integers(1, 10**6)


@given(shapes, cells, free, free)
def test_a_teachers_layers(shape: TeacherShape, cells: int, free: int, more: int) -> None:
    plan = plan_teacher(shape, cells, [free])
    assert plan.weights + plan.cache + plan.compute <= free
    assert 0 <= plan.layers <= plan.of == len(shape.layers)
    assert plan_teacher(shape, cells, [free + more]).layers >= plan.layers
    assert plan_teacher(shape, cells + more, [free]).layers <= plan.layers
    # One layer more would be too many.
    if plan.layers < plan.of:
        count = plan.layers + 1
        compute = plan_teacher(shape, 0, [10**15]).compute
        assert shape.on_device(count) + compute + count * shape.kv * 2 * cells > 0.89 * free


@given(shapes, cells, st.lists(free, min_size=2, max_size=4), st.integers(1, 8))
def test_a_teachers_layers_on_several_gpus(
    shape: TeacherShape, cells: int, free: list[int], times: int
) -> None:
    plan = plan_teacher(shape, cells, free)
    assert sum(plan.parts) == (plan.layers + 1 if plan.layers else 0)
    assert sum(layers_of(plan.parts)) == plan.layers
    compute = plan_teacher(shape, 0, [10**15]).compute
    weights = shape.on_devices(plan.parts)
    assert sum(weights) == plan.weights == shape.on_device(plan.layers)
    for weight, held, part, room in zip(weights, layers_of(plan.parts), plan.parts, free, strict=True):
        assert not part or weight + held * shape.kv * 2 * cells + compute <= room
    assert plan_teacher(shape, cells, [times * room for room in free]).layers >= plan.layers


@given(
    st.floats(1, 10**6), st.lists(st.integers(0, 60), max_size=3), st.integers(0, 60), st.data(), free, free
)
def test_a_teachers_cache(
    cell: float, held: list[int], in_ram: int, data: st.DataObject, host: int, more: int
) -> None:
    layers, compute = sum(held) + in_ram, data.draw(st.integers(0, GB))
    if not layers:
        return
    frees = [data.draw(free) for _ in held]

    def fits(frees: list[int], host: int) -> int:
        return cells_that_fit(cell, layers, list(zip(held, frees, strict=True)), host=host, compute=compute)

    found = fits(frees, host)
    assert all(
        found * cell * on <= max(0, room - compute) for on, room in zip(held, frees, strict=True) if on
    )
    assert found * cell * in_ram <= host
    assert fits([room + more for room in frees], host) >= found
    assert fits(frees, host + more) >= found


@given(st.integers(1, 64), st.integers(1, 10**5), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_teachers_slots(wanted: int, longest: int, cells: int, more: int) -> None:
    found = slots_that_fit(wanted, longest, cells)
    assert 0 <= found <= wanted
    assert not found or (found + 1) * longest <= cells
    assert slots_that_fit(wanted, longest, cells + more) >= found


@given(st.integers(64, 16384), st.integers(64, 65536), free, free)
def test_a_scoring_pass(hidden: int, inner: int, free: int, more: int) -> None:
    token = token_bytes(hidden, inner)
    found = scoring_tokens(token, free, "cuda")
    assert found * token <= free or found == 1
    assert scoring_tokens(token, free + more, "cuda") >= found
    assert scoring_tokens(token, 0, "cpu") == 2048


def test_the_plan_in_words() -> None:
    shape = TeacherShape((GB // 4,) * 16, GB // 2, 2048, 128_000, 4096, 14336)
    whole = plan_teacher(shape, 10_240, [24 * GB])
    assert whole.sentence().startswith(
        "16 of the teacher's 16 layers go to the GPU: 4.5 GB of weights, 0.7 GB of KV"
    )
    some = plan_teacher(shape, 10_240, [3 * GB])
    assert 0 < some.layers < 16
    assert "the others stay in this computer's memory, which is slower" in some.sentence()
    assert "none fits the GPU's 0.1 GB" in plan_teacher(shape, 10_240, [GB // 10]).sentence()
    # The fault that was: weights alone fit, and the cache did not.
    assert plan_teacher(shape, 200_000, [6 * GB]).layers < plan_teacher(shape, 1, [6 * GB]).layers == 16


def test_gpus_that_do_not_say_what_they_have_free_still_hold_the_layers() -> None:
    assert layers_of(share_out(33, [0])) == [32]
    assert share_out(33, [0, 0]) == [16, 17]


def test_a_shape_whose_header_lists_it_by_layer_and_names_no_vocabulary(tmp_path: Path) -> None:
    """As OpenELM, LFM2 and Gemma 3n have heads and widths; Qwen's files count their tokens and say no more."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "lfm2")
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_head_count(8)
    writer.add_array("lfm2.attention.head_count_kv", [0, 0, 4])
    writer.add_array("lfm2.feed_forward_length", [128, 256, 128])
    writer.add_token_list([f"t{n}" for n in range(1500)])
    writer.add_tensor("token_embd.weight", np.zeros((1500, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shape = read_gguf(tmp_path / "m.gguf").shape
    assert shape is not None
    assert (shape.kv, shape.inner, shape.vocabulary) == (4 * 2 * 8, 256, 1500)


@pytest.mark.model
def test_a_files_shape_is_its_headers(teacher_file: Path) -> None:
    shape = read_gguf(teacher_file).shape
    assert shape is not None
    assert (len(shape.layers), shape.kv, shape.vocabulary, shape.hidden, shape.inner) == (
        30, 2 * 3 * 64, 49152, 576, 1536,
    )  # fmt: skip
    size = teacher_file.stat().st_size
    assert 0.95 * size < sum(shape.layers) + shape.output < size


def test_the_widest_layer_counts_experts() -> None:
    import transformers as t

    shape: dict[str, Any] = {
        "vocab_size": 999, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }  # fmt: skip
    dense = t.LlamaForCausalLM(t.LlamaConfig(**shape, intermediate_size=96))
    assert inner_width(dense) == 96  # and not the head's 999
    experts = t.MixtralForCausalLM(
        t.MixtralConfig(**shape, intermediate_size=48, num_local_experts=4, num_experts_per_tok=2)
    )
    assert inner_width(experts) == 2 * 96  # gate and up lie together
