"""Works on one evaluation until it is done or stopped: answers, judgements, figures.

What is left to do is read off the store at the start of each stage, and each answer and judgement is
a transaction of its own, so a kill loses what is in flight. An evaluation whose settings, texts and
models are those of an earlier one resumes that one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from srtui import today
from srtui.errors import UserError
from srtui.evaluation.contestants import Contestant
from srtui.evaluation.evaluation_place import EvaluationPlace, OwnProcess
from srtui.evaluation.judge_model import JudgeModel, JudgeQuestion, JudgeScores
from srtui.evaluation.length_control import Anchors
from srtui.evaluation.people import keep_result
from srtui.evaluation.question import question_of
from srtui.evaluation.rates import figures
from srtui.evaluation.results import TOO_LONG
from srtui.evaluation.sources import Questions, asked_text, parts
from srtui.evaluation.writing import (
    AnswerSettings,
    AnswerWriter,
    Turns,
    answer_key,
    file_answer,
    first_answer_key,
)
from srtui.gpu_errors import gpu_sentence
from srtui.llama.last_words import at_the_end
from srtui.progress import Progress, Reporter, Stopped
from srtui.store import Store
from srtui.store.evaluations import (
    Answer,
    Evaluation,
    Item,
    Judgement,
    Ordering,
    Side,
)
from srtui.store.leases import Lease

_SIDES: tuple[Side, ...] = ("a", "b")
_BOTH: tuple[Ordering, ...] = ("ab", "ba")


class Evaluator:
    """Does the work of one evaluation. ``contestants`` by side; ``source`` as it was prepared from;
    ``anchors`` are those of the length control.

    ``should_stop`` is asked often and must be cheap. ``warnings`` are stored with the result.
    """

    def __init__(
        self,
        store: Store,
        evaluation: Evaluation,
        source: Questions,
        contestants: Mapping[Side, Contestant],
        judge: JudgeModel | None,
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
        anchors: Anchors | None = None,
        warnings: Sequence[str] = (),
        place: EvaluationPlace | None = None,
    ) -> None:
        """``place``: where its models run, by default in this process."""
        self._place = place or OwnProcess()
        self._anchors, self._warnings = anchors, list(warnings)
        self.store, self.evaluation, self.source = store, evaluation, source
        self.contestants, self.judge, self.reporter = contestants, judge, reporter
        self._should_stop = should_stop
        self._rows = store.evaluations
        self._id = evaluation.id
        self._items = self._rows.items(evaluation.id)
        settings = evaluation.settings
        self._seed = int(settings.get("seed", 0))
        self._writing = AnswerSettings(**settings["writing"]) if "writing" in settings else AnswerSettings()
        self._writer: AnswerWriter | None = None
        self._clock = self._stored_at = 0.0
        self._tokens = 0

    def work(self) -> Evaluation:
        """Do all that is left. Raises Stopped when asked to stop, UserError on bad input; the store says
        so, and the same command resumes it later."""
        rows = self._rows
        today.freeze(today.of_timestamp(self.evaluation.created_at))
        lease = rows.acquire(self._id)
        original_should_stop = self._should_stop
        self._should_stop = lambda: bool(lease.lost) or original_should_stop()
        began = self.evaluation.started_at or time.time()
        rows.update(self._id, status="running", started_at=began, error=None)
        try:
            with at_the_end(lambda sentence: self._failed(sentence, lease)):
                turns = max(len(i.turns) for i in self._items)
                for side in _SIDES:
                    try:
                        for turn in range(1, turns + 1):
                            self._answers(side, turn)
                    finally:
                        self._close_writer()
                if self.judge is not None:
                    self._judge_scores()
                    self._judge_words()
                if self.evaluation.kind == "human":
                    keep_result(self.store, self._id)  # done when people have judged
                else:
                    rows.update(self._id, status="done", result=self.result())
                rows.update(self._id, stage=None, finished_at=time.time())
        except (Stopped, KeyboardInterrupt):
            if lease.lost:
                raise UserError(lease.lost) from None
            rows.update(self._id, status="stopped")
            raise
        except BaseException as error:
            if lease.lost:
                raise UserError(lease.lost) from error
            sentence = gpu_sentence(error)
            rows.update(self._id, status="failed", error=sentence or str(error) or type(error).__name__)
            if sentence:
                raise UserError(sentence) from error
            raise
        finally:
            self._should_stop = original_should_stop
            lease.release()
            self.store.checkpoint()
        return rows.get(self._id)

    def _failed(self, sentence: str, lease: Lease) -> None:
        """llama.cpp ends this process: it is stored, and the evaluation is free to be resumed."""
        if not lease.lost:
            self.store.conn.rollback()
            self._rows.update(self._id, status="failed", error=sentence)
            lease.release()

    def result(self) -> dict[str, Any]:
        """The figures, from what is stored."""
        counted = figures(self.store, self.evaluation, self.source.skipped, self._anchors)
        question = question_of(self.store, self.evaluation)
        described = {"question": question} if question else {}
        return described | ({"warnings": self._warnings} if self._warnings else {}) | counted

    # -- answers ----------------------------------------------------------------------------

    def _answers(self, side: Side, turn: int) -> None:
        stage = f"answers-{side}"
        stored_answers = self._rows.answers(self._id)
        unanswered = [
            i for i in self._items if len(i.turns) >= turn and (i.item, side, turn) not in stored_answers
        ]
        given_answers = self._given(side, unanswered)
        if given_answers is not None:
            self._rows.add_answers(self._id, given_answers)
            return
        contestant = self.contestants.get(side)
        if contestant is None or not unanswered:
            return
        conversations = {i.item: _conversation(i, side, turn, stored_answers) for i in unanswered}
        keys = {i.item: answer_key(contestant, self._writing, conversations[i.item]) for i in unanswered}
        stored_before = self._rows.known_answers(keys.values())
        for item, address in keys.items():
            first = first_answer_key(contestant, self._writing, conversations[item])
            if address not in stored_before and first is not None:
                for earlier_answer in self._rows.known_answers([first]).values():
                    stored_before[address] = earlier_answer
        with self.store.transaction():
            for item, address in keys.items():
                if address in stored_before:
                    self._rows.use_answer(self._id, item, side, turn, stored_before[address])
        to_write = [i.item for i in unanswered if keys[i.item] not in stored_before]
        total = sum(len(i.turns) >= turn for i in self._items)
        self._start(stage, total - len(to_write), total)
        if not to_write:
            return
        if self._writer is None:
            self.reporter.event("info", f"Loading {contestant.name} ...")
            self._writer = self._place.writer(contestant, self._writing, self.reporter.event)
            self._clock = time.monotonic()
        for n, answer in self._writer.write([conversations[item] for item in to_write], self._should_stop):
            self._rows.add_answers(self._id, [(to_write[n], side, turn, answer)])
            self._tokens += answer.prompt_tokens + answer.new_tokens
            self._step(stage)
        self._raise_if_stopped()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _given(self, side: Side, unanswered: Sequence[Item]) -> list[tuple[int, Side, int, Answer]] | None:
        """Texts that come with the source, or from a file of answers; None where a model has to write."""
        contestant, kind = self.contestants.get(side), self.evaluation.kind
        name = self.evaluation.contestant_a if side == "a" else self.evaluation.contestant_b or ""
        if contestant is not None and contestant.texts is not None:
            texts = {i.item: contestant.texts[asked_text(i)] for i in unanswered}
        elif contestant is None and kind in ("calibration", "winrate"):
            place = 1 if kind == "calibration" and side == "b" else 0
            texts = {i.item: self.source.answers[i.item][place] for i in unanswered}
        else:
            return None
        return [(item, side, 1, file_answer(text, name)) for item, text in texts.items()]

    # -- judgements -------------------------------------------------------------------------

    def _judge_scores(self) -> None:
        judge = self.judge
        assert judge is not None  # noqa: S101 - asked by the caller
        stored_places = {(j.item, j.turn, j.ordering) for j in self._rows.judgements(self._id)}
        answers = self._rows.answers(self._id)
        questions = list(self._asked(answers))
        unjudged = []
        with self.store.transaction():
            for question, missing in questions:
                if (question.item, question.turn, question.ordering) in stored_places:
                    continue
                known = (
                    None
                    if missing
                    else self._rows.known_judgement(judge.key(question), judge.first_key(question))
                )
                if missing:
                    self._keep(
                        question,
                        answers,
                        Judgement(question.item, question.ordering, question.turn, parsed=missing),
                    )
                elif known is not None:
                    self._keep(question, answers, _as_shown(known, question.ordering))
                else:
                    unjudged.append(question)
        self._start("judge", len(questions) - len(unjudged), len(questions))
        if not unjudged:
            return
        self.reporter.event("info", f"Loading the judge {judge.name} ...")
        there = self._place.judge(judge, self.reporter.event)
        for question, scored, seconds, tokens in there.scores(unjudged, self._should_stop):
            self._keep(question, answers, _judgement(judge, question, scored, seconds))
            self._tokens += tokens
            self._step("judge")
        self._raise_if_stopped()

    def _judge_words(self) -> None:
        judge = self.judge
        assert judge is not None  # noqa: S101 - asked by the caller
        if not judge.words:
            return
        answers = self._rows.answers(self._id)
        rows = {(j.item, j.turn, j.ordering): j for j in self._rows.judgements(self._id)}
        unjudged = [
            question
            for question, missing in self._asked(answers)
            if not missing and _wants_words(rows[question.item, question.turn, question.ordering])
        ]
        self._start("judge-words", len(rows) - len(unjudged), len(rows))
        if not unjudged:
            return
        there = self._place.judge(judge, self.reporter.event)
        for question, text, tokens in there.write(unjudged, self._should_stop):
            scores, parsed = judge.prompt.parse(text)
            first, second = scores[0] if scores else None, scores[1] if len(scores) > 1 else None
            if question.ordering == "ba":
                first, second = second, first
            row = rows[question.item, question.turn, question.ordering]
            self._rows.add_judgements(
                self._id,
                [replace(row, words=text, text_score_a=first, text_score_b=second, parsed=parsed)],
            )
            self._tokens += tokens
            self._step("judge-words")
        self._raise_if_stopped()

    def _asked(self, answers: Mapping[tuple[int, Side, int], Answer]) -> Iterator[tuple[JudgeQuestion, str]]:
        """Every question to the judge, with the reason why it cannot be asked, or ""."""
        for item in self._items:
            for turn in range(1, len(item.turns) + 1):
                a = answers[item.item, "a", turn]
                if self.evaluation.kind == "turns":
                    missing = "" if a.text.strip() else f"no answer ({a.finish})"
                    reference = (
                        item.reference[turn - 1] if item.reference and len(item.reference) >= turn else ""
                    )
                    yield (
                        JudgeQuestion(
                            item.item, turn, "a", _history(item, turn, answers), (a.text,), reference
                        ),
                        missing,
                    )
                    continue
                b = answers[item.item, "b", turn]
                without_text = [f"{n} ({x.finish})" for n, x in (("A", a), ("B", b)) if not x.text.strip()]
                missing = f"no answer of {' or '.join(without_text)}" if without_text else ""
                for order in _BOTH:
                    shown = (a.text, b.text) if order == "ab" else (b.text, a.text)
                    yield JudgeQuestion(item.item, turn, order, item.turns[0], shown), missing

    def _keep(
        self, question: JudgeQuestion, answers: Mapping[tuple[int, Side, int], Answer], judgement: Judgement
    ) -> None:
        b = answers.get((question.item, "b", question.turn))
        self._rows.add_judgements(
            self._id,
            [
                replace(
                    judgement,
                    item=question.item,
                    turn=question.turn,
                    ordering=question.ordering,
                    answer_a_id=answers[question.item, "a", question.turn].id,
                    answer_b_id=b.id if b else None,
                )
            ],
        )

    # -- progress and stopping --------------------------------------------------------------

    def _raise_if_stopped(self) -> None:
        if self._should_stop():
            raise Stopped

    def _start(self, stage: str, done: int, total: int) -> None:
        self._raise_if_stopped()
        self._clock, self._tokens, self._stored_at = time.monotonic(), 0, 0.0
        self._done, self._total = done, total
        self._report_progress(stage, now=True)

    def _step(self, stage: str) -> None:
        self._done += 1
        self._report_progress(stage, now=self._done == self._total)

    def _report_progress(self, stage: str, *, now: bool = False) -> None:
        seconds = time.monotonic() - self._clock
        self.reporter.progress(Progress(stage, self._done, self._total, self._tokens, seconds))
        if now or time.monotonic() - self._stored_at > 1.0:
            self._stored_at = time.monotonic()
            self._rows.update(self._id, stage=stage, done=self._done, total=self._total)


def _conversation(
    item: Item, side: Side, turn: int, answers: Mapping[tuple[int, Side, int], Answer]
) -> Turns:
    """What the contestant sees at a turn: what was asked so far, and its own earlier answers."""
    turns: list[tuple[str, str]] = [parts(item)]
    for n in range(1, turn):
        turns += [(answers[item.item, side, n].text, ""), (item.turns[n], "")]
    return tuple(turns)


def _history(item: Item, turn: int, answers: Mapping[tuple[int, Side, int], Answer]) -> str:
    """The conversation as the judge reads it, up to the answer that is judged."""
    lines = []
    for n in range(1, turn):
        lines += [f"User: {item.turns[n - 1]}", f"Assistant: {answers[item.item, 'a', n].text}"]
    return "\n\n".join([*lines, f"User: {item.turns[turn - 1]}"])


def _judgement(
    judge: JudgeModel, question: JudgeQuestion, scored: JudgeScores | str, seconds: float
) -> Judgement:
    sides: tuple[Side, Side] = ("b", "a") if question.ordering == "ba" else ("a", "b")
    if isinstance(scored, str):
        shown = {"answer_1_too_long": sides[0], "answer_2_too_long": sides[1]}
        reason = TOO_LONG[shown[scored]] if scored in shown else scored
        return Judgement(question.item, question.ordering, question.turn, parsed=reason, seconds=seconds)
    named = dict(zip(sides, zip(scored.scores, scored.probabilities, scored.mass, strict=True), strict=False))
    probabilities: dict[str, Any] = {side: list(named[side][1]) for side in sorted(named)}
    if scored.prefers_first is not None:
        first = scored.prefers_first
        probabilities["prefers_a"] = first if sides[0] == "a" else 1.0 - first
    return Judgement(
        question.item,
        question.ordering,
        question.turn,
        key=judge.key(question),
        score_a=named["a"][0],
        score_b=named["b"][0] if "b" in named else None,
        probabilities=probabilities | {"mass": [named[side][2] for side in sorted(named)]},
        parsed="not asked",
        seconds=seconds,
    )


def _as_shown(judgement: Judgement, order: Ordering) -> Judgement:
    """A judgement of another evaluation, where the sides may have had each other's names."""
    if judgement.ordering == order:
        return judgement
    p = judgement.probabilities
    return replace(
        judgement,
        score_a=judgement.score_b,
        score_b=judgement.score_a,
        text_score_a=judgement.text_score_b,
        text_score_b=judgement.text_score_a,
        probabilities=p
        and {"a": p["b"], "b": p["a"], "mass": p["mass"][::-1]}
        | ({"prefers_a": 1.0 - p["prefers_a"]} if "prefers_a" in p else {}),
    )


def _wants_words(judgement: Judgement) -> bool:
    return judgement.score_a is not None and judgement.parsed == "not asked"
