"""Each figure is the same number wherever it is shown: a walk over all faces of one store, compared with
what the definitions in docs/figures.md make of the raw rows, done here the slow way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from srtui.cli import app as commands
from srtui.cli import terminal
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.figures import counts, means
from srtui.store.listing import SampleFilter
from srtui.store.views import Views
from srtui.text import duration, number
from srtui.tui.tabs import key_of
from srtui.tui.widgets.table import VirtualTable
from srtui.wording import LABELS
from srtui.workspace import Workspace
from tests.conftest import ROOT
from tests.sql import sql_row, sql_rows, sql_value
from tests.tui.driving import dashboard, press, text
from tests.tui.scripted_store import Script, demo_pairs

RUN = 1


def srtui(workspace: Workspace, *words: str) -> str:
    """What a command prints, in one line."""
    done = CliRunner().invoke(commands, [*words], env={"SRTUI_WORKSPACE": str(workspace.root)})
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def by_hand(store: Store) -> dict[str, Any]:
    """The definitions, sample by sample, from the rows alone."""
    setting = store.runs.get(RUN).setting_id
    score = {
        (r["variant_id"], r["metric"]): r["value"]
        for r in sql_rows(store, "SELECT * FROM score WHERE setting_id = ?", (setting,))
    }
    variants = {r["id"]: dict(r) for r in sql_rows(store, "SELECT * FROM variant")}
    taken = dict(
        map(
            tuple,
            sql_rows(
                store, "SELECT sample_id, variant_id FROM overrule WHERE undone_at IS NULL AND run_id = 1"
            ),
        )
    )
    rows = {}
    for r in sql_rows(store, "SELECT * FROM run_sample WHERE run_id = ?", (RUN,)):
        sample = r["sample_id"]
        chosen = {
            d["stage"]: d
            for d in sql_rows(
                store, "SELECT * FROM decision WHERE run_id = ? AND sample_id = ?", (RUN, sample)
            )
        }
        outcome = sql_row(store, "SELECT * FROM outcome WHERE run_id = ? AND sample_id = ?", (RUN, sample))
        original = next(v for v in variants.values() if v["sample_id"] == sample and v["kind"] == "original")
        final = variants[taken.get(sample, chosen["response"]["chosen_id"])]
        rows[sample] = {
            "held out": bool(r["held_out"]),
            "kept": sample in taken or bool(outcome["kept"]),
            "reason": outcome["reason"],
            "final": final,
            "ifd before": score.get((original["id"], "ifd")),
            "ifd": score.get((final["id"], "ifd")),
            "rifd before": score.get((chosen["instruction"]["chosen_id"], "rifd")),
            "rifd": score.get((final["id"], "rifd")),
        }
    dropped: dict[str, int] = {}
    for row in rows.values():
        if not row["kept"]:
            dropped[row["reason"]] = dropped.get(row["reason"], 0) + 1

    def mean(values: list[float | None]) -> float:
        there = [v for v in values if v is not None]
        return sum(there) / len(there)

    found: dict[str, Any] = {
        "rows": rows,
        "overruled": len(taken),
        "dropped": dropped,
        "samples": len(rows),
        "kept": sum(r["kept"] for r in rows.values()),
        "kept held out": sum(r["kept"] and r["held out"] for r in rows.values()),
    }
    for metric in ("ifd", "rifd"):
        both = [r for r in rows.values() if r[metric] is not None and r[f"{metric} before"] is not None]
        found |= {
            f"{metric} n": len(both),
            f"{metric} before": mean([r[f"{metric} before"] for r in both]),
            metric: mean([r[metric] for r in both]),
            f"kept {metric}": mean([r[metric] for r in rows.values() if r["kept"]]),
        }
    return found


def overrule(store: Store) -> None:
    """A person's word over a few samples of every sort, one of them with a text of their own."""
    outcomes = sql_rows(store, "SELECT * FROM outcome WHERE run_id = ? ORDER BY sample_id", (RUN,))
    kept = [r["sample_id"] for r in outcomes if r["kept"]]
    dropped = [r["sample_id"] for r in outcomes if not r["kept"]]
    for sample, kind in (
        (kept[0], "original"), (kept[1], "instruction_reflected"), (dropped[0], "response_reflected"),
        (dropped[1], "original"), (kept[2], "response_reflected"),
    ):  # fmt: skip
        variant = sql_value(
            store, "SELECT id FROM variant WHERE sample_id = ? AND kind = ? ORDER BY id DESC", (sample, kind)
        )
        store.marks.overrule(RUN, sample, variant)
    mine, _ = store.marks.write_variant(dropped[2], 1, Pair("Say it anew.", "", "```\nHere it is.\n```"))
    store.marks.overrule(RUN, dropped[2], mine)
    store.marks.overrule(RUN, dropped[3], dropped[3])
    store.marks.undo_overrule(RUN, dropped[3])


