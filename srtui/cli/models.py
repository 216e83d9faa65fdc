"""Models: what is in models/, and the tuned student out of a run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import AsJson, app, libraries_log, open_store
from srtui.cli.completion import catalogue_names, model_names, recipe_files, run_names
from srtui.cli.output import fields_of, outputs_of, print_json, print_line
from srtui.errors import UserError
from srtui.workspace import Workspace

models_app = typer.Typer(help="What is in models/: list, inspect, add, quantize.", no_args_is_help=True)
app.add_typer(models_app, name="models")


@app.command("export-model", epilog="Example: srtui export-model quickstart --to gguf --quantize Q4_K_M")
def export_model(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run that has trained.", autocompletion=run_names)
    ],
    to: Annotated[
        str,
        typer.Option(
            help="adapter (peft), merged (safetensors), gguf-adapter, or gguf (for llama.cpp).",
        ),
    ] = "gguf",
    quantization: Annotated[
        str | None,
        typer.Option("--quantize", help="For gguf: Q4_K_M, Q8_0, ...; F16 if absent."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            help="What the adapter is merged into: trained, the weights as the student held them in "
            "training (rounded to NF4, for example), or original, as they are stored.",
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
    from srtui.text import bytes_text

    form = next((form for form in models.FORMS if form == to), None)
    if form is None:
        raise UserError(f"--to {to}: it can be {', '.join(models.FORMS)}.")
    if base not in ("trained", "original"):
        raise UserError(f"--base {base}: it can be trained or original.")
    from srtui.pipeline.tuned import export_tuned

    workspace, store = open_store(read_only=True)
    with store:
        run = store.runs.named(run_name)
        if out_path is not None:
            outputs_of(store, workspace).refuse_store(out_path)
        exported = export_tuned(
            workspace,
            store,
            run,
            form,
            out_path,
            original_base=base == "original",
            quantization=quantization,
            force=force,
            report_line=lambda line: print_line(line, to=sys.stderr if as_json else sys.stdout),
        )
    use = _how_to_use(to, exported.path, workspace, run.recipe["student"]["model"])
    if as_json:
        template = run.recipe["prompt"]["template"]
        print_json("model-export", {**fields_of(exported), "prompt": template, "use": use})
        return
    print_line(
        f"Ready: {exported.path} ({bytes_text(exported.size)}, {exported.stored}, {exported.seconds:.1f} s)"
    )
    if len(exported.files) > 1:
        for file, size in exported.files:
            print_line(f"  {file}  {bytes_text(size)}")
    print_line(f"Base: {exported.base}.")
    if exported.tokenizer:
        print_line(f"Tokenizer: {exported.tokenizer}.")
    print_line(f"Prompt that it was trained with: {run.recipe['prompt']['template']}.")
    print_line(f"Use it: {use}")


def _how_to_use(form: str, path: Path, workspace: Workspace, student: str) -> str:
    """One line: the recipe's key, or the call, that takes the export."""
    path = path.resolve()
    in_models = path.parent == workspace.models
    model_name = (path.stem if form == "gguf" else path.name) if in_models else path
    return {
        "adapter": f'in Python, peft.PeftModel.from_pretrained(model, "{path}") on {student}',
        "merged": f'in a recipe, student.model = "{model_name}"; or transformers\' from_pretrained("{path}")',
        "gguf-adapter": f'in a recipe, teacher.adapter = "{path}" beside a teacher.model that is a GGUF of {student}',
        "gguf": f'in a recipe, teacher.model = "{model_name}"; or llama.cpp on {path}',
    }[form]


@models_app.command("list", epilog="Example: srtui models list")
def models_list(as_json: AsJson = False) -> None:
    """What is in models/, and what the catalogue can add."""
    from srtui import models
    from srtui.cli.model_tables import print_models

    entries = models.list_models(Workspace.find().models)
    if as_json:
        print_json("models", {"models": entries})
    else:
        print_models(entries)


@models_app.command("inspect", epilog="Example: srtui models inspect smollm2-135m")
def models_inspect(
    name: Annotated[str, typer.Argument(help="A name in models/, or a path.", autocompletion=model_names)],
    as_json: AsJson = False,
) -> None:
    """Architecture, parameters, quantization, context, chat template, size, licence, hash."""
    from srtui import models
    from srtui.cli.model_tables import print_model

    info = models.inspect(models.find(Workspace.find().models, name))
    if as_json:
        print_json("model", info)
    else:
        print_model(info)


