"""The models of a workspace: what the catalogue can fetch, what is here, and which file a name means.

``models/`` holds GGUF files (``NAME.QUANTIZATION.gguf``) for teachers and folders of safetensors
for students; a file's name without ``.gguf``, or a folder's name, is the name to call it by. Of a
catalogue entry the name alone is enough: the teacher is its derived quantization, the student its
folder.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from srtui.errors import UserError
from srtui.files import expand_home, parse_toml, read_text, remembered
from srtui.models.convert import PROVENANCE, QUANTIZATIONS, ReportLine, gguf_to_safetensors
from srtui.models.formats import file_sha256, inspect
from srtui.models.gguf_header import read_gguf
from srtui.models.info import ModelInfo
from srtui.models.safetensors_folder import read_safetensors_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class CatalogueEntry:
    """One table of ``models.toml``; its fields are explained at the top of that file."""

    name: str
    title: str
    family: str
    licence: str
    licence_note: str
    distribution: str
    version: str
    member: str
    quantization: str
    sha256: str
    size: int
    teacher: str
    student: bool

    @property
    def source_file(self) -> str:
        """The file's name as it is fetched."""
        return f"{self.name}.{self.quantization}.gguf"

    @property
    def teacher_file(self) -> str:
        """The name of the file that the teacher is."""
        return f"{self.name}.{self.teacher or self.quantization}.gguf"


@dataclass(frozen=True)
class ModelEntry:
    """A model that is in the workspace. ``info`` is without hash; None where ``problem`` says why."""

    name: str
    kind: Literal["gguf", "safetensors"]
    path: Path
    size: int
    info: ModelInfo | None
    problem: str | None = None


def read_catalogue(models: Path) -> dict[str, CatalogueEntry]:
    """What ``models.toml`` in the folder ``models`` offers, by name. Raises UserError for a bad file."""
    file = models / "models.toml"
    if not os.path.lexists(file):
        raise UserError(f"{file} is missing; `srtui init {models.parent}` puts it back.")
    tables = parse_toml(read_text(file), str(file))
    return {name: _entry(file, name, table) for name, table in tables.items()}


def _entry(file: Path, name: str, table: object) -> CatalogueEntry:
    types: dict[str, type] = {"str": str, "int": int, "bool": bool}
    type_by_name = {
        field.name: types[str(field.type)] for field in fields(CatalogueEntry) if field.name != "name"
    }
    if not isinstance(table, dict):
        raise UserError(f"{file}: {name} is not a table; write [{name}] above its keys.")
    for key in table:
        if key not in type_by_name:
            near = difflib.get_close_matches(key, type_by_name, 1, 0.4)
            advice = f"; did you mean {near[0]}?" if near else "; remove it."
            raise UserError(f"{file}: [{name}] has an unknown key {key}{advice}")
    for key, kind in type_by_name.items():
        if key not in table:
            raise UserError(f"{file}: [{name}] lacks the key {key}; add it.")
        if type(table[key]) is not kind:
            raise UserError(f"{file}: [{name}] {key} must be of type {kind.__name__}, not {table[key]!r}.")
    entry = CatalogueEntry(name=name, **table)
    # These become file names, arguments of pip, and a path inside an archive.
    for key in ("name", "distribution", "version", "quantization"):
        if not NAME.fullmatch(getattr(entry, key)):
            raise UserError(
                f"{file}: [{name}] {key} = {getattr(entry, key)!r} must be letters, digits and ._+- alone."
            )
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise UserError(f"{file}: [{name}] sha256 must be 64 lower-case hexadecimal digits.")
    if entry.teacher and entry.teacher not in QUANTIZATIONS:
        raise UserError(
            f"{file}: [{name}] teacher = {entry.teacher!r}: it can be {', '.join(QUANTIZATIONS)}."
        )
    check_member(entry.member)
    return entry


def check_member(member: str) -> None:
    """Raise UserError for what is no plain path inside a wheel."""
    parts = member.split("/")
    if "\\" in member or not all(parts) or {".", ".."} & set(parts) or ":" in parts[0]:
        raise UserError(f"{member!r} is not a plain path inside a wheel; correct it in models.toml.")


# --- looking ----------------------------------------------------------------------------------------


def list_models(models: Path) -> list[ModelEntry]:
    """Everything in the workspace's ``models`` folder, by name; a damaged one with its problem."""
    entries: list[ModelEntry] = []
    try:
        paths = sorted(models.iterdir())
    except OSError as error:
        raise UserError(f"{models} cannot be read ({error.strerror or error}); make it readable.") from error
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not (path / "config.json").is_file():
                continue
            size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        elif path.suffix == ".gguf" and path.is_file():
            size = path.stat().st_size
        else:
            continue
        entries.append(model_entry(path, size))
    return entries


