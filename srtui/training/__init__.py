"""QLoRA on what the student chose."""

from srtui.training.checkpoints import WrittenCheckpoint
from srtui.training.plan import TrainExample, TrainingConfig, planned_steps, training_example
from srtui.training.preflight import Preflight
from srtui.training.qlora import Listener, TrainingResult, train

__all__ = [
    "Listener",
    "Preflight",
    "TrainExample",
    "TrainingConfig",
    "TrainingResult",
    "WrittenCheckpoint",
    "planned_steps",
    "train",
    "training_example",
]
