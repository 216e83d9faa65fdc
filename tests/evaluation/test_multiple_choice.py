"""Our own task through lm-eval on the NF4 student with its adapter, against lm-eval's own model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from srtui.errors import UserError
from srtui.evaluation import multiple_choice
from srtui.evaluation.contestants import find_contestant
from srtui.evaluation.evaluation_place import OwnProcess
from srtui.store import Store
from srtui.store.runs import Run
from srtui.workspace import Workspace
from tests.attack.ground import in_process
from tests.conftest import ROOT
from tests.sql import sql_value

TASKS = ROOT / "recipes" / "choice"


class Silent:
    def progress(self, progress: Any) -> None:
        pass

    def event(self, level: str, message: str) -> None:
        pass


def test_without_lm_eval_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiple_choice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'srtui\[lm-eval\]'"):
        multiple_choice.check(TASKS)


@pytest.mark.model
def test_our_own_task_on_the_student_with_its_adapter(
    arithmetic: str, tuned: tuple[Workspace, Store, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lm_eval.api.instance import Instance

    workspace, store, run = tuned
    contestant = find_contestant(workspace, store, "tuned")
    monkeypatch.chdir(workspace.root)  # relative paths, of the task too
    done = multiple_choice.evaluate(
        store, contestant, Path("recipes/choice/everyday.yaml"), 4, None, Silent(), lambda: False
    )
    assert done.state == "done" and done.run_a_id == run.id and done.result is not None
    assert done.result["judged"] == 4 and done.result["chance"] == 0.25
    assert set(done.result["tasks"]) == {"everyday"}
    judged = store.evaluations.judged(done.id)
    assert judged[0].item.reference["choices"] == ["a key", "a spoon", "a pillow", "a candle"]
    right = [p.judgement.words == p.item.reference["choices"][p.item.reference["right"]] for p in judged]
    assert [p.judgement.score_a for p in judged] == [float(r) for r in right]
    assert done.result["accuracy"]["value"] == sum(right) / 4

    from srtui.student import Student

    student = Student.load(contestant.path, "nf4", adapter=contestant.adapter)
    theirs = huggingface.HFLM(pretrained=student.model, tokenizer=student.tokenizer, batch_size=4)
    first = judged[0]
    asked = [
        Instance("loglikelihood", {}, (first.item.turns[0], f" {c}"), n)
        for n, c in enumerate(first.item.reference["choices"])
    ]
    expected = [value for value, _ in theirs.loglikelihood(asked, disable_tqdm=True)]
    assert first.judgement.probabilities is not None
    # lm-eval sums in the model's type: 2^-8 of the sum is one rounding to bfloat16.
    rounding = {"float32": 1e-3, "bfloat16": 2**-7}[arithmetic]
    assert first.judgement.probabilities["loglikelihoods"] == pytest.approx(expected, rel=rounding)
    # Its losses are stored: the whole task again runs only what is new.
    losses = sql_value(store, "SELECT count(*) FROM span_loss")
    assert losses == 16
    assert (
        multiple_choice.evaluate(
            store, contestant, TASKS / "everyday.yaml", 4, None, Silent(), lambda: False
        ).id
        == done.id
    )


@pytest.mark.model
def test_a_command_that_is_stopped_is_one_sentence_and_code_130(
    tuned: tuple[Workspace, Store, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    workspace, store, _ = tuned
    stop = threading.Event()
    stop.set()  # as after Ctrl-C
    monkeypatch.setattr("srtui.cli.reporters.stop_on_signals", lambda: stop)
    words = ("eval", "choice", "tuned", "--tasks", str(TASKS / "everyday.yaml"), "--limit", "1")
    outcome = in_process(words, workspace.root, {"SRTUI_WORKSPACE": str(workspace.root)})
    assert outcome.code == 130, outcome.text
    assert outcome.err == "Stopped; everything finished is stored. The same command resumes.\n"
    assert [e.state for e in store.evaluations.all(None)] == ["stopped"]


def test_what_is_no_task(tmp_path: Path) -> None:
    if multiple_choice.importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed")
    with pytest.raises(UserError, match="no lm-eval task file"):
        multiple_choice.check(tmp_path)


def test_a_task_that_would_run_python_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')\n\ndef change(rows):\n    return rows\n")
    (tmp_path / "task.yaml").write_text("task: sly\nprocess_docs: !function code.change\n")
    with pytest.raises(UserError, match=r"task\.yaml runs Python that lies beside it .* --run-python"):
        multiple_choice.check(tmp_path)
    assert not ran.exists()
    multiple_choice.check(tmp_path, run_python=True)


@pytest.mark.model
def test_a_tuned_student_has_one_identity(pair_folder: Path, drawn_adapter: Path, tmp_path: Path) -> None:
    """A loss that scoring has stored for the student with its adapter is not computed again by a choice."""
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    from srtui.evaluation.contestants import Contestant
    from srtui.measures import SpanLoss
    from srtui.prompts import template
    from srtui.student import SpanBuilder, Student

    folder = pair_folder / "tiny"
    tuned = Student.load(folder, "nf4", adapter=drawn_adapter)
    span = SpanBuilder(tuned.tokenizer, template("alpaca"), max_length=256).continuation(
        "One plus one is", " two"
    )
    contestant = Contestant("t", "student", folder, "s", drawn_adapter, "a", "nf4")
    with Store(tmp_path / "s.db") as store:
        store.scores.add_losses({span.key(tuned.losses_id, "default"): SpanLoss(1.25, span.target)})
        model = multiple_choice._model(store, 1, contestant, Silent(), lambda: False, OwnProcess())
        asked = [instance("loglikelihood", {}, ("One plus one is", " two"), 0)]
        assert model.loglikelihood(asked) == [(-1.25, False)]
