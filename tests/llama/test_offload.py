"""The teacher's layers on a GPU, by whichever of llama.cpp's backends this build has: beside the same on the CPU.

There is nothing to see in a build for the CPU. `make offload-test` runs them, with Mesa's lavapipe where the machine has
no GPU (docs/hardware.md).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch

from srtui import recipe as recipes
from srtui.errors import UserError
from srtui.llama import Message, Request, Sampler, Segment
from srtui.llama import losses as losses_room
from srtui.llama.batching import LlamaTeacher
from srtui.llama.devices import gpus
from srtui.llama.losses import LlamaLosses
from srtui.models.convert import _quantize
from srtui.models.export import adapter_worker, gguf_worker
from srtui.models.gguf_header import read_gguf
from srtui.pipeline import Engine, prepare
from srtui.store import Store
from srtui.workspace import Workspace
from tests.conftest import ROOT, small_recipe
from tests.llama.tiny_gguf import write_tiny
from tests.tiny_pair import VOCABULARY, small_tokenizer

pytestmark = pytest.mark.model
GREEDY = Sampler(temperature=0.0, repeat_penalty=1.0)
TOPICS = ["rain", "bread", "tides", "a bicycle", "the moon", "bees", "a bridge", "chess"]
TEXT = (
    "A bicycle has two wheels, a frame and a chain. Rain falls from clouds; bread is made of flour and water. "
    * 6  # more than a hundred tokens in any vocabulary
)


@pytest.fixture(autouse=True)
def a_gpu() -> None:
    if not gpus():
        pytest.skip("llama.cpp has no GPU here: SRTUI_LLAMA=vulkan make setup-dev, then make offload-test")


@pytest.fixture(scope="module")
def tiny_file(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.Q8_0.gguf"
    _quantize(str(pair_folder / "tiny.F16.gguf"), str(path), "Q8_0")
    return path


@pytest.fixture(scope="module")
def wide_file(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with heads as wide as real models have them: 64 numbers, two blocks of a quantized cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "wide"
    torch.manual_seed(6)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, eos_token_id=2)).save_pretrained(folder)
    small_tokenizer(student_folder, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        gguf_worker("", str(folder), "f32", str(folder / "wide.gguf"), "F16", "wide")
    return folder / "wide.gguf"


@contextmanager
def opened(path: Path, layers: Any = "auto", **settings: Any) -> Iterator[LlamaTeacher]:
    teacher = LlamaTeacher(path, name="t", sha256="0", gpu_layers=layers, **settings)
    try:
        yield teacher
    finally:
        teacher.close()


def logits(teacher: LlamaTeacher, text: str = TEXT) -> np.ndarray:
    """(tokens, vocabulary) behind each token of a text, evaluated in two batches: a prompt, and token by token."""
    ids = teacher._vocabulary.tokenize(text)[:96]
    context = teacher._open_context(1, 256)
    assert context is not None
    rows = []
    for start, size in [(0, 80), *((n, 1) for n in range(80, len(ids)))]:
        for i in range(size):
            context.put(i, ids[start + i], start + i, 0, wants_logits=True)
        assert context.decode(size, wait=True)
        rows += [
            np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(context.pointer, i), (teacher._vocabulary.size,)
            ).copy()
            for i in range(size)
        ]
    teacher._close_context()
    return np.stack(rows)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The least cosine of two rows of logits, each less its mean."""
    a, b = (rows - rows.mean(axis=1, keepdims=True) for rows in (one, other))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min())


def ask(
    key: object, text: str, *segments: Segment, sampler: Sampler = GREEDY, seed: int = 1, n: int = 1
) -> Request:
    return Request(
        key, (Message("user", text),), segments or (Segment(max_tokens=16),), seed, sampler, candidates=n
    )


def run(teacher: LlamaTeacher, *requests: Request) -> dict[Any, Any]:
    teacher.submit(requests)
    return {(g.key, g.candidate): g for g in teacher.run()}


# -- the same numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("flash", [True, False, "auto"])
def test_logits_are_the_cpus(tiny_file: Path, kv: str, flash: Any) -> None:
    settings = {"kv_type": kv, "flash_attention": flash}
    with opened(tiny_file, **settings) as there, opened(tiny_file, 0, **settings) as here:
        assert there._gpu and not here._gpu
        assert there._on_gpus and sum(there._on_gpus) == len(read_gguf(tiny_file).shape.layers)  # type: ignore[union-attr]
        assert alike(logits(there), logits(here)) > 0.995


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_types_of_the_cache(wide_file: Path, kv: str) -> None:
    """Keys in 4 bits are rounded otherwise where those of 16 differ in their last bit."""
    with opened(wide_file, kv_type=kv) as there, opened(wide_file, 0, kv_type=kv) as here:
        found = alike(logits(there), logits(here))
        print(json.dumps({"kv": kv, "least cosine": round(found, 5)}))
        assert found > (0.97 if kv == "q4_0" else 0.995)


