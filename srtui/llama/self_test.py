"""Whether llama.cpp works on this machine, shown by having it evaluate a tiny model."""

from __future__ import annotations

import ctypes
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from srtui.llama.devices import LlamaDevice, gpus, llama_devices
from srtui.models.tiny_gguf import VOCABULARY, write_tiny_gguf

_kept: list[Any] = []  # llama.cpp calls its log callback as long as the process lives


@dataclass(frozen=True)
class SelfTest:
    """``version`` is llama-cpp-python's, ``devices`` what llama.cpp can compute on. ``evaluated``: the logits of a
    tiny model are finite and not all the same. ``on_gpu``: with all its layers on the GPUs they are those of the CPU, up
    to rounding; None where there is no GPU."""

    version: str
    devices: list[LlamaDevice]
    loaded: bool
    evaluated: bool
    on_gpu: bool | None = None


def evaluate_tiny() -> SelfTest:
    """Load a tiny quantized model and run five tokens through it, on the CPU and on what GPUs there are.

    A build for another processor ends this process by an illegal instruction, so it is run in one of its own.
    """
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    _kept.append(quiet)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    version, devices = llama_cpp.__version__, llama_devices()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny_gguf(path, "Q8_0")
        logits = _logits(path, layers=0)
        if logits is None:
            return SelfTest(version, devices, loaded=False, evaluated=False)
        usable = bool(logits) and all(map(math.isfinite, logits)) and max(logits) > min(logits)
        if not gpus():
            return SelfTest(version, devices, loaded=True, evaluated=usable)
        gpu_logits = _logits(path, layers=999)
    return SelfTest(
        version,
        devices,
        True,
        usable,
        on_gpu=bool(gpu_logits) and usable and _alike(logits, gpu_logits or []),
    )


def _logits(path: Path, *, layers: int) -> list[float] | None:
    """Logits behind five tokens, with so many layers on the GPU; None where the model cannot be loaded, and an empty
    list where it cannot be evaluated."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = layers
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_threads = 64, 16, 1
    context = llama_cpp.llama_init_from_model(model, settings) if model else None
    if not context:
        return None
    tokens = (llama_cpp.llama_token * 5)(1, 7, 3, 9, 2)
    failed = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(tokens)))
    last = None if failed else llama_cpp.llama_get_logits_ith(context, -1)
    logits = [last[i] for i in range(VOCABULARY)] if last is not None else []
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits


def _alike(logits: list[float], other: list[float]) -> bool:
    """Whether the cosine of two rows of logits, each less its mean, is above 0.99: an 8-bit product rounds the
    activations too, and devices do so in different blocks."""
    if len(logits) != len(other) or not all(map(math.isfinite, other)):
        return False
    a, b = ([x - math.fsum(row) / len(row) for x in row] for row in (logits, other))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) > 0.99 * math.hypot(*a) * math.hypot(*b)
