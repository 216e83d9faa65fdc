"""data: a data set as a whole, and the rewrites of a run as a whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import MOST, AsJson, RunName, app, libraries_log, open_store, stop_on_signals
from srtui.cli.completion import dataset_names, model_names, run_names
from srtui.cli.output import fields_of, print_json, print_line
from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.pipeline.embedding import Embedder
    from srtui.recipe import Recipe
    from srtui.store import Store
    from srtui.workspace import Workspace

data_app = typer.Typer(
    help="A data set as a whole: what gates would stop, near-duplicates, leaked evaluation prompts.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")

DatasetName = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="The name of an imported dataset.", autocompletion=dataset_names),
]
StudentName = Annotated[
    str | None,
    typer.Option(
        "--student",
        help="What embeds: a student's name, in NF4 unless --set says otherwise.",
        autocompletion=model_names,
    ),
]
EncoderName = Annotated[
    str | None,
    typer.Option("--encoder", help="What embeds: a sentence encoder's name in models/, or its folder."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Of the student: student.quantization=f32, prompt.max_length=512."),
]


def embedding_recipe(
    dataset: str, student: str | None, encoder: str | None, overrides: list[str] | None
) -> Recipe:
    """What embeds a dataset without a run. Raises UserError where neither or both are named."""
    from srtui.recipe import from_words

    if (student is None) == (encoder is None):
        raise UserError("What embeds? Name a student with --student, or a sentence encoder with --encoder.")
    embedder = (
        {"student": {"model": student}}
        if student
        else {"selection": {"embedded_by": "encoder", "encoder": encoder}, "training": {"enabled": False}}
    )
    return from_words({"name": "embed", "dataset": dataset, **embedder}, overrides or [], "--set")


@contextlib.contextmanager
def embedding(
    workspace: Workspace, store: Store, recipe: Recipe, dataset_id: int | None = None
) -> Iterator[tuple[Embedder, Callable[[], bool]]]:
    """An embedder by this recipe, and whether to stop. What libraries say goes to the store's log; a stop ends the
    command with code 130."""
    import time

    from srtui import today
    from srtui.cli.terminal import err
    from srtui.pipeline.embedding import open_embedder
    from srtui.progress import Stopped

    today.freeze(today.of_timestamp(time.time()))
    stop = stop_on_signals()
    with libraries_log(store.path.parent):
        embedder = open_embedder(workspace, store, recipe, dataset_id=dataset_id)
        try:
            yield embedder, stop.is_set
        except Stopped:
            err.print("Stopped; every embedding that was made is stored. The same command resumes.")
            sys.exit(130)
        finally:
            embedder.close()


@data_app.command(epilog="Example: srtui data gates quickstart --examples 5")
def gates(
    run_name: RunName,
    examples: Annotated[
        int, typer.Option(min=0, max=1000, help="Stopped rewrites to name, of each gate.")
    ] = 3,
    coherence: Annotated[
        bool,
        typer.Option(
            "--coherence", help="Ask the gate coherence too: the run's student reads every rewrite."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Which of a run's rewrites would each gate stop? Nothing is changed; the recipe's [gates] turns them on."""
    from srtui.cli.data_tables import print_trials
    from srtui.pipeline.gate_trial import coherence_of, try_gates
    from srtui.recipe import Recipe

    workspace, store = open_store(read_only=not coherence)
    with store:
        run = store.runs.named(run_name)
        if coherence:
            with embedding(workspace, store, Recipe.model_validate(run.recipe)) as (embedder, should_stop):
                gate = coherence_of(store, run, embedder, should_stop)
                trials = try_gates(store, run, examples, gate)
        else:
            trials = try_gates(store, run, examples)
    if as_json:
        print_json("gate-trials", trials)
    elif not trials.rewrites:
        print_line(f"Run {run_name} has no rewrites yet; they come with: srtui run")
    else:
        print_trials(trials)


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
    from srtui.cli.data_tables import print_duplicates
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.neighbours import duplicates_by

    if mark + drop + undo > 1:
        raise UserError("Only one of --mark, --drop and --undo can be given.")
    _, store = open_store(read_only=not (mark or drop or undo))
    with store:
        dataset_id = dataset_named(store, dataset)
        if undo:
            forgotten = store.datasets.forget_near_duplicates(dataset_id)
            if as_json:
                print_json("taken-back", {"datasets": [dataset], "samples": forgotten})
            else:
                print_line(f"{dataset}: {forgotten:,} marks are gone.")
            return
        step, clear = steps_line(as_json)
        near_duplicates = duplicates_by(store, dataset, dataset_id, by, threshold, step)
        clear()
        before = store.datasets.left_out(dataset_id).get("near-duplicate", 0)
        if mark or drop:
            store.datasets.set_near_duplicates(dataset_id, near_duplicates.found(), left_out=drop)
        if as_json:
            print_json(
                "near-duplicates",
                {
                    **fields_of(near_duplicates),
                    "groups": near_duplicates.groups[:show],
                    "group_count": len(near_duplicates.groups),
                },
            )
            return
        print_duplicates(store, near_duplicates, show)
        if drop:
            print_line("New runs leave them out; they stay in the store. --undo takes them back.")
        elif mark:
            print_line("They are marked; runs take them all the same.")
        if before and (mark or drop):
            print_line(
                f"What was left out as a near-duplicate before ({before:,} samples) is forgotten for it."
            )


