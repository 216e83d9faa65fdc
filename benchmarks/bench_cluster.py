"""Many workers through Ray: how much of N times one worker's rate is left with N, and what the engine's process bears.

1. Workers that take real time: stand-ins that write 16 texts at a time at 2,000 tokens a second together, as one GPU
   does, and sleep meanwhile; everything else is the real thing: the engine, the store, the window, Ray, the processes.
   Each worker gets as much to do at every size, so what a start and an end cost is the same for all. Efficiency is the
   rate with N workers by N times the rate with one.
2. The ceiling of the engine's process: workers that answer at once. Given by the clock, and by the processor time that
   the engine's process took, which says more where the machine has other work.
3. Real models: two workers of one thread each beside one process of two threads, in turns (``--real``).

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_scale import CACHE, RECIPE, make_pair_once, texts  # noqa: E402
from benchmarks.sleeping_teacher import TOKENS, SleepingTeacher  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.store.imports import NewRow  # noqa: E402
from srtui.workspace import Workspace, go_offline  # noqa: E402

TOKENS_A_SECOND = 2000.0
SECONDS = 40.0  # that each worker has to do


class Quiet:
    def progress(self, progress: object) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        if level != "info":
            print(f"    {level}: {message}", flush=True)


def workspace_of(name: str, samples: int) -> Workspace:
    root = CACHE / name
    shutil.rmtree(root, ignore_errors=True)
    workspace, _ = Workspace.create(root)
    for path in (CACHE / "pair").iterdir():
        (workspace.models / path.name).symlink_to(path, target_is_directory=path.is_dir())
    with Store(workspace.store_path) as store:
        rows = (NewRow(n, p, json.dumps(p._asdict())) for n, p in enumerate(texts(samples)))
        store.imports.add_samples("scale", "scale.jsonl", "0" * 64, "alpaca", rows)
    (workspace.recipes / "scale.toml").write_text(RECIPE.replace('"instant"', '"tiny.F16"'))
    return workspace


def reflect(workspace: Workspace, place: Any) -> tuple[int, float, float]:
    """The first stage: generations, seconds, and seconds of this process's processor."""
    from srtui import recipe as recipes
    from srtui.pipeline import Engine, prepare
    from srtui.pipeline import engine as engines

    engines.template_checked = lambda *_: nullcontext(lambda: None)  # it would load a student
    path = workspace.recipes / "scale.toml"
    with Store(workspace.store_path) as store:
        run, _ = prepare(workspace, store, recipes.load(path), path)
        began, computed = time.perf_counter(), time.process_time()
        Engine(workspace, store, run, Quiet(), place=place).work("reflect-instruction")
        seconds, computed = time.perf_counter() - began, time.process_time() - computed
        return store.counts()["generation"], seconds - loading(store, run.id), computed


def loading(store: Store, run_id: int) -> float:
    stages = store.runs.stages(run_id)
    return stages["load-teacher"].seconds if "load-teacher" in stages else 0.0


class StandIns:
    """A place whose teachers are stand-ins; all of them are open before any of them works."""

    takes_turns, parallel = False, 1

    def __init__(self, session: Any, workers: int, tokens_a_second: float) -> None:
        self._session, self._count, self._rate = session, workers, tokens_a_second
        self._pool: Any = None

    def teacher(self, path: Path, settings: Any, say: Callable[[str, str], None]) -> Any:
        from srtui.cluster.cluster_teacher import ClusterTeacher
        from srtui.cluster.placement import seats
        from srtui.cluster.pool import Pool
        from srtui.cluster.worker_limits import Limits

        there = seats(self._session.nodes(), self._count)
        self._pool = Pool(
            self._session, "teacher", there, lambda seat: SleepingTeacher(self._rate), Limits(), say
        )
        identity = self._pool.open().same
        while len(self._pool.facts) < self._count:
            self._pool._listen()
        return ClusterTeacher(self._pool, identity)

    def workers(self) -> list[dict[str, Any]]:
        return list(self._pool.workers()) if self._pool else []


