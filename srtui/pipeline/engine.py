"""The loop itself: reflect, choose, reflect, choose, train.

One process works on a run. What is still to do is read off the store at the start of every stage,
so a run that was killed at any instant resumes where it was; every unit of work is one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from srtui import today
from srtui.errors import UserError
from srtui.gpu_errors import gpu_sentence
from srtui.llama import Teacher
from srtui.llama.last_words import at_the_end
from srtui.pipeline.ahead import in_pages
from srtui.pipeline.choose import Choosing
from srtui.pipeline.context import Context
from srtui.pipeline.place import Place
from srtui.pipeline.reflect import PAGE, Reflecting
from srtui.pipeline.template_check import template_checked
from srtui.pipeline.train import train_selected
from srtui.pipeline.watch import Watch
from srtui.progress import Reporter, Stopped
from srtui.recipe import Recipe
from srtui.reflection import Criteria, ReflectionPrompt, load_criteria
from srtui.sample import Target
from srtui.store import Store
from srtui.store.figures import means
from srtui.store.runs import Run
from srtui.workspace import Workspace


class Engine:
    """Works on one run until it is done, stopped, or past stage ``until``.

    ``should_stop`` is asked often (each decode step, each batch, each training step) and must be
    cheap. ``teacher`` is for tests that need failures on demand.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        run: Run,
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
        teacher: Teacher | None = None,
        before: Mapping[str, float] | None = None,
        place: Place | None = None,
    ) -> None:
        """``before``: by step, the seconds that this process spent on the run before this call. ``place``: where its
        models run, by default in this process."""
        self._store, self._run, self._before = store, run, before or {}
        self._watch = Watch(store, run.id, reporter, should_stop, place.workers if place else None)
        self._context = Context(workspace, store, run, self._watch, teacher, place)

    def work(self, until: str | None = None) -> Run:
        """Run all stages that are left. Raises Stopped when asked to stop, UserError on bad input;
        in either case the store says so and the run can be resumed later."""
        runs, run_id, watch = self._store.runs, self._run.id, self._watch
        today.freeze(self._run.date)
        watch.lease = runs.acquire(run_id)
        # A request that came while this process was starting is meant for it.
        runs.drop_requests(run_id, before=psutil.Process().create_time())
        runs.update(run_id, status="running", started_at=self._run.started_at or time.time(), error=None)
        try:
            for step, seconds in self._before.items():
                watch.record_step(step, seconds)
            self._context.refuse_other_words()
            with at_the_end(self._is_ending):
                for stage, work in self._stages():
                    runs.update(run_id, stage=stage)
                    watch.start(stage)
                    work()
                    watch.note_memory()
                    self._store.checkpoint()
                    if stage == until:
                        runs.update(run_id, status="stopped")
                        return runs.get(run_id)
            watch.raise_if_lost()
            means(self._store, run_id)  # keeps the sums of the run's summary, for readers that may not write
            runs.update(run_id, status="done", stage=None, finished_at=time.time())
        except (Stopped, KeyboardInterrupt):
            if watch.lost:
                raise UserError(watch.lost) from None
            runs.update(run_id, status="stopped")
            raise
        except BaseException as error:
            if watch.lost:
                raise UserError(watch.lost) from error
            sentence = gpu_sentence(error)
            self._note_failure(sentence or str(error) or type(error).__name__)
            if sentence:
                raise UserError(sentence) from error
            raise
        finally:
            self._context.close_teacher()
            self._context.unload_students()
            self._context.close_encoder()
            watch.note_memory()
            watch.lease.release()
            self._store.checkpoint()
        return runs.get(run_id)

    def _note_failure(self, sentence: str) -> None:
        self._store.runs.update(self._run.id, status="failed", error=sentence)
        self._watch.event("error", sentence)

    def _is_ending(self, sentence: str) -> None:
        """llama.cpp ends this process: what is known of it is stored, and the run is free to be resumed."""
        if self._watch.lost:
            return
        self._store.conn.rollback()  # what was being written when it happened
        self._note_failure(sentence)
        if self._watch.lease is not None:
            self._watch.lease.release()

    def _stages(self) -> Iterator[tuple[str, Callable[[], None]]]:
        context, reflection = self._context, self._context.recipe.reflection
        yield "reflect-instruction", lambda: self._reflect("instruction", reflection.instruction_criteria)
        yield "choose-instruction", lambda: Choosing(context).instruction()
        yield "reflect-response", lambda: self._reflect("response", reflection.response_criteria)
        yield "choose-response", lambda: Choosing(context).response()
        if context.recipe.training.enabled:
            yield "train", lambda: train_selected(context)

    def _reflect(self, target: Target, criteria_name: str) -> None:
        store, run_id = self._store, self._run.id
        by = self._context.recipe.selection
        kept = (by.instruction_by if target == "instruction" else by.response_by) == "original"
        done = store.generations.reflected(run_id, target) >= self._context.sample_count
        if done and (kept or target == "response"):
            return
        pages = in_pages(
            lambda after, size: store.generations.to_reflect(run_id, target, after, size),
            PAGE,
            lambda sample_and_variant: sample_and_variant[0],
        )
        if kept:
            for page in pages:
                store.generations.leave_unasked(run_id, target, page)
                if self._watch.should_stop():
                    raise Stopped
            return
        recipe = self._context.recipe
        criteria = criteria_of(recipe, Path(self._run.recipe_path), target, criteria_name)
        with template_checked(self._context, target) as look:
            if done:  # it was killed while the template was being checked
                return
            self._watch.start(f"reflect-{target}")
            Reflecting(self._context, ReflectionPrompt(criteria, recipe), look).work(pages)


def criteria_of(recipe: Recipe, recipe_path: Path, target: Target, name: str) -> Criteria:
    """The criteria that a recipe names; where it names none, those of its prompts file, and then the shipped ones.

    Args:
        recipe: of the run.
        recipe_path: files are looked for beside it.
        target: which side is rewritten.
        name: of the criteria, as the recipe has it.
    """
    prompts = recipe.prompts
    words = getattr(prompts.teacher, target) if prompts else None
    if prompts and words and name == target:
        return Criteria.of_prompts(prompts.name, target, words)
    return load_criteria(name, target, recipe_path.parent)
