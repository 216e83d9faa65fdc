"""A workspace, and data into it and out of it: init, import, show, export."""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from srtui.cli.base import AsJson, Force, RunName, app, key_value, open_store
from srtui.cli.completion import run_names
from srtui.cli.data import EncoderName, StudentName, embedding, embedding_recipe
from srtui.cli.export_pairs import (
    Layout,
    MinMargin,
    OnlyAgreed,
    PairOptions,
    PeopleFirst,
    Rejected,
    export_pairs,
)
from srtui.cli.output import is_stdout, outputs_of, print_json, print_line, stdout_for_data
from srtui.errors import UserError
from srtui.store.endings import ending_of
from srtui.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from srtui.datasets import WholeRecord
    from srtui.recipe import Recipe
    from srtui.store import Store
    from srtui.store.decisions import StoredDecision
    from srtui.store.generations import StoredReflection
    from srtui.store.imports import Imported


@app.command(epilog="Example: srtui init my-workspace")
def init(
    directory: Annotated[Path, typer.Argument(help="The folder to make or complete.")],
    as_json: AsJson = False,
) -> None:
    """Make a workspace: models/, store/, recipes/ and the model catalogue."""
    workspace, written = Workspace.create(directory)
    if as_json:
        print_json("workspace", {"path": workspace.root, "written": written})
        return
    print_line(f"Workspace {workspace.root}: {len(written)} files written.")
    print_line(f"Next: cd {directory} && srtui models add smollm2-135m")
    print_line("Then: srtui pilot recipes/quickstart.toml, or srtui alone for the dashboard.")


@app.command("import", epilog="Example: srtui import alpaca.json --name alpaca")
def import_(
    file: Annotated[Path, typer.Argument(help="A data file in a format of --format; .gz and .zst too.")],
    name: Annotated[str | None, typer.Option(help="The dataset's name; the file's name if absent.")] = None,
    format: Annotated[
        str, typer.Option(help="auto, alpaca, sharegpt, messages, csv, tsv or parquet.")
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(help="For CSV and Parquet: instruction=prompt, response=completion, ..."),
    ] = None,
    as_variant: Annotated[
        str | None, typer.Option(help="instruction_reflected or response_reflected: rewrites made elsewhere.")
    ] = None,
    match: Annotated[
        str, typer.Option(help="How a rewrite finds its sample: id, instruction, position.")
    ] = "instruction",
    dedup: Annotated[
        str | None,
        typer.Option(help="mark or drop: near-duplicates in the whole dataset, as srtui data dedup does."),
    ] = None,
    dedup_by: Annotated[
        str,
        typer.Option(
            help="What --dedup compares: the words of the pair, instruction or response; or meaning, which needs a "
            "--student or an --encoder to embed with."
        ),
    ] = "pair",
    student: StudentName = None,
    encoder: EncoderName = None,
    turns: Annotated[
        str,
        typer.Option(
            help="Of conversations: last (the last exchange, what came before is its history), each, or first (alone)."
        ),
    ] = "last",
    as_json: AsJson = False,
) -> None:
    """Bring a dataset into the store. The same file a second time adds nothing."""
    from srtui.cli.reporters import progress_line
    from srtui.datasets import LEFT_OUT, Turns
    from srtui.pipeline import import_file
    from srtui.pipeline.dedup import SIDES

    if turns not in get_args(Turns):
        raise UserError(f"--turns {turns}: it can be {', '.join(get_args(Turns))}.")
    turn_choice = cast("Turns", turns)
    if dedup not in (None, "mark", "drop"):
        raise UserError(f"--dedup {dedup}: it can be mark or drop.")
    if dedup and as_variant:
        raise UserError("--dedup is for samples, and --as-variant brings rewrites of them.")
    if dedup_by not in (*SIDES, "meaning"):
        raise UserError(f"--dedup-by {dedup_by}: it can be {', '.join(SIDES)}, meaning.")
    by_meaning = dedup is not None and dedup_by == "meaning"
    if (student or encoder) and not by_meaning:
        raise UserError("--student and --encoder embed for --dedup with --dedup-by meaning.")
    recipe = embedding_recipe("imported", student, encoder, None) if by_meaning else None
    columns = dict(key_value(word, "--column") for word in column or [])
    workspace, store = open_store()
    with store:
        if recipe is not None:
            from srtui import models

            models.find(workspace.models, student or encoder or "")  # before a row is stored
        show, clear = progress_line(as_json)
        imported = import_file(
            store, file, name, format, columns or None, as_variant, match, show, turn_choice
        )
        clear()
        if recipe is not None:
            _embed(workspace, store, imported, recipe, as_json)
        duplicates = _mark_duplicates(store, imported, dedup, dedup_by, as_json) if dedup else None
        if as_json:
            found = {} if duplicates is None else {"near_duplicates": duplicates}
            print_json("import", {**vars(imported), **found})
            return
        if duplicates is not None:
            fate = "left out of new runs" if dedup == "drop" else "marked"
            print_line(
                f"{imported.dataset}: {duplicates:,} near-duplicates {fate}; srtui data dedup {imported.dataset} shows them."
            )
        if imported.already:
            print_line(f"{file} is already in {imported.dataset}: nothing new.")
            return
        noun = "rewrites" if as_variant else "samples"
        unmatched = f", {imported.unmatched:,} unmatched" if imported.unmatched else ""
        print_line(
            f"{imported.dataset}: {imported.read:,} rows read, {imported.new:,} new {noun}, "
            f"{imported.duplicate:,} duplicates, {imported.bad:,} bad{unmatched}."
        )
        if imported.conversations:
            print_line(f"  {imported.conversations:,} conversations with {imported.turns:,} turns.")
        for kind, count in imported.left_out.items():
            print_line(f"  {count:,} {LEFT_OUT[kind]}.")
        for bad in (
            store.imports.bad_rows(imported.dataset_id, 5) if imported.bad or imported.unmatched else []
        ):
            print_line(f"  line {bad.line}: {bad.reason} {bad.detail[:100]}")
        if not as_variant:
            print_line(
                f'Next: dataset = "{imported.dataset}" in a recipe, then srtui pilot RECIPE; '
                f"srtui data look {imported.dataset} shows what is in it."
            )


