"""Subsets by facility location and clusters, of sets that are compared all with all and of larger ones.

    python benchmarks/bench_subsets.py [--points N...] [--vectors FILE.npy] [--share S] [--most N]

Vectors are made of real ones (FILE, one a row; made-up ones without it) as bench_neighbours.py makes them, and lie in a
file. A tenth of the points (--share) is chosen. With ``--most`` each set is also chosen from as if so many were the most that are
compared all with all.
Prints processor seconds, the peak memory of a process that does nothing else, the pages of the file in it included, and
the share of the weight that is covered, beside a random choice's, both by 2,000 of the points. JSON in the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_neighbours import made, made_up, peak_kb

_PROBED = 2000


def work(path: Path, share: float, most: int) -> dict[str, Any]:
    """One set, in this process."""
    from srtui.subsets import Points, cluster_labels, subset

    vectors = np.load(path, mmap_mode="r")
    weights = np.random.default_rng(1).uniform(0, 1, len(vectors))
    began, cpu = time.perf_counter(), time.process_time()
    points = Points(len(vectors), lambda at: vectors[list(at)])
    labels = cluster_labels(points, 12, most)
    clustered = time.process_time() - cpu
    chosen = subset(points, weights, round(share * len(vectors)), most=most)
    result = {
        "points": len(vectors),
        "exact": len(vectors) <= most,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "of_clusters": round(clustered, 1),
        "clusters": len(np.unique(labels)),
        "chosen": len(chosen),
        "peak_mb": round(peak_kb() / 1024),
    }
    probed = np.random.default_rng(2).choice(len(vectors), min(_PROBED, len(vectors)), replace=False)
    at_random = np.random.default_rng(3).permutation(len(vectors))[: len(chosen)].tolist()
    some = points.at(probed.tolist())
    for name, taken in (("covered", chosen), ("covered_at_random", at_random)):
        nearest = np.zeros(len(probed), dtype=np.float32)
        for start in range(0, len(taken), 4096):
            np.maximum(nearest, (some @ points.at(taken[start : start + 4096]).T).max(axis=1), out=nearest)
        result[name] = round(float(nearest @ weights[probed] / weights[probed].sum()), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--most", type=int)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(Path(given.work[0]), given.share, int(given.work[1]))))
        return
    from srtui.subsets import MOST

    real = np.load(given.vectors).astype(np.float32) if given.vectors else made_up()
    results = []
    for points in given.points:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.npy"
            whole = np.lib.format.open_memmap(path, "w+", np.float16, (points, real.shape[1]))
            begin = 0
            for block in made(points, real):
                whole[begin : begin + len(block)] = block
                begin += len(block)
            del whole
            for most in (MOST, given.most) if given.most else (MOST,):
                command = [
                    sys.executable,
                    __file__,
                    "--work",
                    str(path),
                    str(most),
                    "--share",
                    str(given.share),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(results[-1], flush=True)
    print(json.dumps({"bench": "subsets", "sets": results}))


if __name__ == "__main__":
    main()
