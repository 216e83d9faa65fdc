"""The commands: parse, call, print. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from srtui.errors import UserError
from srtui.workspace import Workspace, go_offline

if TYPE_CHECKING:
    from srtui.store import Store
    from srtui.store.runs import Run

app = typer.Typer(
    name="srtui",
    help="Offline Selective Reflection-Tuning: a local teacher rewrites, a local student chooses, QLoRA trains.",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
models_app = typer.Typer(help="What is in models/: list, inspect, add, quantize.", no_args_is_help=True)
db_app = typer.Typer(
    help="The store: path, size and counts; check, vacuum, backup.", invoke_without_command=True
)
app.add_typer(models_app, name="models")
app.add_typer(db_app, name="db")

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> NoReturn:
    """The ``srtui`` command. Exit code 2 and one sentence for anything that the user can mend."""
    go_offline()
    import sqlite3

    try:
        app()
    except UserError as error:
        _fail(str(error))
    except sqlite3.Error as error:
        from srtui.store import explain

        _fail(str(explain(error, _store_path())))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno in (28, 30, 122):  # no space, read-only file system, quota
            _fail(f"{error.filename or 'The disk'}: {error.strerror}; nothing already stored is lost.")
        raise
    sys.exit(0)


def _fail(sentence: str) -> NoReturn:
    from srtui.console import safe

    print(safe(f"srtui: {sentence}"), file=sys.stderr)
    sys.exit(2)


def _store_path() -> Path:
    try:
        return Workspace.find().store_path
    except UserError:
        return Path("store/srtui.sqlite")


def _open(read_only: bool = False) -> tuple[Workspace, Store]:
    from srtui.store import Store

    workspace = Workspace.find()
    return workspace, Store(workspace.store_path, read_only=read_only)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, ensure_ascii=False, default=str))


def _plain_data(value: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)


# -- the dashboard ----------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def dashboard(context: typer.Context) -> None:
    """Without a command: the dashboard."""
    if context.invoked_subcommand is None:
        from srtui.tui import open_dashboard

        open_dashboard()


# -- workspace and data -----------------------------------------------------------------------


@app.command(epilog="Example: srtui init my-workspace")
def init(directory: Annotated[Path, typer.Argument(help="The folder to make or complete.")]) -> None:
    """Make a workspace: models/, store/, recipes/ and the model catalogue."""
    workspace, written = Workspace.create(directory)
    print(f"Workspace {workspace.root}: {len(written)} files written.")
    print(f"Next: cd {directory} && srtui models add smollm2-135m && srtui run recipes/quickstart.toml")


@app.command("import", epilog="Example: srtui import alpaca.json --name alpaca")
def import_(
    file: Annotated[
        Path, typer.Argument(help="alpaca, ShareGPT, messages, CSV or Parquet; .gz and .zst too.")
    ],
    name: Annotated[str | None, typer.Option(help="The dataset's name; the file's name if absent.")] = None,
    format: Annotated[str, typer.Option(help="auto, or one of the formats.")] = "auto",
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
    as_json: AsJson = False,
) -> None:
    """Bring a dataset into the store. The same file a second time adds nothing."""
    from srtui.console import progress_line, safe
    from srtui.pipeline import import_file

    columns = dict(_key_value(word, "--column") for word in column or [])
    _, store = _open()
    with store:
        show, clear = progress_line(as_json)
        done = import_file(store, file, name, format, columns or None, as_variant, match, show)
        clear()
        if as_json:
            _print_json(vars(done))
            return
        if done.already:
            print(f"{file} is already in {safe(done.dataset)}: nothing new.")
            return
        what = "rewrites" if as_variant else "samples"
        unmatched = f", {done.unmatched:,} unmatched" if done.unmatched else ""
        print(
            f"{safe(done.dataset)}: {done.read:,} rows read, {done.new:,} new {what}, "
            f"{done.duplicate:,} duplicates, {done.bad:,} bad{unmatched}."
        )
        for bad in store.corpus.bad_rows(done.dataset_id, 5) if done.bad or done.unmatched else []:
            print(f"  line {bad['line']}: {bad['reason']} {safe(bad['detail'])[:100]}")


def _key_value(word: str, option: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"{option} {word}: write it as name=value.")
    return key, value


# -- runs -------------------------------------------------------------------------------------


@app.command(epilog="Example: srtui run recipes/quickstart.toml --limit 16 --set training.epochs=1")
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N samples.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Reflect, choose, reflect, choose, train. Run it again after any stop: it goes on where it was."""
    from srtui import recipe as recipes
    from srtui.store.runs import STAGES

    if until is not None and until not in STAGES:
        raise UserError(f"--until {until}: the stages are {', '.join(STAGES)}.")
    what = recipes.load(recipe, set_, limit)
    workspace, store = _open()
    with store:
        from srtui.pipeline import prepare

        this, is_new = prepare(workspace, store, what, recipe.resolve())
        _work(workspace, store, this, until, as_json, is_new, f"srtui run {recipe}")


