"""A real small model as judge: its probabilities against a pass of its own, its prompt, its words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from srtui.errors import UserError
from srtui.evaluation.judge import SCORES, Asked, Judge, load_judge_prompt
from srtui.scoring import Student

QUESTION = Asked(
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
        "known to be right:\nblue" in prompt.messages(Asked(0, 1, "ab", "q", ("a", "b"), "blue"))[1].content
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
def test_scores_are_the_models_own_probabilities(teacher_file: Path, student_folder: Path) -> None:
    """Against transformers in float32, a sequence at a time; 8-bit arithmetic is what is between them."""
    import torch

    prompt = load_judge_prompt("pairwise", 2)
    judge = Judge("small", teacher_file, "sha", prompt, 0)
    [(asked, scored, seconds, tokens)] = judge.scores([QUESTION])
    assert asked == QUESTION and scored is not None and seconds > 0 and tokens > 100
    assert all(math.isclose(sum(row), 1.0, abs_tol=1e-9) for row in scored.probabilities)
    assert all(1 <= s <= 10 for s in scored.scores)
    assert all(0 < m <= 1 for m in scored.mass)

    student = Student.load(student_folder, "f32")
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages(QUESTION)]
    chat = student.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for n, lead in enumerate(prompt.leads):
        start = len(student.tokenizer.encode(chat + lead))
        likelihoods = []
        for k in SCORES:
            ids = torch.tensor([student.tokenizer.encode(f"{chat}{lead}{k}/")])
            with torch.inference_mode():
                logs = student.model(ids).logits[0].log_softmax(-1)
            likelihoods.append(sum(float(logs[at - 1, ids[0, at]]) for at in range(start, ids.shape[1])))
        assert scored.mass[n] == pytest.approx(sum(map(math.exp, likelihoods)), rel=0.5)
        reference = np.exp(np.array(likelihoods) - max(likelihoods))
        assert np.abs(np.array(scored.probabilities[n]) - reference / reference.sum()).max() < 0.1


@pytest.mark.model
def test_words_come_from_the_engine(teacher_file: Path) -> None:
    judge = Judge("small", teacher_file, "sha", load_judge_prompt("pairwise", 2), 12)
    [(asked, words, tokens)] = judge.write([QUESTION], lambda: False)
    assert asked == QUESTION and words.strip() and tokens > 100


@pytest.mark.model
def test_what_no_context_holds_is_not_scored(teacher_file: Path) -> None:
    judge = Judge("small", teacher_file, "sha", load_judge_prompt("pairwise", 2), 0)
    long = Asked(0, 1, "ab", "word " * 9000, ("a", "b"))
    found = [scored for _, scored, _, _ in judge.scores([long, QUESTION])]
    assert found[0] is None and found[1] is not None
