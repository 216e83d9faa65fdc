"""A recipe: everything that a run depends on, in TOML, validated, with the paper's values as defaults.

``settings``, ``teacher``, ``training`` and ``gates`` have the keys, ``loading`` reads files, ``reference`` describes the keys.
"""

from srtui.recipe.loading import from_words, load, parse
from srtui.recipe.section import MOST, Quantization
from srtui.recipe.settings import (
    By,
    PromptSettings,
    Recipe,
    ScoringSettings,
    SelectionSettings,
    StudentSettings,
)
from srtui.recipe.teacher import ReflectionSettings, SamplingSettings, TeacherSettings
from srtui.recipe.training import TrainingSettings

__all__ = [
    "MOST", "By", "PromptSettings", "Quantization", "Recipe", "ReflectionSettings", "SamplingSettings",
    "ScoringSettings", "SelectionSettings", "StudentSettings", "TeacherSettings", "TrainingSettings",
    "from_words", "load", "parse",
]  # fmt: skip