def _mark_duplicates(store: Store, imported: Imported, fate: str, by: str, as_json: bool) -> int:
    """Mark the near-duplicates of the dataset, or leave them out of new runs too; how many there are."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.neighbours import duplicates_by

    step, clear = steps_line(as_json)
    near_duplicates = duplicates_by(store, imported.dataset, imported.dataset_id, by, on_progress=step)
    clear()
    store.datasets.set_near_duplicates(imported.dataset_id, near_duplicates.found(), left_out=fate == "drop")
    return near_duplicates.duplicates


def _embed(workspace: Workspace, store: Store, imported: Imported, recipe: Recipe, as_json: bool) -> None:
    """Store the embeddings of the whole dataset that near-duplicates by meaning are found by."""
    from srtui.cli.reporters import steps_line
    from srtui.pipeline.embedding import embed_dataset

    step, clear = steps_line(as_json)
    with embedding(workspace, store, recipe, imported.dataset_id) as (embedder, should_stop):
        embed_dataset(store, imported.dataset_id, embedder, step, should_stop)
    clear()


@app.command(epilog="Example: srtui show 12")
def show(
    sample_id: Annotated[int, typer.Argument(help="A sample's id, as exports and the dashboard show it.")],
    run_name: Annotated[
        str | None, typer.Option("--run", help="The run whose decisions to show.", autocompletion=run_names)
    ] = None,
    raw: Annotated[bool, typer.Option(help="The teacher's raw words too.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="What came before it in its conversation, in whole.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Everything about one sample: its variants, their scores, what was decided and why."""
    _, store = open_store(read_only=True)
    with store:
        facts = _sample_facts(store, sample_id, run_name)
        if as_json:
            print_json("sample", facts)
        else:
            _print_sample(facts, raw, history)


