"""QLoRA on what the student chose."""

from srtui.training.qlora import TrainExample, TrainingConfig, TrainingResult, planned_steps, train

__all__ = ["TrainExample", "TrainingConfig", "TrainingResult", "planned_steps", "train"]
