"""What a student is called in the store: everything that its scores depend on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srtui.pipeline.variants import VariantScorer
from srtui.sample import Pair
from srtui.store import Store
from srtui.store.imports import NewRow
from srtui.student import Student
from tests.sql import sql_rows
from tests.tiny_pair import VOCABULARY, small_tokenizer

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def tiny(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "student"
    torch.manual_seed(5)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True,
        )
    ).save_pretrained(folder)  # fmt: skip
    small_tokenizer(student_folder, folder)
    return folder


def edit_template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def judge(store: Store, folder: Path) -> VariantScorer:
    return VariantScorer(store, folder, "f32", name="tiny", template_name="chat", max_length=128)


def test_an_edited_template_is_another_way_of_scoring_and_losses_are_shared(
    tiny: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.imports.add_samples("d", "f", "s", "alpaca", [NewRow(0, Pair("Name a tree.", "", "An oak."), "{}")])
    turn = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    edit_template(tiny, turn + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    before = judge(store, tiny)
    list(before.score([1], "ifd"))
    value = before.scores([1], "ifd")[1][0]
    assert value is not None
    assert before.student.id.endswith(":f32:float32:cpu") or "cuda" in before.student.id

    edit_template(
        tiny, "Be brief.\n" + turn + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    after = judge(store, tiny)
    assert after.student.id != before.student.id
    assert after.student.losses_id == before.student.losses_id
    assert after.setting_id != before.setting_id
    assert after.scores([1], "ifd") == {}  # not the stale one
    losses = store.counts()["span_loss"]
    list(after.score([1], "ifd"))
    assert after.scores([1], "ifd")[1][0] != value
    assert before.scores([1], "ifd")[1][0] == value
    assert store.counts()["span_loss"] == losses + 1  # L(y) has the same tokens under both


def test_a_dated_template_is_scored_on_the_day_of_its_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtui import today

    monkeypatch.setattr(today, "_frozen", list(today._frozen))
    store = Store(tmp_path / "s.sqlite")
    edit_template(tiny, "{{ strftime_now('%Y-%m-%d') }} {% for m in messages %}{{ m.content }}{% endfor %}")
    settings = set()
    for day in ("2026-01-30", "2026-01-31", "2026-01-30"):
        today.freeze(day)
        settings.add(judge(store, tiny).setting_id)
    assert len(settings) == 2
    assert {r[0] for r in sql_rows(store, "SELECT date FROM scoring_setting")} == {"2026-01-30", "2026-01-31"}


def test_losses_of_before_are_those_of_a_cpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from srtui.student import model as student
    from srtui.student.model import model_sha256

    monkeypatch.setattr(student, "compute_dtype", lambda device: torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = Student.load(tiny, "bf16")
    assert found.first_losses_id == f"{model_sha256(tiny)[:32]}:bf16:float32"
    assert found.losses_id == f"{found.first_losses_id}:cpu"
    # bfloat16 may have been a GPU's, and float32 weights too.
    assert Student.load(tiny, "f32").first_losses_id is None
