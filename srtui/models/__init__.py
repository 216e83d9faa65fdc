"""Models: the catalogue, what a workspace has, what a file says about itself, conversions and exports.

Everything here works on files; torch, transformers and llama.cpp run only in processes of their own.
"""

from srtui.models.adding import add
from srtui.models.catalogue import (
    CatalogueEntry,
    ModelEntry,
    find,
    list_models,
    read_catalogue,
    resolve_student,
    resolve_teacher,
)
from srtui.models.convert import QUANTIZATIONS, gguf_to_safetensors, quantize
from srtui.models.export import FORMS, Exported, Form, export_model
from srtui.models.formats import file_sha256, inspect
from srtui.models.info import ModelInfo

__all__ = [
    "FORMS",
    "QUANTIZATIONS",
    "CatalogueEntry",
    "Exported",
    "Form",
    "ModelEntry",
    "ModelInfo",
    "add",
    "export_model",
    "file_sha256",
    "find",
    "gguf_to_safetensors",
    "inspect",
    "list_models",
    "quantize",
    "read_catalogue",
    "resolve_student",
    "resolve_teacher",
]
