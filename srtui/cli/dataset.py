"""data: a data set as a whole, and the rewrites of a run as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import AsJson, RunName, app, open_store
from srtui.cli.output import print_json, print_line

if TYPE_CHECKING:
    from srtui.pipeline.gate_trial import GateTrials

data_app = typer.Typer(
    help="A data set as a whole: what gates would stop, near-duplicates, leaked evaluation prompts.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")


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
        for one in trial.examples:
            out.print(f"sample {one.sample_id}, {one.stage}: {plain(one.reason)}", soft_wrap=True)
