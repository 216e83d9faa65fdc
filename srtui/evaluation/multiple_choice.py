"""Multiple choice: EleutherAI's lm-eval asks, on task files that lie on disk; the scorer answers.

lm-eval (an optional extra) reads the tasks, lays out questions and examples, and calls a choice right
or wrong; this side only says how probable a continuation is, with the scorer that computes IFD, so
that a 4-bit student with its adapter, and a GGUF, take the same path. Losses are cached as all span
losses are, so a killed evaluation loses what is in flight.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srtui import hashing
from srtui.atomic import sha256_of
from srtui.errors import UserError
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.evaluation_place import EvaluationPlace, OwnProcess
from srtui.evaluation.statistics import wilson
from srtui.files import read_bytes, read_text
from srtui.gpu_errors import gpu_sentence
from srtui.hashing import digest, scheme_1
from srtui.measures import SpanLoss
from srtui.progress import Progress, Reporter, Stopped
from srtui.prompts import template
from srtui.store import Store
from srtui.store.evaluations import Evaluation, Item, Judgement, NewEvaluation

_USUAL_LENGTH = 2048  # tokens of a question with its examples, where a model does not say how many it takes
_ABSENT = "Multiple choice needs EleutherAI's lm-eval, which is not installed; install it with: pip install 'srtui[lm-eval]'"


def check(tasks: Path, run_python: bool = False) -> None:
    """Raises UserError where lm-eval is absent, ``tasks`` is no task file or folder of them, or one of
    them would run Python of its own and ``run_python`` is not set: task files come from elsewhere."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(_ABSENT)
    for file in _files(tasks):
        if file.suffix in (".yaml", ".yml") and not run_python and b"!function" in read_bytes(file):
            raise UserError(
                f"{file} runs Python that lies beside it (!function); read that, and allow it with --run-python."
            )


def evaluate(
    store: Store,
    contestant: Contestant,
    tasks: Path,
    limit: int | None,
    shots: int | None,
    reporter: Reporter,
    should_stop: Callable[[], bool],
    place: EvaluationPlace | None = None,
) -> Evaluation:
    """Run the tasks and store every question with what was chosen. Raises Stopped, or UserError.

    Args:
        store: where questions and choices go.
        contestant: who chooses; a model, no file of answers.
        tasks: a folder of lm-eval's task files, or one of them.
        limit: the first so many questions of each task; None for all.
        shots: examples before each question; None for the task's own number.
        reporter: gets the progress.
        should_stop: asked between questions.
        place: where the contestant runs, by default in this process.
    """
    if contestant.kind == "file":
        raise UserError(f"{contestant.name} is a file of answers; multiple choice needs a model: name one.")
    if contestant.kind == "gguf" and contestant.adapter is not None:
        raise UserError(
            f"{contestant.name}: choices are not scored with a LoRA in GGUF; use the adapter folder."
        )
    files = _files(tasks)
    sha256 = digest(*(part for f in files for part in (f.name, sha256_of(f)))).hex()
    settings = {"seed": 0, "limit": limit, "shots": shots}
    identity = contestant.identity
    fingerprint = hashing.key("choice", tasks=sha256, contestant=identity, settings=settings).hex()
    first = scheme_1("choice", sha256, repr(sorted(identity.items())), repr(settings)).hex()
    evaluation, _ = store.evaluations.prepare(
        NewEvaluation(
            "choice", fingerprint, contestant.name, contestant.identity, str(tasks), sha256, settings,
            run_a_id=contestant.run_id,
        ),
        first,
    )  # fmt: skip
    if evaluation.state == "done":
        reporter.event("info", "This evaluation is done already; nothing was left to do.")
        return evaluation
    lease = store.evaluations.acquire(evaluation.id)
    store.evaluations.update(evaluation.id, status="running", started_at=time.time(), error=None)
    try:
        answers = _run(
            store, evaluation.id, contestant, tasks, limit, shots, reporter,
            lambda: bool(lease.lost) or should_stop(), place or OwnProcess(),
        )  # fmt: skip
        result = _keep(store, evaluation.id, answers)
        store.evaluations.update(
            evaluation.id, status="done", stage=None, result=result, finished_at=time.time()
        )
    except (Stopped, KeyboardInterrupt):
        if lease.lost:
            raise UserError(lease.lost) from None
        store.evaluations.update(evaluation.id, status="stopped")
        raise
    except BaseException as error:
        if lease.lost:
            raise UserError(lease.lost) from error
        sentence = gpu_sentence(error)
        store.evaluations.update(
            evaluation.id, status="failed", error=sentence or str(error) or type(error).__name__
        )
        if sentence:
            raise UserError(sentence) from error
        raise
    finally:
        lease.release()
        store.checkpoint()
    return store.evaluations.get(evaluation.id)


