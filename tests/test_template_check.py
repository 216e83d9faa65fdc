"""The check of the template beside the teacher's start: the first request does not wait for the student, and nothing
else is other than with the check in front."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_scale
from srtui import recipe as recipes
from srtui import student
from srtui.errors import UserError
from srtui.pipeline import Engine, prepare, template_check, variants
from srtui.pipeline.context import Context
from srtui.progress import Progress, Stopped
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace
from tests.sql import sql_rows, sql_value
from tests.test_window import scale_workspace

SAMPLES = 60


class _Heard:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.reports: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def event(self, level: str, message: str) -> None:
        self.events.append((level, message))


def work(
    workspace: Workspace, teacher_file: Path, *words: str, until: str | None = "reflect-instruction",
    asked: threading.Event | None = None, should_stop: Any = lambda: False,
) -> tuple[_Heard, Run]:  # fmt: skip
    """A run with an instant teacher; ``asked`` is set when that gets its first request."""
    heard, path = _Heard(), workspace.recipes / "scale.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path, list(words)), path)
        teacher = bench_scale.instant_teacher(teacher_file, "0" * 64, (asked or threading.Event()).set)
        try:
            Engine(workspace, store, run, heard, should_stop, teacher).work(until)
        finally:
            run = store.runs.get(run.id)
    return heard, run


@pytest.fixture
def workspace(tmp_path: Path, pair_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for module in (variants, student):
        monkeypatch.setattr(module, "open_scorer", bench_scale.InstantScorer)
    return scale_workspace(tmp_path, pair_folder, SAMPLES)


@pytest.fixture
def teacher_file(pair_folder: Path) -> Path:
    return pair_folder / "tiny.F16.gguf"


def loading_waits_for(event: threading.Event, patch: pytest.MonkeyPatch) -> list[int]:
    """The student is not there before ``event``; gives the threads that loaded one."""
    load, threads = Context.load_student, []

    def late(self: Context, *given: Any) -> Any:
        threads.append(threading.get_ident())
        assert event.wait(60)
        return load(self, *given)

    patch.setattr(Context, "load_student", late)
    return threads


def test_the_first_request_goes_out_before_the_student_is_loaded(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    threads = loading_waits_for(asked, monkeypatch)
    monkeypatch.setattr(template_check, "SHARE", -1.0)  # whatever the student says is too much
    heard, run = work(workspace, teacher_file, asked=asked, until=None)
    assert run.status == "done"
    assert (
        len(threads) == 1 and threading.get_ident() not in threads
    )  # and the choices are by the same student
    said = [message for _, message in heard.events]
    assert sum("original pairs have IFD >= 1" in message for message in said) == 1
    assert sum(message.startswith("Loaded student tiny") for message in said) == 1
    with Store(workspace.store_path, read_only=True) as store:
        check = store.runs.stages(run.id)["check-template"]
        assert (check.done, check.total) == (48, 48) and check.tokens > 0


def test_a_verdict_that_may_end_the_run_is_waited_for(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it is started."""
    asked = threading.Event()
    monkeypatch.setattr(template_check, "SHARE", -1.0)
    for _ in range(2):
        with pytest.raises(UserError, match="original pairs have IFD >= 1"):
            work(workspace, teacher_file, "scoring.template_warning=stop", asked=asked)
    assert not asked.is_set()


def test_a_check_in_front_is_named_before_its_first_text_is_read(
    workspace: Workspace, teacher_file: Path
) -> None:
    """It may take minutes, of which faces would say that reflection is about to begin."""
    heard, _ = work(workspace, teacher_file, "scoring.template_warning=stop")
    counts = [(p.done, p.total) for p in heard.reports if p.stage == "check-template"]
    assert (counts[0], counts[-1]) == ((0, 48), (48, 48))


