"""A LoRA adapter, and its student's weights with the adapter in them, one matrix at a time.

Nothing here holds a model: a matrix is read from its safetensors file, rounded as the student's was
in training, given its update in float32, and handed on. So a merge takes the memory of the largest
matrix and not of the model, and DoRA and rank-stabilised LoRA cost two lines of arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtui.errors import UserError
from srtui.files import parse_json, read_bytes

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

ROUNDINGS = {
    "nf4": "the student's weights rounded to NF4 as in training, and dequantised",
    "int8": "the student's weights rounded to int8 as in training, and dequantised",
    "bf16": "the student's weights rounded to bfloat16, as in training",
    "f32": "the student's weights as they are stored",
}
"""What a student's quantization does to the weights that an update is added to."""

# What changes the arithmetic of an update, or the base under it, in ways that are not done here.
_NOT_DONE = (
    "fan_in_fan_out", "lora_bias", "layer_replication", "trainable_token_indices", "megatron_config",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora",
    "use_qalora", "velora_config", "target_parameters", "modules_to_save",
)  # fmt: skip
_KEEPS_BASE = (True, False, None, "gaussian")  # initialisations that leave the base as it is
_KEY = re.compile(r"base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")


@dataclass(frozen=True)
class Update:
    """What LoRA adds to one matrix W of shape (out, in): ``scaling`` · B A, in float32.

    ``a`` is (rank, in) and ``b`` (out, rank). With DoRA's ``magnitude``, of shape (out,), the rows of
    the sum are then given these lengths.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None

    def merged(self, weight: Tensor) -> Tensor:
        """W with the update in it; ``weight`` is float32 of shape (out, in)."""
        total = weight + self.scaling * (self.b @ self.a)
        if self.magnitude is None:
            return total
        lengths: Tensor = self.magnitude / total.norm(dim=1)
        return total * lengths.unsqueeze(1)


class Adapter:
    """A peft LoRA adapter from its folder: ``updates`` by the name of the module that each is for.

    Raises UserError where the folder holds no whole LoRA adapter, or one of a kind that changes more
    than matrices by a product of two.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.folder = folder
        self.config = adapter_config(folder)
        try:
            tensors = load_file(folder / ADAPTER_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{folder / ADAPTER_WEIGHTS} cannot be read ({error}); train the run again."
            ) from None
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise UserError(
                    f"{folder / ADAPTER_WEIGHTS}: {key} is not a LoRA update of a linear layer, "
                    "so it cannot be merged or converted; use --to adapter."
                )
            parts.setdefault(match[1], {})[match[2]] = tensor.float()
        self.updates = {module: self._update(module, matrices) for module, matrices in parts.items()}
        if not self.updates:
            raise UserError(f"{folder / ADAPTER_WEIGHTS} holds no LoRA update; train the run again.")

    @property
    def uses_dora(self) -> bool:
        """Whether it scales each row as well (DoRA)."""
        return any(update.magnitude is not None for update in self.updates.values())

    def _update(self, module: str, parts: dict[str, Tensor]) -> Update:
        if not {"lora_A", "lora_B"} <= parts.keys():
            raise UserError(
                f"{self.folder / ADAPTER_WEIGHTS} has only half of {module}'s update; train the run again."
            )
        a, b = parts["lora_A"], parts["lora_B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise UserError(
                f"{self.folder / ADAPTER_WEIGHTS}: the shapes of {module}'s lora_A and lora_B, "
                f"{tuple(a.shape)} and {tuple(b.shape)}, do not fit each other; train the run again."
            )
        rank = a.shape[0]
        alpha = float(_of_pattern(self.config, "alpha_pattern", module, self.config["lora_alpha"]))
        scaling = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        return Update(a, b, scaling, parts.get("lora_magnitude_vector"))


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's own description. Raises UserError for what is not a LoRA that can be exported."""
    file = folder / ADAPTER_CONFIG
    if not os.path.lexists(file):
        raise UserError(f"{file} is not there; train the run again, or put its adapter back.")
    try:
        config = parse_json(read_bytes(file), str(file))
        kind = config["peft_type"]
        if kind == "LORA" and not isinstance(config["lora_alpha"], int | float):
            raise KeyError("lora_alpha")
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read as an adapter's description ({error}); train the run again, or put it back."
        ) from None
    if kind != "LORA":
        raise UserError(f"{file}: peft_type is {kind}; only LORA adapters can be exported: name one.")
    used = [key for key in _NOT_DONE if config.get(key)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if config.get("init_lora_weights", True) not in _KEEPS_BASE:
        used.append("init_lora_weights")  # PiSSA, OLoRA and their kin take something out of the base
    if used:
        raise UserError(
            f"{file}: {used[0]} = {config[used[0]]!r} is not plain LoRA, so the adapter can only be "
            "exported with --to adapter."
        )
    return dict(config)


def _of_pattern(config: dict[str, Any], pattern: str, module: str, default: float) -> Any:
    """peft's rule: the first pattern that the end of the module's name matches decides."""
    for name, value in (config.get(pattern) or {}).items():
        if re.fullmatch(rf"(.*\.)?({name})", module):
            return value
    return default


class MergedWeights:
    """The tensors of the student in ``folder`` with ``adapter`` in them, by their names in its files.

    ``quantization`` is the student's in training, a key of ROUNDINGS, and ``arithmetic`` the type that
    its products were computed in: what these rounded is rounded the same way before the update is
    added, because that is what the update was trained on. Without an adapter, and with ``f32``, these
    are the student's own tensors. Raises UserError where the adapter does not belong to the student.
    """

    def __init__(
        self, folder: Path, adapter: Adapter | None, quantization: str, arithmetic: str = "float32"
    ) -> None:
        from safetensors import safe_open

        self.folder, self.quantization, self.arithmetic = folder, quantization, arithmetic
        # Loaded to compute in bfloat16, a student holds what it does not quantize in bfloat16 too.
        self._halved = quantization == "bf16" or (quantization != "f32" and arithmetic == "bfloat16")
        self._stored: dict[str, str] = {}
        self.files = _weight_files(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    stored = opened.get_slice(name)
                    self.shapes[name], self._stored[name] = tuple(stored.get_shape()), stored.get_dtype()
                    self._file_of[name] = file
        self._rounded = _linear_weights(folder) if quantization in ("nf4", "int8", "bf16") else set()
        self._updates = {f"{module}.weight": u for module, u in adapter.updates.items()} if adapter else {}
        for name, update in self._updates.items():
            needed_shape = (update.b.shape[0], update.a.shape[1])
            if self.shapes.get(name) != needed_shape:
                difference = f"has the shape {self.shapes[name]}" if name in self.shapes else "is not there"
                raise UserError(
                    f"The adapter changes {name}, of shape {needed_shape}, which {difference} in {folder}; "
                    "name the student that it was trained on."
                )

    def changes(self, name: str) -> bool:
        """Whether :meth:`tensor` differs from what is stored."""
        halved = self._halved and self._stored[name] in ("F16", "F32", "F64")
        return name in self._updates or name in self._rounded or halved

    def tensor(self, name: str) -> Tensor:
        """One tensor, in float32. Raises UserError where the adapter makes it not finite."""
        import torch
        from safetensors import safe_open

        with safe_open(self._file_of[name], framework="pt") as opened:
            weight: Tensor = opened.get_tensor(name).float()
        if name in self._rounded:
            weight = rounded(weight, self.quantization, self.arithmetic)
        elif self._halved:
            weight = weight.to(torch.bfloat16).float()
        if name in self._updates:
            weight = self._updates[name].merged(weight)
            if not torch.isfinite(weight).all():
                raise UserError(f"Merged, {name} is not finite; the adapter is damaged, train the run again.")
        return weight

    def save(self, out: Path) -> Iterator[str]:
        """Write the student's safetensors files to the folder ``out``; yields each tensor's name when done.

        Names, types, shapes and shards are the student's own, so a file's header is copied as it is
        and only the bytes of changed matrices differ: each is rounded once, from float32 to the type
        that it is stored in.
        """
        import torch

        types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
        for file in self.files:
            with file.open("rb") as source, (out / file.name).open("wb") as target:
                size = source.read(8)
                raw = source.read(int.from_bytes(size, "little"))
                target.write(size + raw)
                start = target.tell()
                header = json.loads(raw)
                header.pop("__metadata__", None)
                for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
                    first, last = tensor["data_offsets"]
                    source.seek(start + first)
                    target.seek(start + first)
                    if not self.changes(name):
                        _copy(source, target, last - first)
                    elif tensor["dtype"] not in types:
                        raise UserError(
                            f"{file}: {name} is stored as {tensor['dtype']}; only floats can be merged into: use --to adapter."
                        )
                    else:
                        stored = self.tensor(name).to(types[tensor["dtype"]]).contiguous()
                        target.write(stored.view(torch.uint8).numpy().tobytes())
                    yield name


def _weight_files(folder: Path) -> list[Path]:
    """The shards that the index names, where there is one: a folder may hold the weights twice."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]


def _copy(source: Any, target: Any, size: int) -> None:
    while size and (piece := source.read(min(size, 1 << 24))):
        target.write(piece)
        size -= len(piece)


def rounded(weight: Tensor, quantization: str, arithmetic: str = "float32") -> Tensor:
    """What a student's ``quantization`` makes of a linear layer's float32 weight, in float32.

    nf4 is exactly what bitsandbytes holds in QLoRA: blocks of 64, double quantization. A student that
    computes in bfloat16 is loaded in it, so it is rounded before it is quantized, and again when it is
    dequantised.
    """
    import torch
    from bitsandbytes import functional

    held: Tensor
    if quantization in ("nf4", "int8"):
        weight = weight.to(getattr(torch, arithmetic))
    if quantization == "nf4":
        codes, state = functional.quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        held = functional.dequantize_4bit(codes, state).float()
    elif quantization == "int8":
        codes, row_maxima, _ = functional.int8_vectorwise_quant(weight.half())
        held = (codes.float() * (row_maxima.float().unsqueeze(1) / 127)).to(weight.dtype).float()
    elif quantization == "bf16":
        held = weight.to(torch.bfloat16).float()
    else:
        held = weight
    return held


def _linear_weights(folder: Path) -> set[str]:
    """Names of the weights that a quantized student holds quantized: all linear layers but the output's."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    output = model.get_output_embeddings()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }


def copy_surroundings(source: Path, target: Path, suffixes: tuple[str, ...]) -> None:
    """Configuration, tokenizer, chat template and licence, beside weights that are written anew."""
    for file in sorted(source.iterdir()):
        keep = file.suffix in suffixes and file.suffix != ".safetensors"
        if file.is_file() and (keep or file.name.startswith(("LICENSE", "LICENCE"))):
            shutil.copyfile(file, target / file.name)
            with contextlib.suppress(OSError):
                (target / file.name).chmod(0o644)
