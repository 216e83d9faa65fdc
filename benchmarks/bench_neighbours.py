"""Near-duplicates among embeddings: srtui's exact search beside approximate indexes and beside all with all.

    python benchmarks/bench_neighbours.py [--points N] [--vectors FILE.npy] [--with exact screen usearch hnswlib]

Vectors are made of real embeddings (FILE, one a row; made-up ones with a falling spectrum without it): most are mixtures of
three of them, one in ten a copy of an earlier one with noise, at a cosine of about 0.90 to 1. Prints, for each way, the
processor seconds, the memory that its process has at most, and how many of the vectors that go it finds. ``usearch`` and
``hnswlib`` are not srtui's: install them where this runs. JSON in the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COPIES, BLOCK = 0.1, 4096
WIDTH = 576


def made(points: int, real: NDArray[np.float32], seed: int = 1) -> Iterator[NDArray[np.float16]]:
    """Blocks of vectors, as the module says."""
    random = np.random.default_rng(seed)
    mean = real.mean(axis=0)
    centred = real - mean
    spread = np.linalg.norm(centred, axis=1).mean() / np.sqrt(real.shape[1])
    recent = np.empty((0, real.shape[1]), dtype=np.float32)
    for start in range(0, points, BLOCK):
        size = min(BLOCK, points - start)
        weights = random.dirichlet([1.0, 0.6, 0.4], size).astype(np.float32)
        parts = centred[random.integers(0, len(real), (size, 3))]
        block = np.einsum("nk,nkw->nw", weights, parts)
        # A direction of its own for each, so that mixtures of the same three are not copies of each other.
        block += random.normal(size=block.shape).astype(np.float32) * spread * 0.35
        if len(recent):
            copies = np.flatnonzero(random.random(size) < COPIES)
            of = recent[random.integers(0, len(recent), len(copies))]
            noise = random.normal(size=of.shape).astype(np.float32)
            noise *= np.linalg.norm(of, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
            block[copies] = of + noise * random.uniform(0, 0.48, (len(copies), 1)).astype(np.float32)
        recent = np.concatenate([recent, block])[-40_000:]
        yield (block + mean).astype(np.float16)


def work(how: str, path: Path, threshold: float, within: float) -> dict[str, Any]:
    """One way, in this process. ``within`` is how much of it is compared with all: all with all takes hours."""
    from srtui.similarity import alike_to_earlier, mean_of, sample_step, screen_for, units

    vectors = np.load(path, mmap_mode="r")
    began, cpu = time.perf_counter(), time.process_time()
    blocks = lambda: (np.array(vectors[n : n + BLOCK]) for n in range(0, len(vectors), BLOCK))  # noqa: E731
    mean = mean_of(blocks())
    result: dict[str, Any] = {}
    if how == "screen":
        screen = screen_for(np.array(vectors[:: sample_step(len(vectors))]), mean, threshold)
        read = 0

        def at(positions: Any) -> NDArray[np.float16]:
            nonlocal read
            read += len(positions)
            return np.array(vectors[list(positions)])

        found = list(alike_to_earlier(blocks(), at, screen, threshold))
        result = {"found": len(found), "axes": [screen.few, int(screen.axes.shape[1])], "read_again": read}
    elif how == "exact":
        part = max(1024, round(len(vectors) * within))
        every = np.concatenate([units(block, mean) for block in blocks()])
        pairs = 0
        for start in range(0, part, 1024):
            for column in range(0, len(every), 8192):
                pairs += int(
                    (every[start : start + 1024] @ every[column : column + 8192].T >= threshold).sum()
                )
        result = {"part": part / len(vectors), "pairs": pairs}
    elif how == "usearch":
        from usearch.index import Index

        index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
        for n, block in enumerate(blocks()):
            index.add(np.arange(n * BLOCK, n * BLOCK + len(block)), units(block, mean), threads=1)
        result["built"] = time.process_time() - cpu
        gone = 0
        for n, block in enumerate(blocks()):
            matches = index.search(units(block, mean), 16, threads=1)
            own = np.arange(n * BLOCK, n * BLOCK + len(block))[:, None]
            gone += int(((1 - matches.distances >= threshold) & (matches.keys < own)).any(axis=1).sum())
        result["found_any"] = gone
    elif how == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), ef_construction=100, M=16)
        index.set_num_threads(1)
        for n, block in enumerate(blocks()):
            index.add_items(units(block, mean), np.arange(n * BLOCK, n * BLOCK + len(block)))
        result["built"] = time.process_time() - cpu
        index.set_ef(64)
        gone = 0
        for n, block in enumerate(blocks()):
            keys, distances = index.knn_query(units(block, mean), k=16)
            own = np.arange(n * BLOCK, n * BLOCK + len(block))[:, None]
            gone += int(((1 - distances >= threshold) & (keys < own)).any(axis=1).sum())
        result["found_any"] = gone
    else:
        raise SystemExit(f"--with {how}: it can be exact, screen, usearch, hnswlib")
    return {
        "how": how,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": round(peak_kb() / 1024),
        **result,
    }


def peak_kb() -> int:
    """The most memory that this process had; what its parent had does not count, as it does for ru_maxrss."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def made_up() -> NDArray[np.float32]:
    random = np.random.default_rng(5)
    return (random.normal(size=(3000, WIDTH)) * 0.985 ** np.arange(WIDTH) + 2).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--within", type=float, default=0.02, help="the share that exact compares with all")
    parser.add_argument("--with", dest="ways", nargs="+", default=["screen", "exact"])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.work[0], Path(given.work[1]), given.threshold, given.within)))
        return
    real = np.load(given.vectors).astype(np.float32) if given.vectors else made_up()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        whole = np.lib.format.open_memmap(path, "w+", np.float16, (given.points, real.shape[1]))
        begin = 0
        for block in made(given.points, real):
            whole[begin : begin + len(block)] = block
            begin += len(block)
        del whole
        results = []
        for how in given.ways:
            command = [
                sys.executable,
                __file__,
                "--work",
                how,
                str(path),
                "--threshold",
                str(given.threshold),
            ]
            command += ["--within", str(given.within)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(results[-1], flush=True)
    print(json.dumps({"points": given.points, "threshold": given.threshold, "ways": results}))


if __name__ == "__main__":
    main()