@models_app.command("add", epilog="Example: srtui models add smollm2-135m")
def models_add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_PATH",
            help="A catalogue entry, a GGUF, a safetensors folder.",
            autocompletion=catalogue_names,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Put a model into models/. For a catalogue entry this uses the network."""
    from srtui import models

    entries = models.add(
        Workspace.find().models,
        name,
        lambda line: print_line(line, to=sys.stderr if as_json else sys.stdout),
    )
    if as_json:
        print_json("models", {"models": entries})
        return
    for entry in entries:
        print_line(f"Ready: {entry.name} ({entry.path.name})")
    print_line(
        "Next: name it in a recipe (a GGUF as teacher.model, a folder as student.model), then srtui pilot RECIPE."
    )


@models_app.command("quantize", epilog="Example: srtui models quantize smollm2-135m Q8_0")
def models_quantize(
    name: Annotated[str, typer.Argument(help="A GGUF in models/, or a path.", autocompletion=model_names)],
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Q8_0, Q4_K_M, ...")],
    as_json: AsJson = False,
) -> None:
    """Make another quantization of a GGUF with llama.cpp's own quantizer."""
    from srtui import models

    folder = Workspace.find().models
    quantized = models.quantize(models.resolve_teacher(folder, name), folder, type_)
    if as_json:
        print_json("model-file", {"path": quantized, "size": quantized.stat().st_size})
    else:
        print_line(f"Ready: {quantized.name}")


@models_app.command("tune", epilog="Example: srtui models tune smollm2-135m")
def models_tune(
    name: Annotated[
        str,
        typer.Argument(
            help="A model in models/; all its GGUF files are measured.", autocompletion=model_names
        ),
    ],
    quantization: Annotated[
        list[str] | None, typer.Option(help="Make this quantization first: Q8_0, Q4_0, ...")
    ] = None,
    slots: Annotated[str, typer.Option(help="Numbers of slots to try.")] = "1,4,8,16,32,64",
    once: Annotated[bool, typer.Option("--once", help="Only what this machine has not measured.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure tokens a second by quantization and slots; recipes with slots = "auto" use the table."""
    from srtui import models
    from srtui.cli.model_tables import print_tunings
    from srtui.llama.tuning import tune, tuned

    if not all(re.fullmatch(r" *[0-9]{1,3} *", word) and 0 < int(word) <= 256 for word in slots.split(",")):
        raise UserError(f"--slots {slots}: write numbers from 1 to 256 with commas between them.")
    counts = sorted({int(word) for word in slots.split(",")})
    workspace = Workspace.find()
    folder = workspace.models
    path = models.resolve_teacher(folder, name)
    stem = path.stem.removesuffix("." + models.inspect(path, with_hash=False).quantization)
    files = [path, *(p for p in sorted(path.parent.glob(f"{stem}.*.gguf")) if p != path)]
    for type_ in quantization or []:
        quantized = path.parent / f"{stem}.{type_.upper()}.gguf"
        if not quantized.exists():
            quantized = models.quantize(path, folder, type_)
        if quantized not in files:
            files.append(quantized)
    tunings = []
    for file in files:
        tuning = tuned(file) if once else None
        if tuning is None:
            with libraries_log(workspace.store_path.parent):
                tuning = tune(file, counts, report_line=lambda line: None if as_json else print_line(line))
        tunings.append(tuning)
    if as_json:
        print_json("tunings", {"tunings": tunings})
    else:
        print_tunings(tunings)


@models_app.command(
    "fit",
    epilog="Example: srtui models fit recipes/workstation-24gb.toml --gpu-memory 24GB --teacher 8B-Q4_K_M --student 8B",
)
def models_fit(
    recipe_path: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="The recipe whose stages are planned.", autocompletion=recipe_files
        ),
    ],
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="What the card has in all, as in 24GB; absent, the usual cards side by side."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What the computer has free, as in 64GB, for layers beyond the card; absent, this one's."
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A usual size in place of the recipe's teacher, as in 8B-Q4_K_M.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A usual size in place of the recipe's student, as in 8B.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A recipe's key for this plan, as in teacher.context=2048."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What of a recipe will lie on a GPU in each stage, from headers alone: no GPU and no loading."""
    import psutil

    from srtui.cli.model_tables import print_fits
    from srtui.cli.output import fields_of
    from srtui.pipeline.fit import CARDS, plan_recipe
    from srtui.recipe import load

    recipe = load(recipe_path, overrides)
    host = _bytes_of(memory, "--memory") if memory else int(psutil.virtual_memory().available)
    cards = [_bytes_of(gpu_memory, "--gpu-memory")] if gpu_memory else [n * 10**9 for n in CARDS]
    folder = Workspace.find().models
    plans = [
        (card, plan_recipe(folder, recipe, card, host_memory=host, teacher=teacher, student=student))
        for card in cards
    ]
    if as_json:
        cards_planned = [
            {"gpu_memory": card, "stages": [{**fields_of(plan), "total": plan.total} for plan in stages]}
            for card, stages in plans
        ]
        print_json("fit", {"recipe": str(recipe_path), "cards": cards_planned})
    else:
        print_fits(plans)


def _bytes_of(words: str, option: str) -> int:
    """ "24GB", "24 GiB" or "24" (GB) in bytes. Raises UserError, with the option."""
    match = re.fullmatch(r"\s*([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(GB|GiB|MB|MiB)?\s*", words, re.IGNORECASE)
    unit = {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}
    size = round(float(match[1]) * unit[(match[2] or "GB").lower()]) if match else 0
    if size <= 0:
        raise UserError(f"{option} {words}: write a size, as in 24GB.")
    return size
