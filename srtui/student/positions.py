"""How far a model's positions reach, and from which length on they depend on what else is in a pass.

Two things that no short text shows. A table of positions ends, and a longer text cannot run. And some
rotary embeddings take other frequencies for long texts ("longrope", "dynamic"): transformers decides by the
longest text of a pass, so that a short one beside it would have another loss than it has alone.
"""

from __future__ import annotations

from typing import Any

from srtui.gpu_errors import gpu_fault
from srtui.student.arithmetic import in_float32

_TOKENS = 32  # of the trial's texts: frequencies show in the distances between them
_OFFSET = 8  # rows that a table may have beyond the positions that the configuration names


def table_size(model: Any) -> int | None:
    """Positions that ``model`` has in a table (GPT-2, OPT, GPT-J), so that no text is longer; None where it
    computes them, for any length."""
    import torch

    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    if not isinstance(stated, int):
        # Named otherwise where it is no table of the model's (MPT's biases).
        return next(
            (
                n
                for name in ("max_seq_len", "max_target_positions")
                if isinstance(n := getattr(config, name, None), int)
            ),
            None,
        )
    words = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    sizes = []
    for module in model.modules():
        if id(module) in words:
            continue
        if isinstance(module, torch.nn.Embedding) and stated <= module.num_embeddings <= stated + _OFFSET:
            # Where one row stands for padding, positions begin behind it (RoBERTa).
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            sizes.append(min(stated, module.num_embeddings - before))
        for buffer in module.buffers(recurse=False):
            if buffer.dim() == 2 and stated <= buffer.shape[0] <= stated + _OFFSET:
                sizes.append(stated)
    return min(sizes, default=None)


def alone_beyond(model: Any, body: Any) -> int | None:
    """The length beyond which a text must run alone, since positions would be others for all texts of its
    pass; None where there is none. Found by trial, with few tokens at far positions."""
    import torch

    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(stated, int) or stated <= 2 * _TOKENS:
        return stated if remembers_length(model) else None
    embeddings = model.get_input_embeddings().weight
    most = min(1000, embeddings.shape[0])
    ids = torch.tensor([[n * k % (most - 1) + 1 for n in range(_TOKENS)] for k in (7, 31)]).to(
        embeddings.device
    )

    def first(end: int) -> Any:
        """Hidden states of a short text beside one that ends at ``end``."""
        near = torch.arange(_TOKENS)
        where = torch.stack([near, near + end - _TOKENS]).to(embeddings.device)
        return body(input_ids=ids, position_ids=where, use_cache=False).last_hidden_state[0]

    def same(first: Any, other: Any) -> bool:
        return bool((first - other).abs().amax() <= 1e-4 * first.abs().amax())

    try:
        with torch.inference_mode(), in_float32(model):
            expected = first(_TOKENS)
            if same(first(stated), expected):
                return stated if remembers_length(model) else None
            low, high = _TOKENS, stated
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if same(first(middle), expected) else (low, middle)
            return low
    except Exception as error:  # a model that takes no positions does not depend on them
        if gpu_fault(error):
            raise
        return None


def legs(length: int, most: int, limit: int | None) -> list[int]:
    """How many tokens to write in one go behind ``length`` others, ``most`` in all: up to the first beyond
    ``limit`` (:func:`alone_beyond`), and then the rest. Keys and values that were kept of a text below it are of
    other frequencies than those of a longer one, so the rest begins with a pass over all that is there."""
    first = most if limit is None or length > limit else limit + 1 - length
    return [most] if first >= most else [first, most - first]


def remembers_length(model: Any) -> bool:
    """Whether frequencies that a long text asked for stay for the next texts (transformers' "dynamic")."""
    kinds = (getattr(module, "rope_type", None) for module in model.modules())
    return any(
        "dynamic" in str(kind)
        for said in kinds
        for kind in (said.values() if isinstance(said, dict) else [said])
    )