@pytest.mark.slow
def test_logits_of_the_demos_model(teacher_file: Path) -> None:
    with opened(teacher_file) as there, opened(teacher_file, 0) as here:
        assert alike(logits(there), logits(here)) > 0.995


def test_a_quantized_cache_needs_flash_attention(wide_file: Path) -> None:
    with (
        opened(wide_file, kv_type="q8_0", flash_attention=False) as teacher,
        pytest.raises(UserError, match=r"quantized V cache requires flash_attn .*set teacher\.kv_type"),
    ):
        run(teacher, ask("a", "Say yes."))


@pytest.mark.parametrize("asked", [1, 2, 99, -1])
def test_some_layers_there_and_the_others_here(tiny_file: Path, asked: int) -> None:
    layers = len(read_gguf(tiny_file).shape.layers)  # type: ignore[union-attr]
    with opened(tiny_file, asked) as there, opened(tiny_file, 0) as here:
        assert sum(there._on_gpus) == (layers if asked in (99, -1) else asked - 1)
        assert alike(logits(there), logits(here)) > 0.995


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_recurrent_teachers(kind: str, teacher_file: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / f"{kind}.gguf", teacher_file, kind)
    with opened(model) as there, opened(model, 0) as here:
        assert alike(logits(there), logits(here)) > 0.99
        requests = [ask(t, f"Write about {t}.", Segment("A: ", 12), Segment("\nB: ", 12)) for t in TOPICS]
        assert all(g.refused is None and len(g.written) == 2 for g in run(there, *requests).values())


