"""GPUs that fail, put where PyTorch and llama.cpp say so: each ends in one sentence, and the run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from srtui import doctor
from srtui import recipe as recipes
from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault, gpu_sentence
from srtui.pipeline import Engine, prepare
from srtui.process import work
from srtui.store import Store
from srtui.store.leases import holder
from srtui.student import Student
from srtui.student import model as students
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import make_workspace, small_recipe
from tests.sql import sql_rows

GONE = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
NO_CODE = (
    "CUDA error: no kernel image is available for execution on the device\nFor debugging consider passing "
    "CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
)
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.OutOfMemoryError(FULL), "memory"),
        (torch.AcceleratorError(GONE), "gone"),
        (torch.AcceleratorError(NO_CODE), "no code"),
        (RuntimeError("CUDA error: invalid device function"), "no code"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "no code"),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "memory",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), "gone"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "gone"),
        (RuntimeError("HIP error: the operation cannot be performed in the present state"), "gone"),
        (RuntimeError("No CUDA GPUs are available; a driver error, perhaps"), "gone"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), None),
        (RuntimeError("the CUDA build has another version"), None),
        (ValueError("CUDA error: x"), None),
    ],
)
def test_what_is_wrong_with_a_gpu(error: Exception, fault: str | None) -> None:
    assert gpu_fault(error) == fault
    said = gpu_sentence(error)
    assert (said is None) == (fault is None)
    if said:
        assert "\n" not in said and "the same command resumes" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.AcceleratorError(GONE), "srtui: The GPU does not answer any more (CUDA error: unspecified"),
        (torch.AcceleratorError(NO_CODE), "srtui: PyTorch cannot compute on this GPU (CUDA error: no kernel image"),
        (torch.OutOfMemoryError(FULL), "srtui: The GPU's memory ran out (CUDA out of memory."),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you"),
         "srtui: The memory of this machine ran out; close something"),
    ],
)  # fmt: skip
def test_any_command_says_one_sentence(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        work(command)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(words) and said.count("\n") == 1


class Quiet:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def progress(self, progress: Any) -> None: ...

    def event(self, level: str, message: str) -> None:
        self.events.append((level, message))


class Breaks:
    """The student's layers from the first call on that ``when`` picks: they raise ``error``, as a GPU that is gone
    does, again and again until it is repaired."""

    def __init__(self, patch: pytest.MonkeyPatch, when: Callable[[Any, int], bool], error: Exception) -> None:
        self.calls, self.broken = 0, False
        forward = LlamaDecoderLayer.forward

        def layer(module: Any, *given: Any, **more: Any) -> Any:
            self.calls += 1
            self.broken = self.broken or when(module, self.calls)
            if self.broken:
                raise error
            return forward(module, *given, **more)

        patch.setattr(LlamaDecoderLayer, "forward", layer)


def engine(workspace: Workspace, store: Store, reporter: Any) -> Engine:
    path = small_recipe(workspace, training={"checkpoint_steps": 1})
    settings = recipes.load(path, ["selection.policy=keep"])
    run, _ = prepare(workspace, store, settings, path)
    return Engine(workspace, store, run, reporter)


def outcome(store: Store) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """What was chosen, by texts, and what training came to."""
    chosen = sql_rows(
        store,
        "SELECT s.row, d.stage, v.instruction, v.response FROM decision d JOIN sample s ON s.id = d.sample_id "
        "JOIN variant v ON v.id = d.chosen_id ORDER BY s.row, d.stage",
    )
    training = store.training.of_run(store.runs.all()[0].id)
    assert training is not None
    figures = json.loads(json.dumps(training.result))
    return [tuple(row) for row in chosen], {k: figures[k] for k in ("first_loss", "last_loss", "held_out")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pair_folder: Path) -> Any:
    workspace = make_workspace(tmp_path_factory.mktemp("whole") / "ws", pair_folder)
    with Store(workspace.store_path) as store:
        engine(workspace, store, Quiet()).work()
        return outcome(store)


@pytest.mark.model
@pytest.mark.parametrize(
    "moment", ["the first pass of the student", "in the middle of scoring", "while it is trained"]
)
def test_a_gpu_that_disappears(
    moment: str, pair_workspace: Workspace, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def when(layer: Any, calls: int) -> bool:
        if moment == "while it is trained":
            trained.extend([1] if layer.training else [])
            return len(trained) > 3
        return calls == (1 if moment.startswith("the first") else 40)

    reporter = Quiet()
    with Store(pair_workspace.store_path) as store, monkeypatch.context() as patch:
        Breaks(patch, when, torch.AcceleratorError(GONE))
        with pytest.raises(UserError, match=r"^The GPU does not answer any more \(CUDA error: unspecified"):
            engine(pair_workspace, store, reporter).work()
        (run,) = store.runs.all()
        assert run.status == "failed" and str(run.error).startswith("The GPU does not answer any more")
        assert [m for level, m in reporter.events if level == "error"] == [run.error]
        assert holder(store, "run", run.id) is None
    with Store(pair_workspace.store_path) as store:
        assert engine(pair_workspace, store, Quiet()).work().status == "done"
        assert outcome(store) == undisturbed


@pytest.mark.model
def test_memory_that_the_libraries_beneath_ask_for(
    pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuBLAS says so by a RuntimeError of its own: the pass is made smaller, as for PyTorch's."""
    from srtui.student import Scorer, Span

    student = Student.load(pair_folder / "tiny", "f32", "cpu")
    spans = [Span(tuple(range(3 + n, 30 + n)), 9) for n in range(12)]
    whole = {n: loss.nll for n, loss in Scorer(student).score(spans)}
    full = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    scorer = Scorer(student, 10_000)
    forward = LlamaDecoderLayer.forward

    def layer(module: Any, hidden: Any, *given: Any, **more: Any) -> Any:
        if hidden.shape[1] > 100:
            raise full
        return forward(module, hidden, *given, **more)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", layer)
    assert {n: loss.nll for n, loss in scorer.score(spans)} == pytest.approx(whole, rel=1e-5)


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (torch.OutOfMemoryError(FULL), UserError, "^tiny does not fit the GPU's memory in .*: CUDA out of memory"),
        (torch.AcceleratorError(GONE), RuntimeError, "^CUDA error: unspecified launch failure$"),
        (ValueError("no such block size"), UserError, r"cannot be loaded as a student \(no such block size\)"),
    ],
)  # fmt: skip
def test_what_fails_while_weights_are_quantized(
    quantization: Any,
    raised: Exception,
    kind: type[Exception],
    words: str,
    pair_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers catches it there and raises an error that points to a log."""
    import bitsandbytes as bnb

    def fails(*_: Any, **__: Any) -> Any:
        raise raised

    for parameter in (bnb.nn.Params4bit, bnb.nn.Int8Params):
        monkeypatch.setattr(parameter, "to", fails)
    with pytest.raises(kind, match=words) as caught:
        Student.load(pair_folder / "tiny", quantization, "cpu")
    if kind is RuntimeError:
        assert gpu_fault(caught.value) == "gone"


# -- llama.cpp ------------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize(("code", "words"), [(-2, "llama.cpp ran out of memory"), (-3, "code -3")])
def test_a_decode_that_fails(
    code: int, words: str, pair_workspace: Workspace, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_cpp

    decode, calls = llama_cpp.llama_decode, 0

    def fails(*given: Any) -> int:
        nonlocal calls
        calls += 1
        return code if calls == 25 else int(decode(*given))

    with Store(pair_workspace.store_path) as store, monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", fails)
        with pytest.raises(UserError, match=words):
            engine(pair_workspace, store, Quiet()).work()
        (run,) = store.runs.all()
        assert run.status == "failed" and "the same command resumes" in str(run.error)
    with Store(pair_workspace.store_path) as store:
        assert engine(pair_workspace, store, Quiet()).work().status == "done"
        assert outcome(store) == undisturbed


@pytest.mark.model
def test_llama_cpp_gives_up(pair_workspace: Workspace, undisturbed: Any) -> None:
    """It calls abort(), as on a CUDA call that fails: by the function that it does so with, in a process."""
    recipe = str(small_recipe(pair_workspace, training={"checkpoint_steps": 1}))
    words = ("run", recipe, "--set", "selection.policy=keep")
    ended = srtui(pair_workspace, *words, kill_at=("abort", 25))
    assert ended.returncode == 2
    sentence = next(line for line in ended.stderr.splitlines() if line.startswith("srtui: "))
    assert sentence.startswith("srtui: llama.cpp could not continue (") and "CUDA error" in sentence
    assert "see what nvidia-smi and dmesg say of it" in sentence and "the same command resumes" in sentence
    with Store(pair_workspace.store_path, read_only=True) as store:
        (run,) = store.runs.all()
        assert run.status == "failed" and f"srtui: {run.error}" == sentence
        assert holder(store, "run", run.id) is None
    again = srtui(pair_workspace, *words)
    assert again.returncode == 0, again.stderr
    with Store(pair_workspace.store_path) as store:
        assert outcome(store) == undisturbed


# -- which GPU, and what it can -------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """GPUs as torch.cuda has them: (free bytes, major compute capability) of each."""
    import bitsandbytes  # noqa: F401 - it would take what it is told here for a build with CUDA

    class Cards:
        def __init__(self) -> None:
            self.all, self.current = [(8 * 10**9, 8)], 0

        def use(self, number: int) -> None:
            self.current = number

    found = Cards()
    for name, answer in {
        "is_available": lambda: True,
        "device_count": lambda: len(found.all),
        "current_device": lambda: found.current,
        "set_device": found.use,
        "mem_get_info": lambda n=None: (found.all[n if isinstance(n, int) else found.current][0], 24 * 10**9),
        "get_device_name": lambda n=None: f"card {found.current if n is None else n}",
        "get_device_properties": lambda n=None: type("P", (), {"major": found.all[n or 0][1]}),
        "memory_reserved": lambda d=None: 0,
        "memory_allocated": lambda d=None: 0,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    yield found


def test_of_two_gpus_the_one_with_more_memory_free(cards: Any) -> None:
    lines: list[str] = []
    cards.all = [(3 * 10**9, 8), (20 * 10**9, 8)]
    students.choose_gpu(lines.append)
    assert cards.current == 1
    assert "Of 2 GPUs, 1 (card 1) has the most memory free, 20.0 GB" in lines[0] and len(lines) == 1
    cards.all = [(20_500_000_000, 8), (20 * 10**9, 8)]  # what lies on the second counts for it
    students.choose_gpu(lines.append)
    assert cards.current == 1
    cards.all, cards.current = [(3 * 10**9, 8)], 0
    lines.clear()
    students.choose_gpu(lines.append)
    assert not lines


def test_a_gpu_before_ampere_computes_in_float32(cards: Any) -> None:
    assert students.compute_dtype("cuda") == torch.bfloat16
    cards.all = [(8 * 10**9, 7)]
    assert students.compute_dtype("cuda") == torch.float32
    lines: list[str] = []
    students.choose_gpu(lines.append)
    assert lines == [
        "card 0 has no bfloat16 arithmetic: the student computes in float32, which is slower and takes more memory."
    ]


def test_doctor_names_the_gpu_that_pytorch_has_no_code_for(
    cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.all = [(8 * 10**9, 9), (8 * 10**9, 6)]
    arange = torch.arange

    def one_fails(*given: Any, device: str, **more: Any) -> Any:
        if device == "cuda:1":
            raise torch.AcceleratorError(NO_CODE)
        return arange(*given, **more)

    monkeypatch.setattr(torch, "arange", one_fails)
    _, well, other = doctor._torch()
    assert (well.name, well.ok, well.fix) == ("CUDA 0", True, "")
    assert (other.name, other.ok) == ("CUDA 1", False)
    assert "no kernel image" in other.detail and "\n" not in other.detail
    assert other.fix.startswith("install a build of PyTorch for this GPU")


@pytest.mark.model
@pytest.mark.parametrize(("capability", "element"), [(7, 4), (8, 2)])
def test_weights_rounded_to_bf16_lie_there_as_they_are_multiplied(
    capability: int, element: int, cards: Any, pair_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.all = [(1000, capability)]
    planned: list[int] = []
    plan_weights = students.plan_weights

    def spied(folder: Path, quantization: str, size: int) -> Any:
        planned.append(size)
        return plan_weights(folder, quantization, size)

    monkeypatch.setattr(students, "plan_weights", spied)
    with pytest.raises(UserError, match="does not fit the GPU's memory in bf16: its weights take about"):
        Student.load(pair_folder / "tiny", "bf16", "cuda")
    assert planned == [element]
