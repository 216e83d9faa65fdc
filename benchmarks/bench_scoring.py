"""A run's scores beside the plain way of getting them, and beside what the hardware could do.

    python benchmarks/bench_scoring.py [--samples N] [--student NAME] [--quantization bf16|nf4|f32] [--plain N]

Samples are of alpaca_cherry_3k.json in ../shared/data where that is, else of the quickstart data. Each has four
variants, as a run makes them: (x0, y0), a rewritten instruction with its answer, and a rewritten answer to each
instruction. No teacher runs here: the rewrites are texts of other samples, so they have real lengths. The
contenders run in turn, in this process, on the same loaded student:

- plain: the paper's released way: every variant, four passes each, batch of one, full logits. Timed on the first
  ``--plain`` samples and scaled by their tokens to all of them.
- srtui: VariantScorer over a store, as the pipeline asks it: only what each decision needs, each distinct span once.
- second: a second way of scoring over the same store (the other prompt template): no teacher call.
- ceiling: the model's body alone over full batches of as many tokens with no padding, no head, no store.

Rates are tokens that go through the model a second; ``plain`` is the ratio of times for the whole run's decisions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def samples(count: int) -> list[tuple[Any, Any, Any, Any]]:
    """(x0 y0), (x' y'), (x0 y''), (x' y''): the four variants of each sample."""
    from srtui import datasets
    from srtui.sample import Pair

    real = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    path = real if real.exists() else ROOT / "recipes" / "quickstart.jsonl"
    rows = [r.pair for r in islice(datasets.read(path), 3 * count) if not isinstance(r, datasets.BadRow)]
    count = min(count, len(rows))
    found = []
    for n in range(count):
        original, other, third = rows[n], rows[(n + count) % len(rows)], rows[(n + 2 * count) % len(rows)]
        new = Pair(f"{original.instruction} {other.instruction}", original.input, other.response)
        found.append(
            (
                original,
                new,
                Pair(original.instruction, original.input, third.response),
                Pair(new.instruction, new.input, third.response),
            )
        )
    return found


def plain(student: Any, builder: Any, variants: list[Any]) -> tuple[float, int]:
    """Seconds and tokens of the paper's way: L(y|x), L(y), L(x|y), L(x) of each variant, one by one."""
    import torch

    from srtui.student import Invalid

    start, tokens = time.perf_counter(), 0
    for pair in variants:
        for span in (*builder.forward(pair), *builder.reverse(pair)):
            if isinstance(span, Invalid):
                continue
            ids = torch.tensor([span.ids], device=student.model.device)
            labels = ids.clone()
            labels[:, : len(span.ids) - span.target] = -100
            with torch.no_grad():
                student.model(input_ids=ids, labels=labels).loss.item()
            tokens += len(span.ids)
    return time.perf_counter() - start, tokens


def decisions(store: Any, judge: Any, some: list[tuple[Any, Any, Any, Any]]) -> float:
    """Seconds to make all decisions of a run over these samples, variants stored beforehand."""
    ids = []
    with store.transaction():
        for n, (original, new, on_old, on_new) in enumerate(some):
            (sample,) = store.conn.execute(
                "SELECT sample_id FROM variant WHERE digest = ?", (original.digest,)
            ).fetchone()
            first = store.corpus.variants_of(sample)[0].id
            second, _ = store.corpus.add_variant(sample, "instruction_reflected", "import", first, None, new)
            third, _ = store.corpus.add_variant(sample, "response_reflected", "import", first, None, on_old)
            fourth, _ = store.corpus.add_variant(sample, "response_reflected", "import", second, None, on_new)
            ids.append((first, second, third, fourth, n))
    start = time.perf_counter()

    def score(variants: list[int], metric: str) -> dict[int, Any]:
        for _ in judge.score(variants, metric):
            pass
        return {i: value for i, (value, _) in judge.scores(variants, metric).items()}

    by_ifd = score([v for row in ids for v in row[:2]], "ifd")
    pairs = [
        (second, fourth) if (by_ifd[second] or 0) > (by_ifd[first] or 0) else (first, third)
        for first, second, third, fourth, _ in ids
    ]
    by_rifd = score([v for pair in pairs for v in pair], "rifd")
    kept = [new for old, new in pairs if (by_rifd[new] or 9) < (by_rifd[old] or 9)]
    score(kept, "ifd")
    return time.perf_counter() - start


def ceiling(student: Any, tokens: int, budget: int) -> float:
    """Tokens a second of the body alone over full rows of ``budget`` tokens, cut into usual lengths."""
    import torch

    from srtui.student import examine
    from srtui.student.packing import Packing, packed_attention

    usual = 256
    lengths = [usual] * (budget // usual)
    body = examine(student.model, student.name).body
    ids = torch.randint(0, 1000, (1, sum(lengths)), device=student.model.device)
    positions = torch.arange(usual, device=student.model.device).repeat(len(lengths))[None]

    def once() -> None:
        with torch.inference_mode(), packed_attention(student.model):
            body(
                input_ids=ids,
                position_ids=positions,
                use_cache=False,
                packing=Packing(lengths, [None] * len(lengths)),
            )
        if ids.is_cuda:
            torch.cuda.synchronize()

    once()
    times = max(2, tokens // ids.numel())
    start = time.perf_counter()
    for _ in range(times):
        once()
    return times * ids.numel() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--plain", type=int, default=16, help="samples that the plain way is timed on")
    parser.add_argument("--student", default="smollm2-135m", help="a model's name or its folder")
    parser.add_argument("--quantization", choices=("bf16", "nf4", "int8", "f32"), default="bf16")
    wanted = parser.parse_args()

    from srtui.workspace import go_offline

    go_offline()
    from srtui.models import resolve_student
    from srtui.pipeline.variants import VariantScorer
    from srtui.store import Store
    from srtui.store.imports import NewRow
    from srtui.student import Invalid

    path = resolve_student(ROOT / "models", wanted.student)
    some = samples(wanted.samples)
    with (
        tempfile.TemporaryDirectory(prefix="srtui-bench-") as folder,
        Store(Path(folder) / "s.sqlite") as store,
    ):
        store.imports.add_samples(
            "bench", "-", "-", "alpaca", [NewRow(n, row[0], "{}") for n, row in enumerate(some)]
        )
        settings: dict[str, Any] = {"name": wanted.student, "max_length": 2048}
        judge = VariantScorer(store, path, wanted.quantization, template_name="alpaca", **settings)
        all_tokens = sum(
            len(s.ids)
            for row in some
            for pair in row
            for s in (*judge.spans.forward(pair), *judge.spans.reverse(pair))
            if not isinstance(s, Invalid)
        )
        seconds, tokens = plain(judge.student, judge.spans, [p for row in some[: wanted.plain] for p in row])
        plain_seconds = seconds * all_tokens / tokens
        print(
            f"plain    {tokens / seconds:8,.0f} tokens/s; all {all_tokens:,} of them: {plain_seconds:,.0f} s"
        )
        ours = decisions(store, judge, some)
        rate = judge.tokens_run / ours
        print(f"srtui    {rate:8,.0f} tokens/s; {judge.tokens_run:,} of them: {ours:,.0f} s", flush=True)
        budget = judge._scorer.batches.tokens
        best = ceiling(judge.student, min(judge.tokens_run, 12 * budget), budget)
        print(f"ceiling  {best:8,.0f} tokens/s", flush=True)
        other = VariantScorer(
            store, path, wanted.quantization, template_name="vicuna", student=judge.student, **settings
        )
        second = decisions(store, other, some[: wanted.plain])
        print(
            f"second   {other.tokens_run / second:8,.0f} tokens/s under another template, {wanted.plain} samples, "
            "no teacher call"
        )
    saved = {
        **judge.tokens_saved,
        "decisions_not_needed": all_tokens - judge.tokens_run - sum(judge.tokens_saved.values()),
    }
    ratios = {"plain": round(plain_seconds / ours, 2), "ceiling": round(rate / best, 2)}
    print(
        f"\n{wanted.student} {wanted.quantization}, {len(some)} samples, four variants each, {os.cpu_count()} CPU cores"
    )
    print(f"  times as fast as the plain way {ratios['plain']:6.2f}   (aim on 2 cores: at least 2.5)")
    print(f"  of the ceiling's tokens/s      {ratios['ceiling']:6.2f}   (aim on 2 cores: at least 0.9)")
    for cause, count in saved.items():
        print(f"  tokens not run: {cause.replace('_', ' '):22} {count:10,}")
    rates = {"plain": tokens / seconds, "srtui": rate, "ceiling": best}
    print(
        json.dumps(
            {
                "bench": "scoring",
                "samples": len(some),
                "ratios": ratios,
                "rates": {name: round(value, 1) for name, value in rates.items()},
                "tokens_saved": saved,
            }
        )
    )


if __name__ == "__main__":
    main()