def test_an_adapter(pair_folder: Path, drawn_adapter: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.gguf"
    adapter_worker(str(drawn_adapter), str(pair_folder / "tiny"), "f32", str(lora), "F32", "tuned")
    base = pair_folder / "tiny.F16.gguf"
    with opened(base, adapter=lora) as there, opened(base, 0, adapter=lora) as here, opened(base, 0) as plain:
        tuned = logits(there)
        assert alike(tuned, logits(here)) > 0.995 > alike(tuned, logits(plain))


def test_losses_of_given_tokens(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges and students that are GGUF files."""
    texts = [tuple(range(5, 40)), tuple(range(5, 25)), tuple(range(60, 90))]
    asked = [(ids, 12, 8 if n < 2 else 0) for n, ids in enumerate(texts)]

    def losses() -> tuple[bool, list[float]]:
        model = LlamaLosses(tiny_file)
        found = {
            n: sum(row or [])
            for group, rows, _ in model.losses(asked, 1024)
            for n, row in zip(group, rows, strict=True)
        }
        said = model.of_options((Message("user", "Is it?"),), [("It is: ", ["1/", "2/", "10/"])])
        model.close()
        assert said is not None
        return model.on_gpu, [*(found[n] for n in range(len(texts))), *said[0]]

    on_gpu, there = losses()
    load = losses_room.load_model
    monkeypatch.setattr(losses_room, "load_model", lambda path, layers: load(path, 0))
    on_cpu, here = losses()
    assert (on_gpu, on_cpu) == (True, False)
    assert there == pytest.approx(here, rel=0.02)


# -- the engine -----------------------------------------------------------------------------------------


def test_many_sequences_guided_and_drawn(tiny_file: Path) -> None:
    requests = [
        ask(
            t,
            f"Write about {t}.",
            Segment("Criticism:\n", 8),
            Segment("\n[Better]\n", 12),
            sampler=s,
            seed=n,
            n=1 + n % 2,
        )
        for n, t in enumerate(TOPICS)
        for s in (GREEDY, Sampler())[n % 2 : n % 2 + 1]
    ]
    with opened(tiny_file, slots=5) as teacher:
        found = run(teacher, *requests)
        assert len(found) == 12 and teacher.progress().slots == 5
        for g in found.values():
            assert g.refused is None
            assert g.text == f"Criticism:\n{g.written[0].text}\n[Better]\n{g.written[1].text}"
        assert {key: g.text for key, g in run(teacher, *requests).items()} == {
            key: g.text for key, g in found.items()
        }
        segment = Segment("", 8, grammar='root ::= "yes" | "no"')
        assert run(teacher, ask("y", "Is water wet?", segment))["y", 0].written[0].text in ("yes", "no")


def test_greedy_texts_beside_others_and_on_the_cpu(tiny_file: Path) -> None:
    """Ties may fall otherwise on a GPU, so most are asked to be the same, and all to begin alike."""
    requests = [ask(t, f"Write a sentence about {t}.", Segment(max_tokens=12)) for t in TOPICS]
    with opened(tiny_file, slots=8) as teacher:
        together = {key: g.text for key, g in run(teacher, *requests).items()}
        alone = {key: g.text for r in requests for key, g in run(teacher, r).items()}
    with opened(tiny_file, 0, slots=8) as teacher:
        here = {key: g.text for key, g in run(teacher, *requests).items()}
    same = [sum(together[key] == other[key] for key in together) for other in (alone, here)]
    print(json.dumps({"greedy texts": len(requests), "alone": same[0], "cpu": same[1]}))
    assert min(same) >= len(requests) // 2


def test_a_whole_run(pair_workspace: Workspace) -> None:
    path = small_recipe(pair_workspace, teacher={"slots": 3, "gpu_layers": "auto"})

    events: list[str] = []

    class Quiet:
        def progress(self, progress: Any) -> None: ...

        def event(self, level: str, message: str) -> None:
            events.append(message)

    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path, ["selection.policy=keep"]), path)
        assert Engine(pair_workspace, store, run, Quiet()).work().status == "done"
    assert any("layers go to the GPU" in line for line in events)


# -- memory ---------------------------------------------------------------------------------------------


def in_a_process(script: str, *words: str, **env: str) -> dict[str, Any]:
    """What a script prints as its last line, in a process with these variables."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | env, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


SMALL = """
import json, sys
from pathlib import Path
from srtui.errors import UserError
from srtui.llama import Message, Request, Segment
from srtui.llama.batching import LlamaTeacher
said = []
teacher = LlamaTeacher(Path(sys.argv[1]), name="t", sha256="", slots=32, kv_type="f32", batch_tokens=64,
                       report_line=lambda level, line: said.append(line))
teacher._affordable = lambda: 10**9
short = [Request(n, (Message("user", "Say yes."),), (Segment(max_tokens=4),), seed=n) for n in range(1, 32)]
teacher.submit([Request(0, (Message("user", "word " * 400),), (Segment(max_tokens=1000),), seed=1), *short])
slots, written = 0, []
try:
    for generation in teacher.run():
        slots = slots or teacher.progress().slots
        written.append(generation)
except UserError as error:
    said.append(str(error))
print(json.dumps({"layers": sum(teacher._on_gpus), "slots": slots, "written": len(written), "said": said,
                  "refused": sum(g.refused is not None for g in written)}))
"""


def test_a_cache_that_does_not_fit_gets_fewer_slots(tiny_file: Path) -> None:
    """Vulkan really refuses the memory: it is told that no buffer may be larger than 2 MB."""
    if gpus()[0].backend != "Vulkan":
        pytest.skip("only Vulkan can be told how little memory there is")
    found = in_a_process(SMALL, str(tiny_file), GGML_VK_FORCE_MAX_BUFFER_SIZE=str(2 * 10**6))
    assert found["layers"] == len(read_gguf(tiny_file).shape.layers)  # type: ignore[union-attr]
    assert (found["written"], found["refused"]) == (32, 0)
    assert 1 <= found["slots"] < 32


def test_no_cache_at_all_fits(tiny_file: Path) -> None:
    if gpus()[0].backend != "Vulkan":
        pytest.skip("only Vulkan can be told how little memory there is")
    found = in_a_process(SMALL, str(tiny_file), GGML_VK_FORCE_MAX_BUFFER_SIZE=str(10**5))
    assert found["written"] == 0
    assert found["said"][-1].endswith(
        "does not fit in memory; set teacher.gpu_layers or teacher.context lower."
    )


def test_two_gpus(tiny_file: Path) -> None:
    """The same device twice is two to llama.cpp's Vulkan; its layers are shared out, and the numbers stay."""
    if gpus()[0].backend != "Vulkan":
        pytest.skip("only Vulkan shows one device twice")
    script = """
import json, sys
from pathlib import Path
from srtui.llama.devices import gpus
from tests.llama.test_offload import alike, logits, opened
with opened(Path(sys.argv[1])) as there, opened(Path(sys.argv[1]), 0) as here:
    print(json.dumps({"gpus": [d.name for d in gpus()], "layers": there._on_gpus, "alike": alike(logits(there), logits(here))}))
"""
    found = in_a_process(script, str(tiny_file), GGML_VK_VISIBLE_DEVICES="0,0")
    assert len(found["gpus"]) == len(found["layers"]) == 2
    assert sum(found["layers"]) == len(read_gguf(tiny_file).shape.layers)  # type: ignore[union-attr]
    assert found["alike"] > 0.995