def _files(tasks: Path) -> list[Path]:
    """The task files, and the data beside them, whose bytes a result depends on."""
    if tasks.is_file() and tasks.suffix in (".yaml", ".yml"):
        folder = tasks.parent
    elif tasks.is_dir() and [*tasks.rglob("*.yaml"), *tasks.rglob("*.yml")]:
        folder = tasks
    else:
        raise UserError(
            f"{tasks}: no lm-eval task file (.yaml) there; docs/evaluation.md says how to get some."
        )
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _run(
    store: Store,
    evaluation_id: int,
    contestant: Contestant,
    tasks: Path,
    limit: int | None,
    shots: int | None,
    reporter: Reporter,
    should_stop: Callable[[], bool],
    place: EvaluationPlace,
) -> dict[str, Any]:
    """lm-eval's results and samples."""
    reporter.event("info", f"Loading {contestant.name} and the tasks ...")
    tasks = tasks.resolve()  # the working folder is another in a moment
    is_folder = tasks.is_dir()
    folder = tasks if is_folder else tasks.parent
    output = io.StringIO()
    model = _model(store, evaluation_id, contestant, reporter, should_stop, place)
    # Data files are named relative to the task file. lm-eval's own notices and bars go unseen.
    with contextlib.closing(model), contextlib.chdir(folder), contextlib.redirect_stderr(output):
        from lm_eval.evaluator import evaluate as lm_evaluate
        from lm_eval.tasks import TaskManager

        for name in ("lm_eval", "lm-eval", "lm_eval.tasks", "lm_eval.evaluator", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            names = manager.all_subtasks if is_folder else [_task_name(tasks)]
            loaded = manager.load(list(names))
        except (Stopped, UserError):
            raise
        except Exception as error:  # a task file may do anything, and fail in any way
            raise UserError(
                f"{tasks}: the tasks cannot be loaded ({_first_line(error)}); correct the file."
            ) from error
        for name, task in loaded["tasks"].items():
            if task.OUTPUT_TYPE != "multiple_choice":
                raise UserError(
                    f"{tasks}: task {name} is {task.OUTPUT_TYPE}, and only multiple_choice is run; leave it out."
                )
            metrics = [m.get("metric") for m in task.get_config("metric_list") or [{"metric": "acc"}]]
            if "acc" not in metrics:
                raise UserError(f"{tasks}: task {name} has no accuracy; add acc to its metric_list.")
            if shots is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=1234)
        results: dict[str, Any] = lm_evaluate(model, loaded, limit=limit, bootstrap_iters=0)
    return results


def _model(
    store: Store,
    evaluation_id: int,
    contestant: Contestant,
    reporter: Reporter,
    should_stop: Callable[[], bool],
    place: EvaluationPlace,
) -> Any:
    from lm_eval.api.model import LM

    from srtui.student import SpanBuilder, StudentSource

    source = StudentSource(
        contestant.path,
        contestant.quantization or "gguf",  # type: ignore[arg-type]
        adapter=contestant.adapter,
    )
    student, scorer = place.student(source, reporter.event)
    length = _positions(contestant.path) if contestant.kind == "student" else _USUAL_LENGTH
    spans = SpanBuilder(student.tokenizer, template("alpaca"), max_length=length)

    class ScoringLM(LM):  # type: ignore[misc]
        """lm-eval's model: how probable continuations are. Nothing is generated."""

        def close(self) -> None:
            student.close()

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            requested = [spans.continuation(*r.args) for r in requests]
            keys = [span.key(student.losses_id, "continuation") for span in requested]
            stored = store.scores.losses(keys)
            unscored = {key: span for key, span in zip(keys, requested, strict=True) if key not in stored}
            ordered = list(unscored)
            total, began = len(set(keys)), time.monotonic()
            scored = total - len(ordered)
            computed: dict[bytes, SpanLoss] = {}
            stored_at = began
            for n, loss in scorer.score([unscored[key] for key in ordered], should_stop):
                computed[ordered[n]] = loss
                scored += 1
                if time.monotonic() - stored_at > 1.0 or scored == total:
                    store.scores.add_losses(computed)
                    stored.update(computed)
                    computed, stored_at = {}, time.monotonic()
                    store.evaluations.update(evaluation_id, stage="choice", done=scored, total=total)
                seconds = time.monotonic() - began
                reporter.progress(Progress("choice", scored, total, scorer.tokens_run, seconds))
            store.scores.add_losses(computed)
            stored.update(computed)
            if should_stop():
                raise Stopped
            # Whether it is what greedy decoding writes is asked by no multiple-choice metric.
            return [(_likelihood(stored[key]), False) for key in keys]

        def generate_until(self, requests: Any) -> Any:
            raise UserError("Only multiple choice is run; one of the tasks wants texts: leave it out.")

        loglikelihood_rolling = generate_until

    return ScoringLM()


