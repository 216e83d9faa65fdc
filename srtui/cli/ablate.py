"""Ablations: what each part of the method is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtui.cli.base import MOST, AsJson, Bell, OnDone, Overrides, RecipeFile, announce_end, app, open_store
from srtui.cli.elsewhere import On, Workers, WorkerTimeout, elsewhere_of, placed
from srtui.cli.output import print_json
from srtui.errors import UserError

if TYPE_CHECKING:
    from srtui.cluster.cluster_place import ClusterPlace
    from srtui.pipeline.ablate import Examiner
    from srtui.progress import Reporter
    from srtui.store import Store
    from srtui.workspace import Workspace


@app.command(epilog="Example: srtui ablate recipes/quickstart.toml --only original,random --seeds 3")
def ablate(
    recipe: RecipeFile,
    only: Annotated[
        str | None, typer.Option(help="Only these arms, with commas between; all if absent.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each arm.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, max=MOST, help="Only the first N samples.")] = None,
    set_: Overrides = None,
    judge: Annotated[
        str | None, typer.Option(help="A GGUF that compares each arm's answers with the full method's.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="What --judge compares answers to.")] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="Multiple choice too: a folder of lm-eval task files, or one of them.")
    ] = None,
    eval_limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N prompts, and questions of each task.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer to a prompt, in tokens.")] = 512,
    tie_margin: Annotated[
        float | None, typer.Option(min=0, max=9, help="As srtui eval pairwise has it.")
    ] = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    on_done: OnDone = None,
    bell: Bell = False,
    as_json: AsJson = False,
) -> None:
    """What is each part of the method worth? Other ways to choose, the same texts, scores and steps.

    The arm original, the same training on the original data, is the control that says whether the method helped.
    """
    from srtui import recipe as recipes
    from srtui.cli.reporters import reported_work
    from srtui.cli.run_tables import print_comparison
    from srtui.pipeline.ablate import Ablation, check_arms

    if (judge is None) != (prompts is None):
        raise UserError("--judge needs --prompts, a file of what is asked, and --prompts a --judge.")
    names = [word.strip() for word in (only or "").split(",") if word.strip()]
    check_arms(names)
    elsewhere = elsewhere_of(on, workers, worker_timeout)
    settings = recipes.load(recipe, set_, limit)
    workspace, store = open_store()
    with (
        store,
        announce_end(f"{settings.name} (ablation)", on_done, bell) as set_status,
        reported_work(as_json, workspace.store_path.parent) as (face, should_stop),
        placed(elsewhere, face, should_stop) as place,
    ):
        examiners = _examiners(
            workspace,
            store,
            face,
            should_stop,
            judge,
            prompts,
            tasks,
            eval_limit,
            max_tokens,
            tie_margin,
            place,
        )
        ablation = Ablation(workspace, store, settings, recipe.resolve(), face, should_stop, examiners, place)
        comparison = ablation.work(names, seeds)
        set_status("done")
    if as_json:
        print_json("ablation", comparison)
    else:
        print_comparison(comparison)


def _examiners(
    workspace: Workspace,
    store: Store,
    face: Reporter,
    should_stop: Callable[[], bool],
    judge: str | None,
    prompts: Path | None,
    tasks: Path | None,
    limit: int | None,
    max_tokens: int,
    tie_margin: float | None,
    place: ClusterPlace | None,
) -> list[Examiner]:
    """What compares the arms beside their losses; bad names and files are found before anything is trained."""
    from srtui.evaluation import multiple_choice, sources
    from srtui.evaluation.judge_model import JudgeModel, load_judge_prompt
    from srtui.evaluation.writing import AnswerSettings
    from srtui.pipeline.examiners import ChoiceExaminer, JudgeExaminer

    examiners: list[Examiner] = []
    if judge is not None and prompts is not None:
        source = sources.prompts(prompts, limit)
        referee = JudgeModel.find(workspace.models, judge, load_judge_prompt("pairwise", 2), 0)
        writing = AnswerSettings(max_tokens=max_tokens)
        examiners.append(
            JudgeExaminer(workspace, store, source, referee, face, writing, tie_margin, should_stop, place)
        )
    if tasks is not None:
        multiple_choice.check(tasks, False)
        examiners.append(ChoiceExaminer(workspace, store, tasks, face, limit, None, should_stop, place))
    return examiners
