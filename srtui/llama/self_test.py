"""Whether llama.cpp works on this machine, shown by having it evaluate a tiny model."""

from __future__ import annotations

import ctypes
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from srtui.models.tiny_gguf import VOCABULARY, write_tiny_gguf

_kept: list[Any] = []  # llama.cpp calls its log callback as long as the process lives


@dataclass(frozen=True)
class SelfTest:
    """``version`` is llama-cpp-python's; ``gpu`` says what it was built for. ``evaluated``: the logits of a
    tiny model are finite and not all the same."""

    version: str
    gpu: bool
    loaded: bool
    evaluated: bool


def evaluate_tiny() -> SelfTest:
    """Load a tiny quantized model and run five tokens through it.

    A build for another processor ends this process by an illegal instruction, so it is run in one of its own.
    """
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    _kept.append(quiet)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    gpu = bool(llama_cpp.llama_supports_gpu_offload())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny_gguf(path, "Q8_0")
        model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_threads = 64, 16, 1
        context = llama_cpp.llama_init_from_model(model, settings) if model else None
        if not context:
            return SelfTest(llama_cpp.__version__, gpu, loaded=False, evaluated=False)
        tokens = (llama_cpp.llama_token * 5)(1, 7, 3, 9, 2)
        failed = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(tokens)))
        last = None if failed else llama_cpp.llama_get_logits_ith(context, -1)
        logits = [last[i] for i in range(VOCABULARY)] if last is not None else []
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    usable = bool(logits) and all(map(math.isfinite, logits)) and max(logits) > min(logits)
    return SelfTest(llama_cpp.__version__, gpu, loaded=True, evaluated=usable)
