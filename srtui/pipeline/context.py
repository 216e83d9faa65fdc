"""What every stage of a run works with: its recipe, the store, the models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from srtui import models
from srtui.errors import UserError
from srtui.evaluation.contestants import students_template_version
from srtui.llama import Teacher
from srtui.llama.endpoint import EndpointTeacher
from srtui.measures import STORED
from srtui.pipeline.place import Place, ThisProcess, has_gpu
from srtui.pipeline.recipe_models import (
    CHUNK,
    devices_factor,
    endpoint_template,
    open_variant_scorer,
    student_path,
)
from srtui.pipeline.watch import Watch
from srtui.prompts import template_version
from srtui.recipe import Recipe
from srtui.recipe.server_address import parse_address
from srtui.store import Store
from srtui.store.conversations import has_conversations
from srtui.store.corpus import Variant, batched
from srtui.store.runs import Run
from srtui.store.scores import ScoringSetting
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.evaluation.rater import Rater
    from srtui.pipeline.embedding import Embedder
    from srtui.pipeline.variants import VariantScorer
    from srtui.student import Quantization, Student
    from srtui.student.sentence_encoder import SentenceEncoder


class Context:
    """A run at work. Models are opened when they are first needed, in ``place``, and where a device rarely holds
    both, the teacher goes before the student comes and the other way round."""

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        run: Run,
        watch: Watch,
        teacher: Teacher | None = None,
        place: Place | None = None,
    ) -> None:
        self.workspace, self.store, self.run, self.watch = workspace, store, run, watch
        self.place = place or ThisProcess()
        self.recipe = Recipe.model_validate(run.recipe)
        self._teacher = teacher
        self._variant_scorer: VariantScorer | None = None
        self._proxy: VariantScorer | None = None
        self._tuned: VariantScorer | None = None
        self._encoder: SentenceEncoder | None = None
        self._rater: Rater | None = None
        self._adopted: tuple[tuple[str, str], Student] | None = None  # loaded, and of no scorer yet

    @property
    def sample_count(self) -> int:
        """How many samples the run has."""
        return self.store.runs.sample_count(self.run.id)

    @property
    def chunk(self) -> int:
        """How many samples a choosing stage works on together."""
        return CHUNK * devices_factor(self.place.parallel)

    def variants(self, places: list[tuple[int, int]]) -> Iterator[tuple[int, Variant]]:
        """(sample id, variant) of pairs of ids, read in chunks."""
        for chunk in batched(places, CHUNK):
            variants = self.store.corpus.variants(v for _, v in chunk)
            for sample_id, variant_id in chunk:
                yield sample_id, variants[variant_id]

    # -- models

    def teacher(self) -> Teacher:
        """The recipe's teacher, opened when it is first asked for; on a GPU the students go first. Stores
        its identity with the run."""
        if self.place.takes_turns:
            self.unload_students()
            self.close_encoder()
        if self._teacher is None:
            settings = self.recipe.teacher
            self._teacher = self._endpoint() if settings.endpoint else self._of_a_file()
        self.store.runs.update(self.run.id, teacher=json.dumps(asdict(self._teacher.identity)))
        return self._teacher

    def _of_a_file(self) -> Teacher:
        settings = self.recipe.teacher
        with self._loading("load-teacher", f"teacher {settings.model}"):
            path = models.resolve_teacher(self.workspace.models, settings.model)
            return self.place.teacher(path, settings, self.watch.event)

    def _endpoint(self) -> Teacher:
        """The teacher that a server has; raises UserError where it does not answer, or may not be asked."""
        settings = self.recipe.teacher
        address = parse_address(settings.endpoint or "", allow_remote=settings.allow_remote)
        if not address.is_local:
            self.watch.event(
                "warning",
                f"The teacher is another machine's, {address}: the texts of the data are sent there.",
            )
        with self._loading("load-teacher", f"teacher {settings.model} at {address}"):
            teacher = EndpointTeacher(
                address,
                model=settings.model,
                template=endpoint_template(
                    self.workspace.models, settings, Path(self.run.recipe_path).parent
                ),
                in_flight=settings.slots,
                report_line=self.watch.event,
            )
        self.watch.event(
            "info",
            f"The teacher {teacher.identity.name} runs in a server, at {address}: its weights cannot be hashed, so "
            "that nobody can tell later whether they were the same all along.",
        )
        return teacher

    def variant_scorer(self) -> VariantScorer:
        """The recipe's student, which chooses and is then trained."""
        if self._variant_scorer is None:
            student = self.recipe.student
            self._variant_scorer = self._load(student.model, student.quantization)
            before = self.store.runs.get(self.run.id).setting_id
            now = self.store.scores.setting_by_id(self._variant_scorer.setting_id)
            self._refuse_where(lambda began: now is None or began[-2:] != now[-2:])
            if before not in (None, self._variant_scorer.setting_id):
                self._score_again(self._variant_scorer, before)
            self.store.runs.update(self.run.id, setting_id=self._variant_scorer.setting_id)
        return self._variant_scorer

    def _score_again(self, scorer: VariantScorer, before: int) -> None:
        """The student, or how it is run, is not what it was when this run began: what was scored then is
        scored now, so that all scores of the run are of one kind. Raises Stopped when asked to stop."""
        scored = self.store.scores.scored_in_run(self.run.id, before)
        count = len(set().union(*scored.values()))
        self.watch.event(
            "warning",
            f"The student's identity is not what it was when this run began (its weights, template files or "
            f"device, or srtui's way of naming them): {count} texts are scored again.",
        )
        for metric in STORED:
            for _ in scorer.score(scored[metric], metric, self.watch.should_stop):
                pass
            self.watch.raise_if_stopped()

    def proxy(self) -> VariantScorer:
        """The smaller student that decides what is clear."""
        if self._proxy is None:
            scoring = self.recipe.scoring
            self._proxy = self._load(scoring.proxy, scoring.proxy_quantization)
        return self._proxy

    def tuned(self, adapter: Path) -> VariantScorer:
        """The recipe's student with an adapter; it is trained further, and chooses nothing."""
        if self._tuned is None:
            self.unload_students()
            student = self.recipe.student
            self._tuned = self._load(student.model, student.quantization, adapter)
        return self._tuned

    def encoder(self) -> SentenceEncoder:
        """For choices by coherence, and for embeddings that are not the student's."""
        from srtui.student.sentence_encoder import SentenceEncoder

        if self._encoder is None:
            path = models.find(self.workspace.models, self.recipe.selection.encoder)
            with self._loading("load-encoder", f"sentence encoder {path.name}"):
                self._encoder = SentenceEncoder(path)
        return self._encoder

    def embedder(self) -> Embedder:
        """What makes the embeddings that the run chooses by: its student, or its encoder. The run remembers which."""
        from srtui.pipeline.embedding import EncoderEmbedder

        if self.recipe.selection.embedded_by == "student":
            return self.variant_scorer()
        embedder = EncoderEmbedder(self.store, self.encoder())
        self.store.runs.update(self.run.id, embedding_setting_id=embedder.setting_id)
        return embedder

    def rater(self) -> Rater:
        """The GGUF that rates texts: the recipe's, or the teacher. It holds no memory between two questions."""
        from srtui.evaluation.rater import Rater

        if self._rater is None:
            name = self.recipe.selection.rater or self.recipe.teacher.model
            self._rater = Rater(self.store, self.workspace.models, name)
        if self.place.takes_turns or has_gpu():  # it runs in this process
            self.close_teacher()
            self.unload_students()
            self.close_encoder()
        return self._rater

    def close_teacher(self) -> None:
        """Free the teacher's memory."""
        if self._teacher is not None:
            self._teacher.close()
            self._teacher = None

    def close_encoder(self) -> None:
        """Free the sentence encoder's memory."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def unload_students(self) -> None:
        """Free the students' memory, all of it, before anything else is loaded: a teacher's layers are
        planned by what is free."""
        for scorer in (self._variant_scorer, self._proxy, self._tuned):
            if scorer is not None:
                scorer.close()
        self._variant_scorer = self._proxy = self._tuned = None
        if self._adopted is not None:
            self._adopted[1].close()
            self._adopted = None

    # -- a student that another thread loads

    @property
    def checking_student(self) -> tuple[str, Quantization]:
        """Name and quantization of the student that scores first: the proxy, where there is one."""
        scoring, student = self.recipe.scoring, self.recipe.student
        if scoring.proxy:
            return scoring.proxy, scoring.proxy_quantization
        return student.model, student.quantization

    @property
    def has_students(self) -> bool:
        """Whether a student is loaded."""
        students = (self._variant_scorer, self._proxy, self._tuned, self._adopted)
        return any(student is not None for student in students)

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher is open."""
        return self._teacher is not None

    def student_path(self) -> Path:
        """Where the student lies that scores first; it may have to be made of a GGUF."""
        name, quantization = self.checking_student
        return student_path(self.workspace, name, quantization, lambda line: self.watch.event("info", line))

    def load_student(self, path: Path, report_line: Callable[[str, str], None]) -> Student:
        """The student that scores first, for any thread: nothing of it touches the store."""
        from srtui.student import Student

        _, quantization = self.checking_student
        return Student.load(path, quantization, report_line=lambda line: report_line("warning", line))

    def adopt(self, student: Student, seconds: float) -> None:
        """Take a student that ``load_student`` loaded in so many seconds, for when it is first asked."""
        name, quantization = self.checking_student
        self._adopted = (name, quantization), student
        self.watch.record_step("load-student", seconds)
        self.watch.event("info", f"Loaded student {name} in {quantization} in {seconds:.1f} s.")

    def _load(self, name: str, quantization: Quantization, adapter: Path | None = None) -> VariantScorer:
        def report_info(line: str) -> None:
            self.watch.event("info", line)

        histories = has_conversations(self.store.conn, self.run.id)
        if self._adopted is not None and self._adopted[0] == (name, quantization) and adapter is None:
            student, self._adopted = self._adopted[1], None
            path = student_path(self.workspace, name, quantization, report_info)
            variant_scorer = open_variant_scorer(
                self.store, self.recipe, path, name, quantization, student=student, histories=histories
            )
        else:
            with self._loading("load-student", f"student {name} in {quantization}"):
                from srtui.student import StudentSource

                if self.place.takes_turns:
                    self.close_teacher()
                    self.close_encoder()
                path = student_path(self.workspace, name, quantization, report_info)
                source = StudentSource(path, quantization, self.recipe.scoring.batch_tokens, adapter)
                student, scorer = self.place.student(source, self.watch.event)
                variant_scorer = open_variant_scorer(
                    self.store,
                    self.recipe,
                    path,
                    name,
                    quantization,
                    student=student,
                    scorer=scorer,
                    devices=self.place.parallel,
                    histories=histories,
                )
        if variant_scorer.longest is not None and variant_scorer.longest < self.recipe.prompt.max_length:
            self.watch.event(
                "warning",
                f"{name} has positions for {variant_scorer.longest:,} tokens: texts are cut there, and not at "
                f"prompt.max_length = {self.recipe.prompt.max_length:,}.",
            )
        if variant_scorer.why_padded:
            self.watch.event("info", f"Texts for {name} are not packed: {variant_scorer.why_padded}.")
        return variant_scorer

    def refuse_other_words(self) -> None:
        """Raises UserError where the run's choices were begun under other words of its template: it does not
        continue under these, and no model is loaded for it. Where only the student's own tokenizer knows its words
        and cannot be read, ``variant_scorer`` says it."""
        student, prompts = self.recipe.student, self.recipe.prompts
        name, now = self.recipe.prompt.template, None
        if name != "chat":
            now = template_version(name, prompts)
        elif student.quantization != "gguf":
            with suppress(UserError):
                path = models.find(self.workspace.models, student.model)
                now = students_template_version(name, prompts, path)
        if now is not None:
            self._refuse_where(lambda began: began.template_version != now)

    def _refuse_where(self, differs: Callable[[ScoringSetting], bool]) -> None:
        """Raises UserError where the run is in the midst of choosing, under a way of scoring that ``differs``."""
        began = self.store.scores.setting_by_id(self.run.setting_id)
        if began is None:
            return
        decisions = self.store.decisions
        if not decisions.any_made(self.run.id) or decisions.settled(self.run.id) >= self.sample_count:
            return
        if differs(began):
            raise UserError(
                f"Run {self.run.name} began to choose under other words of the {self.recipe.prompt.template!r} "
                "template than srtui has now, or another layout of histories, and their scores do not compare; start "
                f"it under another name, with --set name={self.run.name}-2: what the teacher wrote is used again."
            )

    @contextmanager
    def _loading(self, step: str, title: str) -> Iterator[None]:
        started = time.monotonic()
        with self.watch.step(step):
            yield
        self.watch.event("info", f"Loaded {title} in {time.monotonic() - started:.1f} s.")
