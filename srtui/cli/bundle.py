"""The bundle: srtui for a machine without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from srtui.cli.base import AsJson, app
from srtui.cli.output import print_json, print_line
from srtui.errors import UserError
from srtui.workspace import Workspace


@app.command("bundle", epilog="Example: srtui bundle --out srtui-bundle --model smollm2-135m")
def bundle(
    out_path: Annotated[Path, typer.Option("--out", help="The new folder.")],
    python: Annotated[str | None, typer.Option(help="The target's Python, such as 3.11; this one's.")] = None,
    platform: Annotated[
        str | None, typer.Option(help="The target's platform, such as manylinux_2_28_x86_64; this one's.")
    ] = None,
    cuda: Annotated[
        str | None, typer.Option(help="none, or the target's CUDA, such as 12.8; as this PyTorch.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model of models/ to take along; repeatable.")
    ] = None,
    have: Annotated[str, typer.Option(help="Packages that the target has: torch,transformers,...")] = "",
    build: Annotated[
        str | None, typer.Option(help="here: also take llama.cpp as built here, for the same processor.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the sizes and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """All that installs srtui on a machine without a network. Uses the network, through pip."""
    import srtui
    from srtui.bundle import Target, check_new, make, plan
    from srtui.bundle.built import built_here
    from srtui.text import bytes_text

    if build not in (None, "here"):
        raise UserError(f"--build {build}: it can be here.")
    if not dry_run:
        check_new(out_path)
    checkout = Path(srtui.__file__).resolve().parents[1]
    messages = sys.stderr if as_json else sys.stdout
    target = Target.of(python, platform, cuda)
    built = built_here(checkout) if build else None
    names = [name.strip() for name in have.split(",") if name.strip()]
    models = Workspace.find().models if model else checkout / "models"
    print_line(
        f"Target: Python {target.python}, {target.platform}, CUDA {target.cuda}. Asking pip ...", to=messages
    )
    bundle_plan = plan(checkout, models, target, names, model or [])
    for wheel in bundle_plan.wheels:
        size = "size not known" if wheel.size is None else bytes_text(wheel.size)
        print_line(f"  {wheel.name} {wheel.version}  {size}", to=messages)
    unknown = sum(wheel.size is None for wheel in bundle_plan.wheels) + bundle_plan.source
    unsized = f", and {unknown} of unknown size (llama.cpp's source among them)" if bundle_plan.source else ""
    print_line(
        f"{len(bundle_plan.wheels)} wheels and {len(bundle_plan.models)} models: {bytes_text(bundle_plan.known_bytes)}{unsized}.",
        to=messages,
    )
    if dry_run:
        if as_json:
            counts = {"wheels": len(bundle_plan.wheels), "models": len(bundle_plan.models)}
            print_json("bundle-plan", counts | {"size": bundle_plan.known_bytes, "unknown": unknown})
        return
    bundle = make(bundle_plan, out_path, lambda line: print_line(line, to=messages), built=built)
    if as_json:
        print_json("bundle", bundle)
        return
    print_line(
        f"Ready: {bundle.path} ({bundle.files} files, {bytes_text(bundle.size)}). On the target: ./install.sh"
    )
