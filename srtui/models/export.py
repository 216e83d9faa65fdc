"""A tuned student, out of srtui: the adapter, merged weights, or GGUF for llama.cpp.

A result is written beside its place and renamed, so a name is a whole result or none.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from srtui.errors import UserError
from srtui.models.convert import (
    PROVENANCE,
    QUANTIZATIONS,
    ReportLine,
    beside,
    in_own_process,
    need_disk,
    quantize,
    report_line,
)
from srtui.models.gguf_header import read_gguf
from srtui.models.gguf_tokenizer import TokenizerCheck
from srtui.models.merged_weights import (
    ADAPTER_WEIGHTS,
    ROUNDINGS,
    Adapter,
    MergedWeights,
    adapter_config,
    copy_surroundings,
)
from srtui.models.safetensors_folder import SAFE_FILES, read_safetensors_folder
from srtui.models.to_gguf import FLOATS, family_of, write_adapter, write_model

Form = Literal["adapter", "merged", "gguf-adapter", "gguf"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Exported:
    """What was written. ``files`` are (name, bytes); ``size`` is their sum.

    ``base`` says which weights the adapter was added to, or has to be; ``stored`` the type of the
    matrices in the files; ``tokenizer``, of a whole GGUF, how it was tested against llama.cpp.
    """

    form: Form
    path: Path
    files: tuple[tuple[str, int], ...]
    size: int
    base: str
    stored: str
    tokenizer: str | None
    seconds: float


def export_model(
    form: Form,
    adapter: Path | None,
    student: Path,
    out: Path,
    *,
    name: str,
    trained_as: str = "nf4",
    arithmetic: str = "float32",
    quantization: str | None = None,
    force: bool = False,
    report_line: ReportLine = lambda line: None,
) -> Exported:
    """Write a student with an adapter in it.

    Args:
        form: what to write.
        adapter: the folder of the peft adapter; None writes the student alone, for merged and gguf.
        student: the folder of its safetensors.
        out: a folder for ``adapter`` and ``merged``, a .gguf file otherwise.
        name: the model's, for headers and provenance.
        trained_as: the quantization (a key of ROUNDINGS) of the weights that the adapter is added to: the
            student's own of the training gives the model that was trained, "f32" adds it to the weights as
            they are stored.
        arithmetic: the type that the student computed in while it was trained, which has a part in that
            rounding.
        quantization: a key of QUANTIZATIONS; for ``gguf-adapter`` only a float type.
        force: replace what is at ``out``; a folder only if it was exported by srtui.
        report_line: gets lines on the way.

    Raises:
        UserError: for whatever cannot be exported that way; ``out`` is then as it was.
    """
    started = time.monotonic()
    kind = _checked(form, adapter, student, out, trained_as, quantization, force)
    need_disk(_parent(out), _expected_size(form, adapter, student, kind), out.name)
    arguments = [adapter or "", student, trained_as]
    tokenizer: str | None = None
    with beside(out) as part:
        if form == "adapter":
            assert adapter is not None  # noqa: S101 - _checked
            part.mkdir()
            copy_surroundings(adapter, part, SAFE_FILES)
            shutil.copyfile(adapter / ADAPTER_WEIGHTS, part / ADAPTER_WEIGHTS)
        elif form == "merged":
            part.mkdir()
            in_own_process(merge_worker, *arguments, part, arithmetic, report_line=report_line)
            read_safetensors_folder(part)
        elif form == "gguf-adapter":
            in_own_process(adapter_worker, *arguments, part, kind, name, report_line=report_line)
            if read_gguf(part).role != "adapter":
                raise UserError(f"{out} did not become an adapter and is as it was; use --to gguf.")
        else:
            whole = part if kind in FLOATS else part.parent / "unquantized" / f"{name}.F16.gguf"
            whole.parent.mkdir(exist_ok=True)
            result = in_own_process(
                gguf_worker,
                *arguments,
                whole,
                kind if kind in FLOATS else "F16",
                name,
                arithmetic,
                report_line=report_line,
            )
            tokenizer = result["tokenizer"]
            if whole != part:
                quantize(whole, part, kind, report_line)
            read_gguf(part)
        if part.is_dir():
            made_from = {"exported": form, "run": name, "student": student.name, "base": trained_as}
            licence = read_safetensors_folder(student).licence
            (part / PROVENANCE).write_text(
                json.dumps(made_from | {"licence": licence}, indent=1) + "\n", encoding="utf-8"
            )
            if out.exists():  # a rename cannot replace a folder that is not empty
                out.rename(part.with_name("replaced"))
        part.replace(out)
    files = tuple(
        (file.name, file.stat().st_size) for file in (sorted(out.iterdir()) if out.is_dir() else [out])
    )
    return Exported(
        form=form,
        path=out,
        files=files,
        size=sum(size for _, size in files),
        base=_base(form, trained_as),
        stored=kind,
        tokenizer=tokenizer,
        seconds=time.monotonic() - started,
    )


def _checked(
    form: Form,
    adapter: Path | None,
    student: Path,
    out: Path,
    trained_as: str,
    quantization: str | None,
    force: bool,
) -> str:
    """All that can be refused from headers alone; returns the type that matrices will have."""
    if form not in FORMS:
        raise UserError(f"--to {form}: it can be {', '.join(FORMS)}.")
    if trained_as not in ROUNDINGS:
        raise UserError(f"{trained_as} is not how a student is trained; it can be {', '.join(ROUNDINGS)}.")
    stored = read_safetensors_folder(student).quantization
    kind = quantization.upper() if quantization else {"gguf": "F16", "gguf-adapter": "F32"}.get(form, stored)
    if quantization and not form.startswith("gguf"):
        raise UserError(f"--quantize {quantization}: only GGUF is quantized; use --to gguf.")
    if quantization and kind not in (FLOATS if form == "gguf-adapter" else QUANTIZATIONS):
        choice = ", ".join(FLOATS if form == "gguf-adapter" else QUANTIZATIONS)
        raise UserError(f"--quantize {quantization}: for {form} it can be {choice}.")
    if form.startswith("gguf"):
        family_of(student)
        if out.suffix != ".gguf":
            raise UserError(f"{out}: name a file that ends in .gguf.")
    if adapter is not None and form != "adapter":
        adapter_config(adapter)
    if adapter is not None and not (adapter / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{adapter / ADAPTER_WEIGHTS} is not there; train the run again, or put it back.")
    if adapter is None and form in ("adapter", "gguf-adapter"):
        raise UserError(f"--to {form} needs an adapter; name a run that has trained one.")
    if form == "adapter":
        kind = "as trained"
    _check_place(form, out, student, adapter, force)
    return kind


def _check_place(form: Form, out: Path, student: Path, adapter: Path | None, force: bool) -> None:
    inputs = [path.resolve() for path in (student, adapter) if path is not None]
    place = out.resolve()
    if any(place == path or path in place.parents or place in path.parents for path in inputs):
        raise UserError(f"{out} lies over what it is made from; give the result another place with --out.")
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise UserError(f"{out} exists; replace it with --force, or name another place with --out.")
    if out.is_file() and out.stat().st_size and not _is_gguf(out):
        raise UserError(f"{out} is not a GGUF, so --force leaves it alone; move it away.")
    is_export = (out / PROVENANCE).is_file() and b'"exported"' in (out / PROVENANCE).read_bytes()
    if (
        out.is_symlink()
        or out.is_dir() != (form in ("adapter", "merged"))
        or (out.is_dir() and not is_export)
    ):
        raise UserError(f"{out} is not an export of that kind, so --force leaves it alone; move it away.")


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _parent(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out.parent} cannot be made ({error.strerror or error}); name another place with --out."
        ) from error
    return out.parent


def _expected_size(form: Form, adapter: Path | None, student: Path, kind: str) -> int:
    """Bytes on the disk, the most there will be at once."""
    if form in ("adapter", "gguf-adapter"):
        assert adapter is not None  # noqa: S101 - _checked
        return 2 * (adapter / ADAPTER_WEIGHTS).stat().st_size + 20_000_000
    info = read_safetensors_folder(student)
    if form == "merged":
        return info.size + 50_000_000
    whole = int(info.parameters * QUANTIZATIONS[kind if kind in FLOATS else "F16"] / 8)
    smaller = 0 if kind in FLOATS else int(info.parameters * QUANTIZATIONS[kind] / 8)
    return whole + smaller + 50_000_000


def _base(form: Form, trained_as: str) -> str:
    if form in ("adapter", "gguf-adapter"):
        trained_as_name = ROUNDINGS[trained_as].partition(", ")[0]
        return f"not included; it was trained on {trained_as_name}, and adds to whichever precision it is loaded on"
    return ROUNDINGS[trained_as]


# --- what runs in the process of its own -------------------------------------------------------------


class _ExportProgress:
    """A line every few seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.reported_at = total, 0, 0.0

    def step(self) -> None:
        self.done += 1
        self.reported_at = self.reported_at or time.monotonic()
        if time.monotonic() - self.reported_at > 5:
            self.reported_at = time.monotonic()
            report_line(f"{self.done:,} of {self.total:,} tensors written")


