"""Does the student know the prompt template? Where it does not, every IFD is too high."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from srtui import models, today
from srtui.errors import UserError
from srtui.hashing import draw_of_each
from srtui.pipeline.context import Context
from srtui.pipeline.place import ThisProcess
from srtui.pipeline.recipe_models import open_variant_scorer, student_path
from srtui.progress import Stopped
from srtui.prompts import template_names
from srtui.recipe import Recipe
from srtui.sample import Target
from srtui.store import Store
from srtui.store.conversations import has_conversations
from srtui.store.distributions import spread
from srtui.store.runs import Run
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.pipeline.variants import VariantScorer
    from srtui.student import Student

_STEP = "check-template"
SAMPLE = 48
_DRAWN_FROM = 100_000  # samples: of a larger run, every second or third one
SHARE = 1 / 3
_LOOK = 0.1  # seconds between two looks at whether to stop, where there is only the check to wait for
_OF_FREE = (
    0.5  # of the memory that the teacher's weights leave: a student within it is loaded beside the teacher
)


@contextmanager
def template_checked(context: Context, target: Target) -> Iterator[Callable[[], None]]:
    """Check the template within the block or before it, and have a verdict at its end. The block reflects on
    ``target``; the check belongs to the run's first reflections.

    Where the verdict only warns, a student that is not loaded yet is loaded, and asked, by a thread while the block
    begins: a run's first request then goes out some ten seconds sooner, and at any size. What this gives is to be
    called now and then, and warns as soon as there is a verdict. Before the block, as ever, where the verdict may end
    the run, and so is worth waiting for; where models take turns (a GPU), or may not both have room; and in a pilot,
    which measures how fast the teacher is.

    Raises UserError where the recipe says ``scoring.template_warning = "stop"`` and too many originals have IFD >= 1,
    or where the student cannot be loaded; Stopped when asked to stop.
    """
    if target == "response" or _was_made(context):
        yield lambda: None
        return
    originals = _some_originals(context.store, context.run, context.recipe.seed, SAMPLE)
    if not _fits_beside_the_teacher(context):
        _check_now(context, originals)
        yield lambda: None
        return
    check = _CheckBeside(context, originals)
    try:
        yield check.look
        check.wait()
    finally:
        check.close()


def _was_made(context: Context) -> bool:
    """Whether the run has had its check. One that was killed in the middle of it is checked when it resumes: then
    the student reads the same texts together, and its losses have the same last digits, as in one that was not."""
    run_id, store = context.run.id, context.store
    if store.decisions.any_made(run_id):
        return True
    progress = store.runs.stages(run_id).get(_STEP)
    return (
        progress is not None and progress.done >= progress.total and store.generations.any_reflected(run_id)
    )


def _check_now(context: Context, originals: list[int]) -> None:
    recipe, watch = context.recipe, context.watch
    watch.start(_STEP)
    scorer = context.proxy() if recipe.scoring.proxy else context.variant_scorer()
    tokens, reused = 0, len(scorer.scores(originals, "ifd"))
    # Before the first text, which may take a minute: faces know of the check by its row.
    watch.report_progress(0, len(originals), tokens, {"reused": reused}, now=True)
    for new_tokens, part in scorer.score(originals, "ifd", watch.should_stop):
        tokens += new_tokens
        watch.report_progress(int(part * len(originals)), len(originals), tokens, {"reused": reused})
    watch.raise_if_stopped()
    watch.report_progress(len(originals), len(originals), tokens, {"reused": reused}, now=True)
    _warn(context, _values(scorer, originals))


def _warn(context: Context, values: list[float]) -> None:
    from srtui.student import share_at_or_over_one

    recipe = context.recipe
    share = share_at_or_over_one(values)
    if share <= SHARE:
        return
    sentence = (
        f"{share:.0%} of {len(values)} original pairs have IFD >= 1 under the {recipe.prompt.template!r} "
        "template: the student does not know it, or the answers do not follow their instructions. Compare "
        "another prompt.template before you trust the choices"
    )
    if recipe.scoring.template_warning == "stop":
        raise UserError(f'{sentence}; scoring.template_warning = "warn" continues all the same.')
    context.watch.event("warning", f"{sentence}.")


def _fits_beside_the_teacher(context: Context) -> bool:
    """Whether the student may be loaded while the teacher is: nobody waits for the verdict, and there is room."""
    recipe = context.recipe
    if recipe.scoring.template_warning == "stop" or recipe.pilot or recipe.reflection.source == "store":
        return False
    if context.has_students or not isinstance(context.place, ThisProcess) or context.place.takes_turns:
        return False
    folder, (student, quantization) = context.workspace.models, context.checking_student
    try:
        # A teacher that is open, or a server's, takes no more than it has.
        takes_no_more = recipe.teacher.endpoint or context.has_teacher
        teacher_bytes = 0 if takes_no_more else _bytes_of(models.find(folder, recipe.teacher.model))
        # In float32, at most, of weights that have two bytes; a GGUF stays as it is.
        student_bytes = _bytes_of(models.find(folder, student)) * (1 if quantization == "gguf" else 2)
    except UserError:  # one has to be made first, or is not there, which its own load says
        return False
    return bool(student_bytes <= _OF_FREE * (psutil.virtual_memory().available - teacher_bytes))


def _bytes_of(model: Path) -> int:
    files = model.glob("*.safetensors") if model.is_dir() else [model]
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class _Verdict:
    """What the thread found: the student that it loaded, in how many seconds, and the IFD of the originals."""

    student: Student
    loaded_in: float
    scored_in: float
    tokens: int
    reused: int
    values: list[float]


class _CheckBeside:
    """The check as a thread of its own, with a student and a connection to the store that no other thread has. The
    student is handed over with the verdict: it chooses when the teacher is done."""

    def __init__(self, context: Context, originals: list[int]) -> None:
        self._context, self._originals = context, originals
        self._path = context.student_path()
        self._given_up = threading.Event()
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(1, "srtui-template-check")
        self._verdict: Future[_Verdict] | None = self._thread.submit(self._work)

    def look(self) -> None:
        """Say what is known by now. Raises UserError where the student cannot be loaded."""
        while not self._lines.empty():
            self._context.watch.event(*self._lines.get())
        if self._verdict is None or not self._verdict.done():
            return
        future, self._verdict = self._verdict, None
        verdict, watch = future.result(), self._context.watch
        self._context.adopt(verdict.student, verdict.loaded_in)
        n = len(self._originals)
        watch.record_step(_STEP, verdict.scored_in, n, verdict.tokens, {"reused": verdict.reused})
        _warn(self._context, verdict.values)

    def wait(self) -> None:
        """Wait for the verdict, which faces are told. Raises Stopped when asked to stop."""
        if self._verdict is None:
            return
        watch = self._context.watch
        # Where all was written before, this wait is all that the stage is: a student's load, and the check.
        watch.show(step=_STEP, since=time.time())
        try:
            while self._verdict is not None:
                if watch.should_stop():
                    raise Stopped
                wait([self._verdict], _LOOK)
                self.look()
        finally:
            watch.show()

    def close(self) -> None:
        """End the thread; the load of a model cannot be interrupted, and is waited for."""
        self._given_up.set()
        self._thread.shutdown(cancel_futures=True)
        if self._verdict is not None and not self._verdict.cancelled() and not self._verdict.exception():
            self._verdict.result().student.close()

    def _work(self) -> _Verdict:
        context, began = self._context, time.monotonic()
        student = context.load_student(self._path, lambda level, line: self._lines.put((level, line)))
        loaded, tokens = time.monotonic(), 0
        name, quantization = context.checking_student
        with Store(context.store.path) as store:
            scorer = open_variant_scorer(
                store,
                context.recipe,
                self._path,
                name,
                quantization,
                student=student,
                histories=has_conversations(store.conn, context.run.id),
            )
            reused = len(scorer.scores(self._originals, "ifd"))
            for new_tokens, _ in scorer.score(self._originals, "ifd", self._given_up.is_set):
                tokens += new_tokens
            values = _values(scorer, self._originals)
        return _Verdict(student, loaded - began, time.monotonic() - loaded, tokens, reused, values)


@dataclass(frozen=True)
class TemplateScores:
    """How IFD is spread under one prompt template (:class:`srtui.store.distributions.Spread` has the fields);
    ``chosen``: it is the run's own; ``problem`` says why there are no scores."""

    template: str
    chosen: bool
    scored: int
    mean: float | None
    quantiles: dict[str, float]
    at_or_over_one: int
    histogram: list[int]
    problem: str = ""


