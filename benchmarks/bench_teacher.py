"""The teacher beside its alternatives, on the same model file, prompts, limits and sampler, in one run.

    python benchmarks/bench_teacher.py [--model NAME] [--prompts N] [--tokens N] [--slots N] [--repeat N]
    python benchmarks/bench_teacher.py --soak 2000      (memory over many requests instead)
    python benchmarks/bench_teacher.py --parse 500      (how many reflections parse instead)

Compared are new tokens a second, prompts included in the time:

- teacher: srtui's engine, free mode; and guided, with the same number of tokens to write;
- loop: llama-cpp-python's create_chat_completion, one prompt after the other;
- server: llama.cpp's own server with as many slots, in a process of its own, through the package
  xllamacpp where it is installed (``pip install xllamacpp``); left open otherwise;
- ceiling: bare llama_decode of the same prompt chunks, then of full decode batches with as many sequences,
  nothing sampled; its time is taken for as many tokens as srtui wrote.

Each contender runs in a process of its own, all in turn, ``--repeat`` times over (three at least, for single runs
differ by a third here); a ratio is the median of the rounds', with their least and most. The loop, whose rate does
not depend on how many prompts there are, gets every fourth. Prompts are real reflection prompts: of
alpaca_cherry_3k.json in ../shared/data where that is, else of the quickstart data, from the start again where there
are too few.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CONTENDERS = ("ceiling", "free", "guided", "server", "loop")


def data_file() -> Path:
    real = ROOT.parent / "shared" / "data" / "alpaca_cherry_3k.json"
    return real if real.exists() else ROOT / "recipes" / "quickstart.jsonl"


def reflections(count: int, tokens: int, *, guided: bool) -> list[tuple[Any, Any]]:
    """(protocol, pair): reflections on the response, as a run asks them, with ``tokens`` to write in all."""
    from srtui import datasets
    from srtui.recipe import parse
    from srtui.reflection import ReflectionPrompt, load_criteria

    critique = tokens * 3 // 8
    recipe = parse(
        {
            "name": "bench",
            "dataset": "-",
            "reflection": {
                "mode": "guided" if guided else "free",
                "critique_tokens": critique,
                "answer_tokens": tokens - critique,
            },
        },
        "bench",
    )
    protocol = ReflectionPrompt(load_criteria("response", "response", ROOT / "recipes"), recipe)
    rows = [r for r in islice(datasets.read(data_file()), count) if not isinstance(r, datasets.BadRow)]
    return [(protocol, row.pair) for row in islice(cycle(rows), count)]


def requests(count: int, tokens: int, *, guided: bool) -> list[Any]:
    """The same as the teacher gets them."""
    some = reflections(count, tokens, guided=guided)
    return [protocol.request(n, pair, 1) for n, (protocol, pair) in enumerate(some)]


def measure_teacher(model: Path, wanted: argparse.Namespace, *, guided: bool) -> dict[str, Any]:
    from srtui.llama import open_teacher

    teacher = open_teacher(model, name="bench", sha256="-", slots=wanted.slots)
    asked = requests(wanted.prompts, wanted.tokens, guided=guided)
    in_use: list[int] = []

    def each_step() -> bool:
        in_use.append(teacher.progress().slots_in_use)
        return False

    start = time.perf_counter()
    teacher.submit(asked)
    done = sum(1 for _ in teacher.run(each_step))
    seconds = time.perf_counter() - start
    progress = teacher.progress()
    steps: int = teacher.steps  # type: ignore[attr-defined]
    decode: float = teacher.decode_seconds  # type: ignore[attr-defined]
    reused = graphs_reused(teacher)
    teacher.close()
    work = list(accumulate(in_use))
    until_the_tail = [n for n, so_far in zip(in_use, work, strict=True) if so_far <= 0.95 * work[-1]]
    return {
        "done": done,
        "seconds": seconds,
        "tokens": progress.new_tokens,
        "slots": progress.slots,
        "slots_in_use": sum(until_the_tail) / len(until_the_tail) / progress.slots,
        "host_ms_a_step": 1000 * (seconds - decode) / max(1, steps),
        "step_ms": 1000 * decode / max(1, steps),
        "graphs_reused": reused,
        "steps": steps,
        "prompt_tokens": progress.prompt_tokens,
        "prompt_tokens_saved": progress.prompt_tokens_saved,
    }


def graphs_reused(teacher: Any) -> int | None:
    """How many decodes of the last context used the compute graph of the one before; None where there was none."""
    import llama_cpp

    context = teacher._context
    return None if context is None else int(llama_cpp.llama_perf_context(context.pointer).n_reused)


def measure_loop(model: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    from llama_cpp import Llama

    llama = Llama(str(model), n_ctx=4096, n_threads=os.cpu_count(), n_gpu_layers=-1, verbose=False)
    tokens, start = 0, time.perf_counter()
    for request in requests(wanted.prompts, wanted.tokens, guided=False)[::4]:
        s = request.sampler
        answer: Any = llama.create_chat_completion(
            [{"role": m.role, "content": m.content} for m in request.messages],  # type: ignore[misc]
            max_tokens=wanted.tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            top_k=s.top_k,
            min_p=s.min_p,
            repeat_penalty=s.repeat_penalty,
            seed=request.seed,
        )
        tokens += answer["usage"]["completion_tokens"]
    return {"seconds": time.perf_counter() - start, "tokens": tokens}


def measure_server(model: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    try:
        import xllamacpp
    except ImportError:
        return {}
    slots = wanted.slots
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_parallel = slots
    parameters.n_ctx = slots * 1024
    parameters.kv_unified = True
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = os.cpu_count() or 1
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)

    def ask(request: Any) -> int:
        s = request.sampler
        answer = server.handle_chat_completions(
            {
                "messages": [{"role": m.role, "content": m.content} for m in request.messages],
                "max_tokens": wanted.tokens,
                "temperature": s.temperature,
                "top_p": s.top_p,
                "top_k": s.top_k,
                "min_p": s.min_p,
                "repeat_penalty": s.repeat_penalty,
                "repeat_last_n": s.repeat_window,
                "seed": request.seed,
                "cache_prompt": True,
            }
        )
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        return int(answer["usage"]["completion_tokens"])

    asked = requests(wanted.prompts, wanted.tokens, guided=False)
    start = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        tokens = sum(pool.map(ask, asked))
    return {"seconds": time.perf_counter() - start, "tokens": tokens}


def measure_ceiling(model: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """No sampling and no bookkeeping: what llama_decode alone takes for the same tokens."""
    from srtui.llama.batching import LlamaTeacher
    from srtui.llama.scheduler import common_prefix

    teacher = LlamaTeacher(model, name="bench", sha256="-", slots=wanted.slots)
    prompts = [teacher._render(r)[1] for r in requests(wanted.prompts, wanted.tokens, guided=False)]
    prefix = common_prefix(prompts)[:-1]
    prompts = sorted((p[len(prefix) :] for p in prompts), key=len, reverse=True)
    slots = wanted.slots
    # The same context, batch and attention as the engine's own.
    context = teacher._open_context(slots, len(prefix) + len(prompts[0]) + wanted.tokens)
    assert context is not None

    def decode(rows: Iterable[tuple[int, int, int, bool]]) -> None:
        size = 0
        for token, position, slot, logits in rows:
            context.put(size, token, position, slot, wants_logits=logits)
            size += 1
        assert context.decode(size, wait=True)

    start = time.perf_counter()
    size = context.batch_tokens
    for at in range(0, len(prefix), size):
        decode((t, at + i, slots, False) for i, t in enumerate(prefix[at : at + size]))
    tokens, decoding = 0, 0.0
    for wave in range(0, len(prompts), slots):
        group = prompts[wave : wave + slots]
        for seq in range(slots):
            context.cut(seq, 0)
            context.copy(slots, seq)
        for seq, prompt in enumerate(group):
            for at in range(0, len(prompt), size):
                decode(
                    (token, len(prefix) + i, seq, i == len(prompt) - 1)
                    for i, token in enumerate(prompt[at : at + size], at)
                )
        began = time.perf_counter()
        for step in range(wanted.tokens):
            decode(
                (prompt[step % len(prompt)], len(prefix) + len(prompt) + step, seq, True)
                for seq, prompt in enumerate(group)
            )
        decoding += time.perf_counter() - began
        tokens += wanted.tokens * len(group)
    seconds = time.perf_counter() - start
    teacher.close()
    return {
        "seconds": seconds,
        "tokens": tokens,
        "decode_rate": tokens / decoding,
        "prompt_seconds": seconds - decoding,
    }


def soak(model: Path, count: int, slots: int) -> None:
    """Many short requests through one engine; memory after a tenth of them and at the end."""
    import psutil

    from srtui.llama import Message, Request, Segment, open_teacher

    teacher = open_teacher(model, name="bench", sha256="-", slots=slots)
    asked = [
        Request(n, (Message("user", f"Say the number {n} and stop."),), (Segment("", 4), Segment("!", 4)), n)
        for n in range(count)
    ]
    teacher.submit(asked)
    process, early = psutil.Process(), 0
    for n, _ in enumerate(teacher.run(), 1):
        if n == count // 10:
            early = process.memory_info().rss
    late = process.memory_info().rss
    print(
        json.dumps(
            {"bench": "soak", "requests": n, "mb_at_a_tenth": early >> 20, "mb_at_the_end": late >> 20}
        )
    )


def parse_share(model: Path, count: int, tokens: int, slots: int) -> None:
    """How many reflections parse, guided and in free mode: at the first try, and after a run's retries."""
    from srtui.llama import open_teacher

    shares: dict[str, dict[str, float]] = {}
    for mode in ("guided", "free"):
        some = reflections(count if mode == "guided" else max(1, count // 5), tokens, guided=mode == "guided")
        teacher = open_teacher(model, name="bench", sha256="-", slots=slots)
        left, shares[mode] = list(range(len(some))), {}
        for attempt in range(1, some[0][0].recipe.reflection.max_attempts + 1):
            teacher.submit([some[n][0].request(n, some[n][1], attempt) for n in left])
            left, reasons = [], dict[str, int]()
            for generation in teacher.run():
                protocol, pair = some[int(str(generation.key))]
                status = protocol.read(generation, pair).status
                reasons[status] = reasons.get(status, 0) + 1
                if status != "parsed":
                    left.append(int(str(generation.key)))
            shares[mode][f"after_{attempt}"] = round(1 - len(left) / len(some), 4)
            print(f"{mode}, try {attempt}: {reasons}", flush=True)
            if not left:
                break
        teacher.close()
    print(json.dumps({"bench": "parse", "reflections": count, "share": shares}))


def measure(name: str, model: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    if name in ("free", "guided"):
        return measure_teacher(model, wanted, guided=name == "guided")
    return {"loop": measure_loop, "server": measure_server, "ceiling": measure_ceiling}[name](model, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m", help="a model's name or a GGUF file")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=192, help="to write, a prompt")
    parser.add_argument("--slots", type=int, default=0, help="what srtui models tune found, if absent")
    parser.add_argument("--repeat", type=int, default=3, help="rounds, three at least")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--parse", type=int, default=0)
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    wanted = parser.parse_args()

    from srtui.llama.tuning import tuned
    from srtui.models import resolve_teacher

    model = (
        Path(wanted.model)
        if wanted.model.endswith(".gguf")
        else resolve_teacher(ROOT / "models", wanted.model)
    )
    measured = tuned(model)
    wanted.slots = wanted.slots or (measured.slots if measured else 16)
    if wanted.soak:
        soak(model, wanted.soak, wanted.slots)
        return
    if wanted.parse:
        parse_share(model, wanted.parse, wanted.tokens, wanted.slots)
        return
    if wanted.measure:
        print(json.dumps(measure(wanted.measure, model, wanted)))
        return
    if wanted.repeat < 3:
        parser.error("--repeat: three rounds at least; single ones differ by a third")
    print(json.dumps(_table(_rounds(wanted), wanted, model)))


def host_ms(
    sequences: Sequence[int] = (16, 32, 64), sizes: Sequence[int] = (49_152, 151_936)
) -> dict[str, float]:
    """Milliseconds that drawing the next token of so many sequences takes, by "sequences x vocabulary": the
    recipe's default sampler over made-up logits, after 256 tokens; the median of at least 30 steps."""
    import numpy as np

    from srtui.llama import Sampler
    from srtui.llama.sampling import TokenSampler

    random, taken = np.random.default_rng(0), {}
    for size in sizes:
        logits = (random.standard_normal((max(sequences), size)) * 3).astype(np.float32)
        samplers = [TokenSampler(None, size, Sampler(), seed) for seed in range(max(sequences))]
        for sampler, row in zip(samplers, logits, strict=True):
            for _ in range(256):
                sampler.draw_from(row)
        for count in sequences:
            steps = []
            for _ in range(30):
                began = time.perf_counter()
                for sampler, row in zip(samplers[:count], logits, strict=False):
                    sampler.draw_from(row)
                steps.append(time.perf_counter() - began)
            taken[f"{count}x{size}"] = round(1000 * statistics.median(steps), 2)
        for sampler in samplers:
            sampler.close()
    return taken


def _rounds(wanted: argparse.Namespace) -> list[dict[str, dict[str, Any]]]:
    """What each contender measured, round by round; one that failed or is not installed has nothing."""
    rounds: list[dict[str, dict[str, Any]]] = []
    for _ in range(wanted.repeat):
        measured: dict[str, dict[str, Any]] = {}
        for name in wanted.only:
            arguments = [
                sys.executable, __file__, "--measure", name, "--model", wanted.model,
                "--prompts", str(wanted.prompts), "--tokens", str(wanted.tokens), "--slots", str(wanted.slots),
            ]  # fmt: skip
            done = subprocess.run(arguments, check=False, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            if not found:
                continue
            found["rate"] = found["tokens"] / found["seconds"]
            print(
                f"{name:8} {found['tokens']:6,} tokens in {found['seconds']:6.1f} s = {found['rate']:6.1f}/s",
                flush=True,
            )
            measured[name] = found
        rounds.append(measured)
    return rounds


def _ratio(measured: dict[str, dict[str, Any]], name: str) -> float | None:
    """srtui's rate over a contender's, of one round; None where one of them was not measured."""
    if "free" not in measured or name not in measured:
        return None
    engine, other = measured["free"], measured[name]
    if name == "ceiling":
        # The ceiling wrote to the limit everywhere; this is its time for as many tokens as srtui wrote.
        as_many: float = other["prompt_seconds"] + engine["tokens"] / other["decode_rate"]
        return as_many / float(engine["seconds"])
    return float(engine["rate"] / other["rate"])


def _guided_cost(measured: dict[str, dict[str, Any]]) -> float | None:
    """What a token of guided writing takes over one of free writing, the prompts' time left out; of one round."""
    if not {"free", "guided", "ceiling"} <= measured.keys():
        return None
    prompts = measured["ceiling"]["prompt_seconds"]
    free, led = ((measured[n]["seconds"] - prompts) / measured[n]["tokens"] for n in ("free", "guided"))
    return float(led / free - 1)


def _middle(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    """(median, least, most) of what was measured."""
    there = [value for value in values if value is not None]
    return (statistics.median(there), min(there), max(there)) if there else None


def _table(
    rounds: list[dict[str, dict[str, Any]]], wanted: argparse.Namespace, model: Path
) -> dict[str, Any]:
    ratios = {
        name: _middle(_ratio(measured, name) for measured in rounds) for name in ("loop", "server", "ceiling")
    }
    guided = _middle(_guided_cost(measured) for measured in rounds)
    engines = [measured["free"] for measured in rounds if "free" in measured]
    print(
        f"\n{model.name}, {wanted.prompts} prompts of {data_file().name}, {wanted.tokens} tokens each, "
        f"{wanted.slots} slots, {os.cpu_count()} CPU cores, {len(rounds)} rounds"
    )
    for name, aim in (("loop", "2.4"), ("server", "1.05"), ("ceiling", "0.92")):
        values = ratios[name]
        value = "not measured" if values is None else f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"
        print(f"  srtui / {name:8} {value:>22}   (aim on 2 cores: at least {aim})")
    if engines:
        engine = max(engines, key=lambda e: e["rate"])
        print(f"  slots in use until the last 5 %   {engine['slots_in_use']:.3f}   (aim: at least 0.95)")
        print(
            f"  a step: {engine['step_ms']:.1f} ms in llama_decode, {engine['host_ms_a_step']:.2f} ms outside it"
        )
        shared, run = engine["prompt_tokens_saved"], engine["prompt_tokens"]
        print(f"  prompt tokens: {run:,} evaluated, {shared:,} saved by prefix sharing")
    host = host_ms()
    for name, milliseconds in host.items():
        print(f"  drawing the next tokens, sequences x vocabulary {name:10} {milliseconds:6.2f} ms")
    if guided is not None:
        print(f"  guided against free, a token: {100 * guided[0]:+.1f} %   (aim: under 3 %)")
    return {
        "bench": "teacher",
        "ratios": {name: None if v is None else round(v[0], 3) for name, v in ratios.items()},
        "spread": {name: [round(v[1], 3), round(v[2], 3)] for name, v in ratios.items() if v is not None},
        "rounds": len(rounds),
        "slots_in_use": round(engine["slots_in_use"], 3) if engines else None,
        "guided_cost": None if guided is None else round(guided[0], 3),
        "host_ms": host,
    }


if __name__ == "__main__":
    main()
