"""A run read back as figures: what the end of ``srtui run`` and ``srtui status`` print."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from srtui.store import figures
from srtui.store.runs import state_now

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.runs import Run


def summarise(store: Store, run_id: int) -> dict[str, Any]:
    """The figures of one run, as srtui.store.figures defines them; true at any moment."""
    run = store.runs.get(run_id)
    counts, means, stages = (
        figures.counts(store.conn, run_id),
        figures.means(store, run_id),
        store.runs.stages(run_id),
    )
    return {
        "run": run.name,
        "status": state_now(run.status, store.runs.holder(run_id) is not None),
        "stage": run.stage,
        "error": run.error,
        "samples": counts.samples,
        "held_out": counts.held_out,
        "teacher": (run.teacher or {}).get("name"),
        "student": run.recipe["student"]["model"],
        "quantization": run.recipe["student"]["quantization"],
        "reflections": {stage: _reflections(c) for stage, c in counts.stages.items()},
        "accepted": {stage: _accepted(c) for stage, c in counts.stages.items()},
        "ifd": asdict(means.ifd),
        "rifd": asdict(means.rifd),
        "kept_scores": {"ifd": means.kept_ifd, "rifd": means.kept_rifd},
        "length": {
            "before": means.length,
            "after": means.kept_length,
            "code_before": means.code,
            "code_after": means.kept_code,
        },
        "endings": means.endings,
        "kept": counts.kept,
        "kept_held_out": counts.kept_held_out,
        "overruled": counts.overruled,
        "dropped": counts.dropped,
        "truncated": means.truncated,
        "training": store.training.of_run(run_id),
        "stages": stages,
        "peak_memory_mb": round(run.peak_memory_mb),
        "seconds": sum(s["seconds"] for s in stages.values()),
        "rounds": [
            _round(store, r, counts, means)
            if r.id == run_id
            else _round(store, r, figures.counts(store.conn, r.id), figures.means(store, r.id))
            for r in _rounds(store, run)
        ],
    }


def _rounds(store: Store, run: Run) -> list[Run]:
    """The runs whose tuned students were the teachers, one after the other, up to this one."""
    by_name = {r.name: r for r in store.runs.all()}
    rounds = [run]
    while (name := rounds[0].recipe["teacher"].get("from_run")) in by_name and len(rounds) < 100:
        rounds.insert(0, by_name[name])
    return rounds


def _round(store: Store, run: Run, counts: figures.Counts, means: figures.Means) -> dict[str, Any]:
    """One round in a line: what its teacher wrote was worth, and what its student became."""
    training = store.training.of_run(run.id)
    held_out = (training or {"result": {}})["result"].get("held_out", {}).get("original", {})
    stages = counts.stages.values()
    asked = sum(c.asked for c in stages)
    return {
        "run": run.name,
        "teacher": (run.teacher or {}).get("name") or run.recipe["teacher"]["model"],
        "parsed_share": sum(c.first_try + c.after_retries for c in stages) / asked if asked else None,
        "taken_share": {stage: _accepted(c)["share"] for stage, c in counts.stages.items()},
        "kept": counts.kept,
        "ifd": means.kept_ifd,
        "rifd": means.kept_rifd,
        "held_out_before": held_out.get("before"),
        "held_out_after": held_out.get("after"),
    }


def _reflections(c: figures.StageCounts) -> dict[str, Any]:
    return {
        "asked": c.asked,
        "first_try": c.first_try,
        "after_retries": c.after_retries,
        "failed": c.failed,
    }


def _accepted(c: figures.StageCounts) -> dict[str, Any]:
    """Of the samples that had a rewrite to choose, how many did the student take?"""
    return {
        "decided": c.decided,
        "choices": c.choices,
        "taken": c.taken,
        "share": c.taken / c.choices if c.choices else None,
    }
