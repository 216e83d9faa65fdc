"""A real small model as judge: its probabilities against a pass of its own, its prompt, its words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from srtui.errors import UserError
from srtui.evaluation.judge_model import (
    SCORES,
    JudgeModel,
    JudgeQuestion,
    JudgeScores,
    _together,
    load_judge_prompt,
)
from srtui.llama.losses import LlamaLosses
from srtui.student import Student

QUESTION = JudgeQuestion(
    0, 1, "ab", "Name three primary colours.", ("Red, yellow and blue.", "I like {curly} trains.")
)


def test_words_are_parsed_or_not_with_a_reason() -> None:
    prompt = load_judge_prompt("pairwise", 2)
    assert prompt.parse("Answer 1: 7/10\nanswer 2:  4.5 /10\nBecause.") == ([7.0, 4.5], "parsed")
    assert prompt.parse("**Answer 1:** 7/10 Answer 2: 3/10")[1] == "parsed"
    assert prompt.parse("Both are good.") == ([], "no_score")
    assert prompt.parse(" \n") == ([], "empty")
    assert prompt.parse("Answer 1: 70/10 Answer 2: 3/10") == ([], "out_of_range")


def test_a_prompt_fills_once_over_and_carries_its_version(tmp_path: Path) -> None:
    prompt = load_judge_prompt("pairwise", 2)
    user = prompt.messages(QUESTION)[1].content
    assert "I like {curly} trains." in user and "known to be right" not in user
    assert (
        "known to be right:\nblue"
        in prompt.messages(JudgeQuestion(0, 1, "ab", "q", ("a", "b"), "blue"))[1].content
    )
    own = tmp_path / "own.toml"
    text = (
        'version = "1"\nleads = ["Answer 1: ", "Answer 2: "]\nending = "/10"\nsystem = "s"\nreference = ""\n'
    )
    own.write_text(text + 'user = "{question} {answer_1} {answer_2}"\n')
    assert load_judge_prompt(str(own), 2).prompt_version != prompt.prompt_version
    own.write_text(text + 'user = "{question} {answr_1}"\n')
    with pytest.raises(UserError, match="answr_1"):
        load_judge_prompt(str(own), 2)
    with pytest.raises(UserError, match="leads has 2 texts"):
        load_judge_prompt("pairwise", 1)
    with pytest.raises(UserError, match="no judge prompt"):
        load_judge_prompt("nothing", 2)
    own.write_text("version = \n")
    with pytest.raises(UserError, match=r"own\.toml: not valid TOML"):
        load_judge_prompt(str(own), 2)


@pytest.mark.model
def test_scores_are_the_models_own_probabilities(pair_folder: Path) -> None:
    """Against transformers in float32, a sequence at a time; 16-bit keys and values are what is between them."""
    import torch

    teacher_file = pair_folder / "tiny.F16.gguf"

    prompt = load_judge_prompt("pairwise", 2)
    judge = JudgeModel("small", teacher_file, "sha", prompt, 0)
    [(asked, scored, seconds, tokens)] = judge.scores([QUESTION])
    assert asked == QUESTION and isinstance(scored, JudgeScores) and seconds > 0 and tokens > 100
    assert all(math.isclose(sum(row), 1.0, abs_tol=1e-9) for row in scored.probabilities)
    assert all(1 <= s <= 10 for s in scored.scores)
    assert all(0 < m <= 1 for m in scored.mass)

    student = Student.load(pair_folder / "tiny", "f32")
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages(QUESTION)]
    chat = student.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    first = scored.probabilities[0]
    best = max(SCORES, key=lambda k: first[k - 1])
    for n, lead in enumerate((prompt.leads[0], prompt.behind(best))):
        start = len(student.tokenizer.encode(chat + lead))
        likelihoods = []
        for k in SCORES:
            ids = torch.tensor([student.tokenizer.encode(f"{chat}{lead}{k}/")])
            with torch.inference_mode():
                logs = student.model(ids).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logs[at - 1, ids[0, at]]) for at in range(start, ids.shape[1])))
        reference = np.exp(np.array(likelihoods) - max(likelihoods))
        reference /= reference.sum()
        if n == 0:
            assert scored.mass[n] == pytest.approx(sum(map(math.exp, likelihoods)), rel=0.05)
            assert np.abs(np.array(scored.probabilities[n]) - reference).max() < 0.01
        else:  # the second answer's distribution where the first has its likeliest score
            losses = LlamaLosses(teacher_file)
            [row] = losses.of_options(prompt.messages(QUESTION), [(lead, [f"{k}/" for k in SCORES])]) or [[]]
            losses.close()
            mine = np.exp(min(row) - np.array(row))
            assert np.abs(mine / mine.sum() - reference).max() < 0.01


@pytest.mark.model
def test_the_second_score_stands_behind_the_first(pair_folder: Path) -> None:
    """It was scored behind nothing: "Answer 2: " with no first score before it."""
    teacher_file = pair_folder / "tiny.F16.gguf"
    prompt = load_judge_prompt("pairwise", 2)
    assert prompt.behind(7) == "Answer 1: 7/10\nAnswer 2: "
    judge = JudgeModel("small", teacher_file, "sha", prompt, 0)
    [(_, scored, _, _)] = judge.scores([QUESTION])
    assert isinstance(scored, JudgeScores) and scored.prefers_first is not None
    losses, options = LlamaLosses(teacher_file), [f"{k}/" for k in SCORES]
    messages = prompt.messages(QUESTION)
    alone = losses.of_options(messages, [(prompt.leads[0], options), (prompt.leads[1], options)])
    assert alone is not None
    rows = losses.of_options(messages, [(prompt.behind(k), options) for k in SCORES])
    assert rows is not None
    for k in (3, 8):  # each by itself is what it is among the others, on a prompt that is kept
        [row] = losses.of_options(messages, [(prompt.behind(k), options)]) or [[]]
        assert row == pytest.approx(rows[k - 1], abs=0.3)  # 8-bit arithmetic rounds by batch
    behind = [np.exp(min(row) - np.array(row)) for row in rows]
    behind = [row / row.sum() for row in behind]
    losses.close()
    first = np.array(scored.probabilities[0])
    joint = first[:, None] * np.array(behind)
    assert np.abs(joint.sum(axis=0) - np.array(scored.probabilities[1])).max() < 1e-6
    prefers = np.tril(joint, -1).sum() + np.trace(joint) / 2
    assert scored.prefers_first == pytest.approx(prefers, abs=1e-6)
    marginal = np.exp(min(alone[1]) - np.array(alone[1]))
    assert np.abs(marginal / marginal.sum() - np.array(scored.probabilities[1])).max() > 1e-3


def test_both_scores_together_by_hand() -> None:
    def peak(*weights: tuple[int, float]) -> tuple[float, ...]:
        return tuple(dict(weights).get(k, 0.0) for k in SCORES)

    # The first has 4 or 8; the second always has one more than the first, so it is always preferred,
    # though the two margins alone would say that it is so in 3 of 4.
    found = _together([4, 8], peak((4, 0.5), (8, 0.5)), 0.9, [(peak((5, 1.0)), 0.4), (peak((9, 1.0)), 0.2)])
    assert found.prefers_first == 0.0 and found.scores == (6.0, 7.0)
    assert found.mass == (0.9, pytest.approx(0.3))


def test_what_is_scored_otherwise_has_another_version(tmp_path: Path) -> None:
    """Judgements are found again by version: those of two marginals (1-...) are mixed with none of these."""
    pair, single = load_judge_prompt("pairwise", 2), load_judge_prompt("single", 1)
    assert pair.prompt_version.startswith("2-")
    own = tmp_path / "own.toml"
    text = (
        'version = "1"\nleads = ["Answer 1: ", "Answer 2: "]\nending = "/10"\nsystem = "s"\nreference = ""\n'
    )
    own.write_text(text + 'user = "{question} {answer_1} {answer_2}"\n')
    assert load_judge_prompt(str(own), 2).prompt_version != "1-502f9149"  # as it was
    assert single.prompt_version == "1-f129ec09"  # nothing about it has changed


@pytest.mark.model
def test_words_come_from_the_engine(pair_folder: Path) -> None:
    judge = JudgeModel("small", pair_folder / "tiny.F16.gguf", "sha", load_judge_prompt("pairwise", 2), 12)
    [(asked, words, tokens)] = judge.write([QUESTION], lambda: False)
    assert asked == QUESTION and words.strip() and tokens > 100


@pytest.mark.model
def test_what_no_context_holds_is_not_scored(pair_folder: Path) -> None:
    judge = JudgeModel("small", pair_folder / "tiny.F16.gguf", "sha", load_judge_prompt("pairwise", 2), 0)
    long = JudgeQuestion(0, 1, "ab", "word " * 9000, ("a", "b"))
    found = [scored for _, scored, _, _ in judge.scores([long, QUESTION])]
    assert found[0] == "judge_context" and isinstance(found[1], JudgeScores)
    words = (
        JudgeQuestion(0, 1, "ab", "q", ("word " * 9000, "b")),
        JudgeQuestion(0, 1, "ba", "q", ("a", "word " * 9000)),
    )
    assert [s for _, s, _, _ in judge.scores(words)] == ["answer_1_too_long", "answer_2_too_long"]
