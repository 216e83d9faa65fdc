"""Rows a second and memory of importing a million rows: the reader alone, and into a store.

    python benchmarks/bench_import.py [--rows N] [--kind jsonl|json|sharegpt|csv|parquet|gz|zst|each]

Makes a file of N Alpaca-like rows (mean about 400 bytes) in a temporary folder; reads it, and imports it into
a new store there, each in a process of its own, so that the peak memory is theirs. Prints one JSON line last. ``each`` is N conversations of 8 turns in ShareGPT's layout, imported with
--turns each; its rows are turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

TURNS = 8
KINDS = ("jsonl", "json", "sharegpt", "csv", "parquet", "gz", "zst", "each")
_TEXT = (
    "the of a model answer writes kind question short naïve because explain list number river table "
    "which light every first when compare describe steps careful method tell reason «quoted» 東京"
)


def rows(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Different rows, quickly: slices of one long random text, each with its number in front."""
    rng = random.Random(seed)
    text = "".join(word + rng.choice("     \n") for word in rng.choices(_TEXT.split(), k=200_000))
    for n in range(count):
        at = rng.randrange(len(text) - 1000)
        yield {
            "instruction": f"Task {n}: {text[at : at + 60]}",
            "input": text[at + 60 : at + 120] if n % 4 == 0 else "",
            "response": text[at + 120 : at + 120 + rng.randrange(100, 500)] + ".",
        }


def make(path: Path, kind: str, count: int) -> None:
    from srtui.datasets import write

    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["instruction", "input", "response"])
            writer.writeheader()
            writer.writerows(rows(count))
        return
    if kind == "each":
        with path.open("wb") as out:
            made = rows(count * TURNS // 2)
            for n in range(count):
                turns = [t for _ in range(TURNS // 2) for t in _asked_and_answered(next(made))]
                out.write(orjson.dumps({"id": f"c{n}", "conversations": turns}) + b"\n")
        return
    name = {"jsonl": "d.jsonl", "gz": "d.jsonl.gz", "zst": "d.jsonl.zst", "json": "d.json"}.get(kind, "d")
    format = kind if kind in ("sharegpt", "parquet") else "alpaca"
    write(rows(count), path.with_name(name), format)
    path.with_name(name).replace(path)


def _asked_and_answered(row: dict[str, Any]) -> list[dict[str, str]]:
    return [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["response"]}]


def measure(path: Path, store: Path | None, each: bool) -> dict[str, Any]:
    """Read the file once, or import it into ``store``, and tell what it took; for a fresh process."""
    start, cpu = time.perf_counter(), time.process_time()
    if store is None:
        from srtui.datasets import BadRow, read

        reader = read(path, turns="each" if each else "first")
        if each:
            good = sum(len(r.conversation.turns) for r in reader.conversations() if not isinstance(r, BadRow))
        else:
            good = sum(1 for _ in reader) - sum(reader.bad.values())
    else:
        from srtui.pipeline import import_file
        from srtui.store import Store

        with Store(store) as opened:
            done = import_file(opened, path, turns="each" if each else "last")
            good = done.turns if each else done.new
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins at what the parent had
        peak = int(status.read_text().split("VmHWM:")[1].split()[0])
    return {
        "rows": good,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "rows_per_second": round(good / seconds),
        "peak_mb": round(peak / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="jsonl")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--each", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.measure:
        print(json.dumps(measure(wanted.measure, wanted.store, wanted.each)))
        return
    result: dict[str, Any] = {"bench": "import", "kind": wanted.kind}
    with tempfile.TemporaryDirectory(prefix="srtui-bench-") as folder:
        path = Path(folder) / "data"
        print(f"making {wanted.rows:,} rows ({wanted.kind}) ...", flush=True)
        make(path, wanted.kind, wanted.rows)
        result["megabytes"] = round(path.stat().st_size / 1e6)
        for name, extra in (("reader", []), ("store", ["--store", str(Path(folder) / "s.sqlite")])):
            command = [
                sys.executable,
                __file__,
                "--measure",
                str(path),
                *extra,
                *["--each"] * (wanted.kind == "each"),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            result[name] = json.loads(done.stdout)
            print(f"{name}: {result[name]}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
