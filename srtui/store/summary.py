"""A run read back as figures: what the end of ``srtui run`` and ``srtui status`` print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from srtui.store.distributions import chosen_scores
from srtui.store.endings import endings
from srtui.store.runs import state_now

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.runs import Run

_CODE = re.compile(r"```|^\s*(?:def |class |import |#include|public |SELECT |function )", re.MULTILINE)


def summarise(store: Store, run_id: int) -> dict[str, Any]:
    """The figures of one run; every number is read from the rows, so it is true at any moment.

    Means of IFD and r-IFD "before" and "after" are over the same samples: those where both the
    text reflected on and the chosen one have a score. Lengths are in characters.
    """
    run = store.runs.get(run_id)
    setting = run.setting_id or 0
    total = _one(store, "SELECT count(*) FROM run_sample WHERE run_id = ?", run_id)
    held_out = _one(store, "SELECT count(*) FROM run_sample WHERE run_id = ? AND held_out = 1", run_id)
    return {
        "run": run.name,
        "status": state_now(run.status, store.runs.holder(run_id) is not None),
        "stage": run.stage,
        "error": run.error,
        "samples": total,
        "held_out": held_out,
        "teacher": (run.teacher or {}).get("name"),
        "student": run.recipe["student"]["model"],
        "quantization": run.recipe["student"]["quantization"],
        "reflections": {stage: _reflections(store, run_id, stage) for stage in ("instruction", "response")},
        "accepted": {stage: _accepted(store, run_id, stage) for stage in ("instruction", "response")},
        "ifd": _before_after(store, run_id, "instruction"),
        "rifd": _before_after(store, run_id, "response"),
        "kept_scores": _kept_scores(store, run_id),
        "length": _lengths(store, run_id),
        "kept": _one(store, "SELECT count(*) FROM outcome WHERE run_id = ? AND kept = 1", run_id),
        "dropped": {
            r[0]: r[1]
            for r in store.rows(
                "SELECT reason, count(*) AS n FROM outcome WHERE run_id = ? AND kept = 0 GROUP BY reason ORDER BY n DESC",
                (run_id,),
            )
        },
        "truncated": _one(
            store,
            "SELECT count(*) FROM outcome o JOIN score s ON s.variant_id = o.variant_id AND s.setting_id = ? "
            "AND s.metric = 'ifd' JOIN span_loss l ON l.key = s.conditional_key WHERE o.run_id = ? AND l.truncated",
            setting,
            run_id,
        ),
        "endings": endings(store, run_id),
        "training": store.runs.training(run_id),
        "stages": store.runs.stages(run_id),
        "peak_memory_mb": round(run.peak_memory_mb),
        "seconds": sum(s["seconds"] for s in store.runs.stages(run_id).values()),
        "rounds": [_round(store, r) for r in _rounds(store, run)],
    }


def _rounds(store: Store, run: Run) -> list[Run]:
    """The runs whose tuned students were the teachers, one after the other, up to this one."""
    by_name = {r.name: r for r in store.runs.all()}
    rounds = [run]
    while (name := rounds[0].recipe["teacher"].get("from_run")) in by_name and len(rounds) < 100:
        rounds.insert(0, by_name[name])
    return rounds


def _round(store: Store, run: Run) -> dict[str, Any]:
    """One round in a line: what its teacher wrote was worth, and what its student became."""
    training = store.runs.training(run.id)
    held_out = (training or {"result": {}})["result"].get("held_out", {}).get("original", {})
    parsed = [_reflections(store, run.id, stage) for stage in ("instruction", "response")]
    asked = sum(r["asked"] for r in parsed)
    return {
        "run": run.name,
        "teacher": (run.teacher or {}).get("name") or run.recipe["teacher"]["model"],
        "parsed_share": sum(r["first_try"] + r["after_retries"] for r in parsed) / asked if asked else None,
        "taken_share": {
            stage: _accepted(store, run.id, stage)["share"] for stage in ("instruction", "response")
        },
        "kept": _one(store, "SELECT count(*) FROM outcome WHERE run_id = ? AND kept = 1", run.id),
        **_kept_scores(store, run.id),
        "held_out_before": held_out.get("before"),
        "held_out_after": held_out.get("after"),
    }


def _one(store: Store, sql: str, *parameters: Any) -> int:
    return int(store.value(sql, parameters) or 0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _reflections(store: Store, run_id: int, stage: str) -> dict[str, Any]:
    rows = store.rows(
        "SELECT status, attempts > 1 AS retried, count(*) AS n FROM reflection WHERE run_id = ? AND stage = ? "
        "GROUP BY 1, 2",
        (run_id, stage),
    )
    failed: dict[str, int] = {}
    for r in rows:
        if r["status"] != "parsed":
            failed[r["status"]] = failed.get(r["status"], 0) + r["n"]
    return {
        "asked": sum(r["n"] for r in rows),
        "first_try": sum(r["n"] for r in rows if r["status"] == "parsed" and not r["retried"]),
        "after_retries": sum(r["n"] for r in rows if r["status"] == "parsed" and r["retried"]),
        "failed": failed,
    }


def _accepted(store: Store, run_id: int, stage: str) -> dict[str, Any]:
    """Of the samples that had a rewrite to choose, how many did the student take?"""
    row = store.row(
        "SELECT count(*) AS decided, coalesce(sum(reflected), 0) AS taken, coalesce(sum(json_array_length(compared) > 1), 0) "
        "AS choices FROM decision WHERE run_id = ? AND stage = ?",
        (run_id, stage),
    )
    assert row is not None  # noqa: S101 - an aggregate always has a row
    share = row["taken"] / row["choices"] if row["choices"] else None
    return {"decided": row["decided"], "choices": row["choices"], "taken": row["taken"], "share": share}


def _before_after(store: Store, run_id: int, stage: str) -> dict[str, Any]:
    """Mean score of the text reflected on, and of what the student chose, over the same samples."""
    pairs = chosen_scores(store, run_id, stage)
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    return {"samples": len(before), "before": _mean(before), "after": _mean(after)}


def _kept_scores(store: Store, run_id: int) -> dict[str, float | None]:
    row = store.row(
        "SELECT avg(ifd) AS ifd, avg(rifd) AS rifd FROM outcome WHERE run_id = ? AND kept = 1", (run_id,)
    )
    assert row is not None  # noqa: S101
    return {"ifd": row["ifd"], "rifd": row["rifd"]}


def _lengths(store: Store, run_id: int) -> dict[str, Any]:
    """Known biases of the method, in every summary: longer answers, fewer code samples."""

    def measure(texts: list[str]) -> tuple[float | None, float | None]:
        return _mean([float(len(t)) for t in texts]), _mean([float(bool(_CODE.search(t))) for t in texts])

    before = [
        r[0]
        for r in store.rows(
            "SELECT v.response FROM run_sample rs JOIN variant v ON v.sample_id = rs.sample_id AND v.kind = 'original' "
            "WHERE rs.run_id = ?",
            (run_id,),
        )
    ]
    after = [
        r[0]
        for r in store.rows(
            "SELECT v.response FROM outcome o JOIN variant v ON v.id = o.variant_id WHERE o.run_id = ? AND o.kept = 1",
            (run_id,),
        )
    ]
    (length_before, code_before), (length_after, code_after) = measure(before), measure(after)
    return {
        "before": length_before,
        "after": length_after,
        "code_before": code_before,
        "code_after": code_after,
    }
