"""Models on the terminal: the list, one model, and how fast each quantization is here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from srtui.cli.terminal import out, plain, print_facts
from srtui.text import bytes_text


def print_models(entries: Iterable[Any]) -> None:
    """What is in models/, one line each."""
    rows = list(entries)
    if not rows:
        out.print("No models yet. Get the demo's with: srtui models add smollm2-135m")
        return
    table = Table("file", "kind", "params", "quant", "context", "size", box=None, header_style="bold")
    for entry in rows:
        info, file = entry.info, plain(entry.path.name)
        if info is None:
            out.print(f"[red]{file}: {plain(entry.problem or '?')}[/]", soft_wrap=True)
            continue
        table.add_row(
            file,
            plain(info.architecture),
            f"{info.parameters / 1e6:,.0f} M",
            plain(info.quantization),
            f"{info.context:,}" if info.context else "-",
            bytes_text(info.size),
        )
    out.print(table)


def print_tunings(tunings: Sequence[Any]) -> None:
    """Tokens a second by file and slots; what "auto" takes is marked."""
    counts = sorted({count for t in tunings for count in t.decode})
    table = Table(box=None, header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("prompt", justify="right")
    for count in counts:
        table.add_column(f"{count} ", justify="right")
    for t in tunings:
        cells = [
            f"[bold]{t.decode[c]:,.0f}*[/]"
            if c == t.slots
            else (f"{t.decode[c]:,.0f} " if c in t.decode else "- ")
            for c in counts
        ]
        table.add_row(plain(t.file), f"{t.prompt:,.0f}", *cells)
    out.print(table)
    out.print(
        'Tokens a second on this machine, decoding by number of slots; * is what slots = "auto" takes.',
        style="dim",
    )


def print_model(info: Any) -> None:
    """One model as its own header describes it."""
    template = info.chat_template
    print_facts(
        [
            ("file", plain(str(info.path.name))),
            ("name", plain(info.name)),
            ("architecture", plain(info.architecture)),
            ("parameters", f"{info.parameters:,}"),
            ("quantization", plain(info.quantization)),
            ("context", f"{info.context:,} tokens" if info.context else "-"),
            ("chat template", "none" if not template else f"{len(template):,} characters"),
            ("size", bytes_text(info.size)),
            ("licence", plain(info.licence or "not stated in the file")),
            ("sha256", info.sha256 or "-"),
        ]
    )
    if template:
        out.print(f"\n[dim]{plain(template)}[/]", soft_wrap=True)


def print_fits(plans: Sequence[tuple[int, Sequence[Any]]]) -> None:
    """The stages of a recipe on each card, of (bytes of the card, its stage plans)."""
    table = Table("card", "stage", "model", "resident", "of", "", box=None, header_style="bold")
    table.columns[3].justify = table.columns[4].justify = "right"
    for card, stages in plans:
        for n, plan in enumerate(stages):
            table.add_row(
                "" if n else bytes_text(card),
                plan.stage,
                plain(plan.model),
                bytes_text(plan.total),
                bytes_text(plan.free),
                plain(f"fits: {plan.words}" if plan.fits else f"does not fit: {plan.words}"),
                style="" if plan.fits else "yellow",
            )
    out.print(table)
    if len(plans) == 1:
        for plan in plans[0][1]:
            parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in plan.parts.items())
            out.print(plain(f"{plan.stage}: {parts}"), style="dim", soft_wrap=True)
    out.print(
        "Planned from shapes and settings, not measured; 0.6 GB of a card are counted as its driver's. Teacher and "
        "student are loaded in turn, so each stage has the card to itself.",
        style="dim",
        soft_wrap=True,
    )
