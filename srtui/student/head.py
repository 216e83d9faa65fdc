"""From hidden states to logits as the model itself goes, and what may be done to its passes.

Models scale and cap their logits in ways of their own, and more of them come with every release of
transformers. So no architecture is known here: each model is asked, by a short text, whether our head
gives its logits, whether padding leaves them alone, and whether they depend on what follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from srtui.errors import UserError
from srtui.gpu_errors import gpu_fault
from srtui.student.arithmetic import in_float32
from srtui.student.packing import NAME, Packing
from srtui.student.positions import alone_beyond, remembers_length, table_size

# What the probe is multiplied by, so that a cap on the logits shows where a short text's are small.
_PROBES = (1.0, 16.0)


@dataclass(frozen=True)
class Head:
    """What turns hidden states of ``model``'s body into its logits.

    ``direct``: the output embeddings, times ``scale``, capped as ``cap`` x tanh(logits / cap). Otherwise
    the model's own forward does it, with the hidden states standing in for its body's answer.
    ``pads``: sequences padded at the end have the losses that they have alone. ``longest``: the tokens of a
    text that its table of positions holds, None for any number. ``alone_beyond``: a longer text runs alone
    (srtui.student.positions), and where the model ``remembers`` its length, ``forget`` follows.
    """

    model: Any
    body: Any
    vocabulary: int
    direct: bool
    pads: bool
    scale: float | None = None
    cap: float | None = None
    answer: Any = None  # the type of the body's answer
    longest: int | None = None
    alone_beyond: int | None = None
    remembers: bool = False

    def runs_alone(self, length: int) -> bool:
        """Whether a text of so many tokens would change the positions of those beside it."""
        return self.alone_beyond is not None and length > self.alone_beyond

    def forget(self, length: int) -> None:
        """After a text of so many tokens: positions as they are for a short one."""
        import torch

        if self.remembers and self.runs_alone(length):
            device = self.model.get_input_embeddings().weight.device
            packed = self.model.config._attn_implementation == NAME
            extra = {"packing": Packing([1], [None])} if packed else {}
            with torch.no_grad():
                self.body(
                    input_ids=torch.ones(1, 1, dtype=torch.long, device=device), use_cache=False, **extra
                )

    def logits(self, hidden: Any) -> Any:
        """(n, vocabulary) in float32, of hidden states (n, width); float64 where they are."""
        import torch

        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        if not self.direct:
            return self._own(hidden).to(wide)
        head = self.model.get_output_embeddings()
        logits = head(hidden.to(head.weight.dtype)).to(wide)
        if self.scale is not None:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits

    def _own(self, hidden: Any) -> Any:
        import torch

        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with _standing_in(self.body, self.answer(last_hidden_state=hidden[None])):
            return self.model(input_ids=ids, use_cache=False).logits[0]


def examine(model: Any, name: str) -> Head:
    """Find ``model``'s head by a few short passes of its own forward, in float32. Raises UserError, with ``name``,
    where it gives no logits for token ids alone, or where they depend on what follows."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), in_float32(base):
            head = _examine(base, name)
        return replace(
            head,
            longest=table_size(base),
            alone_beyond=alone_beyond(base, head.body),
            remembers=remembers_length(base),
        )
    finally:
        model.train(was_training)


def _examine(base: Any, name: str) -> Head:
    import torch

    embeddings = base.get_input_embeddings()
    device = embeddings.weight.device
    first, second = (torch.tensor([ids], device=device) for ids in _two_texts(embeddings.weight.shape[0]))
    by_module: dict[Any, list[Any]] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, given, result: by_module.setdefault(module, []).append(result)
        )
        for module in _outermost(base)
    ]
    try:
        # Kinds of failure are as many as architectures; whatever it is, the student cannot be scored.
        logits, other = (base(input_ids=ids, use_cache=False).logits[0] for ids in (first, second))
    except Exception as error:
        if gpu_fault(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} cannot be a student: it gives no logits for a text alone ({line}); choose another."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    part = next((m for m in _outermost(base) if _is_body(by_module.get(m, []), first, second)), None)
    if part is None or logits.dim() != 2 or len(logits) != first.shape[1]:
        raise UserError(
            f"{name} cannot be a student: its logits do not come from one pass over the text's tokens; choose another."
        )
    captured = by_module[part]
    states = [answer.last_hidden_state[0] for answer in captured]
    shared = _shared(first[0], second[0])
    if logits.isnan().any():
        raise UserError(
            f"{name} cannot be a student: its logits are not numbers, so its weights are damaged; get the model again."
        )
    if not near(logits[:shared], other[:shared], loose=True):
        raise UserError(
            f"{name} cannot be a student: its logits depend on the tokens that follow, so it does not predict them; choose another."
        )
    config = base.config.get_text_config()
    head = Head(
        model=base,
        body=part,
        vocabulary=int(logits.shape[-1]),
        direct=True,
        pads=_pads(part, (first[0], second[0]), states),
        scale=getattr(config, "logit_scale", None),
        cap=getattr(config, "final_logit_softcapping", None),
        answer=type(captured[0]),
    )
    if _same_head(head, states[0], logits):
        return head
    own_head = Head(base, part, head.vocabulary, False, head.pads, answer=head.answer)
    if _reproduces(own_head, states[0], logits):
        return own_head
    raise UserError(
        f"{name} cannot be a student: its logits do not follow from its last hidden states alone; choose another."
    )


