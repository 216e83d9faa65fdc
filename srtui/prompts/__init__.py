"""The words around the data: the student's prompt templates, and prompt files that replace them."""

from srtui.prompts.prompt_set import PromptSet, TeacherPrompts, Wording, read_prompts
from srtui.prompts.templates import (
    REVERSE_REQUEST,
    TEMPLATE_NAMES,
    PromptTemplate,
    template,
    template_names,
    template_version,
)

__all__ = [
    "REVERSE_REQUEST",
    "TEMPLATE_NAMES",
    "PromptSet",
    "PromptTemplate",
    "TeacherPrompts",
    "Wording",
    "read_prompts",
    "template",
    "template_names",
    "template_version",
]
