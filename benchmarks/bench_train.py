"""Training beside plain TRL: tokens a second, peak memory, and what our callbacks and storing cost.

    python benchmarks/bench_train.py [--steps N] [--batch N] [--micro N] [--quantization f32|nf4|bf16] [--rounds N]
                                     [--length N [--full]]

Both contenders train the same samples in the same order-free batches, from alpaca_cherry_3k.json in ../shared/data
where that is, else from the quickstart's: the same adapters, optimizer, batch size and micro-batch size, nothing
packed in plain TRL. Each runs in a process of its own, for its peak memory is its own, and in turn, for the machine
is not the same from minute to minute. Tokens are those of the samples; padding does not count.

- plain: SFTTrainer with SFTConfig, as TRL 1.x has it, gradient checkpointing as ours. Its adapters are kept in
  float32 as ours are, for on a CPU the bfloat16 that it casts them to would cost it most of its speed.
- srtui: srtui.training.train over a store, with a checkpoint in the middle and every metric stored.
- overhead: the time that srtui spent outside of its steps' arithmetic (metrics, callbacks, planning the next step),
  as a share; the checkpoint is told apart, since how often one is written is a setting (five minutes by default).

- unsloth: its model and patches under the same trainer, where it is installed and there is a GPU.

``--full`` fills every text to ``--length`` tokens with those of the next ones. The 7B-shaped student of
``make gpu`` (benchmarks/gpu) is measured by this, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def examples(count: int, tokenizer: Any, length: int, *, full: bool) -> list[Any]:
    """Spans of at most ``length`` tokens; with ``full``, of exactly so many, the later half of them targets."""
    from srtui import datasets
    from srtui.prompts import template
    from srtui.student import Invalid, Span, SpanBuilder

    real = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    path = real if real.exists() else ROOT / "recipes" / "quickstart.jsonl"
    builder = SpanBuilder(tokenizer, template("alpaca"), "default", length)
    rows = (r.pair for r in datasets.read(path) if not isinstance(r, datasets.BadRow))
    spans = (builder.forward(pair)[0] for pair in rows)
    good = [s for s in islice(spans, 4 * count) if not isinstance(s, Invalid)]
    if not full:
        return good[:count]
    tokens = islice(cycle(token for s in good for token in s.ids), count * length)
    return [Span(tuple(islice(tokens, length)), length // 2) for _ in range(count)]


def peak_bytes() -> int:
    """Of this process: on a GPU its allocations, else resident memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    from srtui.pipeline import peak_memory_mb

    return int(peak_memory_mb() * 1e6)


