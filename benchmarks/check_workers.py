"""A real run on two workers of Ray, two of which are killed on the way, beside the same run in one process.

The demo's models over the first samples of a file of Alpaca's layout, through all choices. Both runs use one thread a
process, so everything has to be equal: texts to the letter, losses to the last bit, choices and outcomes. A worker
that writes is killed (kill -9) with half of the instructions reflected, and one that scores when the responses are
chosen. The workspaces lie in benchmarks/.cache; a check that was stopped goes on where it was. The last line is one
JSON object, and the exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read as torch is imported
    os.environ[_variable] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from srtui.pipeline.place import Place  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.workspace import Workspace, go_offline  # noqa: E402

CACHE = ROOT / "benchmarks" / ".cache"
RECIPE = """
name = "workers"
dataset = "{data}"
limit = {samples}
seed = 17
[teacher]
model = "smollm2-135m"
slots = 8
threads = 1
[reflection]
mode = "guided"
critique_tokens = {critique}
instruction_tokens = {instruction}
answer_tokens = {answer}
max_attempts = 1
[student]
model = "smollm2-135m"
quantization = "{quantization}"
[prompt]
max_length = 512
[training]
enabled = false
"""
COMPARED = {
    "texts": "SELECT key, text, seed, attempt, finish, parsed FROM generation ORDER BY key",
    "reflections": "SELECT sample_id, stage, status, attempts FROM reflection ORDER BY sample_id, stage",
    "losses": "SELECT key, nll, tokens, reason FROM span_loss ORDER BY key",
    "scores": "SELECT v.digest, s.metric, s.value FROM score s JOIN variant v ON v.id = s.variant_id "
    "ORDER BY v.digest, s.metric, s.value",
    "decisions": "SELECT d.sample_id, d.stage, v.digest, v.kind, d.reason FROM decision d "
    "JOIN variant v ON v.id = d.chosen_id ORDER BY d.sample_id, d.stage",
    "outcomes": "SELECT o.sample_id, v.digest, o.kept, o.reason FROM outcome o JOIN variant v ON v.id = o.variant_id "
    "ORDER BY o.sample_id",
}
"""By what they are made of, and not by ids of rows, which are counted as results come."""


class Face:
    """Prints what a run says, and kills workers when it is so far."""

    def __init__(self, place: Any = None, kills: Path | None = None) -> None:
        self._place, self._kills, self._shown = place, kills, 0.0

    def event(self, level: str, message: str) -> None:
        print(f"    {level}: {message}", flush=True)

    def progress(self, progress: Any) -> None:
        if time.monotonic() - self._shown > 20:
            self._shown = time.monotonic()
            print(f"    {progress.stage} {progress.done}/{progress.total}", flush=True)
        if self._kills is None:
            return
        if progress.stage == "reflect-instruction" and 2 * progress.done >= progress.total:
            self._kill_once("teacher")
        elif progress.stage == "choose-response":
            self._kill_once("student")

    def _kill_once(self, kind: str) -> None:
        assert self._kills is not None
        killed = json.loads(self._kills.read_text()) if self._kills.exists() else {}
        if kind in killed:
            return
        for pool in self._place._pools:
            busy = [m for m in pool._members if m.facts and pool._dispatcher.held(m.seat.number)]
            if pool.kind == kind and not pool.closed and busy:
                held = pool._dispatcher.held(busy[0].seat.number)
                os.kill(busy[0].facts.pid, signal.SIGKILL)
                self._kills.write_text(json.dumps(killed | {kind: held}))
                print(f"    killed {kind} {busy[0].seat.number + 1}, which had {held} tasks", flush=True)
                return


def workspace_of(name: str, recipe: str) -> Workspace:
    """The workspace of that name with this recipe: as it was left, where it has it already."""
    root = CACHE / name
    path = root / "recipes" / "workers.toml"
    if not path.exists() or path.read_text() != recipe:
        shutil.rmtree(root, ignore_errors=True)
        Workspace.create(root)
        path.write_text(recipe)
        for model in (ROOT / "models").glob("smollm2-135m*"):
            (root / "models" / model.name).symlink_to(model.resolve(), target_is_directory=model.is_dir())
    return Workspace(root)


def work(workspace: Workspace, place: Place | None, kills: Path | None = None) -> float:
    """Work on the run until it is done; the seconds that its stages took, in all processes that worked on it."""
    from srtui import recipe as recipes
    from srtui.pipeline import Engine, prepare

    path = workspace.recipes / "workers.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        if run.status != "done":
            Engine(workspace, store, run, Face(place, kills), place=place).work()
        return sum(stage.seconds for stage in store.runs.stages(run.id).values())


def rows_of(workspace: Workspace) -> dict[str, list[Any]]:
    """What is compared."""
    with closing(sqlite3.connect(f"file:{workspace.store_path}?mode=ro", uri=True)) as conn:
        return {name: conn.execute(query).fetchall() for name, query in COMPARED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a file of Alpaca's layout")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--quantization", default="nf4", help="of the student")
    parser.add_argument("--critique", type=int, default=20, help="tokens at most")
    parser.add_argument("--instruction", type=int, default=36, help="tokens at most")
    parser.add_argument("--answer", type=int, default=72, help="tokens at most")
    given = parser.parse_args()
    go_offline()
    words = vars(given) | {"data": given.data.resolve()}
    recipe = RECIPE.format(**words)
    alone, together = (workspace_of(f"workers-{given.samples}-{which}", recipe) for which in ("one", "two"))
    print("One process", flush=True)
    seconds = {"one_process_s": round(work(alone, None))}
    print("Two workers", flush=True)
    from srtui.cluster import Limits, parse_place
    from srtui.cluster.cluster_place import ClusterPlace

    kills = together.root / "kills.json"
    place = ClusterPlace(parse_place("ray"), 2, Limits())
    try:
        seconds["two_workers_s"] = round(work(together, place, kills))
    finally:
        place.close()
    one, two = rows_of(alone), rows_of(together)
    same = {name: one[name] == two[name] for name in one}
    keys = [row[0] for row in two["texts"]]
    print(
        json.dumps(
            {"check": "workers", "samples": given.samples}
            | {name: len(rows) for name, rows in two.items()}
            | {
                "rewrites_taken": sum(row[3] != "original" for row in two["decisions"]),
                "killed_with_tasks": json.loads(kills.read_text()) if kills.exists() else {},
                "stored_twice": len(keys) - len(set(keys)),
                "same": same,
                "load": round(os.getloadavg()[0], 1),
            }
            | seconds
        )
    )
    raise SystemExit(0 if all(same.values()) and len(keys) == len(set(keys)) else 1)


if __name__ == "__main__":
    main()
