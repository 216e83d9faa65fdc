"""data: a data set as a whole, and the rewrites of a run as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import MOST, AsJson, RunName, app, libraries_log, open_store
from srtui.cli.output import fields_of, print_json, print_line
from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.pipeline.decontaminate import Overlaps
    from srtui.pipeline.dedup import Duplicates
    from srtui.pipeline.gate_trial import GateTrials
    from srtui.pipeline.look import Look, TextSide
    from srtui.sample import Pair
    from srtui.store import Store

data_app = typer.Typer(
    help="A data set as a whole: what gates would stop, near-duplicates, leaked evaluation prompts.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="The name of an imported dataset.")]


@data_app.command(epilog="Example: srtui data gates quickstart --examples 5")
def gates(
    run_name: RunName,
    examples: Annotated[
        int, typer.Option(min=0, max=1000, help="Stopped rewrites to name, of each gate.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Which of a run's rewrites would each gate stop? Nothing is changed; the recipe's [gates] turns them on."""
    from srtui.pipeline.gate_trial import try_gates

    _, store = open_store(read_only=True)
    with store:
        trials = try_gates(store, store.runs.named(run_name), examples)
    if as_json:
        print_json(trials)
    elif not trials.rewrites:
        print_line(f"Run {run_name} has no rewrites yet; they come with: srtui run")
    else:
        _print_trials(trials)


