"""``python -m benchmarks.evidence``: see the package."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from srtui.workspace import go_offline  # noqa: E402

go_offline()

from benchmarks.evidence.arms import ARMS  # noqa: E402
from benchmarks.evidence.results import Results  # noqa: E402
from benchmarks.evidence.table import markdown, rows_of  # noqa: E402
from benchmarks.evidence.work import QUICK, WHOLE, Evidence, Plan, Size  # noqa: E402
from srtui.errors import UserError  # noqa: E402
from srtui.progress import Progress, Stopped  # noqa: E402
from srtui.store import Store  # noqa: E402
from srtui.workspace import Workspace  # noqa: E402


class Lines:
    """One line on stderr for what matters."""

    def progress(self, progress: Progress) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        print(f"  {'' if level == 'info' else level + ': '}{message}", file=sys.stderr, flush=True)


def parsed(arguments: list[str] | None) -> tuple[Plan, Path, Path, bool]:
    """The plan, the folder of models, where all is kept, and whether only the table is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "alpaca_eval",
        help="the folder of AlpacaEval's public answers")  # fmt: skip
    add("--table", action="store_true", help="print the table of what is done, and do nothing")
    add("--quick", action="store_true", help="sizes for some hours of one core, in place of days")
    add(
        "--students",
        nargs="+",
        default=["smollm2-135m"],
        help="safetensors folders, by their names in models/",
    )
    add(
        "--quantization",
        default="bf16",
        choices=["f32", "bf16", "nf4", "int8"],
        help="of the students' weights",
    )
    add(
        "--replays",
        nargs="+",
        default=["strong", "mixed"],
        choices=["strong", "mixed"],
        help="which rewrites",
    )
    add(
        "--budgets",
        nargs="+",
        default=["steps", "tokens"],
        choices=["steps", "tokens"],
        help="what arms have equal of",
    )
    add(
        "--arms",
        nargs="+",
        default=[],
        choices=[arm.name for arm in ARMS],
        metavar="ARM",
        help="these arms beside the original's",
    )
    add("--seeds", type=int, default=3, help="how often each arm is trained")
    add("--rater", default="smollm2-135m.Q8_0", help='the GGUF that rates answers; "" for none')
    add("--models", type=Path, default=ROOT / "models", help="the folder of models")
    add("--keep", type=Path, default=ROOT / "benchmarks" / ".cache" / "evidence", help="where all is kept")
    for size in fields(Size):
        kind = int if isinstance(size.default, int) or "int" in str(size.type) else float
        add(
            f"--{size.name.replace('_', '-')}",
            type=kind,
            help=f"in place of {getattr(WHOLE, size.name)} ({getattr(QUICK, size.name)} with --quick)",
        )
    given = parser.parse_args(arguments)
    changed = {f.name: value for f in fields(Size) if (value := getattr(given, f.name)) is not None}
    size = replace(QUICK if given.quick else WHOLE, **changed)
    plan = Plan(
        given.data, tuple(given.students), given.quantization, tuple(given.replays), tuple(given.budgets),
        tuple(given.arms), given.seeds, given.rater, size,
    )  # fmt: skip
    return plan, given.models, given.keep, given.table


def open_workspace(keep: Path, models: Path) -> Workspace:
    """A workspace of the evidence's own, with links to the models."""
    workspace, _ = Workspace.create(keep)
    for source in models.iterdir() if models.is_dir() else ():
        link = workspace.models / source.name
        if not source.name.startswith(".") and not link.exists():
            link.symlink_to(source.resolve())
    return workspace


def report(plan: Plan, evidence: Evidence, results: Results) -> None:
    """Print every table that has a row, and all figures as one JSON line."""
    held_out = evidence.prompts.held_out
    alike = [p.like_length for p in held_out]
    figures: list[dict[str, Any]] = []
    print(
        f"{len(evidence.prompts.trained)} prompts are trained on and {len(held_out)} held out, {sum(alike)} of these with "
        "a GPT-4 answer of about the original's length. In brackets: 95 % intervals; * holds no 0."
    )
    for student in plan.students:
        known = evidence.known_agreements(student)
        for replay in plan.replays:
            for budget in plan.budgets:
                mine = [
                    p for p in evidence.done(results, student) if (p.replay, p.budget) == (replay, budget)
                ]
                rows = rows_of(mine, alike, known)
                if not rows:
                    continue
                untuned = next((p for p in evidence.done(results, student) if p.arm == "untuned"), None)
                print(f"\n{student}, {replay} rewrites, equal {budget}\n\n{markdown(rows, untuned)}")
                figures.append(
                    {
                        "student": student,
                        "replay": replay,
                        "budget": budget,
                        "rows": [asdict(row) for row in rows],
                    }
                )
    print(json.dumps({"bench": "evidence", "size": asdict(plan.size), "tables": figures}))


def main(arguments: list[str] | None = None) -> int:
    plan, models, keep, only_table = parsed(arguments)
    try:
        workspace = open_workspace(keep, models)
        results = Results(keep / "results.jsonl")
        with Store(workspace.store_path) as store:
            evidence = Evidence(plan, workspace, store, results, Lines())
            if not only_table:
                evidence.work()
            report(plan, evidence, results)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print("Stopped; what is done is kept, and the same command resumes.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