@data_app.command(epilog="Example: srtui data embed alpaca --student smollm2-135m")
def embed(
    dataset: DatasetName,
    student: StudentName = None,
    encoder: EncoderName = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Embeddings of a dataset's samples, each made once: for look, neighbours and dedup --by meaning."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.embedding import embed_dataset

    workspace, store = open_store()
    with store:
        dataset_id = dataset_named(store, dataset)
        recipe = embedding_recipe(dataset, student, encoder, set_)
        step, clear = steps_line(as_json)
        with embedding(workspace, store, recipe, dataset_id) as (embedder, should_stop):
            total = embed_dataset(store, dataset_id, embedder, step, should_stop)
            embedded_count = store.embeddings.count_of_dataset(dataset_id, embedder.setting_id)
        clear()
    if as_json:
        print_json("embeddings", {"dataset": dataset, "samples": total, "embedded": embedded_count})
        return
    print_line(
        f"{dataset}: {embedded_count:,} of {total:,} samples have an embedding. "
        f"srtui data look {dataset} shows their topics, srtui data dedup {dataset} --by meaning what is alike."
    )


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
        print_json("neighbours", {"sample": sample_id, "neighbours": nearby})
        return
    if not nearby:
        print_line(f"Sample {sample_id} is the only one of its dataset that has an embedding.")
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
    student: StudentName = None,
    encoder: EncoderName = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.3, max=1, help="By meaning: the least cosine of two questions; 0.85 if absent."),
    ] = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Samples that hold evaluation prompts: the same question, 13 or 8 words in a row; with --student or --encoder, what
    asks the same in other words, too."""
    from srtui.cli.data_tables import print_overlaps
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.decontaminate import ASKS_THE_SAME, LEAST_QUESTIONS
    from srtui.pipeline.decontaminate import decontaminate as look

    if drop and undo:
        raise UserError("Only one of --drop and --undo can be given.")
    by_meaning = bool(student or encoder)
    if threshold is not None and not by_meaning:
        raise UserError(
            "--threshold is for a search by meaning; name what embeds with --student or --encoder."
        )
    workspace, store = open_store(read_only=not (drop or undo or by_meaning))
    with store:
        names = [dataset] if dataset else [d.name for d in store.corpus.datasets()]
        ids = [dataset_named(store, name) for name in names]
        if undo:
            with store.transaction():
                restored = sum(
                    store.datasets.take_again(dataset_id, "evaluation prompt") for dataset_id in ids
                )
            if as_json:
                print_json("taken-back", {"datasets": names, "samples": restored})
            else:
                print_line(f"{restored:,} samples are taken by new runs again.")
            return
        step, clear = steps_line(as_json)
        if by_meaning:
            recipe = embedding_recipe(names[0] if names else "none", student, encoder, set_)
            with embedding(workspace, store, recipe) as (embedder, should_stop):
                overlaps = look(
                    store, ids, files or [], step, embedder, threshold or ASKS_THE_SAME, should_stop
                )
        else:
            overlaps = look(store, ids, files or [], step)
        clear()
        if not overlaps.prompts:
            raise UserError("This workspace has evaluated with no prompts yet; name files of them.")
        contaminated = [overlap.sample_id for overlap in overlaps.found if overlap.kind != "short"]
        if drop:
            store.datasets.leave_out(contaminated, "evaluation prompt")
    if as_json:
        kinds = ("question", "long", *(("meaning",) if by_meaning else ()), "short")
        counts: dict[str, int | None] = {kind: overlaps.kinds[kind] for kind in kinds}
        if by_meaning and not overlaps.by_meaning:
            counts["meaning"] = None
        shown = [fields_of(overlap) for overlap in overlaps.found[:show]]
        print_json(
            "overlaps", {"prompts": overlaps.prompts, "samples": overlaps.texts, **counts, "found": shown}
        )
        return
    print_overlaps(overlaps, show)
    if by_meaning and overlaps.texts and not overlaps.by_meaning:
        print_line(
            f"Nothing was looked for by meaning: that takes {LEAST_QUESTIONS} questions and prompts, and there are fewer."
        )
    if drop:
        print_line(
            f"New runs leave out {len(contaminated):,} samples; they stay in the store. --undo takes them back."
        )


@data_app.command(epilog="Example: srtui data look alpaca --run quickstart --embed")
def look(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATASET]",
            help="An imported dataset; with --run, its own.",
            autocompletion=dataset_names,
        ),
    ] = None,
    run_name: Annotated[
        str | None,
        typer.Option(
            "--run", help="This run's samples, and what it keeps of them.", autocompletion=run_names
        ),
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
    from srtui.cli.data_tables import print_look
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.look import embed_originals, look_at_dataset, look_at_run

    if (dataset is None) == (run_name is None):
        raise UserError("Name a dataset, or a run with --run.")
    if embed and run_name is None:
        raise UserError("--embed needs --run: the run's student makes the embeddings.")
    workspace, store = open_store(read_only=not embed)
    with store:
        if run_name is None:
            overview = look_at_dataset(store, str(dataset), dataset_named(store, str(dataset)))
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
        topics = {"embedded": overview.map.embedded, "topics": overview.map.topics}
        print_json("look", {**fields_of(overview), "map": topics})
    else:
        print_look(overview)


def dataset_named(store: Store, name: str) -> int:
    """The id of a dataset. Raises UserError, with the names there are, where there is none of that name."""
    dataset_id = store.corpus.dataset_id(name)
    if dataset_id is None:
        names = ", ".join(d.name for d in store.corpus.datasets())
        advice = f"name one of {names}" if names else "bring one in with srtui import FILE"
        raise UserError(f"There is no dataset {name!r}; {advice}.")
    return dataset_id
