"""Is it better? srtui eval: pairwise, calibrate, winrate, turns, choice, list, show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtui.cli.base import MOST, AsJson, Force, app, open_store
from srtui.cli.completion import contestants, model_names, run_names
from srtui.cli.elsewhere import On, Opens, Workers, WorkerTimeout, elsewhere_of, placed
from srtui.cli.output import fields_of, outputs_of, print_json, print_line

if TYPE_CHECKING:
    from srtui.evaluation.contestants import Contestant
    from srtui.evaluation.judge_model import JudgeModel
    from srtui.evaluation.length_control import Anchors
    from srtui.evaluation.sources import Questions
    from srtui.store import Store
    from srtui.store.evaluations import Evaluation, Kind, Side
    from srtui.workspace import Workspace

eval_app = typer.Typer(
    help="Is it better? Judges, win rates, multi-turn scores, multiple choice, people.", no_args_is_help=True
)
app.add_typer(eval_app, name="eval")

_CONTESTANT = (
    "A run, base:RUN, a model, MODEL+ADAPTER, an adapter folder, or a file of answers (.json, .jsonl)."
)
ContestantName = Annotated[str, typer.Argument(metavar="A", help=_CONTESTANT, autocompletion=contestants)]
JudgeName = Annotated[str, typer.Option("--judge", help="The GGUF that judges.", autocompletion=model_names)]
JudgePromptName = Annotated[
    str | None, typer.Option("--judge-prompt", help="A .toml file with the judge's wording.")
]
Words = Annotated[
    int, typer.Option(min=0, max=MOST, help="The most tokens that the judge may say why in; 0: none.")
]
Limit = Annotated[int | None, typer.Option(min=1, max=MOST, help="Only the first N of the file.")]
Seed = Annotated[int, typer.Option(min=0, max=MOST, help="Of sampling and of the bootstrap.")]
Template = Annotated[
    str | None, typer.Option(help="The prompt template of safetensors students; a run has its own.")
]
MaxTokens = Annotated[int, typer.Option(min=1, max=MOST, help="The longest answer, in tokens.")]
TieMargin = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=9,
        help="Scores no further apart are a tie; by default the judge's calibration says, else half a point.",
    ),
]
Temperature = Annotated[float, typer.Option(min=0, max=5, help="Of the answers; 0 is greedy.")]


@eval_app.command(
    epilog="Example: srtui eval pairwise quickstart base:quickstart --prompts recipes/eval-prompts.jsonl --judge my-judge"
)
def pairwise(
    a: ContestantName,
    b: Annotated[str, typer.Argument(metavar="B", help="As A.", autocompletion=contestants)],
    prompts: Annotated[Path, typer.Option(help="Rows of instruction, optional input and category.")],
    judge: JudgeName,
    judge_prompt: JudgePromptName = None,
    words: Words = 96,
    limit: Limit = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    template: Template = None,
    seed: Seed = 0,
    tie_margin: TieMargin = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """Two contestants answer, a judge scores both in both orders; a win counts where they agree."""
    from srtui.evaluation import sources
    from srtui.evaluation.contestants import find_contestant
    from srtui.evaluation.fingerprint import settings_of
    from srtui.evaluation.rates import margin_of
    from srtui.evaluation.writing import AnswerSettings

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    source = sources.prompts(prompts, limit)
    workspace, store = open_store()
    with store:
        contestants = [find_contestant(workspace, store, name, template) for name in (a, b)]
        referee = _judge(workspace, judge, judge_prompt, words, 2)
        margin = margin_of(store, referee, tie_margin)
        settings = settings_of(AnswerSettings(max_tokens, temperature, seed=seed), seed, tie_margin=margin)
        _evaluate(
            workspace, store, "pairwise", source, contestants, referee, settings, as_json, elsewhere=elsewhere
        )


@eval_app.command(epilog="Example: srtui eval winrate quickstart --reference reference.json --judge my-judge")
def winrate(
    a: ContestantName,
    reference: Annotated[Path, typer.Option(help="AlpacaEval's shape: rows of instruction and output.")],
    judge: JudgeName,
    anchors: Annotated[
        Path | None,
        typer.Option(
            help="Difficulties and gamed rows for the length control: AlpacaEval's df_gamed.csv, or srtui eval anchors'."
        ),
    ] = None,
    judge_prompt: JudgePromptName = None,
    words: Words = 96,
    limit: Limit = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    template: Template = None,
    seed: Seed = 0,
    tie_margin: TieMargin = None,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """How often A is preferred to a file of reference answers, raw and with length regressed out."""
    from srtui.evaluation import sources
    from srtui.evaluation.anchors import check_anchors, read_anchors
    from srtui.evaluation.contestants import find_contestant
    from srtui.evaluation.fingerprint import settings_of
    from srtui.evaluation.rates import margin_of
    from srtui.evaluation.writing import AnswerSettings

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    source = sources.references(reference, limit)
    table = read_anchors(anchors) if anchors else None
    if table is not None:
        check_anchors(table, {i.item: i.turns[0] for i in source.items}, source.rows)
    workspace, store = open_store()
    with store:
        contestant = find_contestant(workspace, store, a, template)
        referee = _judge(workspace, judge, judge_prompt, words, 2)
        settings = settings_of(
            AnswerSettings(max_tokens, temperature, seed=seed),
            seed,
            tie_margin=margin_of(store, referee, tie_margin),
            anchors=table.identity if table else None,
        )
        names = (contestant.name, reference.name)
        _evaluate(
            workspace,
            store,
            "winrate",
            source,
            [contestant],
            referee,
            settings,
            as_json,
            names,
            anchors=table,
            elsewhere=elsewhere,
        )


@eval_app.command(
    epilog="Example: srtui eval turns quickstart --questions recipes/eval-questions.jsonl --judge my-judge"
)
def turns(
    a: ContestantName,
    questions: Annotated[
        Path, typer.Option(help="MT-Bench's shape: question_id, category, turns, reference.")
    ],
    judge: JudgeName,
    judge_prompt: JudgePromptName = None,
    words: Words = 96,
    limit: Limit = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    template: Template = None,
    seed: Seed = 0,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """Questions of several turns, each answer scored from 1 to 10; by category and turn."""
    from srtui.evaluation import sources
    from srtui.evaluation.contestants import find_contestant
    from srtui.evaluation.fingerprint import settings_of
    from srtui.evaluation.writing import AnswerSettings

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    source = sources.questions(questions, limit)
    workspace, store = open_store()
    with store:
        contestant = find_contestant(workspace, store, a, template)
        settings = settings_of(AnswerSettings(max_tokens, temperature, seed=seed), seed)
        referee = _judge(workspace, judge, judge_prompt, words, 1)
        _evaluate(
            workspace, store, "turns", source, [contestant], referee, settings, as_json, elsewhere=elsewhere
        )


@eval_app.command(epilog="Example: srtui eval calibrate judgements.jsonl --judge my-judge --limit 40")
def calibrate(
    files: Annotated[
        list[Path],
        typer.Argument(help="Known judgements: instruction, answer_1, answer_2, scores, scores_reversed."),
    ],
    judge: JudgeName,
    judge_prompt: JudgePromptName = None,
    words: Words = 0,
    limit: Limit = None,
    seed: Seed = 0,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """What is a judge worth? Its agreement with known judgements, and whether that beats chance."""
    from srtui.evaluation import sources
    from srtui.evaluation.fingerprint import settings_of

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    source = sources.known_judgements(files, limit)
    workspace, store = open_store()
    with store:
        referee = _judge(workspace, judge, judge_prompt, words, 2)
        names = ", ".join(f.name for f in files)
        settings = settings_of(None, seed) | {"skipped": source.skipped}
        shown_source = ", ".join(map(str, files))
        _evaluate(
            workspace,
            store,
            "calibration",
            source,
            [],
            referee,
            settings,
            as_json,
            (names, None),
            shown_source,
            elsewhere=elsewhere,
        )


@eval_app.command(epilog="Example: srtui eval choice quickstart --tasks recipes/choice")
def choice(
    a: ContestantName,
    tasks: Annotated[Path, typer.Option(help="A folder of lm-eval task files, or one of them (.yaml).")],
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Only the first N questions of each task.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="Examples before each question; the task's own.")
    ] = None,
    run_python: Annotated[
        bool, typer.Option("--run-python", help="Let task files run the Python that lies beside them.")
    ] = False,
    on: On = None,
    workers: Workers = None,
    worker_timeout: WorkerTimeout = 300,
    as_json: AsJson = False,
) -> None:
    """Multiple choice (ARC, HellaSwag, MMLU, TruthfulQA) by EleutherAI's lm-eval, on task files on disk."""
    from srtui.cli.reporters import reported_work
    from srtui.evaluation import multiple_choice
    from srtui.evaluation.contestants import find_contestant

    elsewhere = elsewhere_of(on, workers, worker_timeout)
    workspace, store = open_store()
    with store:
        multiple_choice.check(tasks, run_python)
        contestant = find_contestant(workspace, store, a)
        with (
            reported_work(as_json, store.path.parent, json_lines=False) as (face, should_stop),
            placed(elsewhere, face, should_stop) as place,
        ):
            evaluation = multiple_choice.evaluate(
                store, contestant, tasks, limit, shots, face, should_stop, place
            )
        _print_result(store, evaluation, as_json)


