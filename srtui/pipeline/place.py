"""Where the models of a run are: in the engine's own process, or elsewhere.

A stage asks its context for a teacher or a student and does not know. What runs them in other processes
(srtui.cluster) has the same methods.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from srtui import models
from srtui.evaluation.evaluation_place import EvaluationPlace, OwnProcess
from srtui.llama import Teacher, open_teacher
from srtui.llama.tuning import tuned
from srtui.progress import Report
from srtui.recipe import TeacherSettings

if TYPE_CHECKING:
    from srtui.student import Student, StudentSource
    from srtui.training import Listener, TrainingData, TrainingResult

NOT_THE_FILES = {"model", "adapter", "from_run", "endpoint", "allow_remote", "chat_template"}
"""Keys of [teacher] that say which model it is, and not how its file is run."""


class Place(EvaluationPlace, Protocol):
    """Runs models for one engine, and for evaluations."""

    @property
    def takes_turns(self) -> bool:
        """Whether a teacher has to go before a student comes, since both lie on one device."""

    @property
    def parallel(self) -> int:
        """How many devices score at a time."""

    def teacher(self, path: Path, settings: TeacherSettings, report: Report) -> Teacher:
        """The teacher in the file at ``path``; ``report`` gets (level, sentence)."""

    def train(
        self,
        student: Student,
        source: StudentSource,
        data: TrainingData,
        out_dir: Path,
        listener: Listener,
        should_stop: Callable[[], bool],
    ) -> TrainingResult | None:
        """As :func:`srtui.training.train` does; ``student`` is open, and is closed or has an adapter afterwards.

        Args:
            student: as ``student`` gave it.
            source: of the same student.
            data: what it is trained on, and how.
            out_dir: of the adapter.
            listener: hears steps and losses.
            should_stop: asked before each pass.
        """

    def workers(self) -> list[dict[str, Any]]:
        """What each process that runs a model is doing, for faces; none where the engine runs them itself."""

    def close(self) -> None:
        """Give everything back that is not a teacher's or a student's to give back."""


class ThisProcess(OwnProcess):
    """The engine's own process, on the device that llama.cpp and torch find."""

    parallel = 1

    @property
    def takes_turns(self) -> bool:
        """On a GPU, which rarely holds both."""
        return has_gpu()

    def teacher(self, path: Path, settings: TeacherSettings, report: Report) -> Teacher:
        """See :meth:`Place.teacher`."""
        measured = tuned(path) if settings.slots == "auto" else None
        if measured:
            settings = settings.model_copy(update={"slots": measured.slots})
        return open_teacher(
            path,
            name=settings.model,
            sha256=models.file_sha256(path),
            adapter=Path(settings.adapter) if settings.adapter else None,
            report_line=report,
            **settings.model_dump(exclude=NOT_THE_FILES),
        )

    def train(
        self,
        student: Student,
        source: StudentSource,
        data: TrainingData,
        out_dir: Path,
        listener: Listener,
        should_stop: Callable[[], bool],
    ) -> TrainingResult | None:
        """See :meth:`Place.train`.

        Args:
            student: is given adapters in place.
            source: of the same student.
            data: what it is trained on, and how.
            out_dir: of the adapter.
            listener: hears steps and losses.
            should_stop: asked before each pass.
        """
        from srtui.training import train

        return train(
            source.path,
            data.examples,
            data.held_out,
            data.settings,
            out_dir,
            listener,
            should_stop=should_stop,
            student=student,
            held_out_pairs=data.held_out_pairs,
        )

    def workers(self) -> list[dict[str, Any]]:
        """None: the engine runs its models itself."""
        return []

    def close(self) -> None:
        """Nothing is left open."""


def has_gpu() -> bool:
    """Whether PyTorch has one on this machine, or llama.cpp by a driver of its own."""
    from srtui.llama.devices import gpus

    return _torch_has_gpu() or bool(gpus())


def _torch_has_gpu() -> bool:
    """Where nothing of a GPU's driver is there PyTorch has none, and is not imported for that: it takes seconds, and a
    run's first request waits for the answer."""
    if "torch" not in sys.modules and sys.platform == "linux" and not _has_driver():
        return False
    import torch

    return bool(torch.cuda.is_available())


def _has_driver() -> bool:
    """Whether CUDA's driver can be loaded, or ROCm's has made its device."""
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return Path("/dev/kfd").exists()
