"""What is scored is what is trained, and training is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.prompts import template
from srtui.sample import Pair
from srtui.scoring import Scorer, SpanBuilder, Student
from srtui.training import TrainExample, TrainingConfig, planned_steps, train

pytestmark = pytest.mark.model
PAIRS = [
    Pair("Name the capital of Australia.", "", "Canberra is the capital of Australia."),
    Pair("Sort the numbers.", "3, 1, 2", "1, 2, 3"),
]


@pytest.mark.parametrize(
    ("examples", "epochs", "batch", "micro", "steps"),
    [(10, 1, 4, 2, 3), (10, 2, 4, 4, 6), (1, 3, 16, 4, 3), (0, 3, 16, 4, 0), (17, 0.5, 4, 4, 3)],
)
def test_planned_steps(examples: int, epochs: float, batch: int, micro: int, steps: int) -> None:
    assert (
        planned_steps(examples, TrainingConfig(epochs=epochs, batch_size=batch, micro_batch_size=micro))
        == steps
    )


def test_the_first_loss_is_the_scorers_and_training_lowers_it(student_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    student = Student.load(student_folder, "nf4")
    builder = SpanBuilder(student.tokenizer, template("alpaca"), "default", 256)
    spans = [builder.forward(pair)[0] for pair in PAIRS]
    scored = dict(Scorer(student).score(spans))  # type: ignore[arg-type]
    one = TrainExample(spans[0].ids, spans[0].target)  # type: ignore[union-attr]
    metrics: list[tuple[int, dict[str, float]]] = []
    config = TrainingConfig(
        epochs=6, batch_size=1, micro_batch_size=1, learning_rate=5e-4, lora_rank=4, lora_dropout=0.0, seed=3
    )
    result = train(
        student_folder,
        [one],
        {"other": [TrainExample(spans[1].ids, spans[1].target)]},  # type: ignore[union-attr]
        config,
        tmp_path / "adapter",
        on_metric=lambda step, values: metrics.append((step, values)),
        student=student,
    )
    assert result.first_loss == pytest.approx(scored[0].mean, rel=2e-3)
    assert result.last_loss < result.first_loss * 0.9
    assert [step for step, _ in metrics] == list(range(1, planned_steps(1, config) + 1))
    assert result.held_out["other"]["before"] == pytest.approx(scored[1].mean, rel=2e-3)
    assert sorted(p.suffix for p in result.adapter_dir.iterdir() if "adapter" in p.name) == [
        ".json",
        ".safetensors",
    ]
    fresh = Student.load(student_folder, "nf4")
    fresh.model = PeftModel.from_pretrained(fresh.model, result.adapter_dir).eval()
    (_, after), *_ = Scorer(fresh).score([spans[0]])  # type: ignore[list-item]
    assert after.mean < scored[0].mean * 0.9


def test_a_stop_writes_no_adapter(student_folder: Path, tmp_path: Path) -> None:
    student = Student.load(student_folder, "nf4")
    span, _ = SpanBuilder(student.tokenizer, template("alpaca"), "default", 256).forward(PAIRS[0])
    example = TrainExample(span.ids, span.target)  # type: ignore[union-attr]
    steps: list[int] = []
    result = train(
        student_folder,
        [example] * 4,
        {},
        TrainingConfig(epochs=3, batch_size=1, micro_batch_size=1, lora_rank=4),
        tmp_path / "adapter",
        on_metric=lambda step, values: steps.append(step),
        should_stop=lambda: bool(steps),
        student=student,
    )
    assert result.steps < 12
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.iterdir())
