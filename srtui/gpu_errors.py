"""What PyTorch raises where a device fails: its memory runs out, or it is gone. Known without importing PyTorch.

Only the first has a type of its own; the others are a RuntimeError, told apart by what the driver's libraries say.
"""

from __future__ import annotations

import re
import sys
from typing import Literal

_LIBRARY = re.compile(
    r"\b(CUDA|HIP|cuDNN|CUDNN_STATUS|cuBLAS|CUBLAS_STATUS|rocBLAS|CUSPARSE_STATUS|NVML)\w*\b"
)
_NO_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|OUT_OF_MEMORY", re.IGNORECASE)
# Of a GPU that is well: this PyTorch, or this driver, is not for it.
_NO_CODE = re.compile(
    r"no kernel image|invalid device function|driver version is insufficient|unsupported toolchain|unsupported PTX",
    re.IGNORECASE,
)
_NO_HOST_MEMORY = "DefaultCPUAllocator"


def gpu_fault(error: BaseException) -> Literal["memory", "no code", "gone"] | None:
    """What is wrong with the GPU where this is raised: its memory ran out, PyTorch has no code for it, or it does not
    answer. None for any other error."""
    if not isinstance(error, RuntimeError):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "memory"
    message = str(error)
    accelerator = torch is not None and isinstance(error, getattr(torch, "AcceleratorError", ()))
    if not accelerator and not (_LIBRARY.search(message) and re.search(r"error|STATUS|driver", message)):
        return None
    if _NO_MEMORY.search(message):
        return "memory"
    return "no code" if _NO_CODE.search(message) else "gone"


def gpu_sentence(error: BaseException) -> str | None:
    """The same in words, with what to do; also where PyTorch finds no more of the computer's own memory. None for
    any other error."""
    fault = gpu_fault(error)
    why = " ".join(str(error).split("\n")[0].split()).rstrip(".")[:200]
    if fault == "memory":
        return (
            f"The GPU's memory ran out ({why}): close what else uses it, or choose a smaller model. Everything "
            "finished is stored, and the same command resumes."
        )
    if fault == "no code":
        return (
            f"PyTorch cannot compute on this GPU ({why}): install a build of PyTorch for it (srtui doctor names both), "
            'or update its driver; CUDA_VISIBLE_DEVICES="" leaves it alone. Everything finished is stored, and the same '
            "command resumes."
        )
    if fault == "gone":
        return (
            f"The GPU does not answer any more ({why}): see what nvidia-smi and dmesg say of it, and restart the "
            "machine if it does not come back. Everything finished is stored, and the same command resumes."
        )
    if isinstance(error, RuntimeError) and _NO_HOST_MEMORY in str(error):
        return (
            "The memory of this machine ran out; close something, or choose a smaller model. Everything finished is "
            "stored, and the same command resumes."
        )
    return None
