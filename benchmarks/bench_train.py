"""Training beside plain TRL: tokens a second, peak memory, and what our callbacks and storing cost.

    python benchmarks/bench_train.py [--steps N] [--batch N] [--micro N] [--quantization f32|nf4|bf16] [--rounds N]

Both contenders train the same samples in the same order-free batches, from alpaca_cherry_3k.json in ../shared/data
where that is, else from the quickstart's: the same adapters, optimizer, batch size and micro-batch size, nothing
packed in plain TRL. Each runs in a process of its own, for its peak memory is its own, and in turn, for the machine
is not the same from minute to minute. Tokens are those of the samples; padding does not count.

- plain: SFTTrainer with SFTConfig, as TRL 1.x has it, gradient checkpointing as ours. Its adapters are kept in
  float32 as ours are, for on a CPU the bfloat16 that it casts them to would cost it most of its speed.
- srtui: srtui.training.train over a store, with a checkpoint in the middle and every metric stored.
- overhead: the time that srtui spent outside of its steps' arithmetic (metrics, callbacks, planning the next step),
  as a share; the checkpoint is told apart, since how often one is written is a setting (five minutes by default).

Where CUDA is at hand, a 7B-shaped student with random weights is trained too: length 2048, one sample a pass, with
gradient checkpointing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MAX_LENGTH = 512


def examples(count: int, tokenizer: Any) -> list[Any]:
    from srtui import datasets
    from srtui.prompts import template
    from srtui.student import Invalid, SpanBuilder

    real = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    path = real if real.exists() else ROOT / "recipes" / "quickstart.jsonl"
    builder = SpanBuilder(tokenizer, template("alpaca"), "default", MAX_LENGTH)
    rows = (r.pair for r in datasets.read(path) if not isinstance(r, datasets.BadRow))
    spans = (builder.forward(pair)[0] for pair in rows)
    good = (s for s in spans if not isinstance(s, Invalid))
    return list(islice(good, count))


def peak_bytes() -> int:
    """Of this process: on a GPU its allocations, else resident memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    from srtui.pipeline import peak_memory_mb

    return int(peak_memory_mb() * 1e6)