def scaled(session: Any, sizes: list[int], seconds: float) -> dict[int, float]:
    """By workers, generations a second."""
    rates: dict[int, float] = {}
    a_second = TOKENS_A_SECOND / statistics.mean(TOKENS)
    for workers in sizes:
        workspace = workspace_of("cluster", round(workers * a_second * seconds))
        made, took, computed = reflect(workspace, StandIns(session, workers, TOKENS_A_SECOND))
        rates[workers] = made / took
        share = rates[workers] / workers / rates[sizes[0]] * sizes[0]
        print(
            f"  {workers:3} workers: {made:6,} generations in {took:5.1f} s, {rates[workers]:6.1f}/s, efficiency "
            f"{share:.3f}; the engine's process computed {computed / took:.2f} of the time, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return rates


def ceiling(session: Any, samples: int) -> tuple[float, float]:
    """Generations a second of an engine whose workers answer at once: by the clock, and by processor time."""
    made, took, computed = reflect(workspace_of("cluster", samples), StandIns(session, 4, 0.0))
    print(
        f"  4 workers that answer at once: {made:,} generations, {made / took:,.0f}/s by the clock and "
        f"{made / computed:,.0f}/s by processor time, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return made / took, made / computed


def real(rounds: int, samples: int) -> float:
    """Two workers of one thread beside one process of two, the demo's teacher, in turns: what the two do of the one's
    rate, by medians."""
    from srtui.cluster import Limits, parse_place
    from srtui.cluster.cluster_place import ClusterPlace

    rates: dict[str, list[float]] = {"one process, two threads": [], "two workers, one thread each": []}
    for number in range(rounds):
        for which, found in rates.items():
            workspace = workspace_of("cluster", samples)
            for path in (ROOT / "models").glob("smollm2-135m*"):
                (workspace.models / path.name).symlink_to(path.resolve(), target_is_directory=path.is_dir())
            recipe = (workspace.recipes / "scale.toml").read_text().replace('"tiny.F16"', '"smollm2-135m"')
            limits = "[reflection]\ncritique_tokens = 40\ninstruction_tokens = 40\nanswer_tokens = 60\nmax_attempts = 1\n"
            (workspace.recipes / "scale.toml").write_text(
                recipe.replace("[teacher]", f"{limits}[teacher]\nthreads = {2 if 'process' in which else 1}")
            )
            place = ClusterPlace(parse_place("ray"), 2, Limits()) if "workers" in which else None
            made, took, _ = reflect(workspace, place)
            if place is not None:
                place.close()
            found.append(made / took)
            print(
                f"  round {number + 1}, {which}: {made} texts, {made / took:.3f}/s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    one, two = (statistics.median(each) for each in rates.values())
    print(f"  two workers against one process: {two / one:.2f} (medians of {rounds})", flush=True)
    return two / one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that each worker has to do")
    parser.add_argument("--instant", type=int, default=6000, help="samples for the ceiling")
    parser.add_argument("--real", type=int, default=0, metavar="ROUNDS", help="real models too, in turns")
    parser.add_argument("--only-real", action="store_true", help="nothing but --real")
    parser.add_argument("--real-samples", type=int, default=48)
    given = parser.parse_args()
    go_offline()
    make_pair_once()
    if given.real:
        print("Real models", flush=True)
        ratio = real(given.real, given.real_samples)
        print(json.dumps({"bench": "cluster-real", "two_workers_against_one_process": round(ratio, 3)}))
        if given.only_real:
            shutil.rmtree(CACHE / "cluster", ignore_errors=True)
            return
    from srtui.cluster import parse_place
    from srtui.cluster.session import Session

    session = Session(parse_place("ray"))
    try:
        print("Workers that take real time", flush=True)
        rates = scaled(session, given.workers, given.seconds)
        print("The engine's process", flush=True)
        by_clock, _ = ceiling(session, given.instant)
    finally:
        session.close()
        shutil.rmtree(CACHE / "cluster", ignore_errors=True)
    first = given.workers[0]
    efficiency = {
        str(n): round(rate * first / n / rates[first], 3) for n, rate in rates.items() if n != first
    }
    print(
        json.dumps(
            {"bench": "cluster", "efficiency": efficiency, "driver_generations_per_s": round(by_clock, 1)}
        )
    )


if __name__ == "__main__":
    main()