def _weights(adapter: str, student: str, trained_as: str, arithmetic: str) -> MergedWeights:
    added = Adapter(Path(adapter)) if adapter else None
    weights = MergedWeights(Path(student), added, trained_as, arithmetic)
    arithmetic_of = f"adding the adapter to {ROUNDINGS[trained_as]}" if adapter else ROUNDINGS[trained_as]
    report_line(f"{arithmetic_of}; arithmetic in float32 …")
    return weights


def merge_worker(
    adapter: str, student: str, trained_as: str, out: str, arithmetic: str = "float32"
) -> dict[str, Any]:
    """In a process of its own: the folder ``out`` with the adapter's update in its weights.

    Args:
        adapter: the folder that training wrote.
        student: the folder of the student's weights.
        trained_as: a key of ROUNDINGS: how the weights are held that the update is added to.
        out: where to write.
        arithmetic: in which the student was trained.
    """
    weights = _weights(adapter, student, trained_as, arithmetic)
    copy_surroundings(weights.folder, Path(out), SAFE_FILES)
    progress = _ExportProgress(len(weights.shapes))
    for _ in weights.save(Path(out)):
        progress.step()
    return {}


def gguf_worker(
    adapter: str,
    student: str,
    trained_as: str,
    out: str,
    stored: str,
    name: str,
    arithmetic: str = "float32",
) -> dict[str, Any]:
    """In a process of its own: the GGUF ``out``. Returns what the tokenizer's check came to.

    Args:
        adapter: the folder that training wrote.
        student: the folder of the student's weights.
        trained_as: a key of ROUNDINGS: how the weights are held that the update is added to.
        out: where to write.
        stored: the type of the tensors in the file, F16 for example.
        name: that the file gives itself.
        arithmetic: in which the student was trained.
    """
    weights = _weights(adapter, student, trained_as, arithmetic)
    progress = _ExportProgress(len(weights.shapes))
    tokenizer = ""
    for item in write_model(weights, Path(out), stored, name):
        if isinstance(item, TokenizerCheck):
            origin = (
                "the source GGUF's own" if item.carried_over else "made from the student's tokenizer.json"
            )
            tokenizer = (
                f"{origin}; llama.cpp cuts {item.agrees} of {item.probes} test texts as the student does"
            )
            report_line(f"tokenizer: {tokenizer}")
        else:
            progress.step()
    return {"tokenizer": tokenizer}


def adapter_worker(
    adapter: str, student: str, trained_as: str, out: str, stored: str, name: str
) -> dict[str, Any]:
    """In a process of its own: the adapter as a GGUF.

    Args:
        adapter: the folder that training wrote.
        student: the folder of the student's weights.
        trained_as: a key of ROUNDINGS: how the weights are held that the update is added to.
        out: where to write.
        stored: the type of the tensors in the file.
        name: that the file gives itself.
    """
    adapter_file = Adapter(Path(adapter))
    MergedWeights(Path(student), adapter_file, "f32")  # refuses an adapter of another student
    return {"matrices": write_adapter(adapter_file, Path(student), Path(out), stored, name)}
