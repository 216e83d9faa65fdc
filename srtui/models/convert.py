"""From GGUF to safetensors, and from one GGUF quantization to another.

Both run in a process of their own: a file that makes llama.cpp abort cannot take a run down with it,
gigabytes are given back to the system when they are done, and what the libraries print stays there.
Results are written beside their place and renamed, so a name in ``models/`` is always a whole model.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.models.formats import file_sha256
from srtui.models.gguf_header import read_gguf
from srtui.models.info import ModelInfo
from srtui.models.safetensors_folder import read_safetensors_folder
from srtui.workspace import OFFLINE_SETTINGS

ReportLine = Callable[[str], None]

QUANTIZATIONS: dict[str, float] = {
    "F32": 32.0,
    "BF16": 16.0,
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.6,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.7,
    "Q4_1": 5.0,
    "Q4_0": 4.6,
    "IQ4_NL": 4.6,
    "IQ4_XS": 4.4,
    "Q3_K_L": 4.3,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.6,
    "Q2_K": 3.2,
}
"""Types that llama.cpp makes without an importance matrix -> about how many bits a parameter takes."""

PROVENANCE = "srtui.json"
"""Beside a student's weights: the GGUF that it was made from."""

# Both tokenizers must cut these alike before a converted student may be trusted with text.
PROBES = (
    "Explain in 3 steps why 12345 + 67 = 12412, and what 1,000.50 EUR is in GBP.",
    "don't I'll WE'RE she'd  two  spaces\n\n\n  and an indented line\t\ttabs\r\nend  ",
    "def f(x):\n    return {'a': x ** 2}  # über\n",
    "Schrödinger's naïve café — «да», 日本語のテキスト, العربية, 🙂👩‍🚀",
    "v2.0.1-rc3 http://example.org/?q=1&r=ab_cd#top CamelCaseWord ALLCAPS",
    " leading space",
    "½ x² ١٢٣ Ⅷ",
)

# Pre-tokenizers by their GGUF name (tokenizer.ggml.pre), as those models' own tokenizer.json has
# them. transformers' GGUF reader gives every byte-level BPE the GPT-2 rule, which splits numbers
# and contractions otherwise for most newer models.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {
    "llama-bpe": _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST,
    "smaug-bpe": _CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + _WORDS + r"|\p{N}" + _REST,
    "stablelm2": _CONTRACTIONS + _WORDS + r"|\p{N}" + _REST,
}
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")


def quantize(src: Path, dst: Path, quantization: str, report_line: ReportLine = lambda line: None) -> Path:
    """Make a GGUF from another with llama.cpp's own quantizer.

    Args:
        src: the GGUF that is there.
        dst: the file to make. Where it is a folder the file is named after ``src``,
            ``NAME.QUANTIZATION.gguf``; if that is ``src`` itself, there is nothing to do.
        quantization: a key of QUANTIZATIONS, in upper or lower case.
        report_line: gets a line or two.

    Returns:
        The file.

    Raises:
        UserError: for another quantization, for a source that cannot be used, and where the disk is too
            small; ``dst`` is then as it was.
    """
    kind = quantization.upper()
    if kind not in QUANTIZATIONS:
        raise UserError(f"{quantization} is not a quantization; choose one of {', '.join(QUANTIZATIONS)}.")
    info = read_gguf(src)
    if info.role != "model":
        raise UserError(
            f"{src} is not a whole model ({info.role}), so it cannot be quantised; name the model's own file."
        )
    if dst.is_dir():
        dst = dst / f"{src.stem.removesuffix('.' + info.quantization)}.{kind}.gguf"
        if dst.exists():
            read_gguf(dst)  # whole: what is there may be anybody's, and is not written over
            again = "" if dst.samefile(src) else "; move it away to make it anew"
            report_line(f"{dst.name} is here already{again}.")
            return dst
    if dst.exists() and dst.samefile(src):
        raise UserError(f"{dst} is the source itself; give the quantised file another name.")
    expected = int(info.parameters * QUANTIZATIONS[kind] / 8) + 16_000_000
    need_disk(dst.parent, expected, dst.name)
    report_line(f"quantising {src.name} ({info.quantization}) to {kind} …")
    started = time.monotonic()
    with beside(dst) as part:
        in_own_process(_quantize, src, part, kind)
        written = read_gguf(part)  # whole, and what was asked for
        if written.parameters != info.parameters:
            raise UserError(f"llama.cpp's quantizer left tensors of {src} out; try another type.")
        part.replace(dst)
    report_line(f"made {dst.name}: {written.size / 1e6:,.0f} MB in {time.monotonic() - started:.1f} s")
    return dst


