"""Each stage hands back what it took, as a GPU would be asked: PyTorch's tensors and llama.cpp's models and contexts,
counted with Python's collector off. What lies in a cycle would stay on a GPU until the collector comes by."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
import torch

from srtui import recipe as recipes
from srtui.evaluation.rater import Rater
from srtui.llama import batching, losses
from srtui.pipeline import Engine, context, place, prepare
from srtui.pipeline.look import embed_originals
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.runs import Run
from srtui.student import Student
from srtui.workspace import Workspace
from tests.conftest import small_recipe
from tests.evaluation.test_evaluator import compare

pytestmark = pytest.mark.model


class Taken:
    """What is taken now. ``weights``: bytes of the tensors that Python knows, as torch.cuda.memory_allocated counts
    them, each storage once; but for token ids and positions, 16 bytes a token, which transformers' functions for masks
    keep of the last pass. ``models`` and ``contexts``: llama.cpp's that are open."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open: dict[str, set[int]] = {"models": set(), "contexts": set()}
        for kind, begin, end in (
            ("models", "llama_model_load_from_file", "llama_model_free"),
            ("contexts", "llama_init_from_model", "llama_free"),
        ):
            patch.setattr(llama_cpp, begin, self._opens(kind, getattr(llama_cpp, begin)))
            patch.setattr(llama_cpp, end, self._closes(kind, getattr(llama_cpp, end)))
        self.before = self.weights

    @property
    def weights(self) -> int:
        storages = {
            one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
            for one in gc.get_objects()
            if isinstance(one, torch.Tensor) and one.device.type == "cpu" and one.dtype != torch.int64
        }
        return sum(storages.values())

    @property
    def now(self) -> tuple[int, int, int]:
        """Bytes of weights beyond those of the beginning, models, contexts."""
        return self.weights - self.before, len(self._open["models"]), len(self._open["contexts"])

    def _opens(self, kind: str, call: Any) -> Any:
        def begin(*given: Any) -> Any:
            opened = call(*given)
            if opened:
                self._open[kind].add(_address(opened))
            return opened

        return begin

    def _closes(self, kind: str, call: Any) -> Any:
        def end(one: Any) -> Any:
            self._open[kind].discard(_address(one))
            return call(one)

        return end


def _address(pointer: Any) -> int:
    import ctypes

    return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)


@pytest.fixture
def taken(pair_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    Student.load(
        pair_folder / "tiny", "nf4"
    ).close()  # what libraries keep for good is there from the first time
    gc.collect()
    gc.disable()
    yield Taken(monkeypatch)
    gc.enable()


class Quiet:
    def progress(self, progress: Any) -> None: ...

    def event(self, level: str, message: str) -> None: ...


def test_a_run_in_all_its_stages(
    pair_workspace: Workspace, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where teacher and student take turns: each finds the other gone."""
    found: list[tuple[str, tuple[int, int, int]]] = []
    open_teacher, load = place.open_teacher, Student.load

    def opens(*given: Any, **more: Any) -> Any:
        found.append(("teacher", taken.now))
        return open_teacher(*given, **more)

    def loads(*given: Any, **more: Any) -> Any:
        found.append(("student", taken.now))
        return load(*given, **more)

    monkeypatch.setattr(place, "has_gpu", lambda: True)
    monkeypatch.setattr(place, "open_teacher", opens)
    monkeypatch.setattr(Student, "load", loads)
    path = small_recipe(pair_workspace)
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path, ["selection.policy=keep"]), path)
        assert Engine(pair_workspace, store, run, Quiet()).work().status == "done"
        training = store.training.of_run(run.id)
        assert training is not None and training.status == "done"
    assert [who for who, _ in found if who == "teacher"] == ["teacher"] * 2
    assert len(found) >= 4
    assert {now for _, now in found} == {(0, 0, 0)}
    assert taken.now == (0, 0, 0)


def test_a_run_that_fails(pair_workspace: Workspace, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error in hand refers to all that worked; the weights go all the same."""
    from srtui.training.trainer import Trainer

    def fails(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(Trainer, "_step", fails)
    path = small_recipe(pair_workspace)
    sizes: list[int] = []
    forget = context.Context.unload_students

    def forgets(self: Any) -> None:
        sizes.append(taken.now[0])
        forget(self)
        sizes.append(taken.now[0])

    monkeypatch.setattr(context.Context, "unload_students", forgets)
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path, ["selection.policy=keep"]), path)
        with pytest.raises(Exception, match="does not answer"):
            Engine(pair_workspace, store, run, Quiet()).work()
    assert taken.now[1:] == (0, 0)
    before, after = sizes[-2:]
    # The adapters, and what the optimizer has of them, may stay until the error is dropped.
    assert after < 0.5 * before


def test_a_rater(pair_workspace: Workspace, taken: Taken) -> None:
    with Store(pair_workspace.store_path) as store:
        rater = Rater(store, pair_workspace.models, "tiny.F16")
        (score,) = rater.scores([Pair("Say it.", "", "their there")])
        assert score[0] is not None
        assert taken.now == (0, 0, 0)


def test_an_evaluation_with_a_judge(
    tuned: tuple[Workspace, Store, Run], taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two students write, then the judge reads and writes: each alone."""
    workspace, store, _ = tuned
    found: list[tuple[int, int, int]] = []
    for room, name in ((losses, "load_model"), (batching, "load_model"), (Student, "load")):
        real = getattr(room, name)

        def loads(*given: Any, _real: Any = real, **more: Any) -> Any:
            found.append(taken.now)
            return _real(*given, **more)

        monkeypatch.setattr(room, name, loads)
    assert compare(workspace, store, "tuned", "base:tuned").state == "done"
    assert len(found) == 4 and set(found) == {(0, 0, 0)}
    assert taken.now == (0, 0, 0)


def test_embeddings(pair_workspace: Workspace, taken: Taken) -> None:
    selection = {"instruction_by": "original", "response_by": "original", "policy": "all"}
    path = small_recipe(pair_workspace, selection=selection, training={"enabled": False})
    with Store(pair_workspace.store_path) as store:
        run, _ = prepare(pair_workspace, store, recipes.load(path), path)
        Engine(pair_workspace, store, run, Quiet()).work()
        embed_originals(pair_workspace, store, store.runs.get(run.id), lambda line: None)
        assert taken.now == (0, 0, 0)


def test_a_sentence_encoder(taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    from srtui.student.sentence_encoder import SentenceEncoder

    encoder = object.__new__(SentenceEncoder)
    encoder._model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    encoder._model.itself = [encoder._model]  # a cycle, as large models have
    assert taken.now[0] > 0
    encoder.close()
    assert taken.now == (0, 0, 0)
    encoder.close()
