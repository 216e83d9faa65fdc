"""The pictures of a report: drawn by matplotlib, taken apart so that a page's own style colours them.

matplotlib writes colours into ``style`` attributes. Each colour here stands for a role, and becomes a
class: the page then gives it one colour in light, another in dark, and a third on paper, and needs no
inline style, so that its Content-Security-Policy can forbid all but its own style sheet.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET  # reads only what matplotlib wrote a moment ago
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from srtui.evaluation.result_words import Verdicts

if TYPE_CHECKING:
    from srtui.data_map import MapPoint
    from srtui.report.facts import ScoreShift, Step, TrainingFacts

# One colour a role, each used for nothing else; no reader ever sees these.
INK, FAINT, GROUND, BEFORE, AFTER, LIMIT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_ROLES = {INK: "ink", FAINT: "faint", GROUND: "ground", BEFORE: "before", AFTER: "after", LIMIT: "limit"}
_WIDTH = 7.0  # inches; the page scales it
_SPACE = re.compile(r"\{[^}]*\}")
_KEPT_STYLES = {
    "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity",
    "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip
_SMOOTHING = 0.85
_MOST_POINTS = 4000  # a page of more is slow to open


def flow(steps: Sequence[Step]) -> Markup:
    """How many samples came through each step, as bars over the number that went in."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = range(len(steps))
        axes.barh(places, [s.of for s in steps], color=FAINT, alpha=0.25, height=0.66)
        axes.barh(places, [s.samples for s in steps], color=AFTER, height=0.66)
        most = max((s.of for s in steps), default=0) or 1
        for place, step in zip(places, steps, strict=True):
            share = f" ({step.samples / step.of:.0%} of {step.of:,})" if step.of and place else ""
            axes.text(most * 1.02, place, f"{step.samples:,}{share}", va="center", color=INK)
        axes.set_yticks(places, [s.name for s in steps])
        axes.invert_yaxis()
        axes.set_xlim(0, most * 1.3)
        axes.set_xticks([])
        axes.spines[["bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return _picture(draw, 0.42 * len(steps) + 0.3, "flow", "Samples that came through each step")


def changes(shifts: Sequence[ScoreShift]) -> Markup:
    """Histograms of each score before, and of the final texts, over the same samples."""

    def draw(figure: Any) -> None:
        top = max([1.0, *(_high(c) for c in shifts)])
        bins = [top * n / 30 for n in range(31)]
        for axes, change in zip(figure.subplots(1, len(shifts), squeeze=False)[0], shifts, strict=True):
            before, after = ([min(v, top) for v in values] for values in (change.before, change.after))
            axes.hist(before, bins, color=BEFORE, alpha=0.55, label="before")
            axes.hist(after, bins, color=AFTER, histtype="step", linewidth=1.8, label="final")
            axes.axvline(1.0, color=LIMIT, linewidth=1, linestyle="--")
            axes.set_title(f"{change.metric}, {len(before):,} samples", fontsize=10, color=INK, loc="left")
            axes.set_xlabel(change.metric)
            axes.set_ylabel("samples")
            axes.legend(frameon=False, labelcolor=INK)

    return _picture(draw, 2.7, "scores", "Histograms of IFD and r-IFD before, and of the final texts")


def training(facts: TrainingFacts) -> Markup:
    """Loss by step, raw and smoothed, and the learning rate."""
    losses, rates = facts.metrics.get("loss", []), facts.metrics.get("learning_rate", [])

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, width_ratios=[2, 1])
        left.plot(*_columns(losses), "o", color=BEFORE, markersize=3, alpha=0.7, label="loss of a step")
        left.plot(*_columns(smoothed(losses)), color=AFTER, linewidth=1.8, label="smoothed")
        left.set_ylabel("loss, nats a token" if facts.method == "sft" else "loss of a pair")
        left.legend(frameon=False, labelcolor=INK)
        right.plot(*_columns(rates), color=AFTER, linewidth=1.5)
        right.set_ylabel("learning rate")
        right.ticklabel_format(axis="y", scilimits=(-3, 3))
        for axes in (left, right):
            axes.set_xlabel("step")

    return _picture(draw, 2.7, "training", "Training loss and learning rate by step")


def comparison(name: str, counts: Verdicts) -> Markup:
    """One bar: how often A won, neither did, and B won."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        start = 0
        for count, colour, alpha in (
            (counts.win, AFTER, 1.0),
            (counts.tie, FAINT, 0.35),
            (counts.lose, BEFORE, 0.8),
        ):
            axes.barh([0], [count], left=start, color=colour, alpha=alpha, height=0.8)
            start += count
        for place, word, side in (
            (0.0, f"A better: {counts.win:,}", "left"),
            (counts.total / 2, f"tie: {counts.tie:,}", "center"),
            (counts.total, f"B better: {counts.lose:,}", "right"),
        ):
            axes.text(place, -0.95, word, ha=side, va="center", color=INK)
        axes.set_xlim(0, counts.total or 1)
        axes.set_ylim(0.5, -1.4)
        axes.set_axis_off()

    return _picture(draw, 0.75, name, f"{counts.win} win, {counts.tie} tie, {counts.lose} lose")


def data_map(points: Sequence[MapPoint]) -> Markup:
    """Texts in the plane in which the student's embeddings differ most; what is kept stands out."""

    some_of = points[:: max(1, len(points) // _MOST_POINTS)]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for kept, colour, words in ((False, BEFORE, "not kept"), (True, AFTER, "kept")):
            points = [p for p in some_of if p.kept == kept]
            size = 9 if len(some_of) < 2000 else 3
            axes.scatter(
                [p.x for p in points], [p.y for p in points], s=size, color=colour, alpha=0.6, linewidths=0,
                label=f"{words}: {len(points):,}",
            )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))

    return _picture(draw, 3.6, "map", "A map of the originals by the student's embeddings")


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """An exponential mean, corrected for its start, so that the first value is the first point."""
    mean, means = 0.0, []
    for n, (step, value) in enumerate(points, 1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        means.append((step, mean / (1 - _SMOOTHING**n)))
    return means


def _high(change: ScoreShift) -> float:
    """Where the picture ends: a few values far out must not press the rest into a corner."""
    ordered = sorted([*change.before, *change.after])
    return min(2.0, ordered[int(0.98 * (len(ordered) - 1))] * 1.1)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _picture(draw: Callable[[Any], None], height: float, name: str, words: str) -> Markup:
    """Draw on a figure of ``height`` inches and bring it into a page; ``name`` is unique in it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # and not pyplot: no backend, no window, no global figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(file.getvalue(), name, words)


def _for_page(svg: bytes, name: str, words: str) -> Markup:
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib's own
    for parent in root.iter():
        for child in list(parent):
            if _SPACE.sub("", child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _SPACE.sub("", element.tag)
        attributes = {_SPACE.sub("", key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "style":
                _restyle(element, value)
            elif key == "id" or (key == "href" and value.startswith("#")):
                element.set(key, f"#{name}-{value[1:]}" if key == "href" else f"{name}-{value}")
            elif key != "href" and (element is not root or key not in ("version", "width", "height")):
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-label", words)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, so escaped


def _restyle(element: ET.Element, style: str) -> None:
    """The declarations of ``style`` as classes and attributes, which need no inline style."""
    classes = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("fill", "stroke"):
            role = _ROLES.get(value)
            if role:
                classes.append(f"{key}-{role}")
            else:
                element.set(key, value)
        elif key == "font":
            size = re.search(r"([\d.]+px)", value)
            if size:
                element.set("font-size", size[1])
        elif key in _KEPT_STYLES:
            element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))
