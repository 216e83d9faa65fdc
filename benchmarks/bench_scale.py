"""The whole loop, reflect, choose, reflect, choose, settle, at 10,000, 100,000 and 1,000,000 samples.

Teacher and student are stand-ins that answer at once; everything else is the real thing: the teacher's chat
template and tokenizer in llama.cpp, the student's tokenizer, the window of requests, the store, the engine. So what
is measured is what srtui itself takes beside the models. The run is a process of its own. It is killed (kill -9) when
half of the second reflection is done, and a second process resumes it. Seconds to the first request count from the
start of the process; the rate is samples by the seconds of both processes, what was done twice included. The last
line is one JSON object.

``--kills N`` instead ends a run by kill -9 N times, at moments that are drawn, and compares it with one that was left
alone: the same decisions, and nothing twice.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

STARTED = time.time()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srtui.llama import Generation, Prepared, Request, WrittenSegment  # noqa: E402
from srtui.llama.sequence import AnswerSequence  # noqa: E402
from srtui.measures import SpanLoss  # noqa: E402
from srtui.sample import Pair, digest  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.store.corpus import batched  # noqa: E402
from srtui.store.imports import NewRow  # noqa: E402
from srtui.workspace import Workspace, go_offline  # noqa: E402

SIZES = (10_000, 100_000, 1_000_000)
CACHE = ROOT / "benchmarks" / ".cache"
RECIPE = """
name = "scale"
dataset = "scale"
[teacher]
model = "instant"
slots = 16
context = 8192
[student]
model = "tiny"
quantization = "f32"
[training]
enabled = false
"""
MODEL = "smollm2-135m"  # whose tokenizer and chat template the stand-ins have


def texts(samples: int) -> Iterator[Pair]:
    """The quickstart's pairs over and over, each with a number, so that no two are alike."""
    rows = (ROOT / "recipes" / "quickstart.jsonl").read_text(encoding="utf-8").splitlines()
    base = [json.loads(row) for row in rows]
    for n in range(samples):
        row = base[n % len(base)]
        yield Pair(f"{row['instruction']} ({n})", row.get("input", ""), row["output"])


# -- stand-ins ------------------------------------------------------------------------------------

_WORDS = (
    "A clear answer names what was asked, says why it holds, and gives one example that a reader can check. "
    "It keeps to the point, leaves out what nobody asked for, and ends where the question ends. "
) * 3


def instant_teacher(path: Path, identity_of: str, on_first: Callable[[], None]) -> Any:
    """The real teacher up to where llama.cpp would decode: there it has an answer at once. One in twenty is cut
    short at the first try, so that there are retries."""
    from srtui.llama.batching import LlamaTeacher

    class InstantTeacher(LlamaTeacher):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.asked = False
            self._heap: list[tuple[int, int, AnswerSequence]] = []
            self._number = count()

        def submit(self, requests: Sequence[Request | Prepared]) -> None:
            for request in requests:
                ready = request if isinstance(request, Prepared) else self.prepare(request)
                for sequence in cast("list[AnswerSequence]", ready.work):
                    heapq.heappush(self._heap, (-sequence.size, next(self._number), sequence))

        def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Generation]:
            steps = 0
            while self._heap:
                if not self.asked:
                    self.asked = True
                    on_first()
                if steps % 16 == 0 and should_stop():
                    return
                steps += 1
                yield self._answer(heapq.heappop(self._heap)[2])

        def _answer(self, sequence: AnswerSequence) -> Generation:
            request = sequence.request
            drawn = digest(request.messages[-1].content, sequence.seed)
            words = _WORDS[drawn[0] % 40 : 200 + drawn[1]]
            written = [
                WrittenSegment(f"{words} {drawn.hex()[:8]}.{n}", "stop:[End]", 60, 512)
                for n, _ in enumerate(request.segments)
            ]
            if drawn[2] < 13 and request.key.attempt == 1:  # type: ignore[attr-defined]
                written[-1] = WrittenSegment(words, "length", 60, 60)
            text = "".join(s.lead + w.text for s, w in zip(request.segments, written, strict=True))
            self._runner.new_tokens += 60 * len(written)
            self._runner.prompt_tokens += len(sequence.prompt)
            return Generation(
                request.key, sequence.candidate, sequence.seed, tuple(written), text, "", sequence.prompt_text,
                len(sequence.prompt), 60 * len(written), 0.01,
            )  # fmt: skip

    return InstantTeacher(path, name="instant", sha256=identity_of, context=8192, slots=16, threads=1)


class InstantScorer:
    """Losses by a hash of the tokens: targets behind a prompt are a little more expected than alone, as real
    ones are."""

    why_padded = ""
    longest = None
    packed = True

    def __init__(self, *_: Any) -> None:
        self.tokens_run = self.tokens_saved = 0

    def score(
        self,
        spans: Sequence[Any],
        should_stop: Callable[[], bool] = lambda: False,
        by_token: bool = False,
        embedded: Callable[[int, Any], None] | None = None,
    ) -> Iterator[tuple[int, SpanLoss]]:
        for n, span in enumerate(spans):
            if n % 64 == 0 and should_stop():
                return
            alone = len(span.ids) <= span.target + 1
            mean = 2.4 + hash(span.ids) % 1000 / 1000 + 0.6 * alone
            self.tokens_run += len(span.ids)
            yield n, SpanLoss(mean * span.target, span.target, span.truncated)