def test_decisions_are_those_of_a_check_in_front(
    tmp_path: Path, pair_folder: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real student: the same texts are read together, so that losses have the same last digits."""
    found = []
    for name, beside in (("beside", True), ("before", False)):
        one = scale_workspace(tmp_path / name, pair_folder, 20)
        if not beside:
            monkeypatch.setattr(template_check, "_fits_beside_the_teacher", lambda context: False)
        _, run = work(one, teacher_file, until=None)
        with Store(one.store_path, read_only=True) as store:
            losses = sql_rows(store, "SELECT key, nll FROM span_loss ORDER BY key")
            found.append((store.decisions.of_run(run.id), [tuple(r) for r in losses]))
    assert found[0] == found[1] and len(found[0][0]) == 40


def test_a_check_that_was_cut_off_is_made_when_the_run_resumes(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all reflections are there by then; one that was made is not made again."""
    asked = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(template_check._CheckBeside, "wait", lambda self: (_ for _ in ()).throw(Stopped))
        patch.setattr(template_check._CheckBeside, "look", lambda self: None)
        with pytest.raises(Stopped):
            work(workspace, teacher_file, asked=asked)
    with Store(workspace.store_path, read_only=True) as store:
        assert sql_value(store, "SELECT count(*) FROM reflection") == SAMPLES
        assert "check-template" not in store.runs.stages(1)
    work(workspace, teacher_file)
    with Store(workspace.store_path, read_only=True) as store:
        assert store.runs.stages(1)["check-template"].done == 48
    monkeypatch.setattr(Context, "load_student", lambda *_: pytest.fail("it is made once"))
    work(workspace, teacher_file)


def test_a_stop_is_answered_while_the_student_is_loaded(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the teacher wrote until then is stored, and the student that comes too late is let go."""
    loaded, stop = threading.Event(), threading.Event()
    loading_waits_for(loaded, monkeypatch)
    closed: list[object] = []

    def close(student: object) -> None:
        closed.append(student)

    monkeypatch.setattr("srtui.student.Student.close", close)

    def stopped() -> bool:
        with Store(workspace.store_path, read_only=True) as store:
            if sql_value(store, "SELECT count(*) FROM reflection") == SAMPLES:
                stop.set()
        return stop.is_set()

    timer = threading.Thread(target=lambda: (stop.wait(60), loaded.set()))
    timer.start()
    with pytest.raises(Stopped):
        work(workspace, teacher_file, should_stop=stopped)
    timer.join()
    assert len(closed) == 1
    with Store(workspace.store_path, read_only=True) as store:
        assert store.runs.named("scale").status == "stopped"


def test_a_student_that_cannot_be_loaded_is_one_sentence(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise UserError("tiny: its weights are damaged.")

    monkeypatch.setattr(Context, "load_student", fails)
    with pytest.raises(UserError, match="its weights are damaged"):
        work(workspace, teacher_file)
    with Store(workspace.store_path, read_only=True) as store:
        run = store.runs.named("scale")
        assert (run.status, run.error) == ("failed", "tiny: its weights are damaged.")


@pytest.mark.parametrize("words", [("scoring.template_warning=stop",), ("reflection.source=store",)], ids=str)
def test_it_stands_in_front_where_somebody_waits_for_it(workspace: Workspace, words: tuple[str, ...]) -> None:
    path = workspace.recipes / "scale.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path, list(words)), path)
        context = Context(workspace, store, run, None)  # type: ignore[arg-type]
        assert not template_check._fits_beside_the_teacher(context)


def test_it_stands_in_front_where_there_is_no_room_for_both(
    workspace: Workspace, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspace.recipes / "scale.toml"
    (workspace.models / "instant.gguf").symlink_to(teacher_file)
    weights = sum(f.stat().st_size for f in (workspace.models / "tiny").glob("*.safetensors"))
    teacher = teacher_file.stat().st_size

    class Free:
        available = 0

    monkeypatch.setattr(template_check.psutil, "virtual_memory", lambda: Free)
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        context = Context(workspace, store, run, None)  # type: ignore[arg-type]
        for free, fits in ((0, False), (teacher + 4 * weights - 2, False), (teacher + 4 * weights, True)):
            Free.available = free
            assert template_check._fits_beside_the_teacher(context) == fits
