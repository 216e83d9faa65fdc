"""The weights of a combination of measures: a small JSON file that ``srtui choose calibrate --fit`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srtui.errors import UserError
from srtui.fields import mistake
from srtui.files import parse_json, read_text
from srtui.measures import MEASURES

LENGTH = "length"
"""The one part of a combination that is no measure: the logarithm of a response's characters."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class MeasureWeights(BaseModel):
    """A logistic combination: the log odds that one text is better than another are the sum, over measures, of
    weight x (difference of levels, higher preferred).

    ``weights`` are by measure, and ``length``. They hold for the student and the template that they were fitted
    with; ``accuracy`` and ``length_accuracy`` (value, low, high) are the cross-validated agreement with the known
    preferences and that of taking the longer answer, over ``pairs`` pairs of ``data``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: str
    student_id: str
    template: str
    template_version: str
    protocol: str
    data: str
    data_digest: str
    pairs: int
    accuracy: tuple[Finite, Finite, Finite]
    length_accuracy: tuple[Finite, Finite, Finite]
    weights: dict[str, Finite] = Field(min_length=1)
    rater: dict[str, str] | None = None
    """The identity of the rater, where its scores are among the parts."""
    encoder: str | None = None
    """The identity of the sentence encoder, where coherence is among the parts."""

    @property
    def measures(self) -> list[str]:
        """The measures among the parts."""
        return [name for name in self.weights if name != LENGTH]


def read_weights(path: Path) -> MeasureWeights:
    """Raises UserError, one sentence with the file and the field."""
    data = parse_json(read_text(path), str(path))
    try:
        weights = MeasureWeights.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {mistake(error, MeasureWeights)}") from None
    unknown = [name for name in weights.measures if name not in MEASURES or name == "combined"]
    if unknown:
        raise UserError(f"{path}: weights.{unknown[0]} is no measure that can be combined.")
    return weights


def weights_text(weights: MeasureWeights) -> str:
    """The contents of such a file."""
    return json.dumps(weights.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
