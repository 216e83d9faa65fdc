"""Students whose positions change beyond a length (longrope): what they write is what they write alone, and as they
are scored, on both sides of it and across."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from srtui.evaluation.contestants import Contestant
from srtui.evaluation.writing import AnswerSettings, StudentWriter, Turns
from srtui.student import legs

pytestmark = pytest.mark.model
LIMIT, NEW = 96, 12
# Under the template's words: below the limit, just below so that the answer crosses it, and beyond.
TURNS: list[Turns] = [((f"Name a fruit.{' word' * n}", ""),) for n in (0, 160, 56, 3, 61, 200)]


@pytest.fixture(scope="module", params=["Llama", "Phi3"])
def folder(
    request: pytest.FixtureRequest, student_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    import transformers

    torch.manual_seed(3)
    rope: dict[str, Any] = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": LIMIT, "factor": 4.0,
        "short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0],
    }  # fmt: skip
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        original_max_position_embeddings=LIMIT, rope_parameters=rope, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("longrope") / request.param
    getattr(transformers, f"{request.param}ForCausalLM")(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (student_folder / name).exists():
            shutil.copy(student_folder / name, folder / name)
    return folder


def writer(folder: Path, **how: Any) -> StudentWriter:
    one = Contestant("s", "student", folder, "sha", quantization="f32", template="alpaca")
    return StudentWriter(one, AnswerSettings(max_tokens=NEW, **how))


def alone(written: StudentWriter, turns: Turns) -> list[int]:
    """Greedy, each token by one pass over all that is before it: as a scorer sees the same text."""
    ids = list(written._spans.conversation(turns)[1])
    size = len(ids)
    while len(ids) < size + NEW:
        with torch.inference_mode():
            logits = written.student.model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in written._generator.ends:
            break
    return ids[size:]


def test_it_writes_what_it_would_alone(folder: Path) -> None:
    writes = writer(folder)
    sizes = [len(writes._spans.conversation(turns)[1]) for turns in TURNS]
    assert sum(size + NEW <= LIMIT for size in sizes) == 2 == sum(size > LIMIT for size in sizes)
    found = dict(writes.write(TURNS, lambda: False))
    for n, turns in enumerate(TURNS):
        ids = alone(writes, turns)
        text = writes.student.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert (n, found[n].text, found[n].new_tokens) == (n, text, len(ids))
    writes.close()


def test_what_it_draws_does_not_depend_on_those_beside_it(folder: Path) -> None:
    writes = writer(folder, temperature=1.0, seed=3)
    together = {n: a.text for n, a in writes.write(TURNS, lambda: False)}
    assert {n: next(writes.write([t], lambda: False))[1].text for n, t in enumerate(TURNS)} == together
    writes.close()


def test_a_chat_crosses_it_too(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from srtui.pipeline.side_by_side import SideBySide

    writes = writer(folder)
    chat = SideBySide.__new__(SideBySide)
    chat._student, chat._spans, chat._generator = writes.student, writes._spans, writes._generator
    chat._tokens, chat._temperature, chat._seed = NEW, 0.0, 0
    expected = [alone(writes, turns) for turns in TURNS]
    chat._student.model = get_peft_model(chat._student.model, LoraConfig(target_modules=["o_proj"]))
    for turns, ids in zip(TURNS, expected, strict=True):
        said = list(chat.ask(turns[0][0]))
        for side in ("base", "tuned"):  # an adapter that is not trained changes nothing
            text = "".join(piece for at, piece in said if at == side)
            assert text.strip() == chat._student.tokenizer.decode(ids, skip_special_tokens=True).strip()
    writes.close()


def test_where_the_cache_is_made_anew() -> None:
    assert legs(90, 12, None) == [12]
    assert legs(97, 12, 96) == [12]  # beyond it already
    assert legs(85, 12, 96) == [12]  # the last token is drawn from 96
    assert legs(86, 12, 96) == [11, 1]
    assert legs(96, 12, 96) == [1, 11]