@pytest.fixture(params=["as the student chose", "with a person's word"])
def told(request: pytest.FixtureRequest, demo: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(terminal.out, "_width", 200)
    with Store(demo.store_path) as store:
        # A stage takes longer than the steps in it.
        store.runs.progress(RUN, "train", 60, 60, 0, 27.0, {})
        if "person" in request.param:
            overrule(store)
    return demo


def expected_of(workspace: Workspace) -> dict[str, Any]:
    with Store(workspace.store_path, read_only=True) as store:
        e = by_hand(store)
        t = sql_row(store, "SELECT * FROM training_run WHERE run_id = ?", (RUN,))
        assert t is not None
        losses = [
            r[0]
            for r in sql_rows(store, "SELECT value FROM training_metric WHERE name = 'loss' ORDER BY step")
        ]
        since = f", before a person changed {e['overruled']} choices" if e["overruled"] else ""
        e["training"] = [
            f"trained on {t['examples']:,} samples{since}",
            f"loss of a step {losses[0]:.3f} → {losses[-1]:.3f}",
            f"{duration(t['seconds'])} in steps",
            f"{t['tokens'] / t['seconds']:,.0f} tokens/s in steps",
        ]
        return e


def test_the_commands_agree(told: Workspace, tmp_path: Path) -> None:
    e = expected_of(told)
    share = f"{e['kept'] / e['samples']:.0%}"
    line = next(part for part in srtui(told, "status").split("stage") if "quickstart" in part)
    assert f"{e['kept']}/{e['samples']}" in line

    status = srtui(told, "status", "quickstart")
    assert f"kept {e['kept']} of {e['samples']} ({share}), {e['kept held out']} held out" in status
    assert (f"of these overruled by a person {e['overruled']}" in status) == (e["overruled"] > 0)
    for reason, n in e["dropped"].items():
        assert f"dropped {n} {reason}" in status
    for metric in ("ifd", "rifd"):
        over = f"mean over {e[f'{metric} n']} with both"
        assert f"{LABELS[f'{metric} before']} {e[f'{metric} before']:.3f} ({over})" in status
        assert f"{LABELS[metric]} {e[metric]:.3f} ({over})" in status
        assert f"{LABELS[f'kept {metric}']} {e[f'kept {metric}']:.3f} (mean)" in status
    assert ", ".join(e["training"]) in status

    summary = json.loads(srtui(told, "status", "quickstart", "--json"))
    assert (summary["kept"], summary["dropped"]) == (e["kept"], e["dropped"])
    assert summary["ifd"]["after"] == pytest.approx(e["ifd"])
    kept = [r["final"] for r in e["rows"].values() if r["kept"]]
    assert summary["length"]["after"] == pytest.approx(sum(len(v["response"]) for v in kept) / len(kept))
    assert summary["length"]["code_after"] == pytest.approx(
        sum("```" in v["response"] for v in kept) / len(kept)
    )

    out = tmp_path / "kept.json"
    assert f"{e['kept']} samples written" in srtui(told, "export", "quickstart", "--out", str(out))
    written = {r["sample"]: r for r in json.loads(out.read_text(encoding="utf-8"))}
    assert written.keys() == {s for s, r in e["rows"].items() if r["kept"]}
    for sample, row in written.items():
        final = e["rows"][sample]
        assert (row["variant"], row["ifd"], row["rifd"]) == (
            final["final"]["id"],
            final["ifd"],
            final["rifd"],
        )
        assert row["output"] == final["final"]["response"]

    for sample in [s for s, r in e["rows"].items()][:14]:
        row = e["rows"][sample]
        scores = ", ".join(f"{LABELS[m]} {number(row[m], 4)}" for m in ("ifd", "rifd"))
        assert f"final text: variant {row['final']['id']}, {scores}" in srtui(
            told, "show", str(sample), "--run", "quickstart"
        )


def test_the_keys_of_a_summary_as_json_are_a_contract(told: Workspace) -> None:
    """Scripts read them: none goes, and none changes its name."""
    summary = json.loads(srtui(told, "status", "quickstart", "--json"))
    assert " ".join(summary) == (
        "srtui_json type run status stage error samples held_out teacher student quantization reflections accepted ifd rifd "
        "kept_scores length endings kept kept_held_out overruled dropped truncated training stages "
        "peak_memory_mb seconds rounds gated contamination measures workers"
    )
    assert {name: list(summary[name]) for name in ("ifd", "rifd", "kept_scores", "length", "endings")} == {
        "ifd": ["samples", "before", "after"],
        "rifd": ["samples", "before", "after"],
        "kept_scores": ["ifd", "rifd"],
        "length": ["before", "after", "code_before", "code_after"],
        "endings": ["whole", "unknown", "cut"],
    }
    assert list(summary["reflections"]["response"]) == ["asked", "first_try", "after_retries", "failed"]
    assert list(summary["accepted"]["response"]) == ["decided", "choices", "taken", "share"]
    assert " ".join(summary["training"]) == (
        "id run_id status examples steps tokens seconds adapter result created_at plan trained_on step_losses "
        "tokens_a_second method changed_since"
    )
    assert list(summary["rounds"][0]) == [
        "run", "teacher", "parsed_share", "taken_share", "kept", "ifd", "rifd", "held_out_before", "held_out_after",
    ]  # fmt: skip
    spread = json.loads(srtui(told, "scores", "quickstart", "--json"))["scores"][0]
    assert list(spread) == [
        "metric", "kind", "scored", "mean", "quantiles", "at_or_over_one", "histogram", "truncated", "invalid",
    ]  # fmt: skip


def test_scores_are_those_of_the_rows(told: Workspace) -> None:
    found = {
        (f["metric"], f["kind"]): f
        for f in json.loads(srtui(told, "scores", "quickstart", "--json"))["scores"]
    }
    with Store(told.store_path, read_only=True) as store:
        values: dict[tuple[str, str], list[float]] = {}
        for r in sql_rows(
            store,
            "SELECT s.metric, v.kind, s.value FROM score s JOIN variant v ON v.id = s.variant_id "
            "JOIN run r ON r.id = 1 AND r.setting_id = s.setting_id ORDER BY s.value",
        ):
            values.setdefault((r["metric"], r["kind"]), []).append(r["value"])
    assert found.keys() == values.keys()
    for group, f in found.items():
        scores = values[group]
        assert f["scored"] == len(scores)
        assert f["mean"] == pytest.approx(sum(scores) / len(scores))
        assert f["at_or_over_one"] == sum(v >= 1 for v in scores)
        assert sum(f["histogram"]) == len(scores)
        at = 0.5 * (len(scores) - 1)
        median = (scores[int(at)] + scores[-int(-at // 1)]) / 2
        assert f["quantiles"]["0.5"] == pytest.approx(median, abs=0.0005)


async def test_the_dashboard_agrees(told: Workspace) -> None:
    e = expected_of(told)
    async with dashboard(told, (200, 50)) as (app, pilot):
        await press(pilot, "left_square_bracket", "left_square_bracket")
        assert f"{e['kept']} of {e['samples']} kept" in text(app)
        assert re.search(rf"quickstart .* {e['kept']}/{e['samples']} ", text(app))
        assert f"made: {e['kept']} pairs" in text(app)

        await press(pilot, key_of("samples"))
        table = app.screen.query_one(VirtualTable)
        for n in range(table.total):
            cells = [c.text for c in table.row_at(n).cells]
            row = e["rows"][int(cells[0])]
            assert cells[4] == number(row["ifd"], 2)
            assert cells[5] == number(row["rifd"], 2)
            assert cells[7] == f"{len(row['final']['response']):,}"
            kind = row["final"]["kind"]
            if kind == "original":
                assert cells[2:4] == ["old", "old"]
            if kind == "instruction_reflected":
                assert cells[2:4] == ["new", "old"]
            if kind == "response_reflected":
                assert cells[3] == "new"
            if kind == "manual":
                assert cells[2:4] == ["hand", "hand"]
            assert cells[1] in ("✓ kept", "» overruled") if row["kept"] else cells[1] == "✗ dropped"

        await press(pilot, "home", "enter")
        for sample in range(1, 12):
            row = e["rows"][sample]
            pane = next(p for p in app.screen.query(".pane") if "● final" in str(p.children[0].render()))
            said = " ".join(" ".join(str(child.render()) for child in pane.children).split())
            for metric, name in (("ifd", "IFD"), ("rifd", "r-IFD")):
                if row[metric] is not None:
                    assert re.search(rf"(^| ){name} {row[metric]:.2f} ", said), (sample, said)
            await press(pilot, "n")
        await press(pilot, "escape", key_of("scores"))

        shown = text(app)
        for metric, name in (("ifd", "IFD"), ("rifd", "r-IFD")):
            assert re.search(rf"(^|\s){name} +mean {e[f'{metric} before']:.3f} → {e[metric]:.3f}", shown)
        lines = {
            m[1].strip(): int(m[2].replace(",", ""))
            for m in re.finditer(r"^ *(\S.{0,34}?) +([\d,]+) +\d+%", shown, re.MULTILINE)
        }
        parts = [n for name, n in lines.items() if name == "kept" or name.startswith("dropped")]
        assert lines["kept"] == e["kept"]
        assert sum(parts) == lines["samples"] == e["samples"]
        assert lines.get("of these overruled by a person", 0) == e["overruled"]

        await press(pilot, key_of("training"))
        for words in e["training"]:
            assert words in text(app)
        now = f"{e['kept']} kept now" if e["overruled"] else f"of {e['kept']} kept"
        assert f"{now}, {e['kept held out']} held out" in " ".join(text(app).split())
        assert app.problems == []


def test_the_report_agrees(told: Workspace, tmp_path: Path) -> None:
    e = expected_of(told)
    page = tmp_path / "report.md"
    srtui(told, "report", "quickstart", "--markdown", str(page))
    said = page.read_text(encoding="utf-8").replace("\\", "")
    assert f"| kept | {e['kept']} | {e['samples']} |" in said
    assert f"| trained on | {e['training'][0].split()[2]} | {e['kept']} |" in said
    for metric, name in (("ifd", "IFD"), ("rifd", "r-IFD")):
        assert f"| {name} | {e[f'{metric} n']} | {e[f'{metric} before']:.3f} → {e[metric]:.3f} |" in said
        assert f"{LABELS[f'kept {metric}']}: {e[f'kept {metric}']:.3f}" in said
    assert ", ".join(e["training"]) in said
    assert (f"trained on, not: choice changed since the training ({e['overruled']})" in said) == bool(
        e["overruled"]
    )
    for sample, ifd in re.findall(r"sample (\d+)\n\nrow .* IFD \S+ → (\S+); r-IFD", said):
        assert ifd == number(e["rows"][int(sample)]["ifd"])


def test_sums_are_kept_and_still_follow_a_person(demo: Workspace) -> None:
    with Store(demo.store_path) as store:
        before = means(store, RUN)
        assert sql_value(store, "SELECT count(*) FROM run_sums") == 1
        overrule(store)
        e = by_hand(store)
        assert means(store, RUN).ifd.after == pytest.approx(e["ifd"])
        assert sql_value(store, "SELECT count(*) FROM run_sums") == 1
        # The text by hand gets its score later: the sums are then taken anew.
        store.conn.execute(
            "INSERT INTO score SELECT id, 1, 'ifd', NULL, NULL, 0.25, NULL FROM variant WHERE kind = 'manual'"
        )
        store.conn.commit()
        after = by_hand(store)
        assert after["kept ifd"] != e["kept ifd"]
        assert means(store, RUN).kept_ifd == pytest.approx(after["kept ifd"])
        for (sample,) in sql_rows(store, "SELECT sample_id FROM overrule WHERE undone_at IS NULL"):
            store.marks.undo_overrule(RUN, sample)
        again = means(store, RUN)
        assert again.ifd.after == pytest.approx(before.ifd.after)
        assert counts(store.conn, RUN).kept == sql_value(store, "SELECT count(*) FROM outcome WHERE kept = 1")


def test_filters_of_states_make_up_the_counts(told: Workspace) -> None:
    e = expected_of(told)
    views = Views(told.store_path)
    listed = {s: views.listing.lay_out(SampleFilter(RUN, state=s)) for s in ("kept", "overruled", "dropped")}
    views.close()
    assert listed["kept"] + listed["overruled"] == e["kept"]
    assert listed["overruled"] == e["overruled"]
    assert listed["dropped"] == sum(e["dropped"].values())


def test_every_label_is_explained() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    for label in LABELS.values():
        assert f"| {label} |" in page, label


def test_what_is_overruled_before_it_is_settled_is_not_kept_yet(tmp_path: Path) -> None:
    """No export has it, and no count: show says so too."""
    workspace, _ = Workspace.create(tmp_path / "ws")
    with Store(workspace.store_path) as store:
        script = Script(workspace, store).begin(demo_pairs()[:2])
        store.marks.overrule(script.run_id, 1, 1)
        found = counts(store.conn, script.run_id)
        assert (found.kept, found.overruled, found.on_their_way) == (0, 0, 2)
    shown = srtui(workspace, "show", "1")
    assert "overruled by a person, and not settled yet" in shown
    assert LABELS["kept"] not in shown.partition("Run quickstart")[2]
