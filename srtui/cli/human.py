"""srtui eval human: people judge, blind and side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import AsJson, open_store
from srtui.cli.completion import contestants
from srtui.cli.evaluation import (
    ContestantName,
    Limit,
    MaxTokens,
    Seed,
    Temperature,
    Template,
    eval_app,
)
from srtui.cli.output import print_json, print_line
from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.evaluation.contestants import Contestant
    from srtui.store.evaluations import Side


@eval_app.command(
    epilog="Example: srtui eval human quickstart base:quickstart --prompts recipes/eval-prompts.jsonl --annotator ada"
)
def human(
    a: ContestantName,
    b: Annotated[str, typer.Argument(metavar="B", help="As A.", autocompletion=contestants)],
    prompts: Annotated[Path, typer.Option(help="Rows of instruction, optional input and category.")],
    annotator: Annotated[str, typer.Option(help="Who judges; the same name continues where it was.")] = "",
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Without: write the answers, show what was said so far.")
    ] = True,
    limit: Limit = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    template: Template = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Two contestants answer; a person who does not see whose answer is whose chooses: 1, 2, tie, both bad.

    Several people may judge, each by name and at their own time; they see other sides in another order.
    The result has intervals, and their agreement as a kappa.
    """
    from srtui.cli.evaluation_tables import print_evaluation
    from srtui.cli.reporters import reported_work
    from srtui.evaluation import sources
    from srtui.evaluation.contestants import find_contestant
    from srtui.evaluation.evaluator import Evaluator
    from srtui.evaluation.fingerprint import prepare, settings_of
    from srtui.evaluation.people import keep_result
    from srtui.evaluation.writing import AnswerSettings

    name = annotator.strip()
    if ask:
        from srtui.tui.human_app import check_terminal

        if not name:
            raise UserError("Who judges? Give a name with --annotator NAME, or --no-ask to ask nobody yet.")
        check_terminal()
    source = sources.prompts(prompts, limit)
    workspace, store = open_store()
    with store:
        contestants = [
            find_contestant(workspace, store, contestant_name, template) for contestant_name in (a, b)
        ]
        settings = settings_of(AnswerSettings(max_tokens, temperature, seed=seed), seed)
        evaluation, _ = prepare(store, "human", source, contestants, None, settings)
        if len(store.evaluations.answers(evaluation.id)) < 2 * len(source.items):
            sides: dict[Side, Contestant] = {"a": contestants[0], "b": contestants[1]}
            with reported_work(as_json, store.path.parent, json_lines=False) as (face, should_stop):
                Evaluator(store, evaluation, source, sides, None, face, should_stop).work()
        if ask:
            from srtui.tui.human_app import open_human

            open_human(workspace, evaluation.id, name)
        result = keep_result(store, evaluation.id)
        evaluation = store.evaluations.get(evaluation.id)
        if as_json:
            print_json("evaluation", evaluation)
        elif not result["judgements"]:
            from srtui.tui.tabs import numbered

            print_line(
                f"Evaluation {evaluation.id}: the answers are there, and nobody has judged yet. Judge with "
                f"--annotator NAME, or on {numbered('evaluation')} of the dashboard with h."
            )
        else:
            print_evaluation(evaluation)
