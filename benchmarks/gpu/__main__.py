"""Tests and measures srtui on this machine's GPU, and writes what came of it under benchmarks/results/.

    python -m benchmarks.gpu [--device cuda|cpu] [--size 7b|tiny] [--out DIR] [--work DIR] [--keep]

Parts: doctor; the tests marked ``gpu``; the matrix-product ceiling; models with random weights (7B-shaped, written
on the spot); the teacher at 1 to 128 slots beside bare batched decoding and the one-by-one loop; drafts; scoring
beside one-by-one full logits; QLoRA at 2,048 tokens beside plain TRL and unsloth. Each part is stored as it ends: a
run that was cut off goes on behind it. Ends in one JSON line. With ``--device cpu`` everything is tiny: each step
runs, and nothing says how fast a GPU is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu import models
from benchmarks.gpu.parts import ROOT, Bench
from benchmarks.gpu.results import Results, card_file
from benchmarks.gpu.sizes import SIZES
from srtui.atomic import sha256_of

_ASK = """
import json, torch, llama_cpp, bitsandbytes, transformers, platform
there = torch.cuda.is_available()
print(json.dumps({
    "name": torch.cuda.get_device_name(0) if there else None,
    "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if there else None,
    "torch": torch.__version__, "cuda": torch.version.cuda, "llama_cpp": llama_cpp.__version__,
    "llama_cpp_gpu": bool(llama_cpp.llama_supports_gpu_offload()),
    "bitsandbytes": bitsandbytes.__version__, "transformers": transformers.__version__,
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=[*SIZES], help="7b on a GPU, tiny on a CPU")
    parser.add_argument("--out", type=Path, help="benchmarks/results; build/gpu where the models are tiny")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu", help="where models are written")
    parser.add_argument("--keep", action="store_true", help="keep those models afterwards")
    parser.add_argument("--write-models", nargs=2, metavar=("SIZE", "DIR"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.write_models:
        size, work = SIZES[wanted.write_models[0]], Path(wanted.write_models[1])
        print(json.dumps(models.write_pair(work, size, tokenizer())))
        return 0
    size = SIZES[wanted.size or ("7b" if wanted.device == "cuda" else "tiny")]
    bench = Bench(wanted.device, size, wanted.work.absolute())
    facts = machine(bench)
    out = wanted.out or (ROOT / "benchmarks" / "results" if size.name == "7b" else wanted.work)
    bench.work.mkdir(parents=True, exist_ok=True)
    results = Results.resume(out / f"{card_file(facts['device'])}.json", facts)
    line = results.work(bench.parts(), bench.ratios)
    if not wanted.keep:
        shutil.rmtree(models.folder_of(bench.work, size), ignore_errors=True)
        models.file_of(bench.work, size).unlink(missing_ok=True)
    print(f"written: {results.path} and {results.path.with_suffix('.md').name}")
    print(json.dumps(line))
    return 0 if all(status == "ok" for status in line["parts"].values()) else 1


def machine(bench: Bench) -> dict[str, Any]:
    """What the results are of. Ends the program where there is no GPU and one is asked for."""
    asked = bench.figures("-c", _ASK, patience=600)
    name, device = asked.pop("name"), bench.device
    if device == "cuda" and name is None:
        sys.exit("torch finds no GPU here; --device cpu runs each step with tiny models.")
    if device == "cuda" and not asked["llama_cpp_gpu"]:
        sys.exit("llama.cpp was built for the CPU: build it for this GPU first (docs/hardware.md).")
    if device == "cpu":
        from srtui.llama.tuning import machine as processor

        name = f"{processor()}, CPU alone"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "device": name,
        "size": bench.size.name,
        "commit": commit,
        "source": source_sha256(ROOT),
        "python": platform.python_version(),
    } | asked


def source_sha256(root: Path) -> str:
    """Sixteen digits of the hash of all that is measured: a commit does not say what was edited since, and a copy
    without git has none."""
    total = hashlib.sha256()
    for folder in ("srtui", "benchmarks", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            total.update(f"{path.relative_to(root).as_posix()} {sha256_of(path)}\n".encode())
    return total.hexdigest()[:16]


def tokenizer() -> Path:
    """The demo model's folder. Ends the program where it is not there."""
    folder = ROOT / "models" / "smollm2-135m"
    if not (folder / "tokenizer.json").is_file():
        sys.exit("models/smollm2-135m is not there, whose tokenizer the prompts need: make model")
    return folder


if __name__ == "__main__":
    sys.exit(main())
