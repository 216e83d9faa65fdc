"""Prompt tokens that a teacher evaluates for every answer of conversations, with histories shared and without.

    python benchmarks/bench_shared_histories.py [--model NAME] [--data FILE] [--slots N ...] [--limit N]

The requests are those of a run with turns = "each" and the limits of recipes/conversations.toml, on the instructions
(those that no turn follows) and on the answers; each way has a teacher of its own, and both are asked the same. What all
prompts begin with is shared in both ways. Texts have to be equal: sharing changes no draw. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def requests(data: Path, limit: int | None) -> dict[str, list[Any]]:
    """By target, what a run over this file asks at the first try."""
    from srtui.pipeline import import_file
    from srtui.recipe import load
    from srtui.reflection import ReflectionPrompt, load_criteria
    from srtui.store import Store
    from srtui.store.conversations import place_of

    recipe = load(ROOT / "recipes" / "conversations.toml")
    with (
        tempfile.TemporaryDirectory(prefix="srtui-bench-") as folder,
        Store(Path(folder) / "s.sqlite") as store,
    ):
        done = import_file(store, data, "talk", turns="each")
        pairs = {i: store.corpus.variants_of(i)[0].pair for i in range(1, (limit or done.new) + 1)}
        places = {i: place_of(store.conn, i) for i in pairs}
    asked = {}
    for target in ("instruction", "response"):
        prompt = ReflectionPrompt(load_criteria(target, target), recipe)  # type: ignore[arg-type]
        asked[target] = [
            prompt.request(i, pair, 1)
            for i, pair in pairs.items()
            if target == "response" or (place := places[i]) is None or not place.followed
        ]
    return asked


def measure(model: Path, asked: list[Any], slots: int) -> tuple[dict[str, int], dict[Any, str]]:
    from srtui.llama import open_teacher

    teacher = open_teacher(model, name="bench", sha256="-", slots=slots)
    try:
        teacher.submit(asked)
        texts = {g.key: g.text for g in teacher.run()}
        progress = teacher.progress()
    finally:
        teacher.close()
    counted = {
        "evaluated": progress.prompt_tokens,
        "copied": progress.prompt_tokens_saved,
        "written": progress.new_tokens,
    }
    return counted, texts


def main() -> None:
    from srtui import models

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, default=ROOT / "recipes" / "conversations.json")
    parser.add_argument("--slots", type=int, nargs="+", default=[16])
    parser.add_argument("--limit", type=int)
    wanted = parser.parse_args()
    model = models.resolve_teacher(ROOT / "models", wanted.model)
    result: dict[str, Any] = {"bench": "shared-histories", "model": wanted.model, "data": wanted.data.name}
    for target, asked in requests(wanted.data, wanted.limit).items():
        for slots in wanted.slots:
            shared, texts = measure(model, asked, slots)
            alone, same = measure(model, [replace(r, begins=None) for r in asked], slots)
            row = {
                "requests": len(asked),
                "shared": shared,
                "not_shared": alone,
                "evaluated_ratio": round(shared["evaluated"] / alone["evaluated"], 3),
                "texts_equal": sum(texts[key] == same[key] for key in texts),
            }
            result[f"{target}, {slots} slots"] = row
            print(f"{target}, {slots} slots: {row}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