# -- one process of the run -----------------------------------------------------------------------


class _Silent:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        print(f"  {level}: {message}", file=sys.stderr, flush=True)


def work(root: Path, kill_after: int, teacher_file: Path, say: Callable[..., None]) -> None:
    """Prepare or resume the run and work on it; after ``kill_after`` reflections on responses, end by SIGKILL.
    ``say`` gets what was measured, at once."""
    from srtui import recipe as recipes
    from srtui import student
    from srtui.pipeline import Engine, prepare, variants

    go_offline()
    variants.open_scorer = student.open_scorer = InstantScorer  # type: ignore[assignment,misc]
    workspace, _ = Workspace.create(root)
    path = workspace.recipes / "scale.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        say(prepared_s=time.time() - STARTED)
        teacher = instant_teacher(
            teacher_file,
            "0" * 64,
            lambda: say(first_request_s=time.time() - STARTED, first_cpu_s=time.process_time()),
        )
        begun: set[str] = set()

        class Tells(_Silent):
            def progress(self, progress: Any) -> None:
                if progress.stage not in begun:
                    begun.add(progress.stage)
                    say(stage=progress.stage, at_s=time.time() - STARTED)
                if kill_after and progress.stage == "reflect-response" and progress.done >= kill_after:
                    say(seconds=time.time() - STARTED)
                    os.kill(os.getpid(), signal.SIGKILL)

        Engine(workspace, store, run, Tells(), teacher=teacher).work()
    say(seconds=time.time() - STARTED)


def kill_at_cpu(seconds: float) -> None:
    """End this process by SIGKILL once it has computed for so long, wherever it is then."""

    def watch() -> None:
        while time.process_time() < seconds:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def decided(store: Store) -> list[tuple[Any, ...]]:
    """What was decided, by the texts and not by the ids of rows, in the samples' order."""
    found = []
    for run in store.runs.all():
        chosen = store.decisions.of_run(run.id)
        for some in batched(chosen, 1000):
            variants = store.corpus.variants(variant for _, _, variant, _ in some)
            for sample_id, stage, variant, reason in some:
                outcome = store.decisions.outcome_of(run.id, sample_id)
                kept = (outcome.kept, outcome.reason) if outcome else None
                found.append((sample_id, stage, variants[variant].pair.digest, reason, kept))
    return found


# -- measuring ------------------------------------------------------------------------------------


def make_pair_once() -> None:
    """The tiny pair of the tests: the demo model's tokenizer and chat template, weights of no size."""
    place = CACHE / "pair"
    if (place / "tiny.F16.gguf").exists():
        return
    from tests.tiny_pair import make_pair

    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    make_pair(ROOT / "models" / MODEL, place)


