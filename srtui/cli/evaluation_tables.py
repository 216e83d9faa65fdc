"""Evaluations on the terminal: the list, the figures of each kind, a single judgement."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from srtui.cli.terminal import out, plain
from srtui.store.evaluations import Evaluation, JudgedPair
from srtui.text import number
from srtui.wording import evaluation_state

_KINDS = {
    "pairwise": "pairwise",
    "winrate": "win rate",
    "turns": "turns",
    "choice": "choice",
    "calibration": "calibration",
    "human": "people",
}


def print_list(evaluations: Sequence[Evaluation]) -> None:
    """All evaluations, one line each."""
    table = Table("id", "kind", "A", "B", "judge", "state", "result", box=None, header_style="bold")
    for e in evaluations:
        table.add_row(
            str(e.id), _KINDS[e.kind], plain(e.contestant_a), plain(e.contestant_b or ""), plain(e.judge or ""),
            evaluation_state(e.kind, e.state) if e.state == "done" or not e.total else f"{evaluation_state(e.kind, e.state)} {e.done}/{e.total}", plain(headline(e)),
        )  # fmt: skip
    out.print(table)


def headline(e: Evaluation) -> str:
    """The one figure of an evaluation."""
    r = e.result
    if not r:
        return ""
    if e.kind == "turns":
        return f"score {interval(r['score'], 2)}"
    if e.kind == "choice":
        return f"accuracy {interval(r['accuracy'], percent=True)}"
    if e.kind == "calibration":
        return f"kappa {interval(r['kappa'], 2)}" + (
            "" if r["better_than_chance"] else ", no better than chance"
        )
    return f"{r['win']} win, {r['tie']} tie, {r['lose']} lose"


def interval(estimate: Mapping[str, Any], digits: int = 2, percent: bool = False) -> str:
    """0.42 (0.31 to 0.55), or in per cent; - where there is none."""

    def text(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.{digits}f}"

    if estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return text(estimate["value"])
    return f"{text(estimate['value'])} ({text(estimate['low'])} to {text(estimate['high'])})"


def print_evaluation(e: Evaluation) -> None:
    """What was compared, by whom, and what came out; intervals are at 95 %."""
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.created_at))
    out.print(
        f"\n[bold]Evaluation {e.id}[/]: {_KINDS[e.kind]}, {evaluation_state(e.kind, e.state)}  [dim]{created}[/]"
    )
    if e.error:
        out.print(f"[red]{plain(e.error)}[/]", soft_wrap=True)
    rows = [("A", plain(e.contestant_a))]
    if e.contestant_b:
        rows.append(("B", plain(e.contestant_b)))
    if e.judge:
        version = (e.judge_identity or {}).get("prompt_version", "not known")
        rows.append(("judge", f"{plain(e.judge)}, prompt {plain(version)}"))
    rows.append(("from", plain(e.source)))
    if e.result:
        rows += _ROWS[e.kind](e.result)
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(f"[dim]{name}[/]", value)
    out.print(grid)
    if not e.result:
        return
    if e.result.get("question"):
        out.print(f"\n{plain(e.result['question'])}", soft_wrap=True)
    for sentence in e.result.get("warnings", []):
        out.print(f"[yellow]{plain(sentence)}[/]", soft_wrap=True)
    _TABLES[e.kind](e.result)
    if e.kind == "calibration":
        from srtui.evaluation.judge_calibration import worth

        colour = "green" if e.result["better_than_chance"] else "yellow"
        out.print(f"\n[{colour}]{plain(worth(e.judge or 'The judge', e.result))}[/]", soft_wrap=True)
    elif "calibration" in e.result:
        _print_calibration(e)


def _print_calibration(e: Evaluation) -> None:
    calibration = (e.result or {})["calibration"]
    if calibration is None:
        line = (
            f"Nobody knows what this judge is worth: srtui eval calibrate --judge {plain(e.judge or '')} FILE"
        )
    elif calibration["better_than_chance"]:
        line = (
            f"This judge agrees with known judgements beyond chance (evaluation {calibration['evaluation']})."
        )
    else:
        line = f"This judge was no better than chance (evaluation {calibration['evaluation']}): do not trust its verdicts."
    good = calibration is not None and calibration["better_than_chance"]
    out.print(f"\n[{'dim' if good else 'yellow'}]{line}[/]", soft_wrap=True)


def _compared_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("judged", _judged(r, "items")),
        ("A against B", f"[bold]{r['win']} win, {r['tie']} tie, {r['lose']} lose[/]"),
        ("win rate, a tie as half", interval(r["win_rate"], percent=True)),
        *_failed(r),
    ]
    if "tie_margin" in r:
        rows.append(("a tie is", f"{r['tie_margin']:.2f} points or less apart"))
    if "preference" not in r:  # people
        rows += [
            ("both bad, skipped", f"{r['both_bad']}, {r['skipped']}"),
            ("left chosen", interval(r["left"], percent=True)),
            (f"agreement ({r['agreement']['method'] or 'one person'})", interval(r["agreement"]["kappa"])),
        ]
        return rows
    rows += [
        ("judge's preference for A", interval(r["preference"], percent=True)),
        ("score of A, of B", f"{interval(r['score_a'])}, {interval(r['score_b'])}"),
        ("characters of A, of B", f"{number(r['length']['a'], 0)}, {number(r['length']['b'], 0)}"),
    ]
    if "length_controlled" in r:
        rows += _length_rows(r["length_controlled"])
    return rows + _bias_rows(r)


def _length_rows(control: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Older results have neither a slope's interval nor what was raw."""
    reason, slope = control["reason"], control.get("slope")
    raw = "" if control.get("raw") is None else f", the raw one, {control['raw']:.1%}, stands"
    text = interval(control["win_rate"], percent=True) if reason is None else f"none{raw}: {plain(reason)}"
    rows = [("length-controlled win rate", text)]
    if slope is not None and slope["value"] is not None:
        rows.append(("effect of length, in logits", interval(slope)))
    if control.get("anchors"):
        anchors = control["anchors"]
        rows.append(
            (
                "anchors",
                f"{plain(anchors['file'])}, {anchors['items']} items, {anchors['gamed']} gamed models",
            )
        )
    return rows


