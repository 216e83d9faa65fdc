"""The batched sampler against transformers' own generate, one prompt at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from srtui.evaluation.contestants import Contestant
from srtui.evaluation.writing import AnswerSettings, StudentWriter, Turns, answer_key, file_answer
from tests.tiny_pair import VOCABULARY, small_tokenizer

TURNS: list[Turns] = [
    (("Name a fruit.", ""),),
    (("Explain in one sentence why the sky is blue during the day.", ""),),
    (("Add the numbers.", "2 and 3"),),
    (("Name a fruit.", ""), ("An apple.", ""), ("And a second one?", "")),
]


def test_keys_are_of_all_that_determines_a_text() -> None:
    one = Contestant("x", "student", Path("m"), "sha", quantization="nf4", template="alpaca")
    keys = {
        answer_key(one, AnswerSettings(), TURNS[0]),
        answer_key(one, AnswerSettings(seed=1), TURNS[0]),
        answer_key(one, AnswerSettings(max_tokens=9), TURNS[0]),
        answer_key(one, AnswerSettings(), TURNS[1]),
        answer_key(one, AnswerSettings(), TURNS[3]),
        answer_key(
            Contestant("x", "student", Path("m"), "sha", quantization="nf4"), AnswerSettings(), TURNS[0]
        ),
        answer_key(
            Contestant("x", "student", Path("m"), "other", template="alpaca"), AnswerSettings(), TURNS[0]
        ),
    }
    assert len(keys) == 7
    renamed = Contestant("y", "student", Path("n"), "sha", quantization="nf4", template="alpaca")
    assert answer_key(renamed, AnswerSettings(), TURNS[0]) in keys  # a name determines nothing
    assert file_answer("a", "m").key == file_answer("a", "n").key != file_answer("b", "m").key
    assert file_answer(" ", "m").finish == "empty"


@pytest.fixture(scope="module")
def tiny(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers that draws all over its vocabulary, with the real student's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("tiny") / "student"
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer(student_folder, folder)
    return folder


def test_greedy_inherits_nothing(tiny: Path, tmp_path: Path) -> None:
    """A repetition_penalty in the model's own generation_config changed what "greedy" wrote."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    other = tmp_path / "penalised"
    shutil.copytree(tiny, other)
    own = {
        "repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "min_new_tokens": 9, "do_sample": True,
        "temperature": 3.0, "suppress_tokens": list(range(2000)), "num_beams": 3,
    }  # fmt: skip
    (other / "generation_config.json").write_text(json.dumps(own))
    adapter = tmp_path / "adapter"  # an adapter's model has a generation_config of its own
    loaded = AutoModelForCausalLM.from_pretrained(tiny)
    get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        adapter
    )
    texts = []
    for folder, added in ((tiny, None), (other, None), (other, adapter)):
        one = Contestant("s", "student", folder, "sha", added, quantization="f32", template="alpaca")
        writer = StudentWriter(one, AnswerSettings(max_tokens=12))
        texts.append([a.text for _, a in sorted(writer.write(TURNS, lambda: False), key=lambda x: x[0])])
        writer.close()
    assert texts[0] == texts[1] == texts[2] and any(texts[0])


def test_a_drawn_answer_does_not_depend_on_those_beside_it(tiny: Path) -> None:
    """A resumed evaluation makes other batches, and an answer's address does not hold its neighbours."""
    one = Contestant("s", "student", tiny, "sha", quantization="f32", template="alpaca")
    writer = StudentWriter(one, AnswerSettings())

    def written(turns: list[Turns], **changed: float) -> dict[int, str]:
        asked = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": 3} | changed
        writer._writing = AnswerSettings(**asked)  # type: ignore[arg-type]
        return {n: answer.text for n, answer in writer.write(turns, lambda: False)}

    together = written(TURNS)
    assert [written([turns])[0] for turns in TURNS] == [together[n] for n in range(len(TURNS))]
    assert written(TURNS, seed=4)[0] != together[0]
    # Nearly nothing left to draw from is the likeliest token.
    assert written(TURNS, top_p=1e-6) == written(TURNS, temperature=0.0)


def test_all_that_is_used_is_stored_and_hashed() -> None:
    greedy, drawn = AnswerSettings(), AnswerSettings(temperature=0.7, top_p=0.9)
    assert greedy.facts == {
        "max_tokens": 512, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0,
        "repeat_window": 0,
    }  # fmt: skip
    assert drawn.facts["temperature"] == 0.7 and drawn.facts["top_p"] == 0.9
    one = Contestant("x", "student", Path("m"), "sha", quantization="nf4", template="alpaca")
    assert answer_key(one, greedy, TURNS[0]) != answer_key(one, drawn, TURNS[0])
    # What a greedy text does not depend on is no part of its address.
    assert answer_key(one, greedy, TURNS[0]) == answer_key(one, AnswerSettings(top_p=0.5), TURNS[0])


@pytest.mark.model
@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_a_batch_is_what_each_would_be_alone(pair_folder: Path, template: str) -> None:
    import torch

    contestant = Contestant(
        "s", "student", pair_folder / "tiny", "sha", quantization="f32", template=template
    )
    writer = StudentWriter(contestant, AnswerSettings(max_tokens=10))
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
                eos_token_id=writer._generator.ends,
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