@eval_app.command(epilog="Example: srtui eval anchors 1 2 3 4 --gamed 3 --gamed 4 --out anchors.csv")
def anchors(
    evaluations: Annotated[
        list[int],
        typer.Argument(metavar="ID...", help="Win rates that are done, one a model, against one reference."),
    ],
    out: Annotated[Path, typer.Option(help="The table to write (.csv).")],
    gamed: Annotated[
        list[int] | None,
        typer.Option(help="Those where A is the reference's own model, asked to be concise or verbose."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """A table for winrate --anchors from your own judgements: how hard each prompt is, and gamed rows.

    Difficulties are fitted over all models named; the more of them, and the more unlike each other, the better.
    """
    from srtui.errors import UserError
    from srtui.evaluation.anchors import write_anchors
    from srtui.evaluation.rates import rows_of

    workspace, store = open_store(read_only=True)
    with store:
        outputs = outputs_of(store, workspace)
        outputs.check(out, force)
        win_rates = [store.evaluations.get(n) for n in evaluations]
        for n in gamed or []:
            if n not in evaluations:
                raise UserError(f"--gamed {n}: it is none of the evaluations named; name it too.")
        if len({(e.source_sha256, e.judge, str(e.judge_identity)) for e in win_rates}) > 1:
            raise UserError(
                "These evaluations have not all the same reference and judge; name some that have."
            )
        models = {f"{e.contestant_a} (evaluation {e.id})": rows_of(store, e) for e in win_rates}
        gamed_names = [name for name, e in zip(models, win_rates, strict=True) if e.id in (gamed or [])]
        questions = {i.item: i.turns[0] for i in store.evaluations.items(win_rates[0].id)}
        table = write_anchors(out, models, gamed_names, questions)
        outputs.wrote(out)
    if as_json:
        made = {"path": out, "difficulties": len(table.difficulty), "models": len(models)}
        print_json("anchors", made | {"gamed_rows": len(table.preference)})
        return
    print_line(
        f"{out}: {len(table.difficulty)} difficulties from {len(models)} models, {len(table.preference)} gamed rows."
    )


@eval_app.command("list", epilog="Example: srtui eval list --json")
def list_(
    run: Annotated[str | None, typer.Option(help="Only those of this run.", autocompletion=run_names)] = None,
    as_json: AsJson = False,
) -> None:
    """All evaluations, the newest first, with what came out."""
    from srtui.cli.evaluation_tables import print_list

    _, store = open_store()
    with store:
        run_id = store.runs.named(run).id if run else None
        evaluations = store.evaluations.all(run_id)
        if as_json:
            print_json("evaluations", {"evaluations": evaluations})
        elif not evaluations:
            print_line(
                "No evaluations yet. Start one with: srtui eval pairwise A B --prompts FILE --judge MODEL"
            )
        else:
            print_list(evaluations)


@eval_app.command(epilog="Example: srtui eval show 1 --json")
def show(
    evaluation_id: Annotated[int, typer.Argument(metavar="ID", help="As srtui eval list shows it.")],
    judgements: Annotated[
        bool, typer.Option("--judgements", help="Every judgement with both answers and the judge's words.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One evaluation: its figures; with --judgements or --json, every single judgement too."""
    from srtui.cli.evaluation_tables import print_judged

    _, store = open_store()
    with store:
        evaluation = store.evaluations.get(evaluation_id)
        judged = store.evaluations.judged(evaluation_id) if judgements or as_json else []
        if as_json:
            rows = [_without_bytes(asdict(pair)) for pair in judged]
            print_json("evaluation", fields_of(evaluation) | {"judgements": rows})
            return
        _print_result(store, evaluation, False)
        for pair in judged:
            print_judged(pair)


def _judge(workspace: Workspace, name: str, prompt: str | None, words: int, answers: int) -> JudgeModel:
    from srtui.evaluation.judge_model import JudgeModel, load_judge_prompt

    shipped = "pairwise" if answers == 2 else "single"
    return JudgeModel.find(workspace.models, name, load_judge_prompt(prompt or shipped, answers), words)


def _evaluate(
    workspace: Workspace,
    store: Store,
    kind: Kind,
    source: Questions,
    contestants: list[Contestant],
    judge: JudgeModel,
    settings: dict[str, Any],
    as_json: bool,
    names: tuple[str, str | None] | None = None,
    shown_source: str = "",
    anchors: Anchors | None = None,
    elsewhere: Opens | None = None,
) -> None:
    from srtui.cli.reporters import reported_work
    from srtui.evaluation.contestants import same_weights
    from srtui.evaluation.evaluator import Evaluator
    from srtui.evaluation.fingerprint import prepare

    evaluation, is_new = prepare(store, kind, source, contestants, judge, settings, names, shown_source)
    if evaluation.state == "done":
        _print_result(store, evaluation, as_json)
        if not as_json:
            print_line("This evaluation is done already; nothing was left to do.")
        return
    sides: dict[Side, Contestant] = dict(zip(("a", "b"), contestants, strict=False))
    with reported_work(as_json, store.path.parent, json_lines=False) as (face, should_stop):
        if not is_new:
            face.event("info", f"Resuming evaluation {evaluation.id}.")
        warnings = same_weights(workspace, store, judge.name, judge.sha256, contestants)
        for sentence in warnings:
            face.event("warning", sentence)
        with placed(elsewhere, face, should_stop) as place:
            evaluation = Evaluator(
                store, evaluation, source, sides, judge, face, should_stop, anchors, warnings, place
            ).work()
    _print_result(store, evaluation, as_json)


def _print_result(store: Store, evaluation: Evaluation, as_json: bool) -> None:
    from srtui.cli.evaluation_tables import print_evaluation

    if as_json:
        print_json("evaluation", evaluation)
    else:
        print_evaluation(evaluation)


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_bytes(v) for k, v in value.items() if not isinstance(v, bytes)}
    return value
