"""QLoRA on what the student chose."""

from srtui.training.checkpoints import WrittenCheckpoint
from srtui.training.listener import Listener, TrainingData, TrainingResult
from srtui.training.plan import planned_steps
from srtui.training.preflight import Preflight
from srtui.training.qlora import train

__all__ = [
    "Listener",
    "Preflight",
    "TrainingData",
    "TrainingResult",
    "WrittenCheckpoint",
    "planned_steps",
    "train",
]