@data_app.command(epilog="Example: srtui data dedup alpaca --threshold 0.9 --drop")
def dedup(
    dataset: DatasetName,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.5, max=1, help="The least similarity of two texts; 0.8, by meaning 0.95."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="The words of the pair, instruction or response; or meaning, by embeddings.")
    ] = "pair",
    show: Annotated[int, typer.Option(min=0, max=MOST, help="Groups to print, the largest first.")] = 10,
    mark: Annotated[bool, typer.Option("--mark", help="Remember them; runs take them all the same.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="New runs leave them out; they stay stored.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Forget what was marked or left out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Near-duplicates of a dataset, in groups. Nothing is changed unless --mark, --drop or --undo is given."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.dedup import SIDES, THRESHOLD, find_duplicates
    from srtui.pipeline.neighbours import MEANING_THRESHOLD, duplicates_by_meaning

    side = next((name for name in SIDES if name == by), None)
    if side is None and by != "meaning":
        raise UserError(f"--by {by}: it can be {', '.join(SIDES)}, meaning.")
    if mark + drop + undo > 1:
        raise UserError("Only one of --mark, --drop and --undo can be given.")
    _, store = open_store(read_only=not (mark or drop or undo))
    with store:
        dataset_id = _dataset_id(store, dataset)
        if undo:
            print_line(f"{dataset}: {store.datasets.forget_near_duplicates(dataset_id):,} marks are gone.")
            return
        step, clear = steps_line(as_json)
        if side is None:
            near_duplicates = duplicates_by_meaning(
                store, dataset, dataset_id, threshold or MEANING_THRESHOLD
            )
        else:
            near_duplicates = find_duplicates(store, dataset, dataset_id, side, threshold or THRESHOLD, step)
        clear()
        if mark or drop:
            store.datasets.set_near_duplicates(dataset_id, near_duplicates.found(), left_out=drop)
        if as_json:
            print_json(
                {
                    **fields_of(near_duplicates),
                    "groups": near_duplicates.groups[:show],
                    "group_count": len(near_duplicates.groups),
                }
            )
            return
        _print_duplicates(store, near_duplicates, show)
        if drop:
            print_line("New runs leave them out; they stay in the store. --undo takes them back.")
        elif mark:
            print_line("They are marked; runs take them all the same.")


@data_app.command(epilog="Example: srtui data neighbours 12")
def neighbours(
    sample_id: Annotated[int, typer.Argument(help="A sample's id.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """The samples of the same dataset that mean most nearly the same, by the student's embeddings."""
    from srtui.cli.terminal import out, plain
    from srtui.pipeline.neighbours import neighbours as nearest

    _, store = open_store(read_only=True)
    with store:
        nearby = nearest(store, sample_id, count)
    if as_json:
        print_json({"sample": sample_id, "neighbours": nearby})
        return
    for neighbour in nearby:
        words = " ".join(neighbour.instruction.split())[:140]
        out.print(f"{neighbour.cosine:6.3f}  sample {neighbour.sample_id}: {plain(words)}", soft_wrap=True)


@data_app.command(epilog="Example: srtui data decontaminate alpaca_eval.json mt_bench.jsonl --dataset alpaca")
def decontaminate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Evaluation prompts; all that this workspace has evaluated with, if absent."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset; all of them if absent.")] = None,
    show: Annotated[int, typer.Option(min=0, max=MOST, help="Samples to print.")] = 10,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="New runs leave out what holds a prompt; it stays stored."),
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back what --drop left out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Samples that hold evaluation prompts: the same question, or 13 or 8 words in a row."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.decontaminate import decontaminate as look

    if drop and undo:
        raise UserError("Only one of --drop and --undo can be given.")
    _, store = open_store(read_only=not (drop or undo))
    with store:
        names = [dataset] if dataset else [d.name for d in store.corpus.datasets()]
        ids = [_dataset_id(store, name) for name in names]
        if undo:
            with store.transaction():
                restored = sum(
                    store.datasets.take_again(dataset_id, "evaluation prompt") for dataset_id in ids
                )
            print_line(f"{restored:,} samples are taken by new runs again.")
            return
        step, clear = steps_line(as_json)
        overlaps = look(store, ids, files or [], step)
        clear()
        if not overlaps.prompts:
            raise UserError("This workspace has evaluated with no prompts yet; name files of them.")
        contaminated = [overlap.sample_id for overlap in overlaps.found if overlap.kind != "short"]
        if drop:
            store.datasets.leave_out(contaminated, "evaluation prompt")
    if as_json:
        counts = {kind: overlaps.kinds[kind] for kind in ("question", "long", "short")}
        shown = [fields_of(overlap) for overlap in overlaps.found[:show]]
        print_json({"prompts": overlaps.prompts, "samples": overlaps.texts, **counts, "found": shown})
        return
    _print_overlaps(overlaps, show)
    if drop:
        print_line(
            f"New runs leave out {len(contaminated):,} samples; they stay in the store. --undo takes them back."
        )


def _print_overlaps(overlaps: Overlaps, show: int) -> None:
    from srtui.cli.terminal import out, plain

    words = {"question": "same question", "long": "13 words in a row", "short": "8 words in a row"}
    for overlap in overlaps.found[:show]:
        prompt = " ".join(overlap.prompt.split())[:120]
        out.print(
            f"sample {overlap.sample_id}: {words[overlap.kind]}, {plain(overlap.source)}: {plain(prompt)}",
            soft_wrap=True,
        )
    if len(overlaps.found) > show:
        out.print(f"and {len(overlaps.found) - show:,} more; --show prints more.")
    kinds = overlaps.kinds
    out.print(
        f"{overlaps.texts_found:,} of {overlaps.texts:,} samples hold one of {overlaps.prompts:,} prompts: "
        f"{kinds['question']:,} ask the same, {kinds['long']:,} have 13 words in a row of one; "
        f"{kinds['short']:,} more have 8 words in a row.",
        soft_wrap=True,
    )


@data_app.command(epilog="Example: srtui data look alpaca --run quickstart --embed")
def look(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="An imported dataset; with --run, its own.")
    ] = None,
    run_name: Annotated[
        str | None, typer.Option("--run", help="This run's samples, and what it keeps of them.")
    ] = None,
    embed: Annotated[
        bool,
        typer.Option(
            "--embed", help="With --run: let its student embed the originals first, for topics and a map."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What is in the data, before and after: lengths, languages, code, duplicates, topics."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.look import embed_originals, look_at_dataset, look_at_run

    if (dataset is None) == (run_name is None):
        raise UserError("Name a dataset, or a run with --run.")
    if embed and run_name is None:
        raise UserError("--embed needs --run: the run's student makes the embeddings.")
    workspace, store = open_store(read_only=not embed)
    with store:
        if run_name is None:
            overview = look_at_dataset(store, str(dataset), _dataset_id(store, str(dataset)))
        else:
            run = store.runs.named(run_name)
            if embed:
                step, clear = steps_line(as_json)
                with libraries_log(workspace.store_path.parent):
                    embed_originals(workspace, store, run, lambda line: None, step)
                clear()
                run = store.runs.get(run.id)
            overview = look_at_run(store, run)
    if as_json:
        print_json(
            {**fields_of(overview), "map": {"embedded": overview.map.embedded, "topics": overview.map.topics}}
        )
    else:
        _print_look(overview)


def _print_look(overview: Look) -> None:
    from rich.table import Table

    from srtui.cli.terminal import out, plain
    from srtui.text import share

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
        topics = Table("topic", "before", "after", box=None, header_style="bold")
        for topic in overview.map.topics:
            topics.add_row(
                plain(", ".join(topic.words) or "-"),
                f"{topic.before:,} ({share(topic.before, overview.map.embedded)})",
                f"{topic.after:,} ({share(topic.after, topic.before)} kept)",
            )
        out.print(topics)
        out.print(
            f"Topics are clusters of the student's embeddings of {overview.map.embedded:,} originals, and the words that their "
            "instructions have more often than others. srtui report draws the map.",
            soft_wrap=True,
            style="dim",
        )
    elif overview.run:
        out.print("--embed lets the student embed the originals, for topics and a map.", style="dim")


def _spread(quantiles: list[float]) -> str:
    return "{1:,.0f} (5 to 95 %: {0:,.0f} to {2:,.0f})".format(*quantiles) if quantiles else "-"


def _languages(side: TextSide) -> str:
    from srtui.text import share

    named = [f"{name or 'not clear'} {share(count, side.texts)}" for name, count in side.languages.items()]
    return ", ".join(named[:4]) + (", ..." if len(named) > 4 else "")


def _dataset_id(store: Store, name: str) -> int:
    dataset_id = store.corpus.dataset_id(name)
    if dataset_id is None:
        names = ", ".join(d.name for d in store.corpus.datasets()) or "none; bring one in with srtui import"
        raise UserError(f"There is no dataset {name!r}; there are: {names}.")
    return dataset_id


def _print_duplicates(store: Store, near_duplicates: Duplicates, show: int) -> None:
    from srtui.cli.terminal import out, plain
    from srtui.text import share

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


def _print_trials(trials: GateTrials) -> None:
    from rich.table import Table

    from srtui.cli.terminal import out, plain
    from srtui.text import share

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