def process(
    root: Path, kill_after: int, profile: Path | None = None, kill_cpu: float = 0.0
) -> dict[str, float]:
    """What one process of the run said."""
    profiled = ["-m", "cProfile", "-o", str(profile)] if profile else []
    command = [sys.executable, *profiled, str(Path(__file__).resolve()), "--work", str(root)]
    # As an installed program has them: modules that are compiled.
    env = os.environ | {"SRTUI_WORKSPACE": str(root), "PYTHONPYCACHEPREFIX": str(CACHE / "pycache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [*command, "--kill-after", str(kill_after), "--kill-cpu", str(kill_cpu)],
        env=env,
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if done.returncode not in (0, -signal.SIGKILL) or (done.returncode and not (kill_after or kill_cpu)):
        raise SystemExit(f"the run ended with {done.returncode}")
    said: dict[str, float] = {}
    for line in done.stdout.splitlines():
        facts = json.loads(line)
        if "stage" in facts:
            print(
                f"    {facts['stage']} from {facts['at_s']:.1f} s ({facts['cpu_s']:.1f} s of CPU), {facts['peak_mb']:.0f} MB so far",
                flush=True,
            )
        said |= facts
    return said | {"killed": done.returncode != 0}


def imported(samples: int, name: str) -> Workspace:
    """A workspace with so many samples in its store, and a recipe over them."""
    root = CACHE / name
    shutil.rmtree(root, ignore_errors=True)
    workspace, _ = Workspace.create(root)
    (workspace.models / "tiny").symlink_to(CACHE / "pair" / "tiny", target_is_directory=True)
    began = time.monotonic()
    with Store(workspace.store_path) as store:
        rows = (
            NewRow(n, p, json.dumps({"instruction": p.instruction, "input": p.input, "output": p.response}))
            for n, p in enumerate(texts(samples))
        )
        store.imports.add_samples("scale", "scale.jsonl", "0" * 64, "alpaca", rows)
    (workspace.recipes / "scale.toml").write_text(RECIPE)
    print(f"{samples:,} samples, imported in {time.monotonic() - began:.1f} s", flush=True)
    return workspace


def measure(samples: int, profile: Path | None, keep: bool) -> dict[str, Any]:
    """One size."""
    workspace = imported(samples, f"scale-{samples}")
    root, before = workspace.root, workspace.store_path.stat().st_size
    first = process(root, samples // 2, profile)
    second = process(root, 0, profile and profile.with_suffix(".2"))
    with Store(workspace.store_path, read_only=True) as store:
        run = store.runs.named("scale")
        if run.status != "done" or store.decisions.settled(run.id) != samples:
            raise SystemExit(f"the run is {run.status}, {store.decisions.settled(run.id):,} are settled")
        size, held = store.size(), store.bytes_of_texts()
    seconds, computing = (first[which] + second[which] for which in ("seconds", "cpu_s"))
    print(
        f"  first request after {first['first_cpu_s']:.1f} s of CPU, and {second['first_cpu_s']:.1f} s when resumed"
    )
    found = {
        "samples": samples,
        "first_request_s": round(first["first_request_s"], 2),
        "resume_s": round(second["first_request_s"], 2),
        "samples_per_s": round(samples / seconds, 1),
        "peak_mb": round(max(first["peak_mb"], second["peak_mb"]), 1),
        "store_kb_a_sample": round((size - held) / samples / 1000, 3),
    }
    print(
        f"  {seconds:.0f} s, {computing:.0f} s of CPU; store {size / 1e6:,.0f} MB ({before / 1e6:,.0f} when imported), texts {held / 1e6:,.0f} MB: "
        f"{found}",
        flush=True,
    )
    if not keep:
        shutil.rmtree(root)
    return found


_COUNTED = ("variant", "generation", "reflection", "candidate", "decision", "outcome", "score", "span_loss")


def measure_kills(samples: int, kills: int, keep: bool) -> dict[str, Any]:
    """A run that is killed over and over beside one that is not."""
    calm, wild = (imported(samples, f"kills-{name}") for name in ("calm", "wild"))
    whole = process(calm.root, 0)
    draw = random.Random(17)
    start, work_cpu = whole["first_cpu_s"], whole["cpu_s"] - whole["first_cpu_s"]
    happened = 0
    for _ in range(kills):
        # From before the first request on; together they come to most of the run.
        moment = start * draw.uniform(0.5, 1.0) + work_cpu * draw.uniform(0.0, 1.6) / kills
        happened += bool(process(wild.root, 0, kill_cpu=moment)["killed"])
        with Store(wild.store_path, read_only=True) as store:
            print(f"  killed {happened} times, {store.counts()['outcome']:,} samples are settled", flush=True)
    process(wild.root, 0)
    with Store(calm.store_path, read_only=True) as a, Store(wild.store_path, read_only=True) as b:
        same = decided(a) == decided(b)
        rows = {table: (a.counts()[table], b.counts()[table]) for table in _COUNTED}
        problems = b.check()
    twice = sum(there - here for here, there in rows.values())
    print(f"  {rows}, {problems or 'sound'}")
    if not keep:
        for workspace in (calm, wild):
            shutil.rmtree(workspace.root)
    if not same or twice or problems:
        raise SystemExit("the run that was killed is another one")
    return {"samples": samples, "kills": happened, "same_decisions": same, "rows_twice": twice}


def say(**facts: Any) -> None:
    """A line of JSON, with what this process has taken so far."""
    from srtui.pipeline.watch import peak_memory_mb

    print(json.dumps(facts | {"cpu_s": time.process_time(), "peak_mb": peak_memory_mb()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--profile", type=Path, help="write a profile of each process there")
    parser.add_argument("--keep", action="store_true", help="leave the workspaces in benchmarks/.cache")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill-after", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--kill-cpu", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument(
        "--kills", type=int, help="kill a run so many times, and compare it with one that is not"
    )
    given = parser.parse_args()
    if given.work:
        if given.kill_cpu:
            kill_at_cpu(given.kill_cpu)
        work(given.work, given.kill_after, CACHE / "pair" / "tiny.F16.gguf", say)
        return
    go_offline()
    make_pair_once()
    if given.kills:
        kept = measure_kills(given.samples[0], given.kills, given.keep)
        print(json.dumps({"bench": "scale-kills"} | kept))
        return
    found = [measure(samples, given.profile, given.keep) for samples in given.samples]
    last = found[-1]
    ratio = round(last["samples_per_s"] / found[0]["samples_per_s"], 3)
    order = ("samples", "first_request_s", "resume_s", "samples_per_s")
    print(
        json.dumps(
            {"bench": "scale"}
            | {name: last[name] for name in order}
            | {"rate_against_10k": ratio if found[0]["samples"] == SIZES[0] else None}
            | {name: last[name] for name in ("peak_mb", "store_kb_a_sample")}
        )
    )


if __name__ == "__main__":
    main()