def _outermost(base: Any) -> list[Any]:
    """The model's parts, and theirs: the body is one of these, in models that are wrapped once more too."""
    return [part for child in base.children() for part in (child, *child.children())]


def _is_body(answers: list[Any], *texts: Any) -> bool:
    """Whether a module answered each text once, with a hidden state for each of its tokens."""
    states = [getattr(answer, "last_hidden_state", None) for answer in answers]
    return len(states) == len(texts) and all(
        state is not None and tuple(state.shape[:2]) == tuple(text.shape)
        for state, text in zip(states, texts, strict=True)
    )


def _same_head(direct: Head, hidden: Any, logits: Any) -> bool:
    """Whether our head gives the model's own logits, on its text and far from it."""
    own_head = Head(direct.model, direct.body, direct.vocabulary, False, direct.pads, answer=direct.answer)
    if not _reproduces(direct, hidden, logits):
        return False
    if not _reproduces(own_head, hidden, logits):
        return True  # nothing else to ask: they agree where it can be seen
    return all(_reproduces(direct, hidden * size, own_head.logits(hidden * size)) for size in _PROBES)


def _reproduces(head: Head, hidden: Any, logits: Any) -> bool:
    """Whether ``head`` makes ``logits`` of ``hidden``, up to the rounding of their type."""
    import torch

    try:
        computed, expected = head.logits(hidden), logits.float()
    except Exception as failure:  # a head that cannot even be run is not the model's
        if gpu_fault(failure):
            raise
        return False
    if computed.shape != expected.shape or not bool(torch.isfinite(expected).all()):
        return False
    # A factor shows in the fit over all logits far below the rounding of one.
    factor = float((computed * expected).sum() / (computed * computed).sum().clamp_min(1e-30))
    weight = head.model.get_output_embeddings()
    error = max(torch.finfo(t.dtype).eps for t in (logits, weight.weight if weight is not None else logits))
    return abs(factor - 1) <= max(1e-4, error / 4) and near(computed, expected, error=error)


def near(computed: Any, expected: Any, *, error: float | None = None, loose: bool = False) -> bool:
    """Whether two results agree as far as the rounding of their type lets them: the root mean square
    of what they differ by against that of ``expected``. ``loose`` for what only a gross change
    decides, since a near tie between experts may fall either way by rounding.

    Args:
        computed: a tensor of any shape.
        expected: a tensor of that shape, which the bound is relative to.
        error: the relative rounding of one product; None for that of their types.
        loose: allows eight to ten times as much.
    """
    import torch

    if error is None:
        error = max(torch.finfo(computed.dtype).eps, torch.finfo(expected.dtype).eps)
    bound = max(1e-3 if loose else 1e-4, (32 if loose else 4) * error)
    computed, expected = computed.double(), expected.double()
    return bool((computed - expected).square().mean().sqrt() <= bound * expected.square().mean().sqrt())


def _pads(part: Any, texts: tuple[Any, Any], states: list[Any]) -> bool:
    """Whether texts padded at the end to one length have the hidden states that they have alone."""
    import torch

    width = max(len(t) for t in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long, device=texts[0].device)
    mask = torch.zeros_like(ids)
    for n, text in enumerate(texts):
        ids[n, : len(text)], mask[n, : len(text)] = text, 1
    try:
        padded = part(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    except Exception as error:
        if gpu_fault(error):
            raise
        return False
    return all(
        near(padded[n, : len(t)], alone) for n, (t, alone) in enumerate(zip(texts, states, strict=True))
    )


def _two_texts(vocabulary: int) -> tuple[list[int], list[int]]:
    """Token ids that begin alike and then differ, of different lengths."""
    last = min(1000, vocabulary) - 1
    start = [last - n % last for n in range(16)]
    return [*start, *(n % last for n in range(7, 24))], [*start, *(n % last for n in range(31, 38))]


def _shared(first: Any, second: Any) -> int:
    size = min(len(first), len(second))
    differ = (first[:size] != second[:size]).nonzero()
    return int(differ[0]) if len(differ) else size


@contextlib.contextmanager
def _standing_in(part: Any, answer: Any) -> Iterator[None]:
    """``part`` answers ``answer`` to whatever it is asked."""
    before = part.__dict__.get("forward")
    part.forward = lambda *_, **__: answer
    try:
        yield
    finally:
        if before is None:
            del part.forward
        else:
            part.forward = before