def model_entry(path: Path, size: int) -> ModelEntry:
    """The model at ``path``, or the reason why it is none."""
    kind: Literal["gguf", "safetensors"] = "safetensors" if path.is_dir() else "gguf"
    name = path.name if path.is_dir() else path.stem
    try:
        return ModelEntry(name, kind, path, size, inspect(path, with_hash=False))
    except UserError as error:
        return ModelEntry(name, kind, path, size, None, str(error))


def find(models: Path, name_or_path: str) -> Path:
    """The file or folder that is meant, teacher before student; for ``srtui models inspect``."""
    entry = read_catalogue(models).get(name_or_path)
    if entry:
        for path in (models / entry.teacher_file, models / entry.source_file, models / entry.name):
            if path.exists():
                return path
        raise UserError(_not_fetched(entry))
    return _local(models, name_or_path)


def resolve_teacher(models: Path, name_or_path: str) -> Path:
    """The GGUF file for a teacher. Raises UserError where there is none, or it is not whole.

    A catalogue name prefers the derived quantization to the file as it was fetched.
    """
    path = find(models, name_or_path)
    if path.is_dir():
        raise UserError(f"{name_or_path} is a safetensors folder, and a teacher is a GGUF file; add one.")
    check_whole_model(read_gguf(path))
    return path


def resolve_student(models: Path, name_or_path: str, report_line: ReportLine = lambda line: None) -> Path:
    """The safetensors folder for a student; made once, from the GGUF of that name, where it is absent.

    Raises UserError where there is neither, or the model cannot be converted.
    """
    entry = read_catalogue(models).get(name_or_path)
    if entry:
        source, folder = models / entry.source_file, models / entry.name
        if not source.is_file() and not folder.is_dir():
            raise UserError(_not_fetched(entry))
    else:
        path = _local(models, name_or_path)
        if path.is_dir():
            read_safetensors_folder(path)
            return path
        source, folder = path, models / path.stem
    return student_folder(source, folder, report_line)


def student_folder(source: Path, folder: Path, report_line: ReportLine) -> Path:
    """The folder as it is where it belongs to ``source`` (or is the user's own), else made anew."""
    if folder.is_dir() and (not source.is_file() or _made_from(folder) in (None, file_sha256(source))):
        read_safetensors_folder(folder)
        return folder
    check_whole_model(read_gguf(source))
    return gguf_to_safetensors(source, folder, report_line)


def _made_from(folder: Path) -> str | None:
    """The sha256 of the GGUF that srtui made this folder from; None for a folder that came from elsewhere."""
    if not os.path.lexists(folder / PROVENANCE):
        return None
    try:
        return str(remembered(folder / PROVENANCE)["sha256"])
    except (KeyError, TypeError):
        return "unknown"


def check_whole_model(info: ModelInfo) -> None:
    """Raise UserError for a GGUF that is a part of one, or another thing than a model."""
    if info.role.startswith("part of"):
        raise UserError(f"{info.path} is one {info.role} files; merge them with llama-gguf-split.")
    if info.role != "model":
        raise UserError(f"{info.path} holds {info.role}, not a whole model; name the model's own file.")


def _local(models: Path, name_or_path: str) -> Path:
    """A name in ``models`` or a path; a name that fits exactly one quantization may leave it out."""
    if NAME.fullmatch(name_or_path):
        for path in (models / f"{name_or_path}.gguf", models / name_or_path):
            if path.is_file() if path.suffix == ".gguf" else (path / "config.json").is_file():
                return path
        matching = sorted(models.glob(f"{name_or_path}.*.gguf"))
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(path.stem for path in matching)
            raise UserError(f"{name_or_path} could be any of {names}; name one of them.")
    path = expand_home(name_or_path)
    if path.exists() and (path.is_dir() or path.suffix == ".gguf" or os.sep in name_or_path):
        return path
    raise UserError(unknown_model(models, name_or_path))


def _not_fetched(entry: CatalogueEntry) -> str:
    return f"{entry.name} is in the catalogue and not here yet; get it with: srtui models add {entry.name}"


def unknown_model(models: Path, name: str) -> str:
    """The sentence for a name that nothing has, with the nearest ones."""
    names = sorted({*read_catalogue(models), *(model.name for model in list_models(models))})
    near = difflib.get_close_matches(name, names, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `srtui models list`."
    return f"{name} is neither a model here, nor one of the catalogue, nor a file; {hint}"
