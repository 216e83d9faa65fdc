"""A run's models in workers of a Ray cluster; see :class:`srtui.pipeline.place.Place` for what each method is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from srtui import today
from srtui.cluster.address import ClusterAddress
from srtui.cluster.placement import Seat, seats
from srtui.cluster.pool import Pool
from srtui.cluster.session import Session
from srtui.cluster.worker_limits import Limits
from srtui.cluster.worker_messages import ModelFiles, ShippedFolder, WorkerFacts
from srtui.llama import Teacher
from srtui.progress import Report, Stopped
from srtui.recipe import TeacherSettings

if TYPE_CHECKING:
    from srtui.cluster.training_gang import TrainingGang
    from srtui.evaluation.contestants import Contestant
    from srtui.evaluation.evaluation_place import Judge
    from srtui.evaluation.judge_model import JudgeModel
    from srtui.evaluation.writing import AnswerSettings, AnswerWriter
    from srtui.student import Student, StudentSource
    from srtui.training import Listener, TrainingData, TrainingResult

_NOT_A_WORKERS = {"model", "adapter", "from_run", "endpoint", "allow_remote", "chat_template"}


class ClusterPlace:
    """Teachers and students of one engine as workers on ``address``."""

    def __init__(
        self,
        address: ClusterAddress,
        workers: int | None = None,
        limits: Limits | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts Ray, or joins the cluster. Raises UserError where that cannot be.

        Args:
            address: of the cluster, or this machine.
            workers: how many there are of a kind; by default one a GPU, and without GPUs one a node.
            limits: of a worker's silence and failures.
            should_stop: asked while models are loaded.
        """
        self._session = Session(address)
        self._limits, self._should_stop = limits or Limits(), should_stop
        self._pools: list[Pool] = []
        self._gang: TrainingGang | None = None
        try:
            self._seats = seats(self._session.nodes(), workers)
        except BaseException:
            self._session.close()
            raise

    @property
    def sentence(self) -> str:
        """Where models run, for a run's log."""
        count = len(self._seats)
        device = "GPU" if self.takes_turns else "CPU"
        nodes = len(self._session.nodes())
        return (
            f"Models run on Ray ({self._session.address}): {count} worker{'s' * (count != 1)} of a kind, by {device}, on "
            f"{nodes} node{'s' * (nodes != 1)}."
        )

    @property
    def takes_turns(self) -> bool:
        """Where workers have GPUs."""
        return any(seat.gpu for seat in self._seats)

    @property
    def parallel(self) -> int:
        """How many workers there are of a kind."""
        return len(self._seats)

    def teacher(self, path: Path, settings: TeacherSettings, report: Report) -> Teacher:
        """The teacher in the file at ``path``, in each worker."""
        from srtui.cluster.cluster_teacher import ClusterTeacher
        from srtui.cluster.teacher_job import TeacherJob

        files = ModelFiles.of(path)
        adapter = ShippedFolder.of(Path(settings.adapter)) if settings.adapter else None
        file_settings = settings.model_dump(exclude=_NOT_A_WORKERS)
        day = today.now().date().isoformat()

        def job(seat: Seat) -> TeacherJob:
            threads = (
                file_settings["threads"] if file_settings["threads"] != "auto" or seat.gpu else seat.threads
            )
            return TeacherJob(
                files, settings.model, {**file_settings, "threads": threads}, adapter, day, seat.device
            )

        pool = Pool(self._session, "teacher", self._seats, job, self._limits, report)
        facts = self._opened(pool)
        return ClusterTeacher(pool, facts.same)

    def student(self, source: StudentSource, report: Report) -> tuple[Student, Any]:
        """The student of ``source`` in each worker, and its scorer."""
        from srtui.cluster.cluster_scorer import ClusterScorer, ClusterStudent
        from srtui.cluster.scorer_job import ScorerJob, StudentFacts
        from srtui.student.model import read_tokenizer

        files = ModelFiles.of(source.path)
        shipped = ShippedFolder.of(source.adapter) if source.adapter else None

        def job(seat: Seat) -> ScorerJob:
            return ScorerJob(
                files, source.quantization, source.batch_tokens, shipped, seat.threads, seat.device
            )

        pool = Pool(self._session, "student", self._seats, job, self._limits, report)
        facts = self._opened(pool)
        for note in facts.more["notes"]:
            report("warning", note)
        same = cast("StudentFacts", facts.same)
        tokenizer = read_tokenizer(source.path, source.quantization)
        return ClusterStudent.of(pool, same, source.quantization, tokenizer), ClusterScorer(pool, same)

    def train(
        self,
        student: Student,
        source: StudentSource,
        data: TrainingData,
        out_dir: Path,
        listener: Listener,
        should_stop: Callable[[], bool],
    ) -> TrainingResult | None:
        """Train in workers, one a device, together.

        Args:
            student: whose scorers make room.
            source: of the same student.
            data: what it is trained on, and how.
            out_dir: of the adapter.
            listener: hears steps and losses.
            should_stop: asked before each pass.
        """
        from srtui.cluster.training_gang import TrainingGang
        from srtui.cluster.training_worker import TrainingTask

        shipped = ShippedFolder.of(source.adapter) if source.adapter else None
        task = TrainingTask(ModelFiles.of(source.path), source.quantization, shipped, data)
        identity = student.id
        student.close()
        self._gang = TrainingGang(self._session, self._seats, task, identity, self._limits)
        try:
            return self._gang.train(out_dir, listener, should_stop)
        finally:
            self._gang = None

    # -- evaluations: see srtui.evaluation.evaluation_place.EvaluationPlace --

    def writer(self, contestant: Contestant, writing: AnswerSettings, report: Report) -> AnswerWriter:
        """The contestant in each worker."""
        from srtui.cluster.cluster_evaluation import ClusterWriter
        from srtui.cluster.evaluation_jobs import WriterJob
        from srtui.evaluation.writing import GgufWriter

        if contestant.kind == "gguf":
            adapter = str(contestant.adapter) if contestant.adapter else None
            settings = TeacherSettings(model=contestant.name, adapter=adapter)
            return GgufWriter(contestant, writing, self.teacher(contestant.path, settings, report))
        files = ModelFiles.of(contestant.path)
        shipped = ShippedFolder.of(contestant.adapter) if contestant.adapter else None
        day = today.now().date().isoformat()

        def job(seat: Seat) -> WriterJob:
            return WriterJob(files, shipped, contestant, writing, day, seat.threads, seat.device)

        pool = Pool(self._session, "writer", self._seats, job, self._limits, report)
        self._opened(pool)
        return ClusterWriter(pool, contestant, writing, self.takes_turns)

    def judge(self, model: JudgeModel, report: Report) -> Judge:
        """The judge in each worker, while it is asked."""
        from srtui.cluster.cluster_evaluation import ClusterJudge
        from srtui.cluster.evaluation_jobs import JudgeJob

        def scorers() -> Pool:
            files = ModelFiles.of(model.path)

            def job(seat: Seat) -> JudgeJob:
                return JudgeJob(files, model, seat.threads, seat.device)

            pool = Pool(self._session, "judge", self._seats, job, self._limits, report)
            self._opened(pool)
            return pool

        settings = TeacherSettings(model=model.name)
        return ClusterJudge(model, scorers, lambda: self.teacher(model.path, settings, report))

    def _opened(self, pool: Pool) -> WorkerFacts:
        """What the first worker says; Stopped where it was stopped meanwhile."""
        self._pools = [*(p for p in self._pools if not p.closed), pool]
        try:
            facts = pool.open(self._should_stop)
            if facts is None:
                raise Stopped
            return facts
        except BaseException:
            pool.close()
            raise

    def workers(self) -> list[dict[str, Any]]:
        """What each worker is doing."""
        if self._gang is not None:
            return self._gang.workers()
        return [row for pool in self._pools if not pool.closed for row in pool.workers()]

    def close(self) -> None:
        """End all workers, and Ray where it was started here."""
        for pool in self._pools:
            pool.close()
        self._session.close()
