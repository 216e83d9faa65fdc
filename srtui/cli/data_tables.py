"""What ``srtui data`` prints: tables and sentences about data sets as a whole."""

from __future__ import annotations

from rich.table import Table

from srtui.cli.terminal import out, plain
from srtui.pipeline.decontaminate import Overlaps
from srtui.pipeline.dedup import Duplicates
from srtui.pipeline.gate_trial import GateTrials
from srtui.pipeline.look import Look, TextSide
from srtui.sample import Pair
from srtui.store import Store
from srtui.text import share


def print_overlaps(overlaps: Overlaps, show: int) -> None:
    """Samples that hold evaluation prompts, the surest first, and how many there are of each kind."""
    words = {
        "question": "same question",
        "long": "13 words in a row",
        "meaning": "in other words",
        "short": "8 words in a row",
    }
    for overlap in overlaps.found[:show]:
        prompt = " ".join(overlap.prompt.split())[:120]
        how = words[overlap.kind] + (f" ({overlap.cosine:.2f})" if overlap.cosine is not None else "")
        out.print(
            f"sample {overlap.sample_id}: {how}, {plain(overlap.source)}: {plain(prompt)}", soft_wrap=True
        )
    if len(overlaps.found) > show:
        out.print(f"and {len(overlaps.found) - show:,} more; --show prints more.")
    kinds = overlaps.kinds
    if not overlaps.texts:
        out.print("There are no samples to look in; bring a dataset in with srtui import.")
        return
    meaning = (
        f"{kinds['meaning']:,} more are near one in meaning, which is worth a look before they go; "
        if overlaps.by_meaning
        else ""
    )
    out.print(
        f"{overlaps.texts_found:,} of {overlaps.texts:,} samples hold one of {overlaps.prompts:,} prompts: "
        f"{kinds['question']:,} ask the same, {kinds['long']:,} have 13 words in a row of one; "
        f"{meaning}{kinds['short']:,} more have 8 words in a row.",
        soft_wrap=True,
    )


def print_look(overview: Look) -> None:
    """What is in a dataset, or in a run before and after it."""
    sides = [("before", overview.before), *([("after", overview.after)] if overview.after else [])]
    if overview.after is None:
        sides = [("", overview.before)]
    table = Table("", *(name for name, _ in sides), box=None, header_style="bold")
    rows: list[tuple[str, list[str]]] = [
        ("texts", [f"{side.texts:,}" for _, side in sides]),
        ("instruction, characters", [_spread(side.instruction_length) for _, side in sides]),
        ("response, characters", [_spread(side.response_length) for _, side in sides]),
        ("with an input", [share(side.with_input, side.texts) for _, side in sides]),
        ("with code", [share(side.with_code, side.texts) for _, side in sides]),
        ("near-duplicates", [share(side.near_duplicates, side.texts) for _, side in sides]),
        ("languages", [_languages(side) for _, side in sides]),
    ]
    for name, cells in rows:
        table.add_row(name, *(plain(cell) for cell in cells))
    out.print(table)
    if overview.near_duplicates:
        out.print(f"{overview.near_duplicates:,} samples are marked as near-duplicates.")
    for why, count in overview.left_out.items():
        out.print(f"New runs leave out {count:,} samples: {why}.")
    if overview.map.topics:
        # Without a run nothing was chosen, and nothing of a topic is kept or dropped.
        heads = ("topic", "before", "after") if overview.run else ("topic", "samples")
        topics = Table(*heads, box=None, header_style="bold")
        for topic in overview.map.topics:
            cells = [
                plain(", ".join(topic.words) or "-"),
                f"{topic.before:,} ({share(topic.before, overview.map.embedded)})",
                f"{topic.after:,} ({share(topic.after, topic.before)} kept)",
            ]
            topics.add_row(*cells[: len(heads)])
        out.print(topics)
        out.print(
            f"Topics are clusters of the embeddings of {overview.map.embedded:,} originals, and the words that their "
            "instructions have more often than others. The dashboard draws the map of them (m on Samples), and srtui report that "
            "of a run.",
            soft_wrap=True,
            style="dim",
        )
    elif overview.run:
        out.print("--embed lets the student embed the originals, for topics and a map.", style="dim")
    else:
        out.print(
            f"srtui data embed {plain(overview.dataset)} --student NAME makes embeddings, for topics.",
            style="dim",
            soft_wrap=True,
        )


def _spread(quantiles: list[float]) -> str:
    return "{1:,.0f} (5 to 95 %: {0:,.0f} to {2:,.0f})".format(*quantiles) if quantiles else "-"


def _languages(side: TextSide) -> str:
    named = [f"{name or 'not clear'} {share(count, side.texts)}" for name, count in side.languages.items()]
    return ", ".join(named[:4]) + (", ..." if len(named) > 4 else "")


def print_duplicates(store: Store, near_duplicates: Duplicates, show: int) -> None:
    """Groups of near-duplicates, the largest first, and how many there are in all."""
    shown = near_duplicates.groups[:show]
    pairs = store.corpus.original_pairs_of(
        sample
        for group in shown
        for sample in (group.kept[0], *(duplicate.sample_id for duplicate in group.others[:5]))
    )
    for group in shown:
        out.print(f"[bold]{1 + len(group.others):,} alike[/], sample {group.kept[0]} stays:", soft_wrap=True)
        out.print(f"  {plain(_first_words(pairs[group.kept[0]]))}", soft_wrap=True)
        for duplicate in group.others[:5]:
            out.print(
                f"  {duplicate.similarity:.0%} sample {duplicate.sample_id}: {plain(_first_words(pairs[duplicate.sample_id]))}",
                soft_wrap=True,
            )
        if len(group.others) > 5:
            out.print(f"  and {len(group.others) - 5:,} more")
    if len(near_duplicates.groups) > len(shown):
        out.print(f"{len(near_duplicates.groups) - len(shown):,} more groups; --show prints more.")
    noun = {"pair": "texts", "instruction": "instructions", "response": "responses", "meaning": "embeddings"}[
        near_duplicates.side
    ]
    out.print(
        f"{plain(near_duplicates.dataset)}: {near_duplicates.duplicates:,} of {near_duplicates.samples:,} samples "
        f"({share(near_duplicates.duplicates, near_duplicates.samples)}) are near-duplicates of others, in {len(near_duplicates.groups):,} group{'' if len(near_duplicates.groups) == 1 else 's'}: "
        f"their {noun} are at least {near_duplicates.threshold:g} alike.",
        soft_wrap=True,
    )


def _first_words(pair: Pair) -> str:
    return " ".join(" ".join(pair.texts).split())[:160]


def print_trials(trials: GateTrials) -> None:
    """What each gate would stop, and the first rewrites that it would."""
    table = Table("gate", "what it finds", box=None, header_style="bold")
    for name in ("stops", "of all", "taken by the student"):
        table.add_column(name, justify="right")
    for trial in trials.gates:
        table.add_row(
            trial.gate,
            trial.words,
            f"{trial.stopped:,}",
            share(trial.stopped, trials.rewrites),
            f"{trial.taken:,}",
        )
    out.print(table)
    out.print(
        f"All together stop {trials.any_stopped:,} of {trials.rewrites:,} rewrites "
        f"({share(trials.any_stopped, trials.rewrites)}), and {trials.any_taken:,} of the {trials.taken:,} that the "
        "student took.",
        soft_wrap=True,
    )
    for trial in trials.gates:
        for example in trial.examples:
            out.print(f"sample {example.sample_id}, {example.stage}: {plain(example.reason)}", soft_wrap=True)