def compare_templates(
    workspace: Workspace, store: Store, run: Run, count: int, report_line: Callable[[str], None]
) -> list[TemplateScores]:
    """IFD of ``count`` originals of a run under every prompt template, by the run's own student.

    Each is a way of scoring of its own, stored as such; the share at or over 1 shows which template
    the student knows.

    Args:
        workspace: whose models/ has the student.
        store: where the scores go.
        run: whose originals and student.
        count: of originals.
        report_line: gets a line for each template, and those of a conversion of the student.
    """
    today.freeze(run.date)
    recipe = Recipe.model_validate(run.recipe)
    student = recipe.student
    originals = _some_originals(store, run, recipe.seed, count)
    path = student_path(workspace, student.model, student.quantization, report_line)
    template_scores: list[TemplateScores] = []
    scorer: VariantScorer | None = None
    histories = has_conversations(store.conn, run.id)
    for name in template_names(recipe.prompts):
        chosen = name == recipe.prompt.template
        loaded = scorer.student if scorer else None
        try:
            scorer = open_variant_scorer(
                store, recipe, path, student.model, student.quantization, name, loaded, histories=histories
            )
        except UserError as error:  # a student without a chat template
            template_scores.append(TemplateScores(name, chosen, **vars(spread([])), problem=str(error)))
            continue
        report_line(f"{name}: scoring {len(originals)} originals ...")
        for _ in scorer.score(originals, "ifd"):
            pass
        template_scores.append(TemplateScores(name, chosen, **vars(spread(_values(scorer, originals)))))
    if scorer is not None:
        scorer.close()
    return template_scores


def _some_originals(store: Store, run: Run, seed: int, count: int) -> list[int]:
    """The same ones for the same seed."""
    every = max(1, store.runs.sample_count(run.id) // _DRAWN_FROM)
    return nsmallest(count, store.corpus.each_original_id(run.id, every), key=draw_of_each(seed, "template"))


def _values(scorer: VariantScorer, variant_ids: list[int]) -> list[float]:
    return [value for value, _ in scorer.scores(variant_ids, "ifd").values() if value is not None]
