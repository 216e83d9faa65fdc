"""Facts as one HTML file without a script, or as Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from srtui.evaluation import result_words
from srtui.measures import MEASURES
from srtui.report import pictures
from srtui.report.conclusions import conclusions
from srtui.report.facts import Facts
from srtui.report.open_questions import open_questions
from srtui.store.distributions import quantile
from srtui.text import bytes_text, duration, number, safe, share
from srtui.worddiff import Part
from srtui.wording import choice_words, energy_words, stage_title

_KINDS = {
    "original": "original",
    "instruction_reflected": "new instruction",
    "response_reflected": "new answer",
    "manual": "by hand",
}
_MARKS = re.compile(r"([\\`*_{}\[\]#|~!$])")
_LINE_START = re.compile(r"^(\s*)(?:([-+=])(?=\s|$|[-=])|(\d+)(?=[.)](?:\s|$)))", re.MULTILINE)


def html(facts: Facts) -> str:
    """One file that asks for nothing beyond itself: no script, no address, and a policy that forbids
    both."""
    style = _sheet()
    drawn = {
        "flow": pictures.flow(facts.flow) if facts.summary.samples else "",
        "map": pictures.data_map(facts.map.points) if facts.map.points else "",
        "changes": pictures.changes(facts.changes) if facts.changes else "",
        "training": pictures.training(facts.training)
        if facts.training and facts.training.metrics.get("loss")
        else "",
        "evaluations": {
            e.id: pictures.comparison(f"evaluation-{e.id}", counts)
            for e in facts.evaluations
            if (counts := result_words.verdicts(e.result))
        },
    }
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _environment(True).get_template("report.html.j2").render(
        f=facts,
        drawn=drawn,
        style=Markup(style),  # noqa: S704 - a file of this package
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        open=open_questions(facts),
        conclusions=conclusions(facts),
    )  # fmt: skip


def markdown(facts: Facts) -> str:
    """The same facts without pictures; every text of the data is quoted so that it marks up nothing."""
    text = (
        _environment(False)
        .get_template("report.md.j2")
        .render(f=facts, open=open_questions(facts), conclusions=conclusions(facts))
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _sheet() -> str:
    return (resources.files("srtui.report") / "templates" / "report.css").read_text(encoding="utf-8")


def _environment(is_html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("srtui.report"),
        autoescape=is_html,  # noqa: S701 - Markdown is escaped by mark_down, in finalize
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever a text of the data holds, a terminal or a browser obeys none of it.
        finalize=_for_html if is_html else _for_markdown,
    )
    environment.filters |= {
        "duration": duration,
        "energy": energy_words,
        "bytes": bytes_text,
        "number": number,
        "stage": stage_title,
        "choice": choice_words,
        "moment": _moment,
        "short": lambda digest: digest[:12],
        "kind": lambda kind: _KINDS.get(kind, kind),
        "metric": lambda metric: MEASURES[metric].label,
        "marked": _marked_html if is_html else _marked_markdown,
        "quoted": _quoted,
        "whole": lambda value: f"{value:,}",
    }
    environment.globals |= {
        "share": share,
        "verdicts": result_words.verdicts,
        "lines": result_words.lines,
        "tables": result_words.tables,
        "recipe_rows": recipe_rows,
        "change_row": change_row,
    }
    return environment


def _for_html(value: Any) -> Any:
    return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _for_markdown(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup) or value == "-":
        return value
    return mark_down(" ".join(safe(value).split()))  # in one line: a table's cell may have no second


def recipe_rows(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """Every knob of a recipe as ``section.key`` and its value; paths shortened to the file's name."""
    rows = []
    for key, value in recipe.items():
        if isinstance(value, dict):
            rows += [(f"{key}.{name}", _setting_value(inner)) for name, inner in value.items()]
        elif key == "dataset":
            rows.append((key, re.split(r"[\\/]", str(value))[-1]))
        else:
            rows.append((key, _setting_value(value)))
    return rows


def change_row(change: Any) -> list[str]:
    """Mean and quantiles before and after, and how many samples fell and rose."""
    before, after = sorted(change.before), sorted(change.after)
    cells = [f"{len(before):,}"]
    for share_ in (0.25, 0.5, 0.75):
        cells.append(f"{quantile(before, share_):.3f} → {quantile(after, share_):.3f}")
    mean = [sum(v) / len(v) for v in (before, after)]
    cells.insert(1, f"{mean[0]:.3f} → {mean[1]:.3f}")
    at_one = [sum(v >= 1 for v in values) for values in (before, after)]
    return [*cells, f"{at_one[0]:,} → {at_one[1]:,}"]


def _setting_value(value: Any) -> str:
    return "-" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _moment(timestamp: float | None) -> str:
    return "-" if timestamp is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(timestamp))


def _marked_html(parts: Iterable[Part], tag: Literal["del", "ins"]) -> Markup:
    around = {"del": Markup("<del>{}</del>"), "ins": Markup("<ins>{}</ins>")}[tag]
    return Markup("").join(around.format(safe(p.text)) if p.changed else safe(p.text) for p in parts)


def _marked_markdown(parts: Iterable[Part], tag: Literal["del", "ins"]) -> Markup:
    def around(line: str) -> str:
        return f"<{tag}>{line}</{tag}>" if line.strip() else line

    pieces = [(mark_down(safe(p.text)), p.changed) for p in parts]
    # Line by line: in Markdown a tag that is open at the end of a paragraph is never closed.
    text = "".join("\n".join(map(around, t.split("\n"))) if changed else t for t, changed in pieces)
    return Markup(_quote(text))  # noqa: S704 - Markdown, escaped by mark_down


def _quoted(text: str) -> Markup:
    return Markup(_quote(mark_down(safe(text))))  # noqa: S704 - the same


def _quote(text: str) -> str:
    """Every line behind a ``>``; a backslash at its end keeps the next one a line of its own."""
    lines = text.strip().split("\n")
    breaks = [
        "\\" if line.strip() and after.strip() else ""
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
    ]
    return "\n".join(f"> {line}{end}" for line, end in zip(lines, breaks, strict=True))


def mark_down(text: str) -> str:
    """Text that Markdown shows as it is: no tag, link, picture, heading, list or table comes of it."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\1", text)
    return _LINE_START.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\", text)
