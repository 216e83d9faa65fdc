"""Is every loss the model's own? Asked of every causal architecture that transformers has, tiny.

    python benchmarks/check_architectures.py            # the table, docs/architectures.md, counts as JSON
    python benchmarks/check_architectures.py granite    # some of them, with what they say

Each is compared with its own float32 logits, one text at a time, in loss and (through training's loss)
in gradient. An architecture is packed, padded (or run one text at a time), or refused with a sentence;
"wrong" is what gives another number, and has to be empty.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import tiny_architectures

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "architectures.md"
# Float32 sums in another order; the gradients of recurrent layers are the roughest.
_LOSS, _GRADIENT = 1e-4, 1e-2


@dataclass(frozen=True)
class Outcome:
    """``kind``: packed, padded, alone, refused, skipped (could not be built tiny) or wrong."""

    name: str
    kind: str
    why: str = ""
    head: str = ""


def survey(names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The model types by kind; those that run one text at a time count as padded."""
    found: dict[str, list[str]] = {"packed": [], "padded": [], "refused": [], "wrong": [], "skipped": []}
    for outcome in outcomes(names):
        found["padded" if outcome.kind == "alone" else outcome.kind].append(outcome.name)
    return found


def outcomes(names: Sequence[str] | None = None) -> list[Outcome]:
    _quiet()
    return [examine_one(name) for name in names or tiny_architectures.names()]


def examine_one(name: str) -> Outcome:
    """One architecture: built tiny, scored, trained on, and compared."""
    _quiet()
    try:
        model = tiny_architectures.build(name)
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Outcome(name, "skipped", line)
    return compare(name, model)


def compare(name: str, model: Any) -> Outcome:
    """``model`` by the scorer and by training's loss, against its own logits."""
    from srtui.errors import UserError
    from srtui.student import Scorer, Student

    spans = _spans(tiny_architectures.VOCABULARY)
    try:
        scorer = Scorer(Student(name, name, "f32", model, None), 96)
    except UserError as error:
        return Outcome(name, "refused", str(error))
    head = "" if scorer.head.direct else "the model's own"
    try:
        expected, slopes = _own(model, spans)
        found = dict(scorer.score(spans))
        for n, wanted in enumerate(expected):
            loss = found[n]
            if loss.reason is not None or not abs(loss.nll - wanted) <= _LOSS * abs(wanted):
                return Outcome(
                    name, "wrong", f"a loss is {loss.nll:.5f}, its own logits give {wanted:.5f}", head
                )
        ours = _trained(model, scorer, spans)
        if (off := _distance(ours, slopes)) > _GRADIENT:
            return Outcome(name, "wrong", f"the gradient is off by {off:.1%} of its norm", head)
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Outcome(name, "wrong", f"{type(error).__name__}: {line}", head)
    return Outcome(name, scorer.batching, "", head)


def _spans(vocabulary: int) -> list[Any]:
    """Of different lengths, some with a beginning that they share."""
    from srtui.student import Span

    draw = random.Random(3)
    start = tuple(draw.randrange(3, vocabulary) for _ in range(11))
    sizes = [draw.randrange(6, 40) for _ in range(14)]
    return [
        Span((*(start if n % 3 else ()), *(draw.randrange(3, vocabulary) for _ in range(size))), min(size - 1, 4 + n))
        for n, size in enumerate(sizes)
    ]  # fmt: skip


def _own(model: Any, spans: Sequence[Any]) -> tuple[list[float], dict[str, Any]]:
    """By the model's own logits, one text at a time: each span's loss, and the gradient of all of them
    for every weight that is not the head's."""
    import torch

    _freeze_head(model)
    losses = []
    for span in spans:
        logits = model(input_ids=torch.tensor([span.ids]), use_cache=False).logits[0]
        at = slice(len(span.ids) - span.target - 1, len(span.ids) - 1)
        labels = torch.tensor(span.ids[len(span.ids) - span.target :])
        loss = torch.nn.functional.cross_entropy(logits[at].double(), labels, reduction="sum")
        loss.backward()
        losses.append(float(loss.detach()))
    return losses, _gradients(model)


