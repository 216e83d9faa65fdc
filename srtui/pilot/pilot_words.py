"""A pilot's result in words, as every face shows it."""

from __future__ import annotations

from srtui.evaluation.statistics import Estimate
from srtui.pilot import SIGNS
from srtui.pilot.result import PilotResult
from srtui.text import bytes_text, duration, number

_NAMES = {"instruction": "instructions", "response": "answers"}


def facts(r: PilotResult) -> list[tuple[str, str]]:
    """Names and values, one line each."""
    kinds: dict[str, int] = {}
    for s in r.strata:
        kinds[s.kind] = kinds.get(s.kind, 0) + s.chosen
    drawn = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)
    shortest, longest = (
        min((s.shortest for s in r.strata), default=0),
        max((s.longest for s in r.strata), default=0),
    )
    rows = [
        (
            "samples",
            f"{r.samples:,} of {r.of:,}: {drawn}; of all lengths from {shortest:,} to {longest:,} characters",
        )
    ]
    for target, name in _NAMES.items():
        t = r.targets[target]
        failed = ", ".join(f"{n} {why}" for why, n in t.failed.items())
        rows.append((f"new {name} parsed", counted(t.parsed) + (f"; not: {failed}" if failed else "")))
        rows.append(("  cut at the first try", counted(t.cut)))
        if t.gated:
            rows.append(("  gated", ", ".join(f"{n} {why}" for why, n in t.gated.items())))
        rows.append(("  taken", counted(t.taken) if t.taken["n"] else "there was none to choose"))
    for limit in r.limits:
        held = limit.tokens["value"]
        least = limit.tokens["low"]
        words = (
            f"95 % of {limit.written} texts have at most {held:,.0f} tokens"
            if held
            else (f"more than 5 % of {limit.written} texts were cut at {limit.most:,} tokens")
        )
        if held and limit.tokens["high"] is None:
            words += (
                f" (so few bound it from below alone: {least:,.0f})" if least else " (so few give no bounds)"
            )
        elif held:
            words += f" (between {least or 0:,.0f} and {limit.tokens['high']:,.0f} with 95 %)"
        rows.append((limit.key, f"{limit.now:,} now; {words}"))
    for gate, stops in r.gates.items():
        if stops["value"] or gate == "about_the_task":
            action = "is on and stops" if gate in r.active_gates else "is off and would stop"
            rows.append((f"gates.{gate}", f"{action} {counted(stops)} of the samples with a rewrite"))
    if r.own_rating["n"]:
        rows.append(
            (
                "teacher's own rating",
                f"prefers its new answer in {counted(r.own_rating)}; models prefer their own words, so that is no proof",
            )
        )
    rows += [("measure", sentence) for sentence in r.calibrated]
    rows.append(("kept", counted(r.kept)))
    rows.append(
        (
            "template",
            f"{r.template!r}: {counted(r.at_or_over_one)} originals have an IFD of 1 or more"
            if r.at_or_over_one["n"]
            else f"{r.template!r}: no original was scored",
        )
    )
    return rows + _forecast(r)


def _forecast(r: PilotResult) -> list[tuple[str, str]]:
    f = r.forecast
    speed = ", ".join(f"{f.speed[s]:,.0f} {name}" for s, name in _SPEEDS.items() if s in f.speed)
    rows = [("tokens/s", speed or "nothing was computed: all of it was stored")]
    if not f.left:
        rows.append(("the rest", "there is none: the pilot had every sample"))
        return rows
    total = _time(f.total)
    by = f" (by earlier runs: {', '.join(f.history)})" if f.history else ""
    rows.append(
        (
            f"time for {f.left:,} more",
            f"{total}, {duration(f.fixed)} of it for any number of samples{by}" if total else "not measured",
        )
    )
    if total:
        off = ", ".join(f"{share:+.0%}" for share in f.past)
        rows.append(
            (
                "  the last ones took",
                f"{off} beside their forecast"
                if off
                else "nothing yet: no run that was forecast here is done",
            )
        )
    training = _time(f.training)
    rows.append(
        (
            "training",
            f"{training} by earlier ones here"
            if training
            else "not in it: no training of this student was measured here",
        )
    )
    disk = _range(f.disk, bytes_text)
    rows.append(
        (
            "disk",
            f"{disk} more in the store; checkpoints and adapter come on top"
            if disk
            else "not measured: some of it was stored already",
        )
    )
    rows.append(
        (
            "memory",
            f"{bytes_text(f.memory)} at most in the pilot, for any number of samples; training says its own first",
        )
    )
    return rows


_SPEEDS = {
    "reflect-instruction": "of the teacher (instructions)",
    "reflect-response": "of the teacher (answers)",
    "choose-instruction": "of the student (instructions)",
    "choose-response": "of the student (answers)",
}


def counted(e: Estimate) -> str:
    """21 of 24 (69 % to 96 %): a share with its Wilson interval."""
    if e["value"] is None or not e["n"]:
        return "0 of 0"
    head = f"{round(e['value'] * e['n'])} of {e['n']}"
    return head if e["low"] is None or e["high"] is None else f"{head} ({e['low']:.0%} to {e['high']:.0%})"


def _time(e: Estimate) -> str:
    return _range(e, duration)


def _range(e: Estimate, words: object) -> str:
    if e["value"] is None:
        return ""
    to_words = words if callable(words) else number
    if e["low"] is None or e["high"] is None:
        return f"about {to_words(e['value'])} (one sample: no interval)"
    return f"about {to_words(e['value'])} ({to_words(e['low'])} to {to_words(e['high'])})"


NOTES = (
    "Shares have 95 % Wilson intervals. Times and sizes are means over the pilot's samples with Student's t interval of "
    "what samples differ by (tokens, bytes); another speed of the machine is not in it, and the pilot's own speed is "
    "rather low, since its last sequences run with slots empty."
)
"""How the intervals are made, in two sentences."""


def advice(r: PilotResult, command: str) -> str:
    """The command that follows the verdict: ``command`` with the words that apply its advice."""
    return " ".join([command, *(f"--set {word}" for word in r.verdict.set)])


def reading(r: PilotResult) -> str:
    """All of it as one text, for a screen to scroll through: verdict, figures, and the examples one below the other."""
    lines = [f"{SIGNS[r.verdict.word]} {r.verdict.sentence}", *(f"also: {s}" for s in r.verdict.also)]
    if r.verdict.set:
        lines.append("To set: " + ", ".join(r.verdict.set))
    lines += ["", *(f"{name}: {value}" for name, value in facts(r)), "", NOTES]
    for n, e in enumerate(r.examples, 1):
        gate_words = "".join(f"; {reason}" for reason in e.gates.values())
        lines += ["", f"── Example {n} of {len(r.examples)}, sample {e.sample}: {e.why}{gate_words}"]
        for name, pair in (("before", e.before), ("after", e.after)):
            lines += [
                f"[{name}]",
                *("\n".join(part for part in pair if part) if pair else "no rewrite").splitlines(),
            ]
    return "\n".join(lines)


__all__ = ["NOTES", "advice", "counted", "facts", "reading"]