def plain(student: Any, some: list[Any], wanted: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Plain TRL with peft's adapters on all linear layers."""
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return by_trl(get_peft_model(student.model, adapters), student.tokenizer, some, wanted, folder)


def unsloth(some: list[Any], wanted: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The same trainer over unsloth's model; its adapters have no dropout, which is its fast way."""
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(student_folder(wanted)), max_seq_length=wanted.length, load_in_4bit=True
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        use_gradient_checkpointing="unsloth",
    )
    return by_trl(model, tokenizer, some, wanted, folder)


def by_trl(
    model: Any, tokenizer: Any, some: list[Any], wanted: argparse.Namespace, folder: Path
) -> dict[str, float]:
    """Seconds and tokens of SFTTrainer's steps after the first, which warms up."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    rows = [
        {
            "input_ids": list(e.ids),
            "labels": [-100] * (len(e.ids) - e.target) + list(e.ids[len(e.ids) - e.target :]),
        }
        for e in some
    ]
    gpu = torch.cuda.is_available()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=wanted.micro,
            gradient_accumulation_steps=wanted.batch // wanted.micro,
            optim="paged_adamw_8bit" if gpu else "adamw_torch",
            bf16=gpu,
            use_cpu=not gpu,
            gradient_checkpointing=gpu,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_pin_memory=gpu,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()
    # The first step also allocates; by samples, since which ones were in it is the trainer's secret.
    share = (len(some) - wanted.batch) / len(some)
    return {"tokens": share * sum(len(e.ids) for e in some), "seconds": times[-1] - times[1]}


def srtui(student: Any, some: list[Any], wanted: argparse.Namespace, folder: Path) -> dict[str, float]:
    import torch

    from srtui.recipe import Recipe, TrainingSettings
    from srtui.sample import Pair
    from srtui.store import Store
    from srtui.store.imports import NewRow
    from srtui.training import Listener, WrittenCheckpoint, train, trainer

    store = Store(folder / "s.sqlite")
    imported = store.imports.add_samples("b", "-", "-", "alpaca", [NewRow(0, Pair("i", "", "r"), "{}", "0")])
    recipe = Recipe(name="b", dataset="b").model_dump_json()
    run = store.runs.create("b", imported.dataset_id, "-", recipe, "-", [(1, False)]).id
    training = store.training.start(run, len(some), wanted.steps)
    marks: dict[str, list[float]] = {"step": [], "tokens": [], "arithmetic": [], "saving": []}
    inside = [0.0]
    timed(trainer.Trainer, "run", inside)
    timed(torch.nn.utils, "clip_grad_norm_", inside)

    class Records(Listener):
        def metric(self, step: int, values: dict[str, float]) -> None:
            store.training.add_metrics(training, step, values)
            marks["step"].append(time.perf_counter())
            marks["tokens"].append(values["tokens"])
            marks["arithmetic"].append(inside[0])

        def saved(self, written: WrittenCheckpoint) -> None:
            store.training.add_checkpoint(
                training, written.step, str(written.path), written.bytes, written.seconds
            )
            if written.step < wanted.steps:
                marks["saving"].append(written.seconds)

    import torch

    step = torch.optim.AdamW.step
    if not torch.cuda.is_available():
        timed(torch.optim.AdamW, "step", inside)
    config = TrainingSettings(
        epochs=1,
        batch_size=wanted.batch,
        micro_batch_size=wanted.micro,
        checkpoint_steps=max(2, wanted.steps // 2),
    )
    train(folder, some, {}, config, folder / "adapter", Records(), student=student)
    torch.optim.AdamW.step = step  # type: ignore[method-assign]
    saving = sum(marks["saving"])
    seconds = marks["step"][-1] - marks["step"][0]
    arithmetic = marks["arithmetic"][-1] - marks["arithmetic"][0]
    return {
        "tokens": marks["tokens"][-1] - marks["tokens"][0],
        "seconds": seconds,
        "overhead": (seconds - saving - arithmetic) / seconds,
        "saving": saving / max(1, len(marks["saving"])),
    }


def timed(owner: Any, name: str, total: list[float]) -> None:
    """Add the time of every call of a method to ``total``."""
    import torch

    method = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            total[0] += time.perf_counter() - began

    setattr(owner, name, call)


def student_folder(wanted: argparse.Namespace) -> Path:
    from srtui.models import resolve_student

    return resolve_student(ROOT / "models", wanted.student)


def one(wanted: argparse.Namespace) -> None:
    """This process is one contender."""
    from transformers import AutoTokenizer

    from srtui.student import Student
    from srtui.workspace import go_offline

    go_offline()
    with tempfile.TemporaryDirectory(prefix="srtui-bench-") as folder:
        place = student_folder(wanted)
        some = examples(
            wanted.steps * wanted.batch,
            AutoTokenizer.from_pretrained(place, local_files_only=True),
            wanted.length,
            full=wanted.full,
        )
        wanted.steps = len(some) // wanted.batch
        some = some[: wanted.steps * wanted.batch]
        if wanted.one == "unsloth":
            found = unsloth(some, wanted, Path(folder))
        else:
            student = Student.load(place, wanted.quantization)
            found = {"plain": plain, "srtui": srtui}[wanted.one](student, some, wanted, Path(folder))
    print("figures " + json.dumps({**found, "peak": peak_bytes()}))


def contenders() -> list[str]:
    """Those that this machine has."""
    import torch

    has_unsloth = torch.cuda.is_available() and importlib.util.find_spec("unsloth") is not None
    return ["plain", "srtui", *(["unsloth"] if has_unsloth else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--student", default="smollm2-135m", help="a model's name or its folder")
    parser.add_argument("--quantization", choices=("f32", "bf16", "nf4"), default="f32")
    parser.add_argument(
        "--steps", type=int, default=4, help="optimizer steps a contender takes, the first untimed"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--length", type=int, default=512, help="tokens that a text is cut at")
    parser.add_argument("--full", action="store_true", help="fill every text to that length")
    parser.add_argument("--rounds", type=int, default=2, help="how often each contender runs, in turn")
    parser.add_argument("--one", choices=("plain", "srtui", "unsloth"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        one(wanted)
        return
    names = contenders()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    reasons = {} if "unsloth" in names else {"unsloth": "not installed, or no GPU"}
    for n in range(wanted.rounds):
        for name in names if n % 2 == 0 else names[::-1]:
            figures = contender(name)
            if isinstance(figures, str):
                reasons[name] = figures
                print(f"{name:7} failed: {figures}", flush=True)
                continue
            measured[name].append(figures)
            print(
                f"{name:7} {figures['tokens'] / figures['seconds']:8,.1f} tokens/s, "
                f"{figures['peak'] / 1e9:5.2f} GB at its peak",
                flush=True,
            )
    rates = {
        n: statistics.median(f["tokens"] / f["seconds"] for f in rounds)
        for n, rounds in measured.items()
        if rounds
    }
    peaks = {n: max(f["peak"] for f in rounds) / 1e9 for n, rounds in measured.items() if rounds}
    result: dict[str, Any] = {
        "bench": "train",
        "ratios": {
            f"{'plain_trl' if n == 'plain' else n}": round(rates["srtui"] / rate, 2)
            for n, rate in rates.items()
            if n != "srtui" and "srtui" in rates
        },
        "rates": {n: round(rate, 1) for n, rate in rates.items()},
        "peaks_gb": {n: round(peak, 2) for n, peak in peaks.items()},
        "reasons": reasons,
    }
    print(f"\n{wanted.student} {wanted.quantization}, {os.cpu_count()} CPU cores, {wanted.length} tokens")
    for name, ratio in result["ratios"].items():
        print(f"  times {name}'s tokens/s   {ratio:8.2f}   (aim: at least 1.5)")
    for name, peak in peaks.items():
        print(f"  peak memory of {name:7} {peak:8.2f} GB")
    if "plain" in peaks and "srtui" in peaks:
        result["ratios"]["peak"] = round(peaks["srtui"] / peaks["plain"], 2)
        result["peak_gb"] = round(peaks["srtui"], 2)
    if "srtui" in rates:
        overhead = statistics.median(f["overhead"] for f in measured["srtui"])
        saving = statistics.median(f["saving"] for f in measured["srtui"])
        print(f"  overhead of what is not arithmetic {overhead:8.3%}   (aim: under 1 %)")
        print(f"  writing a checkpoint         {saving:8.2f} s, about every five minutes")
        result["overhead"] = round(overhead, 4)
    print(json.dumps(result))
    # One that does not fit this machine has its reason among the figures; without our own there are none.
    if not measured["srtui"]:
        sys.exit(1)


def contender(name: str) -> dict[str, float] | str:
    """Run one in a process of its own; its figures, or why there are none."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--one", name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"exit {done.returncode}: {lines[-1] if lines else 'no message'}"
    figures: dict[str, float] = json.loads(done.stdout.rsplit("figures ", 1)[1])
    return figures


if __name__ == "__main__":
    main()
