"""Near-duplicates, by words and by meaning, and decontamination among up to a million samples, in a store of their own.

    python benchmarks/bench_duplicates.py [--samples N] [--data FILE] [--prompts FILE] [--vectors FILE.npy] [--only STEP...]

Samples are real ones (FILE, Alpaca's layout; made-up ones without it), perturbed: most are made of sentences of several
samples and are no duplicates; a tenth are copies of another with up to 5 % of their words exchanged. Their embeddings are
not a model's: they are made of real ones (--vectors, one a row; made-up ones without it) as bench_neighbours.py makes
them, and so are those of questions, of which a student would have to read a million: what is measured is the search. Prints
what it took, the peak memory of a process that does nothing else, and how many of the made copies were found. JSON in the
last line.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_neighbours import made, peak_kb
from bench_neighbours import made_up as made_up_vectors
from numpy.typing import NDArray

COPIES = 0.1
STEPS = ("dedup", "decontaminate", "meaning", "prompts-by-meaning")


def perturbed(count: int, data: list[dict[str, str]], seed: int = 1) -> Iterator[tuple[dict[str, str], bool]]:
    """(sample, whether it is a copy): real sentences in a new order with numbers of their own, or changed copies."""
    rng = random.Random(seed)
    sentences = [s for row in data for s in re.split(r"(?<=[.!?])\s+", row["output"]) if len(s) > 20]
    words = sorted({word for s in sentences[:3000] for word in s.split()})
    last: list[dict[str, str]] = []
    for n in range(count):
        if last and rng.random() < COPIES:
            of = rng.choice(last)
            text = of["output"].split()
            for place in rng.sample(range(len(text)), max(1, round(rng.uniform(0.0, 0.03) * len(text)))):
                text[place] = rng.choice(words)
            yield {"instruction": of["instruction"], "input": "", "output": " ".join(text)}, True
            continue
        body = " ".join(rng.sample(sentences, rng.randrange(3, 12)))
        row = {
            "instruction": f"{rng.choice(data)['instruction']} ({n})",
            "input": "",
            "output": f"{body} {n}",
        }
        last.append(row)
        if len(last) > 5000:
            last[rng.randrange(5000)] = last.pop()
        yield row, False


def made_up() -> list[dict[str, str]]:
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefghij", k=rng.randrange(3, 9))) for _ in range(3000)]
    return [
        {
            "instruction": " ".join(rng.choices(words, k=9)),
            "output": ". ".join(" ".join(rng.choices(words, k=12)) for _ in range(8)) + ".",
        }
        for _ in range(2000)
    ]


class DrawnQuestions:
    """An embedder that reads nothing: a question's vector is a real one with noise, both drawn by its words."""

    setting_id = 1

    def __init__(self, real: NDArray[np.float32]) -> None:
        self._real = real
        self._noise = real.std(axis=0) * 0.35

    def embed_texts(
        self, texts: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> list[NDArray[np.float16] | None]:
        vectors = []
        for text in texts:
            drawn = np.random.default_rng(zlib.crc32(text.encode()))
            vector = self._real[drawn.integers(len(self._real))]
            vectors.append(
                (vector + drawn.normal(size=vector.shape) * self._noise).astype(np.float16)
                if text.strip()
                else None
            )
        return vectors


def measure(what: str, path: Path, prompts: str, vectors: Path | None) -> dict[str, Any]:
    """One of the commands, in this process."""
    from srtui.store import Store

    began, cpu = time.perf_counter(), time.process_time()
    with Store(path) as store:
        dataset_id = store.corpus.dataset_id("many") or 0
        if what == "dedup":
            from srtui.pipeline.dedup import find_duplicates

            found = find_duplicates(store, "many", dataset_id)
            store.datasets.set_near_duplicates(dataset_id, found.found(), left_out=True)
            result = {"duplicates": found.duplicates, "groups": len(found.groups)}
        elif what == "meaning":
            from srtui.pipeline.neighbours import duplicates_by_meaning

            found = duplicates_by_meaning(store, "many", dataset_id)
            result = {"duplicates": found.duplicates, "groups": len(found.groups)}
        else:
            from srtui.pipeline.decontaminate import decontaminate

            embedder: Any = None
            if what == "prompts-by-meaning":
                embedder = DrawnQuestions(
                    np.load(vectors).astype(np.float32) if vectors else made_up_vectors()
                )
            overlaps = decontaminate(store, [dataset_id], [Path(prompts)], embedder=embedder)
            result = {"prompts": overlaps.prompts, "samples_found": overlaps.texts_found}
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": peak_kb() / 1024,
        **result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--only", choices=STEPS, nargs="+", default=list(STEPS))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(measure(given.work[0], Path(given.work[1]), given.work[2], given.vectors)))
        return
    from srtui.sample import Pair
    from srtui.store import Store
    from srtui.store.imports import NewRow

    data = json.loads(given.data.read_text(encoding="utf-8")) if given.data else made_up()
    with tempfile.TemporaryDirectory() as folder:
        path, copies = Path(folder) / "srtui.sqlite", 0

        def rows() -> Iterator[NewRow]:
            nonlocal copies
            for n, (row, is_copy) in enumerate(perturbed(given.samples, data)):
                copies += is_copy
                yield NewRow(n, Pair(row["instruction"], row["input"], row["output"]), "{}")

        with Store(path) as store:
            imported = store.imports.add_samples("many", "many", "0" * 64, "alpaca", rows())
            if "meaning" in given.only:
                real = np.load(given.vectors) if given.vectors else made_up_vectors()
                setting = store.scores.setting("made", "made", "made", "made", "default", 0)
                ids = (variant for _, variant in store.corpus.original_ids_of(1, 0, imported.new))
                for block in made(imported.new, real.astype(np.float32)):
                    store.embeddings.add(setting, [(i, v) for v, i in zip(block, ids, strict=False)])
        prompts = given.prompts or Path(folder) / "prompts.json"
        if not given.prompts:
            prompts.write_text(json.dumps([{"instruction": row["instruction"]} for row in data[:800]]))
        results: dict[str, Any] = {"samples": imported.new, "copies": copies}
        for what in given.only:
            command = [sys.executable, __file__, "--work", what, str(path), str(prompts)]
            command += ["--vectors", str(given.vectors)] if given.vectors else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[what] = json.loads(done.stdout.splitlines()[-1])
            print(what, results[what], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