def _positions(student: Path) -> int:
    """Tokens that a student says it has positions for; its weights may lie elsewhere."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or _USUAL_LENGTH)


def _likelihood(loss: SpanLoss) -> float:
    return -loss.nll if loss.nll is not None else float("-inf")


def _keep(store: Store, evaluation_id: int, results: Mapping[str, Any]) -> dict[str, Any]:
    """Store the questions and what was chosen, and return the figures."""
    items: list[Item] = []
    judgements: list[Judgement] = []
    tasks: dict[str, Any] = {}
    unscored = 0
    for name, samples in results["samples"].items():
        rows = []
        for sample in samples:
            choices, values = _choices(sample), [float(r[0]) for r in sample["filtered_resps"]]
            item = len(items)
            right = sample["target"] if isinstance(sample["target"], int) else str(sample["target"])
            items.append(
                Item(
                    item,
                    name,
                    (_question(sample),),
                    {"choices": choices, "right": right},
                    str(sample["doc_id"]),
                )
            )
            # With no choice scored lm-eval takes the first, which may be the right one.
            failed = not any(math.isfinite(v) for v in values)
            acc = 0.0 if failed else float(sample["acc"])
            norm = sample.get("acc_norm")
            norm = 0.0 if failed and norm is not None else norm
            unscored += failed
            judgements.append(
                Judgement(
                    item,
                    "a",
                    score_a=acc,
                    probabilities={"loglikelihoods": values, "norm": None if norm is None else float(norm)},
                    words=choices[max(range(len(values)), key=values.__getitem__)] if values else "",
                )
            )
            rows.append((acc, norm, len(choices)))
        tasks[name] = _figures(rows) | {"shots": int(results["n-shot"].get(name, 0) or 0)}
    with store.transaction():
        store.evaluations.add_items(evaluation_id, items)
        store.evaluations.add_judgements(evaluation_id, judgements)
    return _total(tasks) | {"failed": {"questions": unscored}, "tasks": tasks}


def _figures(rows: Sequence[tuple[float, Any, int]]) -> dict[str, Any]:
    """``accuracy`` by summed log-likelihood, ``accuracy_norm`` by its mean over a choice's bytes."""
    n = len(rows)
    norms = [float(norm) for _, norm, _ in rows if norm is not None]
    return {
        "questions": n,
        "accuracy": wilson(sum(acc for acc, _, _ in rows), n),
        "accuracy_norm": wilson(sum(norms), len(norms)),
        "chance": sum(1 / max(1, count) for _, _, count in rows) / n if n else 0.0,
    }


def _total(tasks: Mapping[str, Any]) -> dict[str, Any]:
    n = sum(t["questions"] for t in tasks.values())
    right = sum((t["accuracy"]["value"] or 0.0) * t["questions"] for t in tasks.values())
    chance = sum(t["chance"] * t["questions"] for t in tasks.values())
    return {"judged": n, "accuracy": wilson(right, n), "chance": chance / n if n else 0.0}


def _arguments(sample: Mapping[str, Any]) -> list[Any]:
    """(context, continuation) of each choice; lm-eval logs them as a list, or as named generations."""
    arguments = sample["arguments"]
    if isinstance(arguments, Mapping):
        return [[v["arg_0"], v["arg_1"]] for v in arguments.values()]
    return list(arguments)


def _choices(sample: Mapping[str, Any]) -> list[str]:
    return [str(a[1]).strip() for a in _arguments(sample)]


def _question(sample: Mapping[str, Any]) -> str:
    return str(_arguments(sample)[0][0])


def _task_name(path: Path) -> str:
    named = re.search(r"^task:[ \t]*([^\s#]+)", read_text(path), re.MULTILINE)
    if named is None:
        raise UserError(f"{path}: it names no task of its own; give its folder instead.")
    return named[1].strip("\"'")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
