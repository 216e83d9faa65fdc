"""The student: a causal language model from a safetensors folder, in 4 bits or more, or a GGUF."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault
from srtui.models import file_sha256
from srtui.models.memory import drop_weights, free_bytes
from srtui.student.arithmetic import use_one_arithmetic
from srtui.student.weights import plan_weights

Quantization = Literal["nf4", "bf16", "int8", "f32", "gguf"]
Arithmetic = Literal["float32", "bfloat16"]

_ADAPTER = "adapter_model.safetensors"
_TEXT_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
# Words, digits, spaces, line breaks, code and other scripts: where tokenizers differ, they differ here.
_PROBE = "Hello,  world!\n\nIt's 2024: x = {'a': 12345};\n\tπ ≈ 3.14159 — naïve 東京 🙂 مرحبا"


@dataclass(frozen=True)
class StudentSource:
    """Which student is opened, and how it is run: its folder, or for gguf its file; a recipe's quantization, and the
    tokens of a forward pass; a folder that training wrote, for a student with an adapter."""

    path: Path
    quantization: Quantization
    batch_tokens: int | Literal["auto"] = "auto"
    adapter: Path | None = None


@dataclass
class Student:
    """``id`` stands for all that a score depends on: weights, quantization, arithmetic, the kind of device,
    and how text becomes tokens. ``losses_id`` is the same without the files about text, for the loss of
    given tokens: equal ids, equal losses. ``first_losses_id`` is the id under which an earlier srtui, which
    left out the device, stored the very same losses; None where it may have stood for others.
    ``arithmetic`` is the type that products are computed in.
    """

    name: str
    id: str
    quantization: Quantization
    model: Any
    tokenizer: Any
    arithmetic: Arithmetic = "float32"
    losses_id: str = ""
    first_losses_id: str | None = None

    def __post_init__(self) -> None:
        self.losses_id = self.losses_id or self.id

    @property
    def device(self) -> Any:
        """The torch.device that the weights lie on; of a student that is open and no GGUF."""
        return next(self.model.parameters()).device

    @classmethod
    def load(
        cls,
        folder: Path,
        quantization: Quantization = "nf4",
        device: str = "auto",
        adapter: Path | None = None,
        arithmetic: Literal["auto"] | Arithmetic = "auto",
        report_line: Callable[[str], None] = lambda line: None,
    ) -> Student:
        """Load from ``folder`` (config.json, *.safetensors, tokenizer.json); never from the network.

        With ``gguf``, ``folder`` is a GGUF file, and llama.cpp runs it: a student that can choose,
        and not be trained. nf4 is bitsandbytes' NF4 with double quantization, as QLoRA (Dettmers et al. 2023) trains it;
        int8 is its row-wise rounding of the weights, and of nothing else. Both, and bf16, are multiplied in
        ``arithmetic``, by default what the hardware is made for; f32 always in float32.
        ``adapter`` is a folder that training wrote: with it, this is the tuned student.
        ``report_line`` gets, before the weights are read, what is unusual about their size. Raises UserError where
        the folder is not such a student, and where it does not fit the GPU.

        Args:
            folder: of the model; for gguf, its file.
            quantization: nf4, int8, bf16, f32 or gguf.
            device: cpu, cuda, or auto.
            adapter: a folder that training wrote.
            arithmetic: of the products; auto is the hardware's.
            report_line: gets what is unusual about its size.
        """
        if quantization == "gguf":
            return cls._load_gguf(folder)
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        logging.getLogger("transformers").setLevel(logging.ERROR)
        if not list(folder.glob("*.safetensors")):
            raise UserError(
                f"{folder}: no *.safetensors in it; a student is a folder of safetensors weights."
            )
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if place == "cuda":
            choose_gpu(report_line)
        dtype = compute_dtype(place) if arithmetic == "auto" else getattr(torch, arithmetic)
        if quantization == "f32":
            dtype = torch.float32
        settings: dict[str, Any] = {}
        if quantization == "nf4":
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        elif quantization == "int8":
            settings["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        elif quantization == "bf16":
            # The weights are rounded to bf16 either way; where the CPU has no bf16 arithmetic, the
            # rounded weights are multiplied in float32, which is exact and several times as fast.
            settings["dtype"] = torch.bfloat16
        settings.setdefault("dtype", dtype)
        # Weights that are rounded to bf16 and multiplied in float32 lie there as float32.
        plan = plan_weights(folder, quantization, max(settings["dtype"].itemsize, dtype.itemsize))
        if plan is not None:
            if unusual := plan.sentence(folder.name):
                report_line(unusual)
            if place == "cuda" and plan.size > (free := free_bytes(torch.device(place))):
                raise UserError(
                    f"{folder.name} does not fit the GPU's memory in {quantization}: its weights take about "
                    f"{plan.size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; choose a smaller student."
                )
        from safetensors import SafetensorError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model, loading = AutoModelForCausalLM.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    device_map={"": place},
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # refused below, with its name
                    **settings,
                )
        except RuntimeError as error:
            cause = _while_converted(error) or error
            if gpu_fault(cause) == "memory":
                raise UserError(
                    f"{folder.name} does not fit the GPU's memory in {quantization}: {cause}."
                ) from error
            if cause is error or gpu_fault(cause):
                raise cause from error.__cause__
            raise UserError(f"{folder}: cannot be loaded as a student ({cause}).") from error
        except (OSError, ValueError, KeyError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{folder}: cannot be loaded as a student ({first_line}).") from error
        except SafetensorError as error:
            raise UserError(
                f"{folder}: its weights are damaged or incomplete ({error}); get the model again."
            ) from error
        # transformers fills what is missing with random numbers; such a student's scores mean nothing.
        wrong = [*loading["missing_keys"], *(k for k, *_ in loading.get("mismatched_keys", ()))]
        if wrong:
            raise UserError(
                f"{folder}: its weights lack {len(wrong)} tensors that config.json asks for (the first is "
                f"{sorted(wrong)[0]}), or have them in another shape; get the model again."
            )
        if quantization == "bf16" and dtype == torch.float32:
            model = model.float()
        tokenizer = read_tokenizer(folder, quantization)
        model.eval()
        use_one_arithmetic(model)
        arithmetic = "float32" if dtype == torch.float32 else "bfloat16"
        precision = f"{quantization}:{arithmetic}"
        if quantization == "int8" or (quantization, arithmetic, place) == ("nf4", "bfloat16", "cpu"):
            precision += ":2"  # losses stored before `use_one_arithmetic` are those of another arithmetic
        device = f":{next(model.parameters()).device.type}"
        tuned = ""
        if adapter is not None:
            model = _with_adapter(model, adapter)
            tuned = f":{file_sha256(adapter / _ADAPTER)[:32]}"
        losses = f"{model_sha256(folder)[:32]}:{precision}"
        # float32 products of weights that are not float32 were only ever computed on a CPU.
        certain = quantization in ("nf4", "bf16") and arithmetic == "float32" and place == "cpu"
        return cls(
            folder.name,
            f"{weights_sha256(folder)[:32]}:{precision}{device}{tuned}",
            quantization,
            model,
            tokenizer,
            arithmetic,
            losses + device + tuned,
            losses + tuned if certain else None,
        )

    def close(self) -> None:
        """Give its memory back to the device at once, whoever still refers to it; it cannot run any more."""
        model, self.model = self.model, None
        if self.quantization == "gguf" and model is not None:
            model.close()
        elif model is not None:
            drop_weights(model)

    @classmethod
    def _load_gguf(cls, path: Path) -> Student:
        from srtui.llama.losses import LlamaLosses

        model = LlamaLosses(path)
        tokenizer = read_tokenizer(path, "gguf")
        agrees = tokenizer.encode(_PROBE, add_special_tokens=False) == model.tokenize(_PROBE)
        if not agrees or tokenizer.eos_token_id is None:
            raise UserError(
                f"{path}: transformers and llama.cpp cut text into tokens differently for this file, so its "
                "scores would be wrong; use the model's safetensors folder as the student."
            )
        identity = f"{file_sha256(path)[:32]}:gguf:{'gpu' if model.on_gpu else 'cpu'}"
        return cls(path.stem, identity, "gguf", model, tokenizer)


def _while_converted(error: RuntimeError) -> RuntimeError | None:
    """What was raised while a weight was quantized. transformers catches it, lists it in a report that it logs, and
    raises an error that only points there; None for any other error."""
    import torch

    trace = error.__traceback__
    while trace is not None:
        said = getattr(trace.tb_frame.f_locals.get("loading_info"), "conversion_errors", None)
        if said:
            lines = re.findall(
                r"^([\w.]+(?:Error|Exception)): (.*)$", str(next(iter(said.values()))), re.MULTILINE
            )
            name, message = lines[-1] if lines else ("", str(error))
            return (torch.OutOfMemoryError if "OutOfMemory" in name else RuntimeError)(message.rstrip("."))
        trace = trace.tb_next
    return None


def read_tokenizer(path: Path, quantization: Quantization) -> Any:
    """What cuts the texts of the student at ``path`` into tokens: of a folder, or for ``gguf`` of a file. Raises
    UserError where it cannot be read, or is none that a student can have."""
    from transformers import AutoTokenizer

    where: dict[str, Any] = (
        {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        if quantization == "gguf"
        else {"pretrained_model_name_or_path": path}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        if quantization == "gguf":
            raise UserError(f"{path}: its tokenizer cannot be read ({error}).") from error
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be loaded as a student ({first_line}).") from error
    if quantization != "gguf" and (
        not getattr(tokenizer, "is_fast", False) or tokenizer.eos_token_id is None
    ):
        raise UserError(
            f"{path}: its tokenizer has no tokenizer.json, or no end-of-text token; both are needed."
        )
    return tokenizer


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / _ADAPTER).is_file() or not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} is not an adapter: it needs adapter_config.json and {_ADAPTER}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if gpu_fault(error):
            raise
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{adapter}: this adapter does not go with its student ({first_line}).") from error


def compute_dtype(device: str) -> Any:
    """bfloat16 where the hardware multiplies it, else float32.

    Measured on a 2-core AVX2 CPU with SmolLM2-135M: bf16 forward 77-130 tokens/s, float32 500. GPUs before Ampere
    only imitate bfloat16, and float16 overflows in some students.
    """
    import torch

    if device != "cpu":
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if real else torch.float32
    # What the kernels use, which ATEN_CPU_CAPABILITY may hold below what the CPU has.
    native = torch.backends.cpu.get_cpu_capability() == "AVX512" and any(
        getattr(torch.cpu, name, lambda: False)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if native else torch.float32


def choose_gpu(report_line: Callable[[str], None]) -> None:
    """Of several GPUs take the one that has the most memory free, which is PyTorch's "cuda" from then on, and say so;
    say too where it has no bfloat16."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        free = [int(torch.cuda.mem_get_info(number)[0]) for number in range(count)]
        # Where they are nearly alike, it stays the one that it is: what runs on it already counts.
        chosen = max(range(count), key=lambda n: free[n] + (10**9 if n == torch.cuda.current_device() else 0))
        torch.cuda.set_device(chosen)
        report_line(
            f"Of {count} GPUs, {chosen} ({torch.cuda.get_device_name(chosen)}) has the most memory free, "
            f"{free[chosen] / 1e9:.1f} GB; the student runs there. CUDA_VISIBLE_DEVICES chooses otherwise."
        )
    if compute_dtype("cuda") == torch.float32:
        report_line(
            f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic: the student computes in float32, which is "
            "slower and takes more memory."
        )


def weights_sha256(folder: Path) -> str:
    """Hash of everything in a student's folder that decides its scores and what it writes, by file name:
    the model, and what turns text into tokens and back, the chat template among it."""
    return _sha256([*_model_files(folder), *(folder / name for name in _TEXT_FILES)])


def model_sha256(folder: Path) -> str:
    """Hash of the weights, the configuration and the vocabulary: of what decides the loss of given tokens."""
    return _sha256(_model_files(folder))


def _model_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]


def _sha256(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        if path.is_file():
            total.update(path.name.encode() + bytes.fromhex(file_sha256(path)))
    return total.hexdigest()
