"""The batched sampler against transformers' own generate, one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtui.evaluation.contestants import Contestant
from srtui.evaluation.writing import StudentWriter, Turns, Writing, answer_key, file_answer

TURNS: list[Turns] = [
    (("Name a fruit.", ""),),
    (("Explain in one sentence why the sky is blue during the day.", ""),),
    (("Add the numbers.", "2 and 3"),),
    (("Name a fruit.", ""), ("An apple.", ""), ("And a second one?", "")),
]


def test_keys_are_of_all_that_determines_a_text() -> None:
    one = Contestant("x", "student", Path("m"), "sha", quantization="nf4", template="alpaca")
    keys = {
        answer_key(one, Writing(), TURNS[0]),
        answer_key(one, Writing(seed=1), TURNS[0]),
        answer_key(one, Writing(max_tokens=9), TURNS[0]),
        answer_key(one, Writing(), TURNS[1]),
        answer_key(one, Writing(), TURNS[3]),
        answer_key(Contestant("x", "student", Path("m"), "sha", quantization="nf4"), Writing(), TURNS[0]),
        answer_key(Contestant("x", "student", Path("m"), "other", template="alpaca"), Writing(), TURNS[0]),
    }
    assert len(keys) == 7
    renamed = Contestant("y", "student", Path("n"), "sha", quantization="nf4", template="alpaca")
    assert answer_key(renamed, Writing(), TURNS[0]) in keys  # a name determines nothing
    assert file_answer("a", "m").key == file_answer("a", "n").key != file_answer("b", "m").key
    assert file_answer(" ", "m").finish == "empty"


@pytest.mark.model
@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_a_batch_is_what_each_would_be_alone(student_folder: Path, template: str) -> None:
    import torch

    contestant = Contestant("s", "student", student_folder, "sha", quantization="f32", template=template)
    writer = StudentWriter(contestant, Writing(max_tokens=10))
    written = dict(writer.write(TURNS, lambda: False))
    assert sorted(written) == [0, 1, 2, 3]
    tokenizer, model = writer.student.tokenizer, writer.student.model
    for n, turns in enumerate(TURNS):
        _, ids = writer._spans.conversation(turns)
        with torch.inference_mode():
            alone = model.generate(
                torch.tensor([ids]),
                max_new_tokens=10,
                do_sample=False,
                eos_token_id=writer._ends,
                pad_token_id=0,
            )[0, len(ids) :]
        assert written[n].text == tokenizer.decode(alone, skip_special_tokens=True).strip()
        assert written[n].prompt_tokens == len(ids) and written[n].finish in ("end", "length")
    assert "2 and 3" in written[2].prompt and "An apple." in written[3].prompt
    if template == "chat":  # token for token what the model's own template gives
        messages = [{"role": "user", "content": "Name a fruit."}]
        own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert writer._spans.conversation(TURNS[0])[1] == list(own)
    assert dict(writer.write(TURNS, lambda: True)) == {}
    [(_, refused)] = writer.write([(("word " * 9000, ""),)], lambda: False)
    assert refused.finish == "too_long" and refused.text == ""