def plain(student: Any, some: list[Any], wanted: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds and tokens of the steps after the first, which warms up."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
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
        model=get_peft_model(
            student.model,
            LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        ),
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
        processing_class=student.tokenizer,
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
    from srtui.store.corpus import NewRow
    from srtui.training import Listener, WrittenCheckpoint, train, trainer

    store = Store(folder / "s.sqlite")
    imported = store.corpus.import_rows("b", "-", "-", "alpaca", [NewRow(0, Pair("i", "", "r"), "{}", "0")])
    recipe = Recipe(name="b", dataset="b").model_dump_json()
    run = store.runs.create("b", imported.dataset_id, "-", recipe, "-", [(1, False)]).id
    training = store.runs.start_training(run, len(some), wanted.steps)
    marks: dict[str, list[float]] = {"step": [], "tokens": [], "arithmetic": [], "saving": []}
    inside = [0.0]
    timed(trainer.Trainer, "run", inside)
    timed(torch.nn.utils, "clip_grad_norm_", inside)

    class Records(Listener):
        def metric(self, step: int, values: dict[str, float]) -> None:
            store.runs.training_metrics(training, step, values)
            marks["step"].append(time.perf_counter())
            marks["tokens"].append(values["tokens"])
            marks["arithmetic"].append(inside[0])

        def saved(self, written: WrittenCheckpoint) -> None:
            store.checkpoints.add(training, written.step, str(written.path), written.bytes, written.seconds)
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


def one(wanted: argparse.Namespace) -> None:
    """This process is one contender."""
    from srtui.models import resolve_student
    from srtui.student import Student
    from srtui.workspace import go_offline

    go_offline()
    with tempfile.TemporaryDirectory(prefix="srtui-bench-") as folder:
        if wanted.one == "seven":
            print("figures " + json.dumps(seven(Path(folder))))
            return
        student = Student.load(resolve_student(ROOT / "models", wanted.student), wanted.quantization)
        some = examples(wanted.steps * wanted.batch, student.tokenizer)
        wanted.steps = len(some) // wanted.batch
        found = {"plain": plain, "srtui": srtui}[wanted.one](
            student, some[: wanted.steps * wanted.batch], wanted, Path(folder)
        )
    print("figures " + json.dumps({**found, "peak": peak_bytes()}))


def seven(folder: Path) -> dict[str, float]:
    """A student with the shape of Llama 2 7B and random weights in NF4, on CUDA."""
    import torch
    from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    from srtui.recipe import TrainingSettings
    from srtui.student import Span, Student
    from srtui.training import Listener, train

    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        shaped = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048))
        torch.set_default_dtype(torch.float32)
    flops_a_token = 6 * sum(p.numel() for n, p in shaped.named_parameters() if "embed" not in n) * 2 / 3
    shaped.save_pretrained(folder / "seven")
    del shaped
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM.from_pretrained(
        folder / "seven", quantization_config=quantized, dtype=torch.bfloat16, device_map={"": "cuda"}
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "smollm2-135m", local_files_only=True)
    some = [Span(tuple((n * 31 + i) % 30000 + 5 for i in range(2048)), 1024) for n in range(8)]
    marks: list[tuple[float, float]] = []

    class Clock(Listener):
        def metric(self, step: int, values: dict[str, float]) -> None:
            marks.append((time.perf_counter(), values["tokens"]))

    config = TrainingSettings(epochs=1, batch_size=1, micro_batch_size=1, checkpoint_steps=1000)
    student = Student("seven", "seven", "nf4", model, tokenizer)
    train(folder, some, {}, config, folder / "adapter", Clock(), student=student)
    (first, before), (last, after) = marks[0], marks[-1]
    rate = (after - before) / (last - first)
    side = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        side @ side
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        side @ side
    torch.cuda.synchronize()
    best = 20 * 2 * 8192**3 / (time.perf_counter() - began)
    return {"rate": rate, "peak": peak_bytes(), "of_bf16_peak": rate * flops_a_token / best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--quantization", choices=("f32", "bf16", "nf4"), default="f32")
    parser.add_argument(
        "--steps", type=int, default=4, help="optimizer steps a contender takes, the first untimed"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="how often each contender runs, in turn")
    parser.add_argument("--one", choices=("plain", "srtui", "seven"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.one:
        one(wanted)
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "srtui": []}
    for n in range(wanted.rounds):
        for name in ("plain", "srtui") if n % 2 == 0 else ("srtui", "plain"):
            figures = contender(name)
            found[name].append(figures)
            print(
                f"{name:6} {figures['tokens'] / figures['seconds']:8,.1f} tokens/s, "
                f"{figures['peak'] / 1e9:5.2f} GB at its peak",
                flush=True,
            )
    rates = {n: statistics.median(f["tokens"] / f["seconds"] for f in all_) for n, all_ in found.items()}
    peaks = {n: max(f["peak"] for f in all_) / 1e9 for n, all_ in found.items()}
    overhead = statistics.median(f["overhead"] for f in found["srtui"])
    saving = statistics.median(f["saving"] for f in found["srtui"])
    ratio = rates["srtui"] / rates["plain"]
    print(f"\n{wanted.student} {wanted.quantization}, {os.cpu_count()} CPU cores, cut at {MAX_LENGTH} tokens")
    print(f"  times plain TRL's tokens/s   {ratio:8.2f}   (aim: at least 1.5)")
    print(f"  peak memory                  {peaks['srtui']:8.2f} GB, plain TRL {peaks['plain']:.2f} GB")
    print(f"  overhead of what is not arithmetic {overhead:8.3%}   (aim: under 1 %)")
    print(f"  writing a checkpoint         {saving:8.2f} s, about every five minutes")
    result: dict[str, Any] = {
        "bench": "train",
        "ratios": {"plain_trl": round(ratio, 2), "peak": round(peaks["srtui"] / peaks["plain"], 2)},
        "overhead": round(overhead, 4),
        "peak_gb": round(peaks["srtui"], 2),
    }
    import torch

    if torch.cuda.is_available():
        figures = contender("seven")
        print(
            f"  7B-shaped, NF4, length 2048: {figures['rate']:,.0f} tokens/s, {figures['peak'] / 1e9:.1f} GB"
        )
        result["seven"] = {k: round(v, 3) for k, v in figures.items()}
    print(json.dumps(result))


def contender(name: str) -> dict[str, float]:
    """Run one in a process of its own; its figures."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--one", name],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    figures: dict[str, float] = json.loads(done.stdout.rsplit("figures ", 1)[1])
    return figures


if __name__ == "__main__":
    main()
