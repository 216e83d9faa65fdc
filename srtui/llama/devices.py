"""What llama.cpp can compute on, as its own backend interface (ggml_backend_dev_*) has it.

``llama_supports_gpu_offload`` says neither which backend a GPU is reached by nor what it has free.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from llama_cpp._ggml import libggml

Kind = Literal["cpu", "gpu", "integrated", "accelerator"]
_KINDS: tuple[Kind, ...] = ("cpu", "gpu", "integrated", "accelerator")  # ggml's numbers for them, in order


@dataclass(frozen=True)
class LlamaDevice:
    """``backend`` is the part of llama.cpp that runs it ("CUDA", "Vulkan", "CPU"), ``name`` what that calls it
    ("Vulkan0"), ``description`` what it is ("NVIDIA H200"). ``free`` and ``total`` are bytes."""

    backend: str
    name: str
    description: str
    kind: Kind
    free: int
    total: int


def llama_devices() -> list[LlamaDevice]:
    """All of them, as they are now: each call asks what is free."""
    ggml = _ggml()
    devices = []
    for number in range(ggml.ggml_backend_dev_count()):
        device, free, total = ggml.ggml_backend_dev_get(number), ctypes.c_size_t(), ctypes.c_size_t()
        kind = ggml.ggml_backend_dev_type(device)
        if kind >= len(_KINDS):
            continue  # a device made of others
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        backend = ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(device))
        devices.append(
            LlamaDevice(
                _text(backend),
                _text(ggml.ggml_backend_dev_name(device)),
                _text(ggml.ggml_backend_dev_description(device)),
                _KINDS[kind],
                free.value,
                total.value,
            )
        )
    return devices


def gpus() -> list[LlamaDevice]:
    """Those that llama.cpp gives a model's layers to: GPUs with memory of their own, else integrated ones."""
    devices = llama_devices()
    return [d for d in devices if d.kind == "gpu"] or [d for d in devices if d.kind == "integrated"]


def _text(c_text: bytes | None) -> str:
    return (c_text or b"").decode("utf-8", "replace")


@cache
def _ggml() -> Any:
    """ggml's library, with the types of what is called."""
    text, pointer, size = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    for name, arguments, returned in (
        ("ggml_backend_dev_count", [], size),
        ("ggml_backend_dev_get", [size], pointer),
        ("ggml_backend_dev_type", [pointer], ctypes.c_int),
        ("ggml_backend_dev_name", [pointer], text),
        ("ggml_backend_dev_description", [pointer], text),
        ("ggml_backend_dev_memory", [pointer, ctypes.POINTER(size), ctypes.POINTER(size)], None),
        ("ggml_backend_dev_backend_reg", [pointer], pointer),
        ("ggml_backend_reg_name", [pointer], text),
    ):
        function = getattr(libggml, name)
        function.argtypes, function.restype = arguments, returned
    return libggml
