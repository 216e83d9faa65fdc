"""The keys of a recipe's `[training]`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srtui.recipe.section import MOST, Auto, Count, Section, Seed, Share, described


class TrainingSettings(Section):
    """QLoRA finetuning of the student on what was selected.

    Of the paper's hyperparameters those carry over that say how often each sample is seen; learning rate,
    clipping and the adapter are QLoRA's (docs/method.md, Training).
    """

    enabled: bool = described(
        True,
        "Whether the run trains at all.",
        change="false to make and choose data only, or for a student that is a GGUF.",
    )
    method: Literal["sft", "dpo", "orpo"] = described(
        "sft",
        'What is learned from the choices: the answers that were taken ("sft"), or that they were taken over the ones '
        'they beat: "dpo", against the student as training finds it, or "orpo", which needs no reference and learns '
        "the answers too. Both train without dropout.",
        change='"dpo" after an "sft" run, whose adapter `from_run` names; docs/preferences.md.',
        source="DPO: Rafailov et al. 2023, arXiv 2305.18290; ORPO: Hong et al. 2024, arXiv 2403.07691; the paper has neither",
    )
    from_run: str | None = described(
        None,
        "The run whose adapter training starts from; the student with it is then the reference of dpo.",
        change="For dpo, to the run that was trained on the same choices: a student that has not learned to answer has "
        "no use for knowing which answer is better.",
        source="Rafailov et al. 2023, section 4: the reference is the supervised model",
    )
    beta: Annotated[float, Field(gt=0)] = described(
        0.1,
        "How hard dpo holds the student to its reference (higher holds harder); the weight of the odds ratio in orpo.",
        change="0.01 to 0.5: lower where the margin hardly grows, higher where answers degenerate.",
        source="both papers (arXiv 2305.18290, appendix B; arXiv 2403.07691, section 5)",
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = described(
        "sigmoid",
        "What dpo makes of a pair's margin.",
        change='"ipo" against overfitting to clear pairs.',
        source="sigmoid: DPO; hinge: SLiC-HF and RSO (arXiv 2305.10425, 2309.06657); ipo: Azar et al. 2023, arXiv 2310.12036",
    )
    rejected: Literal["rest", "worst"] = described(
        "rest",
        "With several `reflection.candidates`: whether each beaten answer makes a pair with the one that was taken, or "
        "the worst alone.",
        source="srtui's own",
    )
    min_margin: Annotated[float, Field(ge=0)] = described(
        0.0,
        "Pairs that the measure of the choice sets less far apart are not trained on; a person's pairs always are.",
        change="Higher where the choice is little better than chance (`srtui export --format preference` shows margins).",
        unit="difference of natural logarithms, for ratios",
        source="srtui's own",
    )
    epochs: Annotated[float, Field(gt=0, le=10_000)] = described(
        3.0,
        "How often each selected sample is seen.",
        change="Fewer for large sets, or where the held-out loss rises again; parts of an epoch are allowed.",
        unit="passes over the selected samples",
        source="the paper, section 4",
    )
    learning_rate: Annotated[float, Field(gt=0)] = described(
        2e-4,
        "The highest step size, reached after the warm-up.",
        change="1e-5 or so for dpo. Lower for larger students (1e-4 at 33B and over), or where the loss jumps. The paper's 2e-5 is for "
        "training all weights; an adapter needs about ten times that.",
        source="QLoRA (Dettmers et al. 2023, arXiv 2305.14314), 7B and 13B",
    )
    batch_size: Count = described(
        16,
        "How many samples make one optimizer step.",
        change="Higher for large sets (the paper's is 128); with few samples, lower, so that there are steps to take.",
        unit="samples",
        source="QLoRA",
    )
    micro_batch_size: Count = described(
        4,
        "How many samples at most go through the student at once; `batch_size` must be a multiple of it.",
        change="1 where memory is short, and on a CPU. It changes memory and speed and nothing else.",
        unit="samples",
        source="srtui's own",
    )
    warmup_ratio: Share = described(
        0.03,
        "The part of all steps over which the learning rate rises to its height.",
        unit="share of the steps",
        source="the paper, section 4; QLoRA's too",
    )
    scheduler: Literal["cosine", "linear", "constant"] = described(
        "cosine",
        "How the learning rate falls after the warm-up.",
        change='"constant" for QLoRA\'s own.',
        source="the paper, section 4",
    )
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = described(
        "auto",
        "AdamW, or bitsandbytes' with 8-bit state that moves out of a full GPU; auto is the latter on a GPU.",
        change='"adamw" where memory is no question.',
        source="QLoRA's paged optimizer; the paper's is Adam",
    )
    weight_decay: Annotated[float, Field(ge=0)] = described(
        0.0,
        "How much AdamW pulls the adapter's weights towards 0 in each step.",
        source="the paper, section 4",
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = described(
        1.0,
        "Longer gradients are shortened to this length.",
        change="0.3 with QLoRA's learning rate on large students; lower where single steps throw the loss.",
        source="transformers' default; QLoRA uses 0.3",
    )
    lora_rank: Annotated[int, Field(ge=1, le=4096)] = described(
        16,
        "The rank of the adapter, which lies on all linear layers: how much it can learn.",
        change="64 for QLoRA's own; lower for small sets. Its size and memory grow with it.",
        source="srtui's own; QLoRA uses 64",
    )
    lora_alpha: Count = described(
        32,
        "Scales the adapter's update, by alpha / rank.",
        change="With the rank, so that their ratio stays; 16 at rank 64 for QLoRA's own.",
        source="srtui's own; QLoRA uses 16",
    )
    lora_dropout: Share = described(
        0.05,
        "How much of the adapter's input is left out at random in training.",
        change="0.1 for QLoRA's own at 7B and 13B; 0 trains fastest.",
        unit="share",
        source="QLoRA, 33B and 65B; 0.1 for smaller",
    )
    rslora: bool = described(
        False,
        "Scales the update by alpha / sqrt(rank), so that high ranks learn as fast as low ones.",
        change="true with ranks above some 64.",
        source="Kalajdzievski 2023, arXiv 2312.03732; off in the paper",
    )
    dora: bool = described(
        False,
        "Trains length and direction of each weight's row apart.",
        change="true for a closer match to training all weights, at more time a step.",
        source="Liu et al. 2024, arXiv 2402.09353; off in the paper",
    )
    neftune_alpha: Annotated[float, Field(ge=0)] = described(
        0.0,
        "Random noise on the embeddings in training; 0 is off.",
        change="5 to 15 against overfitting on small sets. Samples are then not packed.",
        source="Jain et al. 2023, arXiv 2310.05914; off in the paper",
    )
    packing: Auto | bool = described(
        "auto",
        "Whether samples of a pass lie end to end in place of being padded; auto where the student's attention allows "
        "it.",
        change="false to compare. Losses agree to rounding.",
        source="srtui's own",
    )
    gradient_checkpointing: Auto | bool = described(
        "auto",
        "Whether layers are computed twice to save memory; auto is on a GPU only.",
        change="true where memory is short, false where it is not: it costs a second forward pass.",
        source="Chen et al. 2016, arXiv 1604.06174; QLoRA's too",
    )
    checkpoint_steps: Auto | Count = described(
        "auto",
        "A checkpoint is written every so many steps; auto is about every five minutes.",
        change="Lower where machines go down often. It changes no weight.",
        unit="steps",
        source="srtui's own",
    )
    checkpoints_kept: Count = described(
        2,
        "How many of the last checkpoints are kept.",
        change="More to look at earlier weights.",
        unit="checkpoints",
        source="srtui's own",
    )
    evaluation_steps: Auto | Count = described(
        "auto",
        "The loss on held-out samples is measured every so many steps; auto is before and after training alone, and "
        "four times an epoch with `early_stopping`.",
        change="Lower for a curve in the dashboard.",
        unit="steps",
        source="srtui's own",
    )
    early_stopping: Annotated[int, Field(ge=0, le=MOST)] = described(
        0,
        "Ends training after so many held-out measurements in a row that were no better; 0 never.",
        change="2 or 3 where the held-out loss rises before the last epoch.",
        unit="measurements",
        source="off, as in the paper",
    )
    held_out: Share = described(
        0.1,
        "The part of the samples that is not trained on, to measure the loss on.",
        change="Less for large sets: a few hundred samples are enough. 0 measures nothing.",
        unit="share of the samples",
        source="srtui's own; the paper holds nothing out",
    )
    seed: Seed | None = described(
        None,
        "What training draws its order and dropout from; the recipe's `seed` where it is left out.",
        change="To train again on the same choices (`srtui ablate --seeds`).",
    )
    steps: Count | None = described(
        None,
        "How many optimizer steps are taken, whatever `epochs` says.",
        change="To compare runs at equal training.",
        unit="steps",
    )

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size = {self.batch_size} must be a multiple of micro_batch_size = "
                f"{self.micro_batch_size}"
            )
        if self.method == "sft":
            for name in ("beta", "loss", "rejected", "min_margin"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f'{name} is for preference pairs; set method = "dpo", or leave it out')
        elif self.neftune_alpha:
            raise ValueError(
                f'neftune_alpha = {self.neftune_alpha:g} would be noise in the margin of method = "{self.method}"; leave it out'
            )
        if self.method == "orpo" and self.loss != "sigmoid":
            raise ValueError(f'loss = "{self.loss}" is for method = "dpo"; orpo has one of its own')
        if self.early_stopping and not self.held_out:
            raise ValueError(
                f"early_stopping = {self.early_stopping} watches the loss on held-out samples; set held_out above 0"
            )
        return self