@app.command(epilog="Example: srtui resume quickstart")
def resume(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")],
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped, just as it was started, whatever its recipe says by now."""
    from srtui.store.runs import STAGES

    if until is not None and until not in STAGES:
        raise UserError(f"--until {until}: the stages are {', '.join(STAGES)}.")
    workspace, store = _open()
    with store:
        this = store.runs.named(name)
        _work(workspace, store, this, until, as_json, False, f"srtui resume {this.name}")


def _work(
    workspace: Workspace, store: Store, this: Run, until: str | None, as_json: bool, is_new: bool, again: str
) -> None:
    from srtui.console import out, print_summary, reporter
    from srtui.pipeline import Engine, Stopped
    from srtui.store.summary import summarise

    if this.status == "done" and not store.work.unscored_by_hand(this.id):
        if as_json:
            _print_json({"type": "summary", **summarise(store, this.id)})
        else:
            print_summary(summarise(store, this.id), _files(workspace, store, this))
            print("\nThis run is done already; nothing was left to do.")
        return
    stop = _stop_on_signals()
    with reporter(as_json) as face:
        if not is_new:
            face.event("info", f"Going on with run {this.name}.")
        try:
            this = Engine(workspace, store, this, face, stop.is_set).work(until)
            stopped = False
        except Stopped:
            stopped = True
    if as_json:
        _print_json({"type": "summary", **summarise(store, this.id)})
    elif stopped:
        out.print(f"Stopped; everything finished is stored. Go on with: {again}", soft_wrap=True)
    else:
        print_summary(summarise(store, this.id), _files(workspace, store, this))
    if stopped:
        sys.exit(130)


def _stop_on_signals() -> Any:
    """Ctrl-C once finishes the step and stores it; twice stops at once, which the store survives."""
    import threading

    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def _files(workspace: Workspace, store: Store, this: Run) -> list[tuple[str, str]]:
    def short(path: Path) -> str:
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    training = store.runs.training(this.id)
    files = [("store", short(store.path))]
    if training and training["adapter"]:
        files.append(("adapter", short(workspace.root / training["adapter"])))
    files.append(("selected data", f"srtui export {this.name} --format alpaca --out {this.name}.json"))
    return files


@app.command(epilog="Example: srtui status --json")
def status(
    name: Annotated[str | None, typer.Argument(help="A run; all of them if absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far every run is; with a run's name, its whole summary."""
    from rich.table import Table

    from srtui.console import out, plain, print_summary, title
    from srtui.store.summary import summarise

    workspace, store = _open(read_only=True)
    with store:
        if name is not None:
            this = store.runs.named(name)
            figures = summarise(store, this.id)
            if as_json:
                _print_json(figures)
            else:
                print_summary(figures, _files(workspace, store, this))
            return
        runs = store.runs.all()
        if as_json:
            _print_json([summarise(store, r.id) for r in runs])
            return
        if not runs:
            print("No runs yet. Start one with: srtui run recipes/quickstart.toml")
            return
        table = Table("run", "status", "stage", "progress", "kept", "engine", box=None, header_style="bold")
        for r in runs:
            figures, holder = summarise(store, r.id), store.runs.holder(r.id)
            stage = figures["stages"].get(r.stage) if r.stage else None
            engine = f"process {holder['pid']} on {holder['host']}" if holder else ""
            state = "stopped" if r.status in ("running", "paused") and not holder else r.status
            table.add_row(
                plain(r.name),
                state,
                title(r.stage) if r.stage else "",
                f"{stage['done']}/{stage['total']}" if stage else "",
                f"{figures['kept']}/{figures['samples']}",
                plain(engine),
            )
        out.print(table)


@app.command(epilog="Example: srtui show 12")
def show(
    sample_id: Annotated[int, typer.Argument(help="A sample's id, as exports and the dashboard show it.")],
    run_name: Annotated[str | None, typer.Option("--run", help="The run whose decisions to show.")] = None,
    raw: Annotated[bool, typer.Option(help="The teacher's raw words too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Everything about one sample: its variants, their scores, what was decided and why."""
    _, store = _open(read_only=True)
    with store:
        facts = _sample_facts(store, sample_id, run_name)
        if as_json:
            _print_json(facts)
        else:
            _show_sample(facts, raw)


def _sample_facts(store: Store, sample_id: int, run_name: str | None) -> dict[str, Any]:
    row = store.row(
        "SELECT s.id, s.row, d.name AS dataset FROM sample s JOIN dataset d ON d.id = s.dataset_id WHERE s.id = ?",
        (sample_id,),
    )
    if row is None:
        highest = store.value("SELECT max(id) FROM sample")
        raise UserError(
            f"There is no sample {sample_id}" + (f"; ids go up to {highest}." if highest else " yet.")
        )
    runs = [
        store.runs.get(r[0])
        for r in store.rows("SELECT run_id FROM run_sample WHERE sample_id = ? ORDER BY run_id", (sample_id,))
    ]
    if run_name is not None:
        wanted = store.runs.named(run_name).id
        runs = [r for r in runs if r.id == wanted]
    variants = []
    for v in store.corpus.variants_of(sample_id):
        scores = {r.name: store.work.scores_of(v.id, r.setting_id) for r in runs if r.setting_id}
        variants.append(
            {
                "id": v.id,
                "kind": v.kind,
                "origin": v.origin,
                "parent": v.parent_id,
                **v.pair._asdict(),
                "scores": scores,
            }
        )
    return {
        "sample": row["id"],
        "dataset": row["dataset"],
        "row": row["row"],
        "variants": variants,
        "generations": [
            {k: v for k, v in g.items() if not isinstance(v, bytes)}
            for g in store.work.generations_of(sample_id)
        ],
        "runs": {
            r.name: {
                "reflections": store.work.reflections_of(r.id, sample_id),
                "decisions": store.work.decisions_of(r.id, sample_id),
                "outcome": store.work.outcome_of(r.id, sample_id),
            }
            for r in runs
        },
    }


def _show_sample(facts: dict[str, Any], raw: bool) -> None:
    from srtui.console import number, out, plain

    out.print(f"[bold]Sample {facts['sample']}[/] of {plain(facts['dataset'])}, row {facts['row']}")
    for v in facts["variants"]:
        parent = f", from variant {v['parent']}" if v["parent"] else ""
        out.print(f"\n[bold]Variant {v['id']}[/]: {v['kind'].replace('_', ' ')} ({v['origin']}{parent})")
        for field in ("instruction", "input", "response"):
            if v[field]:
                out.print(f"  [dim]{field}[/]\n{plain(v[field])}", soft_wrap=True)
        for run_name, scores in v["scores"].items():
            for metric, s in scores.items():
                names = {"ifd": ("IFD", "L(y|x)", "L(y)"), "rifd": ("r-IFD", "L(x|y)", "L(x)")}[metric]
                value = (
                    number(s["value"], 4) if s["value"] is not None else f"none: {plain(s['reason'] or '')}"
                )
                out.print(
                    f"  {names[0]} {value}   {names[1]} {number(s['conditional_nll'])}, "
                    f"{names[2]} {number(s['unconditional_nll'])} nats a token  [dim]{plain(run_name)}[/]"
                )
    for run_name, r in facts["runs"].items():
        out.print(f"\n[bold]Run {plain(run_name)}[/]")
        for stage, reflection in r["reflections"].items():
            out.print(
                f"  reflection on the {stage}: {reflection['status']}, {reflection['attempts']} attempts"
            )
        for stage, d in r["decisions"].items():
            out.print(f"  {stage}: {plain(d['reason'])} (variant {d['chosen_id']})")
        if r["outcome"]:
            kept = (
                "kept for training"
                if r["outcome"]["kept"]
                else f"not trained on: {plain(r['outcome']['reason'])}"
            )
            out.print(f"  {kept}")
    for g in facts["generations"] if raw else []:
        out.print(
            f"\n[bold]Generation {g['id']}[/]: {g['stage']}, attempt {g['attempt']}, seed {g['seed']}, "
            f"{g['model']}, {g['finish']}, {g['parsed']}"
        )
        out.print(plain(g["text"]), soft_wrap=True)


@app.command(epilog="Example: srtui export quickstart --format alpaca --out better.json --top-k-percent 10")
def export(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")],
    out_file: Annotated[Path, typer.Option("--out", help="The file to write.")],
    format: Annotated[str, typer.Option(help="alpaca, sharegpt, messages or parquet.")] = "alpaca",
    top_k_percent: Annotated[
        float | None, typer.Option(min=0, max=100, help="Only the P % of the samples with the highest IFD.")
    ] = None,
    what: Annotated[str, typer.Option(help="selected, or all-variants.")] = "selected",
) -> None:
    """Write what a run selected, or every variant with its scores, as a data file."""
    from srtui import datasets

    if what not in ("selected", "all-variants"):
        raise UserError(f"--what {what}: it can be selected or all-variants.")
    if out_file.resolve().is_dir() or not out_file.resolve().parent.is_dir():
        raise UserError(f"--out {out_file}: name a file in a folder that exists.")
    _, store = _open(read_only=True)
    with store:
        rows = store.exportable(store.runs.named(run_name).id, all_variants=what == "all-variants")
        if top_k_percent is not None:
            scored = sorted(
                (r for r in rows if r["ifd"] is not None), key=lambda r: (-r["ifd"], r["variant"])
            )
            count = round(len(scored) * top_k_percent / 100)
            rows = scored[: max(count, 1 if scored and top_k_percent else 0)]
        if not rows:
            raise UserError(
                f"Run {run_name!r} has nothing to export yet; srtui status {run_name} says how far it is."
            )
        written = datasets.write(rows, out_file, format)
    print(f"{written:,} samples written to {out_file}.")


@app.command("export-model", epilog="Example: srtui export-model quickstart --to gguf --quantize Q4_K_M")
def export_model(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run that has trained.")],
    to: Annotated[
        str,
        typer.Option(
            help="adapter (peft), merged (safetensors), gguf-adapter, or gguf (for llama.cpp).",
        ),
    ],
    quantization: Annotated[
        str | None,
        typer.Option("--quantize", help="For gguf: Q4_K_M, Q8_0, ...; F16 if absent."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            help="What the adapter is merged into: trained, the weights as the student held them in "
            "training (rounded to NF4, say), or original, as they are stored.",
        ),
    ] = "trained",
    out_path: Annotated[
        Path | None, typer.Option("--out", help="The folder or .gguf file; in models/ if absent.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take the tuned student out: an adapter, merged weights, or GGUF, ready to be used."""
    from srtui import models
    from srtui.console import bytes_text, safe

    form = next((form for form in models.FORMS if form == to), None)
    if form is None:
        raise UserError(f"--to {to}: it can be {', '.join(models.FORMS)}.")
    if base not in ("trained", "original"):
        raise UserError(f"--base {base}: it can be trained or original.")
    workspace, store = _open(read_only=True)
    with store:
        this = store.runs.named(run_name)
        adapter = _trained_adapter(workspace, store, this)
        setting = store.row("SELECT student_id FROM scoring_setting WHERE id = ?", (this.setting_id,))
    student = models.resolve_student(workspace.models, this.recipe["student"]["model"])
    if setting is not None:
        from srtui.scoring.student import weights_sha256

        if not setting["student_id"].startswith(weights_sha256(student)[:32]):
            raise UserError(
                f"{student} has changed since run {this.name} was trained on it; put the old weights back, "
                "or run the recipe again."
            )
    # A name in models/ can be said in a recipe; adapters are no models, so they lie with their run.
    places = {
        "adapter": workspace.runs / this.name / "exported-adapter",
        "merged": workspace.models / this.name,
        "gguf-adapter": workspace.runs / this.name / "adapter.gguf",
        "gguf": workspace.models / f"{this.name}.{(quantization or 'F16').upper()}.gguf",
    }
    done = models.export_model(
        form,
        adapter,
        student,
        out_path or places[to],
        name=this.name,
        trained_as=this.recipe["student"]["quantization"] if base == "trained" else "f32",
        quantization=quantization,
        force=force,
        say=lambda line: print(safe(line), file=sys.stderr if as_json else sys.stdout, flush=True),
    )
    use = _how_to_use(to, done.path, workspace, student.name)
    if as_json:
        _print_json({**_plain_data(done), "prompt": this.recipe["prompt"]["template"], "use": use})
        return
    print(f"Ready: {done.path} ({bytes_text(done.size)}, {done.stored}, {done.seconds:.1f} s)")
    if len(done.files) > 1:
        for file, size in done.files:
            print(f"  {safe(file)}  {bytes_text(size)}")
    print(f"Base: {done.base}.")
    if done.tokenizer:
        print(f"Tokenizer: {done.tokenizer}.")
    print(f"Prompt that it was trained with: {this.recipe['prompt']['template']}.")
    print(f"Use it: {use}")


def _trained_adapter(workspace: Workspace, store: Store, this: Run) -> Path:
    training = store.runs.training(this.id)
    if training is None or training["status"] != "done" or not training["adapter"]:
        state = training["status"] if training else "it has not come to it"
        raise UserError(
            f"Run {this.name} has trained no adapter ({state}); srtui status {this.name} says how far it is."
        )
    return workspace.root / str(training["adapter"])


def _how_to_use(to: str, path: Path, workspace: Workspace, student: str) -> str:
    """One line: the recipe's key, or the call, that takes the export."""
    path = path.resolve()
    in_models = path.parent == workspace.models
    named = (path.stem if to == "gguf" else path.name) if in_models else path
    return {
        "adapter": f'in Python, peft.PeftModel.from_pretrained(model, "{path}") on {student}',
        "merged": f'in a recipe, student.model = "{named}"; or transformers\' from_pretrained("{path}")',
        "gguf-adapter": f'in a recipe, teacher.adapter = "{path}" beside a teacher.model that is a GGUF of {student}',
        "gguf": f'in a recipe, teacher.model = "{named}"; or llama.cpp on {path}',
    }[to]


# -- models, machine, store -------------------------------------------------------------------


@app.command(epilog="Example: srtui scores quickstart --csv scores.csv")
def scores(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")],
    templates: Annotated[
        bool,
        typer.Option("--templates", help="Score some originals under every prompt template, and compare."),
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="With --templates: how many originals.")] = 48,
    csv: Annotated[
        Path | None, typer.Option(help="Every score as a row, into this file; - for the screen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How IFD and r-IFD are spread, by kind of variant; the share over 1, what was cut, what failed."""
    from srtui.console import err, out, print_distributions, print_templates
    from srtui.store.distributions import distributions, score_columns, score_rows

    workspace, store = _open(read_only=not templates)
    with store:
        this = store.runs.named(run_name)
        if templates:
            from srtui.pipeline import compare_templates

            found = compare_templates(
                workspace, store, this, sample, lambda line: err.print(line, style="dim")
            )
            if as_json:
                _print_json(found)
            else:
                print_templates(found, out)
            return
        if csv is not None:
            _write_csv(csv, score_columns(), score_rows(store, this.id))
            return
        figures = distributions(store, this.id)
        if as_json:
            _print_json({"run": this.name, "scores": figures})
        elif not figures:
            print(f"Run {this.name} has no scores yet; they come with: srtui run")
        else:
            print_distributions(figures, out)


def _write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    import csv

    def write(file: Any) -> int:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        written = 0
        for row in rows:
            writer.writerow(row)
            written += 1
        return written

    if str(path) == "-":
        write(sys.stdout)
        return
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            print(f"{path}: {write(file):,} scores.")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}.") from error


@models_app.command("list", epilog="Example: srtui models list")
def models_list(as_json: AsJson = False) -> None:
    """What is in models/, and what the catalogue can add."""
    from srtui import models
    from srtui.console import out, print_models

    entries = models.list_models(Workspace.find().models)
    if as_json:
        _print_json([_plain_data(e) for e in entries])
    else:
        print_models(entries, out)


@models_app.command("inspect", epilog="Example: srtui models inspect smollm2-135m")
def models_inspect(
    name: Annotated[str, typer.Argument(help="A name in models/, or a path.")], as_json: AsJson = False
) -> None:
    """Architecture, parameters, quantization, context, chat template, size, licence, hash."""
    from srtui import models
    from srtui.console import print_model

    info = models.inspect(models.find(Workspace.find().models, name))
    if as_json:
        _print_json(_plain_data(info))
    else:
        print_model(info)


@models_app.command("add", epilog="Example: srtui models add smollm2-135m")
def models_add(
    name: Annotated[
        str, typer.Argument(metavar="NAME_OR_PATH", help="A catalogue entry, a GGUF, a safetensors folder.")
    ],
) -> None:
    """Put a model into models/. For a catalogue entry this, and nothing else, uses the network."""
    from srtui import models

    for entry in models.add(Workspace.find().models, name, lambda line: print(line, flush=True)):
        print(f"Ready: {entry.name} ({entry.path.name})")


@models_app.command("quantize", epilog="Example: srtui models quantize smollm2-135m Q8_0")
def models_quantize(
    name: Annotated[str, typer.Argument(help="A GGUF in models/, or a path.")],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Q8_0, Q4_K_M, ...")],
) -> None:
    """Make another quantization of a GGUF with llama.cpp's own quantizer."""
    from srtui import models

    folder = Workspace.find().models
    made = models.quantize(models.resolve_teacher(folder, name), folder, type_)
    print(f"Ready: {made.name}")


@models_app.command("tune", epilog="Example: srtui models tune smollm2-135m")
def models_tune(
    name: Annotated[str, typer.Argument(help="A model in models/; all its GGUF files are measured.")],
    quantization: Annotated[
        list[str] | None, typer.Option(help="Make this quantization first: Q8_0, Q4_0, ...")
    ] = None,
    slots: Annotated[str, typer.Option(help="Numbers of slots to try.")] = "1,4,8,16,32,64",
    once: Annotated[bool, typer.Option("--once", help="Only what this machine has not measured.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure tokens a second by quantization and slots; recipes with slots = "auto" use the table."""
    from srtui import models
    from srtui.console import out, print_tunings
    from srtui.teacher.tuning import tune, tuned

    if not all(word.strip().isdigit() and 0 < int(word) <= 256 for word in slots.split(",")):
        raise UserError(f"--slots {slots}: write numbers from 1 to 256 with commas between them.")
    counts = sorted({int(word) for word in slots.split(",")})
    folder = Workspace.find().models
    path = models.resolve_teacher(folder, name)
    stem = path.stem.removesuffix("." + models.inspect(path, with_hash=False).quantization)
    files = [path, *(p for p in sorted(path.parent.glob(f"{stem}.*.gguf")) if p != path)]
    for type_ in quantization or []:
        made = path.parent / f"{stem}.{type_.upper()}.gguf"
        if not made.exists():
            made = models.quantize(path, folder, type_)
        if made not in files:
            files.append(made)
    found = []
    for file in files:
        known = tuned(file) if once else None
        if known is None:
            known = tune(file, counts, say=lambda line: None if as_json else print(line, flush=True))
        found.append(known)
    if as_json:
        _print_json([_plain_data(t) for t in found])
    else:
        print_tunings(found, out)


@app.command(epilog="Example: srtui doctor")
def doctor(as_json: AsJson = False) -> None:
    """Does everything work on this machine? Each line is ok, or says what to do."""
    from srtui.console import out, plain
    from srtui.doctor import checks

    try:
        root: Path | None = Workspace.find().root
    except UserError:
        root = None
    failed = False
    for check in checks(root):
        failed |= check.ok is False
        if as_json:
            _print_json(_plain_data(check))
            continue
        sign = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        mend = f" [bold]{plain(check.mend)}[/]" if check.mend and check.ok is not True else ""
        out.print(f"{sign} {plain(check.name)}: {plain(check.detail)}{mend}", soft_wrap=True)
    if failed:
        sys.exit(2)


@db_app.callback(epilog="Example: srtui db check")
def db(context: typer.Context, as_json: AsJson = False) -> None:
    """Path, size and row counts of the store."""
    if context.invoked_subcommand is not None:
        return
    from srtui.console import bytes_text

    _, store = _open(read_only=True)
    with store:
        counts = store.counts()
        if as_json:
            _print_json({"path": str(store.path), "bytes": store.size(), "rows": counts})
            return
        print(f"{store.path}  {bytes_text(store.size())}")
        for name, count in counts.items():
            print(f"  {name:<18} {count:>12,}")


@db_app.command("check", epilog="Example: srtui db check")
def db_check() -> None:
    """Is the file sound?"""
    _, store = _open(read_only=True)
    with store:
        problems = store.check()
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{store.path} is damaged; restore a copy made by srtui db backup.")
    print(f"{store.path} is sound.")


@db_app.command("vacuum", epilog="Example: srtui db vacuum")
def db_vacuum() -> None:
    """Give unused space back to the disk."""
    from srtui.console import bytes_text

    _, store = _open()
    with store:
        print(f"{bytes_text(max(0, store.vacuum()))} given back.")


@db_app.command("backup", epilog="Example: srtui db backup store/yesterday.sqlite")
def db_backup(target: Annotated[Path, typer.Argument(help="A file that does not exist yet.")]) -> None:
    """A consistent copy, also while a run writes."""
    _, store = _open(read_only=True)
    with store:
        store.backup(target)
    print(f"Copied to {target}.")