def _failed(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Answers that are not there, and what they count as."""
    failed = r.get("failed") or {}
    reasons = ", ".join(f"{n} {plain(reason)}" for reason, n in failed.get("why", {}).items())
    if failed.get("answers"):
        return [("no answer", f"{failed['answers']}, scored 1 ({reasons})")]
    counts = [failed.get(name, 0) for name in ("a", "b", "both")]
    if not any(counts):
        return []
    text = f"A {counts[0]} (lost), B {counts[1]} (won), both {counts[2]} (ties)"
    return [("no answer", text + (f"; {reasons}" if reasons else ""))]


def _bias_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    p = r["position"]
    return [
        (
            "position bias",
            f"{interval(p['first'])} for the first shown; the first ahead in both orders {p['first_twice']}, "
            f"the second {p['second_twice']}, the same answer {p['consistent']}",
        ),
        *_parse_rows(r),
    ]


def _parse_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    parse = r["parse"]
    rows = [("probability given to any score", number(parse["mass"], 4))]
    if parse["rate"]["n"]:
        reasons = ", ".join(f"{n} {plain(reason)}" for reason, n in parse["unparsed"].items())
        rows.insert(
            0,
            ("words that parse", interval(parse["rate"], percent=True) + (f"; {reasons}" if reasons else "")),
        )
    return rows


def _judged(r: Mapping[str, Any], total_key: str) -> str:
    reasons = ", ".join(f"{n} {plain(reason)}" for reason, n in r.get("unjudged", {}).items())
    return f"{r['judged']} of {r[total_key]}" + (f"; judgements without scores: {reasons}" if reasons else "")


def _turn_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("judged", _judged(r, "items")),
        ("score", interval(r["score"])),
        *_failed(r),
        *_parse_rows(r),
    ]


def _calibration_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    left_out = ", ".join(f"{n} {plain(reason)}" for reason, n in r["skipped"].items())
    return [
        ("judged", _judged(r, "pairs") + (f"; left out: {left_out}" if left_out else "")),
        ("agreement", f"{interval(r['agreement'], percent=True)}, by chance {r['chance'] or 0:.1%}"),
        ("Cohen's kappa", f"[bold]{interval(r['kappa'])}[/]"),
        ("the known judge with itself", f"kappa {interval(r['known_itself'])} between its two orders"),
        ("tie margin that fits best", number(r.get("tie_margin"), 2)),
        ("rank correlation of differences", number(r["rank_correlation"], 2)),
        *_bias_rows(r),
    ]


def _choice_rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("questions", f"{r['judged']}"),
        *([("no choice scored", f"{n}, counted as wrong")] if (n := _unscored(r)) else []),
        ("accuracy", f"[bold]{interval(r['accuracy'], percent=True)}[/], by chance {r['chance']:.1%}"),
    ]


def _unscored(r: Mapping[str, Any]) -> int:
    return int(r.get("failed", {}).get("questions", 0))


def _compared_table(r: Mapping[str, Any]) -> None:
    table = _table("category", "win", "tie", "lose", "win rate", *(["A", "B"] if "score_a" in r else []))
    for name, c in r["categories"].items():
        scores = [interval(c["score_a"]), interval(c["score_b"])] if "score_a" in c else []
        rate = interval(c["win_rate"], percent=True)
        table.add_row(plain(name), str(c["win"]), str(c["tie"]), str(c["lose"]), rate, *scores)
    out.print(table)


def _turn_table(r: Mapping[str, Any]) -> None:
    table = _table("category", *(f"turn {t}" for t in r["turns"]), "both")
    for name, c in [*r["categories"].items(), ("all", r)]:
        table.add_row(plain(name), *(interval(c["turns"][t]) for t in r["turns"]), interval(c["score"]))
    out.print(table)


def _calibration_table(r: Mapping[str, Any]) -> None:
    table = _table("known judge", "this one: win", "tie", "lose")
    for known_verdict, row in r["table"].items():
        table.add_row(known_verdict, *(str(row[v]) for v in ("win", "tie", "lose")))
    out.print(table)


def _choice_table(r: Mapping[str, Any]) -> None:
    table = _table("task", "questions", "accuracy", "by length", "chance", "shots")
    for name, t in r["tasks"].items():
        table.add_row(
            plain(name), str(t["questions"]), interval(t["accuracy"], percent=True),
            interval(t["accuracy_norm"], percent=True), f"{t['chance']:.1%}", str(t["shots"]),
        )  # fmt: skip
    out.print(table)


def _table(*names: str) -> Table:
    table = Table(names[0], box=None, header_style="bold")
    for name in names[1:]:
        table.add_column(name, justify="right")
    out.print()
    return table


_ROWS = {
    "pairwise": _compared_rows,
    "winrate": _compared_rows,
    "human": _compared_rows,
    "turns": _turn_rows,
    "calibration": _calibration_rows,
    "choice": _choice_rows,
}
_TABLES = {
    "pairwise": _compared_table,
    "winrate": _compared_table,
    "human": _compared_table,
    "turns": _turn_table,
    "calibration": _calibration_table,
    "choice": _choice_table,
}


def print_judged(pair: JudgedPair) -> None:
    """One judgement: the question, both answers, and the judge's words."""
    j = pair.judgement
    ordering = {"ab": "A first", "ba": "B first", "a": "alone"}[j.ordering]
    by = f", by {plain(j.annotator)}" if j.annotator else ""
    out.print(f"\n[bold]Item {j.item}[/], {plain(pair.item.category)}, turn {j.turn}, {ordering}{by}")
    out.print(plain(pair.item.turns[j.turn - 1]), soft_wrap=True)
    for name, answer, score, text_score in (
        ("A", pair.answer_a, j.score_a, j.text_score_a),
        ("B", pair.answer_b, j.score_b, j.text_score_b),
    ):
        if answer is not None:
            words = f", in words {text_score:g}" if text_score is not None else ""
            out.print(
                f"  [dim]{name}, score {number(score, 2)}{words}[/]\n{plain(answer.text)}", soft_wrap=True
            )
    if j.choice:
        out.print(f"  [dim]choice[/] {j.choice}")
    if j.words:
        out.print(f"  [dim]the judge ({plain(j.parsed)})[/]\n{plain(j.words)}", soft_wrap=True)