def gguf_to_safetensors(gguf: Path, out: Path, report_line: ReportLine = lambda line: None) -> Path:
    """Make the folder ``out``: the GGUF's weights in bfloat16, its configuration and its tokenizer.

    An ``out`` that srtui made earlier is replaced; any other folder is not touched. Raises
    UserError where transformers does not know the architecture, or memory or disk are too small.
    """
    info = read_gguf(gguf)
    if info.role != "model":
        raise UserError(
            f"{gguf} is not a whole model ({info.role}), so it cannot be a student; name the model's own file."
        )
    if out.exists() and not (out / PROVENANCE).is_file():
        raise UserError(f"{out} is in the way of the student's folder; move it away.")
    need_disk(out.parent, info.parameters * 2 + 50_000_000, out.name)
    _need_memory(info)
    report_line(f"making safetensors from {gguf.name} for the student (once) …")
    started = time.monotonic()
    with beside(out) as part:
        made_there = in_own_process(_safetensors, gguf, part)
        made_from = {
            "made_from": gguf.name,
            "sha256": file_sha256(gguf),
            "quantization": info.quantization,
            "licence": info.licence,
            "tokenizer_agrees": made_there["agrees"],
        }
        (part / PROVENANCE).write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
        written = read_safetensors_folder(part)
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    report_line(f"made {out.name}/: {written.size / 1e6:,.0f} MB in {time.monotonic() - started:.1f} s")
    if made_there["agrees"] < made_there["probes"]:
        report_line(
            f"note: the student's tokenizer cuts {made_there['probes'] - made_there['agrees']} of {made_there['probes']} test "
            f"texts otherwise than llama.cpp does; the model's own safetensors folder would be better."
        )
    return out


def need_disk(folder: Path, size: int, name: str) -> None:
    """Raise UserError where ``folder``'s disk has less than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{name} needs about {size / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free; make room."
        )


def _need_memory(info: ModelInfo) -> None:
    import psutil

    # transformers holds all weights as float32 while it fills the bfloat16 model.
    need, free = info.parameters * 6 + 600_000_000, psutil.virtual_memory().available
    if free < need:
        raise UserError(
            f"Making a student from {info.path.name} needs about {need / 1e9:.0f} GB of memory and "
            f"{free / 1e9:.0f} GB are free; add the model's own safetensors folder instead."
        )


class beside:
    """A name beside ``target`` to write to; what is still there at the end is removed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.folder = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=f".{self.target.name}."))
        except OSError as error:
            raise self._refused(error) from error
        return self.folder / self.target.name

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> UserError:
        return UserError(
            f"{self.target} cannot be written ({error.strerror or error}) and is as it was; make room, or its folder writable."
        )


_WORKER = "import sys; from srtui.models.convert import work; sys.exit(work(*sys.argv[1:]))"