def _sample_facts(store: Store, sample_id: int, run_name: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from srtui.store import figures
    from srtui.store.conversations import place_of

    origin = store.corpus.origin(sample_id)
    if origin is None:
        highest = store.corpus.highest_sample_id()
        raise UserError(
            f"There is no sample {sample_id}; "
            + (f"name one from 1 to {highest}." if highest else "bring some in with srtui import FILE.")
        )
    runs = store.runs.of_sample(sample_id)
    if run_name is not None:
        run_id = store.runs.named(run_name).id
        runs = [r for r in runs if r.id == run_id]
    scored = {r.name: store.scores.of_sample(sample_id, r.setting_id) for r in runs if r.setting_id}
    variants = []
    texts = store.corpus.variants_of(sample_id)
    place = place_of(store.conn, sample_id)
    for v in texts:
        scores = {
            name: {metric: score._asdict() for metric, score in of_sample.get(v.id, {}).items()}
            for name, of_sample in scored.items()
        }
        variants.append(
            {
                "id": v.id,
                "kind": v.kind,
                "origin": v.origin,
                "parent": v.parent_id,
                **dict(zip(("instruction", "input", "response"), v.pair.texts, strict=True)),
                "scores": scores,
            }
        )
    return {
        "sample": origin.id,
        "dataset": origin.dataset,
        "row": origin.row,
        "conversation": place._asdict() if place else None,
        "history": [turn._asdict() for turn in texts[0].pair.history],
        "variants": variants,
        "generations": [
            {k: v for k, v in g._asdict().items() if not isinstance(v, bytes)}
            for g in store.generations.of_sample(sample_id)
        ],
        "runs": {
            r.name: {
                "reflections": _by_stage(store.generations.reflections_of(r.id, sample_id)),
                "decisions": _by_stage(store.decisions.of_sample(r.id, sample_id)),
                "gated": {
                    stage: [stop._asdict() for stop in gated]
                    for stage, gated in store.decisions.gated_of(r.id, sample_id).items()
                },
                "outcome": outcome._asdict()
                if (outcome := store.decisions.outcome_of(r.id, sample_id))
                else None,
                "final": asdict(figures.standing(store.conn, r.id, sample_id)),
            }
            for r in runs
        },
    }


def _by_stage(rows: Mapping[str, StoredReflection] | Mapping[str, StoredDecision]) -> dict[str, Any]:
    return {stage: row._asdict() for stage, row in rows.items()}


def _print_sample(facts: dict[str, Any], raw: bool, history: bool) -> None:
    from srtui.cli.terminal import out, plain
    from srtui.measures import FILTERS, MEASURES
    from srtui.sample import Turn
    from srtui.text import number
    from srtui.wording import LABELS, ending_words, folded

    out.print(f"[bold]Sample {facts['sample']}[/] of {plain(facts['dataset'])}, row {facts['row'] + 1}")
    if place := facts["conversation"]:
        out.print(
            f"[dim]Turn {place['turn']} of {place['turns']} of conversation {place['conversation_id']}"
            + ("; others follow, so its instruction stays" if place["followed"] else "")
            + "[/]"
        )
    if facts["history"]:
        turns = [Turn(**turn) for turn in facts["history"]]
        if history:
            for turn in turns:
                out.print(f"  [dim]{turn.role}[/]\n{plain(turn.text)}", soft_wrap=True)
        else:
            out.print(
                f"  [dim]history[/] {plain(folded(turns))}  [dim](--history opens it)[/]", soft_wrap=True
            )
    for v in facts["variants"]:
        parent = f", from variant {v['parent']}" if v["parent"] else ""
        out.print(f"\n[bold]Variant {v['id']}[/]: {v['kind'].replace('_', ' ')} ({v['origin']}{parent})")
        for field in ("instruction", "input", "response"):
            if v[field]:
                out.print(f"  [dim]{field}[/]\n{plain(v[field])}", soft_wrap=True)
        for run_name, scores in v["scores"].items():
            for metric, s in scores.items():
                given, alone = MEASURES[metric].loss_names
                value = (
                    number(s["value"], 4) if s["value"] is not None else f"none: {plain(s['reason'] or '')}"
                )
                out.print(
                    f"  {MEASURES[metric].label} {value}   {given} {number(s['conditional_nll'])}, "
                    f"{alone} {number(s['unconditional_nll'])} nats a token  [dim]{plain(run_name)}[/]"
                )
    for run_name, r in facts["runs"].items():
        out.print(f"\n[bold]Run {plain(run_name)}[/]")
        for stage, reflection in r["reflections"].items():
            n = reflection["attempts"]
            out.print(
                f"  reflection on the {stage}: {plain(reflection['status'])}, {n} attempt{'' if n == 1 else 's'}"
            )
        for stage, d in r["decisions"].items():
            out.print(f"  {stage}: {plain(d['reason'])} (variant {d['chosen_id']})")
        final = r["final"]
        scores = ", ".join(f"{LABELS[m]} {number(final[m], 4)}" for m in FILTERS)
        out.print(f"  final text: variant {final['variant_id']}, {scores}")
        if final["overruled"]:
            outcome = f": {LABELS['kept']}" if final["kept"] else ", and not settled yet"
            out.print(f"  {LABELS['overruled']}{outcome}")
        elif final["kept"] is not None:
            out.print(f"  {LABELS['kept'] if final['kept'] else 'dropped: ' + plain(final['reason'])}")
    for g in facts["generations"] if raw else []:
        out.print(
            f"\n[bold]Generation {g['id']}[/]: {g['stage']}, attempt {g['attempt']}, seed {g['seed']}, "
            f"{g['model']}, {g['parsed']}"
        )
        out.print(f"  {plain(ending_words(ending_of(g['id'], g['segments'], g['finish'])))}", soft_wrap=True)
        out.print(plain(g["text"]), soft_wrap=True)


@app.command(epilog="Example: srtui export quickstart --format alpaca --out better.json --top-k-percent 10")
def export(
    run_name: RunName,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The file to write, - for stdout; RUN.json if absent.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="alpaca, sharegpt, messages or parquet; preference for pairs of answers.")
    ] = "alpaca",
    top_k_percent: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Only the P % of the samples with the highest IFD."),
    ] = None,
    what: Annotated[str, typer.Option(help="selected, or all-variants.")] = "selected",
    layout: Layout = "trl",
    rejected: Rejected = "rest",
    min_margin: MinMargin = 0.0,
    only_agreed: OnlyAgreed = False,
    people_first: PeopleFirst = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write what a run selected, every variant with its scores, or its choices as preference pairs."""
    from srtui import datasets
    from srtui.store.conversations import has_conversations
    from srtui.store.exports import export_rows, unranked

    if what not in ("selected", "all-variants"):
        raise UserError(f"--what {what}: it can be selected or all-variants.")
    if as_json and is_stdout(out_file):
        raise UserError("--json and the data cannot both go to stdout; name a file with --out.")
    pair_options = PairOptions(layout, rejected, min_margin, only_agreed, people_first)
    if format == "preference":
        if top_k_percent is not None or what != "selected":
            raise UserError(
                "--top-k-percent and --what are not for preference pairs; --min-margin takes the clear ones."
            )
        export_pairs(run_name, out_file or Path(f"{run_name}.json"), pair_options, force, as_json)
        return
    pair_options.refuse()
    workspace, store = open_store(read_only=True)
    with store:
        outputs = outputs_of(store, workspace)
        if out_file is None:
            name = store.runs.named(run_name).name
            out_file = Path(f"{name}.{'parquet' if format == 'parquet' else 'json'}")
        stream = stdout_for_data(f"--out {out_file}") if is_stdout(out_file) else None
        if stream is None:
            outputs.check(out_file, force)
        run_id, everything = store.runs.named(run_name).id, what == "all-variants"
        if top_k_percent is not None and (unscored := unranked(store.conn, run_id, all_variants=everything)):
            print_line(
                f"{unscored:,} have no IFD by the run's own student (a proxy chose them, or they cannot be scored), "
                "and are not ranked with the others.",
                to=sys.stderr,
            )
        whole = format in datasets.CONVERSATION_FORMATS and not everything and top_k_percent is None
        texts = export_rows(
            store.conn, run_id, all_variants=everything, top_percent=top_k_percent, alone=whole
        )
        if format == "alpaca" and top_k_percent is None and has_conversations(store.conn, run_id):
            again = export_rows(store.conn, run_id, all_variants=everything)
            texts = datasets.led_by(next((t for t in again if t.history), None), texts)
        rows: Iterator[dict[str, Any] | WholeRecord] = (text.record() for text in texts)
        if whole:
            rows = chain(_conversations(store, run_id, format), rows)
        first = next(rows, None)
        if first is None:
            raise UserError(
                f"Run {run_name!r} has nothing to export yet; srtui status {run_name} says how far it is."
            )
        noun = "conversations and samples" if isinstance(first, datasets.WholeRecord) else "samples"
        written = datasets.write(chain([first], rows), out_file, format, stream)
        if stream is None:
            outputs.wrote(out_file)
    if as_json:
        print_json("export", {"run": run_name, "path": out_file, "format": format, "rows": written})
        return
    target = "stdout" if stream else out_file
    print_line(f"{written:,} {noun} written to {target}.", to=sys.stderr if stream else None)


def _conversations(store: Store, run_id: int, format: str) -> Iterator[WholeRecord]:
    """The conversations of a run, put back together with the texts that it chose."""
    from srtui import datasets
    from srtui.sample import Pair
    from srtui.store.exports import any_exchange_dropped, export_conversations

    weighed = any_exchange_dropped(store.conn, run_id)
    for c, taken in export_conversations(store.conn, run_id):
        rewritten = [
            datasets.Rewritten(t.answer, Pair(t.instruction, t.input, t.response), t.kept) for t in taken
        ]
        samples = [t.sample_id for t in taken]
        yield datasets.put_back(
            format, c.layout, c.record, c.turns, c.places, rewritten, samples=samples, weighed=weighed
        )
        weighed = False
