"""A GGUF as a rater of data: the machinery of the judge model, with its scores kept by text.

``score`` is absolute, from 1 to 10 by token probabilities, as Deita and AlpaGasus rate data (Liu et al. 2024, arXiv
2312.15685; Chen et al. 2023, arXiv 2307.08701). ``preference`` shows two answers to one question in both orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from srtui.evaluation.judge_model import JudgeModel, JudgeQuestion, JudgeScores, load_judge_prompt
from srtui.measures import NOTHING_TO_SCORE, Value
from srtui.prompts import PromptTemplate
from srtui.sample import Pair
from srtui.store import Store

ReportShare = Callable[[int, float], None]
"""(tokens run since the last call, share of this call that is done)."""


class Rater:
    """The model called ``name`` in the models folder. Raises UserError where it is no GGUF.

    What it said is stored, by its weights, its prompt and the texts, and asked once.
    """

    def __init__(self, store: Store, models: Path, name: str) -> None:
        self.name, self._store = name, store
        self._single = JudgeModel.find(models, name, load_judge_prompt("single", 1), 0)
        self._pairwise = JudgeModel.find(models, name, load_judge_prompt("pairwise", 2), 0)

    @property
    def file(self) -> str:
        """What its file is called, without its ending, whichever name it was found by."""
        return self._single.path.stem

    @property
    def identity(self) -> dict[str, str]:
        """What a stored result that rests on its scores depends on."""
        return {
            "model": self._single.sha256,
            "single": self._single.prompt.prompt_version,
            "pairwise": self._pairwise.prompt.prompt_version,
        }

    @property
    def model(self) -> str:
        """What its file is called, without ``.gguf``, whatever it was asked for by."""
        return self._single.path.stem

    def scores(
        self, pairs: Sequence[Pair], report_share: ReportShare = lambda tokens, share: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Value]:  # fmt: skip
        """The expected score of each response, 1 to 10, or the reason why there is none: a blank response, or the
        judge's (``judge_context``: longer than its context). Where it was asked to stop, ``stopped``."""
        questions = [JudgeQuestion(n, 1, "a", _question(p), (p.response,)) for n, p in enumerate(pairs)]
        return self._ask(self._single, questions, lambda s: s.scores[0], report_share, should_stop)

    def preferences(
        self, pairs: Sequence[tuple[Pair, str]], report_share: ReportShare = lambda tokens, share: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Value]:  # fmt: skip
        """For each (pair, other response) the probability that the pair's own response is the better one, over both
        orders; or the reason why there is none."""
        questions = [q for n, (pair, other) in enumerate(pairs) for q in _both_orders(n, pair, other)]
        preferences = self._ask(
            self._pairwise, questions, lambda s: s.prefers_first, report_share, should_stop
        )
        order_pairs = zip(preferences[::2], preferences[1::2], strict=True)
        return [
            (None, why or reason) if ahead is None or behind is None else ((ahead + 1 - behind) / 2, None)
            for (ahead, why), (behind, reason) in order_pairs
        ]

    def known_preferences(self, pairs: Sequence[tuple[Pair, str]]) -> list[float | None]:
        """As :meth:`preferences`, of what was asked before alone: no model is loaded. None where it was not asked, or
        did not say."""
        keys = [
            self._pairwise.key(question) for pair, other in pairs for question in _both_orders(0, pair, other)
        ]
        stored = self._store.ratings.of(keys)
        values = [stored.get(key, (None, None))[0] for key in keys]
        return [
            None if ahead is None or behind is None else (ahead + 1 - behind) / 2
            for ahead, behind in zip(values[::2], values[1::2], strict=True)
        ]

    def _ask(
        self,
        model: JudgeModel,
        questions: Sequence[JudgeQuestion],
        value: Callable[[JudgeScores], float | None],
        report_share: ReportShare,
        should_stop: Callable[[], bool],
    ) -> list[Value]:
        keys = [model.key(question) for question in questions]
        stored = self._store.ratings.of(keys)
        missing = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in stored and all(text.strip() for text in question.shown)
        }
        by_place = {id(question): key for key, question in missing.items()}
        if missing:
            for n, (question, scored, _, tokens) in enumerate(model.scores(list(missing.values())), 1):
                rating: Value = (None, scored) if isinstance(scored, str) else (value(scored), None)
                stored[by_place[id(question)]] = rating
                self._store.ratings.add(by_place[id(question)], *rating)
                report_share(tokens, n / len(missing))
                if should_stop():
                    break
        return [stored.get(key, (None, "stopped" if key in missing else NOTHING_TO_SCORE)) for key in keys]


def _both_orders(item: int, pair: Pair, other: str) -> tuple[JudgeQuestion, JudgeQuestion]:
    return (
        JudgeQuestion(item, 1, "ab", _question(pair), (pair.response, other)),
        JudgeQuestion(item, 1, "ba", _question(pair), (other, pair.response)),
    )


def _question(pair: Pair) -> str:
    """What the responses answer, behind the turns that it refers to."""
    before = [f"{turn.role.capitalize()}: {turn.text}\n\n" for turn in pair.history]
    prompt = PromptTemplate.target_of(pair.instruction, pair.input)
    return f"{''.join(before)}User: {prompt}" if before else prompt