def in_own_process(
    worker: Callable[..., dict[str, Any]], *arguments: object, report_line: ReportLine = lambda line: None
) -> dict[str, Any]:
    """Run ``worker``, a function of a module, with ``arguments`` as texts in a process of its own.

    Returns what it returns. A UserError with words in it is raised here as it was there; anything
    else that goes wrong becomes one, about the first argument. ``report_line`` gets what the worker reports
    on its way, by :func:`report_line`.
    """
    package_root = Path(__file__).resolve().parents[2]
    paths = [str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-c", _WORKER, f"{worker.__module__}:{worker.__name__}"]
    report: Any = None
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            [*command, *map(str, arguments)],
            env=os.environ | OFFLINE_SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # a library's own words
                if isinstance(message, dict) and "say" in message:
                    report_line(str(message["say"]))
                else:
                    report = message
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        log.seek(0)
        words = log.read()
    if isinstance(report, dict) and not {"error", "refused"} & report.keys():
        return report
    if isinstance(report, dict) and "refused" in report:
        raise UserError(report["refused"])
    if not isinstance(report, dict) and code < 0:
        why = f"the process was killed by signal {-code}"
    else:
        why = report["error"] if isinstance(report, dict) else _last_words(words)
    raise UserError(
        f"{arguments[0]} could not be converted: {why}".rstrip(". ")
        + ". Get it again, or choose another model."
    )


def report_line(line: str) -> None:
    """From a worker to the ``report_line`` of its :func:`in_own_process`."""
    print(json.dumps({"say": line}), flush=True)


def _last_words(log: str) -> str:
    """The line of a library's log that says what went wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    blamed = [line for line in lines if re.search(r"error|failed|unknown|invalid", line, re.IGNORECASE)]
    return (blamed or lines or ["it ended without a word"])[-1][:300]


# --- what runs in the process of its own -------------------------------------------------------------


def _quantize(src: str, dst: str, kind: str) -> dict[str, Any]:
    import ctypes

    import llama_cpp

    numbers = {
        name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_"): value
        for name, value in vars(llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_")
    }
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = numbers[kind]
    settings.allow_requantize = True
    if llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(settings)):
        raise UserError("")  # llama.cpp has written the reason to its log
    return {}


def _safetensors(gguf: str, out: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = Path(gguf)
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16, local_files_only=True)
    config = loaded.config.to_dict()
    for left_over in ("quantization_config", "_name_or_path"):
        config.pop(left_over, None)
    clean = type(loaded.config).from_dict(config)
    with torch.device("meta"):  # the same class without the marks of a GGUF, and no second copy of weights
        rebuilt = AutoModelForCausalLM.from_config(clean, dtype=torch.bfloat16)
    rebuilt.load_state_dict(loaded.state_dict(), assign=True)
    rebuilt.tie_weights()
    rebuilt.generation_config = loaded.generation_config
    rebuilt.save_pretrained(out)

    tokenizer = AutoTokenizer.from_pretrained(**place, local_files_only=True)
    vocabulary = VocabularyFile(source)
    if vocabulary.text("tokenizer.ggml.model") == "gpt2":
        _fix_pre_tokenizer(tokenizer, vocabulary.text("tokenizer.ggml.pre"))
    if context := int(getattr(clean, "max_position_embeddings", 0)):
        tokenizer.model_max_length = context
    for left_over in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(left_over, None)
    tokenizer.save_pretrained(out)
    reloaded_tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    agrees = sum(reloaded_tokenizer(text)["input_ids"] == vocabulary.tokens(text) for text in PROBES)
    for file in Path(out).iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only
    return {"agrees": agrees, "probes": len(PROBES)}


class VocabularyFile:
    """llama.cpp's view of a GGUF's tokenizer; weights are not loaded."""

    def __init__(self, gguf: Path) -> None:
        import llama_cpp

        self.api = llama_cpp
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = True
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), settings)
        if not self.model:
            raise UserError("")  # llama.cpp has written the reason to its log
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def text(self, key: str) -> str:
        """A key of the header as text."""
        import ctypes

        room = ctypes.create_string_buffer(256)
        length = self.api.llama_model_meta_val_str(self.model, key.encode(), room, len(room))
        return room.value.decode(errors="replace") if length >= 0 else ""

    def tokens(self, text: str) -> list[int]:
        """llama.cpp's ids of a text, special tokens included."""
        raw = text.encode()
        room = (self.api.llama_token * (len(raw) + 8))()
        count = self.api.llama_tokenize(self.vocabulary, raw, len(raw), room, len(room), True, True)
        return list(room[: max(count, 0)])


def _fix_pre_tokenizer(tokenizer: Any, name: str) -> None:
    """Give a byte-level BPE the splitting rule that its GGUF names, where the rule is known here."""
    from tokenizers import Regex, pre_tokenizers

    if name in SINGLE_DIGITS:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    elif name in SPLITS:
        steps = [
            pre_tokenizers.Split(Regex(SPLITS[name]), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    else:
        return
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def work(worker: str, *arguments: str) -> int:
    """The process's own main: one JSON line on standard output."""
    module, _, name = worker.partition(":")
    try:
        report = getattr(importlib.import_module(module), name)(*arguments)
    except Exception as error:
        words = " ".join(str(error).split())
        if not words:
            return 1
        report = {"refused": words} if isinstance(error, UserError) else {"error": words[:300]}
    print(json.dumps(report), flush=True)
    return 1 if {"error", "refused"} & report.keys() else 0
