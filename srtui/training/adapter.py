"""The adapter that a training changes: put onto the student's linear layers, and written as safetensors."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault
from srtui.recipe import TrainingSettings
from srtui.student import Student
from srtui.training.checkpoints import failure_words
from srtui.training.preference_loss import silence_dropout


def mount_adapter(model: Any, body: Any, settings: TrainingSettings) -> tuple[Any, list[str]]:
    """The student's model with the adapter that is trained (LoRA, Hu et al. 2021): a new one, or the one that it
    came with; and the names of the layers that get none.

    These are linear layers of the head but for the output embeddings. The head is frozen: its gradient is taken
    for the hidden states alone (loss.py), and an adapter in it would never be trained.

    Args:
        model: a causal language model, with an adapter or without.
        body: its part that makes the hidden states.
        settings: rank, alpha, dropout and kind of the adapter.
    """
    # The margin compares passes; noise in them is not the student's (as in TRL).
    dropout = settings.lora_dropout if settings.method == "sft" else 0.0
    if settings.method != "sft":
        silence_dropout(model)
    if isinstance(model, PeftModel):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        for module in model.modules():
            for name in getattr(module, "lora_dropout", ()):  # the adapter's own, and none of the student's
                module.lora_dropout[name] = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
        return model, []
    adapted = {*body.modules(), model.get_output_embeddings()}
    frozen = [
        name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m not in adapted
    ]
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules="all-linear",
        exclude_modules="|".join(map(re.escape, frozen)) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config), frozen


def write_adapter(student: Student, folder: Path) -> None:
    """Write the student's adapter and tokenizer to ``folder``, beside it first and then renamed.

    Raises UserError where the system refuses the bytes; nothing half-written stays then.
    """
    from safetensors import SafetensorError

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        student.model.save_pretrained(str(part), safe_serialization=True)
        student.tokenizer.save_pretrained(str(part))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except Exception as error:
        shutil.rmtree(part, ignore_errors=True)
        if gpu_fault(error) or not isinstance(error, OSError | SafetensorError | RuntimeError):
            raise
        raise UserError(
            f"{folder}: the trained adapter cannot be written ({failure_words(error)}); the last checkpoint is "
            "kept. Make room and run the same command again."
        ) from error