def _trained(model: Any, scorer: Any, spans: Sequence[Any]) -> dict[str, Any]:
    """The gradient by training's loss, as training would batch it."""
    import contextlib

    from srtui.student.packing import packed_attention
    from srtui.training.loss import MicroBatch, summed_nll

    some = list(spans)
    size = 1 if scorer.batching == "alone" else 5
    with packed_attention(model) if scorer.packed else contextlib.nullcontext():
        for at in range(0, len(some), size):
            summed_nll(scorer.head, MicroBatch(tuple(some[at : at + size]), scorer.packed)).backward()
    return _gradients(model)


def _freeze_head(model: Any) -> None:
    """What training does not train, and its loss has no gradient for."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    bodies = {id(p) for p in model.get_input_embeddings().parameters()}
    for parameter in model.parameters():
        if id(parameter) in bodies or parameter.dtype.is_complex:
            parameter.requires_grad_(False)
    output = model.get_output_embeddings()
    for parameter in output.parameters() if output is not None else ():
        parameter.requires_grad_(False)


def _gradients(model: Any) -> dict[str, Any]:
    found = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _distance(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Over the weights that both have (a head's own layers have none in training)."""
    import torch

    both = [n for n in wanted if n in found]
    off = torch.stack([(found[n] - wanted[n]).square().sum() for n in both]).sum().sqrt()
    norm = torch.stack([wanted[n].square().sum() for n in both]).sum().sqrt()
    return float(off / norm)


def document(found: Sequence[Outcome]) -> str:
    """docs/architectures.md."""
    import transformers

    counts = {kind: sum(o.kind == kind for o in found) for kind in ("packed", "padded", "alone", "refused", "skipped")}  # fmt: skip
    lines = [
        "# Architectures",
        "",
        f"Every causal language model of transformers {transformers.__version__}, tiny, with random weights: losses "
        "and gradients compared with the model's own float32 logits, one text at a time. Made by "
        "`python benchmarks/check_architectures.py`; nothing in srtui knows these names. A student is examined in "
        "the same way when it is loaded.",
        "",
        f"Packed {counts['packed']}, padded {counts['padded']}, one text at a time {counts['alone']}, refused "
        f"{counts['refused']}; {counts['skipped']} could not be built tiny here.",
        "",
        "`packed`: texts end to end with no padding, a shared beginning run once. `padded`: padded at the end. "
        "`alone`: padding would change a loss. Head `the model's own`: it does more to its logits than output "
        "embeddings, `logit_scale` and `final_logit_softcapping`, so its own forward makes them.",
        "",
        "Attention that keeps only some tokens (`index_topk`) is compared below that number, where it keeps all: "
        "above it, equal scores fall by the shape of the batch.",
        "",
        "| model type | texts | head | |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{o.name}` | {o.kind} | {o.head or ('ours' if o.kind in ('packed', 'padded', 'alone') else '')} | "
            f"{o.why.replace('|', '/')[:160]} |"
            for o in found
        ),
    ]
    return "\n".join(lines) + "\n"


def _quiet() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    import transformers

    transformers.logging.set_verbosity(logging.CRITICAL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args().names
    found = outcomes(wanted or None)
    for outcome in found:
        if wanted or outcome.kind in ("wrong", "alone", "refused"):
            print(f"{outcome.name:24s} {outcome.kind:8s} {outcome.head:16s} {outcome.why}")
    if not wanted:
        DOCUMENT.write_text(document(found), encoding="utf-8")
    print(json.dumps({k: sum(o.kind == k for o in found) for k in ("packed", "padded", "alone", "refused", "skipped", "wrong")}))  # fmt: skip
    return any(o.kind == "wrong" for o in found)


if __name__ == "__main__":
    raise SystemExit(main())
