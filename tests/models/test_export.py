"""What is exported is the tuned student: transformers, llama.cpp and peft give the same logits.

Cosines are of logits less their mean at each position, and the smallest over all positions counts:
a common offset, or one position that is right, hides nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtui.errors import UserError
from srtui.llama import Message, Request, Sampler, Segment, open_teacher
from srtui.models import convert, export
from srtui.models.export import adapter_worker, export_model, gguf_worker, merge_worker
from srtui.models.merged_weights import Adapter, rounded
from srtui.workspace import Workspace
from tests.commands import srtui
from tests.conftest import ROOT

PROMPTS = (
    "The capital of France is Paris, and the capital of Germany is Berlin. The capital of Spain is",
    "Below is an instruction. Write a response.\n\n### Instruction:\nAdd 17 and 25.\n\n### Response:\n17 + 25",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
)
TEXT = " ".join(PROMPTS) + " I'll say it don't matter. 12345 cats, 67 dogs; über Straße.\n\n\tYes  no."


# --- logits, three ways -------------------------------------------------------------------------------


def of_transformers(model: Any, ids: list[int]) -> np.ndarray:
    """(positions, vocabulary), float32."""
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].float().numpy())


def of_llama(gguf: Path, prompts: list[list[int]], adapter: Path | None = None) -> list[np.ndarray]:
    """The same by llama.cpp, with a float32 cache."""
    import llama_cpp as api

    global _quiet  # noqa: PLW0603 - llama.cpp keeps a pointer to it
    _quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(_quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    model = api.llama_model_load_from_file(str(gguf).encode(), api.llama_model_default_params())
    assert model, f"llama.cpp does not load {gguf}"
    found = []
    for ids in prompts:
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = 256, 128, 128
        settings.n_threads = settings.n_threads_batch = 1
        settings.type_k = settings.type_v = settings.flash_attn_type = 0
        context = api.llama_init_from_model(model, settings)
        if adapter:
            lora = api.llama_adapter_lora_init(model, str(adapter).encode())
            assert lora, f"llama.cpp does not load {adapter}"
            one = (api.llama_adapter_lora_p_ctypes * 1)(lora)
            api.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0))
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert api.llama_decode(context, batch) == 0
        size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        found.append(np.array([api.llama_get_logits_ith(context, i)[:size] for i in range(len(ids))]))
        api.llama_batch_free(batch)
        api.llama_free(context)
    api.llama_model_free(model)
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def least(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return min(cosine(a, b) for a, b in zip(one, other, strict=True))


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def add_lora(model: Any, out: Path, size: float = 0.05, **settings: Any) -> Any:
    """A LoRA on all linear layers, with an update of some size, saved to ``out``."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    tuned = get_peft_model(
        model, LoraConfig(target_modules="all-linear", **{"r": 8, "lora_alpha": 16, **settings})
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, size)
        if "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
    tuned.save_pretrained(str(out))
    return tuned.eval()


# --- the real small model -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The student with a random adapter under peft: its adapter, tokens and logits."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("real")
    tokenizer = AutoTokenizer.from_pretrained(student_folder, local_files_only=True)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    model = load(student_folder)
    before = [of_transformers(model, ids) for ids in prompts]
    tuned = add_lora(model, folder / "adapter", 0.1)
    return {
        "folder": folder, "student": student_folder, "adapter": folder / "adapter", "prompts": prompts,
        "before": before, "after": [of_transformers(tuned, ids) for ids in prompts],
    }  # fmt: skip


@pytest.mark.model
def test_the_adapter_changes_what_is_compared(real: dict[str, Any]) -> None:
    assert least(real["before"], real["after"]) < 0.9


@pytest.mark.model
def test_merged_is_peft(real: dict[str, Any]) -> None:
    out = real["folder"] / "merged"
    out.mkdir()
    merge_worker(str(real["adapter"]), str(real["student"]), "f32", str(out))
    merged = load(out)
    assert least([of_transformers(merged, ids) for ids in real["prompts"]], real["after"]) > 0.9995


@pytest.mark.model
def test_gguf_is_peft(real: dict[str, Any]) -> None:
    """The tokenizer is made from tokenizer.json here: the folder in models/ would find its source GGUF."""
    lone = real["folder"] / "lone"
    lone.mkdir()
    for file in real["student"].iterdir():
        if file.name != "srtui.json":
            (lone / file.name).symlink_to(file)
    out = real["folder"] / "tuned.gguf"
    reported = gguf_worker(str(real["adapter"]), str(lone), "f32", str(out), "F16", "tuned")
    assert "made from the student's tokenizer.json; llama.cpp cuts 8 of 8" in reported["tokenizer"]
    assert least(of_llama(out, real["prompts"]), real["after"]) > 0.9995


@pytest.mark.model
def test_gguf_adapter_on_its_base_is_peft(real: dict[str, Any]) -> None:
    base, adapter = real["folder"] / "base.gguf", real["folder"] / "adapter.gguf"
    reported = gguf_worker("", str(real["student"]), "f32", str(base), "F16", "base")
    assert "the source GGUF's own" in reported["tokenizer"]
    adapter_worker(str(real["adapter"]), str(real["student"]), "f32", str(adapter), "F32", "tuned")
    assert least(of_llama(base, real["prompts"]), real["before"]) > 0.9995
    assert least(of_llama(base, real["prompts"], adapter), real["after"]) > 0.9995
    # As the next round's teacher has it.
    texts = []
    for put_on in (None, adapter):
        teacher = open_teacher(base, name="t", sha256="0", slots=1, adapter=put_on)
        asked = Request(
            "a", (Message("user", "Name a river."),), (Segment("", 8),), 1, Sampler(temperature=0)
        )
        teacher.submit([asked])
        texts += [g.text for g in teacher.run()]
        assert (teacher.identity.adapter_sha256 is None) == (put_on is None)
        teacher.close()
    assert texts[0] != texts[1]


# --- families, small and random -----------------------------------------------------------------------


def byte_level(split: Any = None, special: tuple[str, ...] = ("<|endoftext|>",)) -> Any:
    """A byte-level BPE; without ``split`` one with single digits, as SmolLM's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            split or pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([TEXT] * 3, trainer)
    return raw


def known_split(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    from srtui.models.convert import SPLITS

    return pre_tokenizers.Split(Regex(SPLITS[name]), "isolated", invert=False)


def sentencepiece_like(prefix: bool) -> Any:
    """A BPE with byte fallback as Llama 2 (with a space put before the text) and Gemma (without)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    spaces = normalizers.Replace(" ", "▁")
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>"]
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    raw.train_from_iterator(TEXT.replace(" ", " \0").split("\0") * 3, trainer)
    described = json.loads(raw.to_str())
    vocabulary = described["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    # SentencePiece joins any two pieces whose union is a piece; its converters write all of them down.
    order = [a + b for a, b in map(_pair, described["model"]["merges"])]
    described["model"]["merges"] = [
        [piece[:i], piece[i:]]
        for piece in order
        for i in range(1, len(piece))
        if piece[:i] in vocabulary and piece[i:] in vocabulary
    ]
    raw = Tokenizer.from_str(json.dumps(described))
    if not prefix:
        raw.add_tokens(["\n\n"])  # user-defined, as Gemma's runs of line ends
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return raw


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def student(folder: Path, config: Any, raw: Any, **special: str) -> Path:
    """A student of ``config`` with weights large enough that every part of it shows in the logits."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
        elif name.endswith("norm.weight"):
            parameter.data += 0.3 * torch.randn_like(parameter)
        else:
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 448, "bos_token_id": None,
    "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip


def tiny(family: str, folder: Path) -> Path:
    import transformers as t

    end = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if family == "llama":
        config = t.LlamaConfig(**SHAPE, attention_bias=True, tie_word_embeddings=True)
        return student(folder, config, byte_level(), **end)
    if family == "llama3":
        raw = byte_level(known_split("llama-bpe"), ("<|begin|>", "<|endoftext|>"))
        described = json.loads(raw.to_str())
        described["model"]["ignore_merges"] = True
        from tokenizers import Tokenizer, processors

        raw = Tokenizer.from_str(json.dumps(described))
        raw.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
        return student(
            folder, t.LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE), raw, bos_token="<|begin|>", **end
        )
    if family == "llama2":
        config = t.LlamaConfig(
            **SHAPE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
        )
        return student(folder, config, sentencepiece_like(prefix=True), **marks)
    if family == "qwen2":
        return student(folder, t.Qwen2Config(**SHAPE), byte_level(known_split("qwen2")), **end)
    if family == "qwen3":
        config = t.Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True)
        return student(folder, config, byte_level(known_split("qwen2")), **end)
    config = t.Gemma3TextConfig(
        **SHAPE | {"num_hidden_layers": 7}, head_dim=16, query_pre_attn_scalar=16, sliding_window=8
    )
    return student(folder, config, sentencepiece_like(prefix=False), **marks)


@pytest.mark.parametrize("family", ["llama", "llama2", "llama3", "qwen2", "qwen3", "gemma3"])
def test_family_in_llama_cpp(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole and as an adapter; rank-stabilised and with ranks by pattern, so that every scaling shows."""
    from transformers import AutoTokenizer

    folder = tiny(family, tmp_path / "student")
    model = load(folder)
    prompts = [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for text in PROMPTS[:2]]
    before = [of_transformers(model, ids) for ids in prompts]
    tuned = add_lora(
        model,
        tmp_path / "adapter",
        0.1,
        use_rslora=True,
        rank_pattern={"k_proj": 4},
        alpha_pattern={"up_proj": 5},
    )
    after = [of_transformers(tuned, ids) for ids in prompts]
    assert least(before, after) < 0.98
    words = (str(tmp_path / "adapter"), str(folder), "f32")
    base, whole, adapter = (str(tmp_path / name) for name in ("base.gguf", "whole.gguf", "adapter.gguf"))
    gguf_worker("", str(folder), "f32", base, "F16", "base")
    gguf_worker(*words, whole, "F16", "whole")
    adapter_worker(*words, adapter, "F32", "adapter")
    assert "8 of 8 test texts" in capsys.readouterr().out
    assert least(of_llama(Path(base), prompts), before) > 0.9995
    assert least(of_llama(Path(whole), prompts), after) > 0.9995
    assert least(of_llama(Path(base), prompts, Path(adapter)), after) > 0.9995


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with an adapter: ``student`` and ``adapter`` in one folder."""
    folder = tmp_path_factory.mktemp("small")
    add_lora(load(tiny("llama", folder / "student")), folder / "adapter", 0.1)
    return folder


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in this process; that they have one of their own, test_the_command and the kill show."""

    def work(worker: Any, *arguments: object, report_line: Any = None) -> dict[str, Any]:
        return dict(worker(*map(str, arguments)))

    monkeypatch.setattr(export, "in_own_process", work)
    monkeypatch.setattr(convert, "in_own_process", work)


# --- merging ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained_as", ["nf4", "int8", "bf16"])
def test_rounding_is_what_the_student_is_loaded_with(trained_as: str, arithmetic: str, small: Path) -> None:
    """Reference: the loaded student's own layers, multiplied with the unit matrix, which adds only zeros.
    All of them, since 96 columns are no multiple of the 64 that share a scale."""
    import torch
    from safetensors.torch import load_file

    from srtui.student import Student

    loaded = Student.load(small / "student", trained_as, device="cpu").model  # type: ignore[arg-type]
    weights = load_file(small / "student" / "model.safetensors")
    linear = [name for name in weights if name.endswith("proj.weight")]
    assert len(linear) == 21
    for name in linear:
        layer = loaded.get_submodule(name.removesuffix(".weight"))
        layer.bias = None
        unit = torch.eye(weights[name].shape[1], dtype=getattr(torch, arithmetic))
        with torch.no_grad():
            theirs = layer(unit).float().T
        ours = rounded(weights[name], trained_as, arithmetic)
        assert not torch.allclose(ours, weights[name], atol=1e-4)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7), name


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_merged_is_the_model_that_was_trained(
    dora: bool, arithmetic: str, small: Path, tmp_path: Path
) -> None:
    """An adapter on the NF4 student, as QLoRA trains it, against the merge into its NF4 weights."""
    from srtui.student import Student

    ids = list(range(5, 60))
    student = Student.load(small / "student", "nf4", device="cpu")
    assert student.arithmetic == arithmetic
    tuned = add_lora(student.model, tmp_path / "adapter", 0.1, use_dora=dora)
    reference = of_transformers(tuned, ids)
    found = {}
    for base in ("nf4", "f32"):
        out = tmp_path / base
        out.mkdir()
        merge_worker(str(tmp_path / "adapter"), str(small / "student"), base, str(out), arithmetic)
        found[base] = cosine(of_transformers(load(out), ids), reference)
    # In bfloat16 the products of the reference are rounded to 8 bits, and those of the merged model are not.
    assert found["nf4"] > {"float32": 0.99999, "bfloat16": 0.99}[arithmetic]
    assert 1 - found["nf4"] < (1 - found["f32"]) / 10  # the original weights are another model


@pytest.mark.parametrize("trained_as", ["nf4", "int8"])
def test_merged_weights_are_the_trained_ones_to_the_bit(
    trained_as: str, arithmetic: str, small: Path, tmp_path: Path
) -> None:
    """Not only near: every tensor of the merge, those that are not quantized too, is the student's own."""
    import torch
    from safetensors.torch import load_file

    from srtui.student import Student

    student = Student.load(small / "student", trained_as, device="cpu")  # type: ignore[arg-type]
    merge_worker("", str(small / "student"), trained_as, str(tmp_path), arithmetic)
    merged = load_file(tmp_path / "model.safetensors")
    held = dict(student.model.named_parameters())
    plain = {name: tensor for name, tensor in merged.items() if not name.endswith("proj.weight")}
    assert len(plain) > 5
    assert all(torch.equal(tensor, held[name].data.float()) for name, tensor in plain.items())
    rounding = {n: rounded(w, trained_as, arithmetic) for n, w in _linear(small).items()}
    assert all(torch.equal(merged[name], weight) for name, weight in rounding.items())


def _linear(small: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights = load_file(small / "student" / "model.safetensors")
    return {name: weight for name, weight in weights.items() if name.endswith("proj.weight")}


def test_merged_is_pefts_own_merge(small: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    reference = PeftModel.from_pretrained(load(small / "student"), small / "adapter").merge_and_unload()
    out = tmp_path / "merged"
    out.mkdir()
    merge_worker(str(small / "adapter"), str(small / "student"), "f32", str(out))
    merged = load_file(out / "model.safetensors")
    theirs = reference.state_dict()
    assert merged.keys() == load_file(small / "student" / "model.safetensors").keys()
    assert all(torch.allclose(tensor, theirs[name], atol=1e-6) for name, tensor in merged.items())


def test_shards_stay_shards(small: Path, tmp_path: Path, workers_here: None) -> None:
    sharded, out = tmp_path / "sharded", tmp_path / "merged"
    load(small / "student").save_pretrained(sharded, max_shard_size="100KB")
    for file in [*(small / "student").glob("*token*"), small / "student" / "chat_template.jinja"]:
        (sharded / file.name).write_bytes(file.read_bytes())
    (sharded / "twice.safetensors").write_bytes((small / "student" / "model.safetensors").read_bytes())
    done = export_model("merged", small / "adapter", sharded, out, name="small", trained_as="f32")
    assert len([name for name, _ in done.files if name.endswith(".safetensors")]) > 2
    assert "twice.safetensors" not in dict(done.files)
    assert done.stored == "F32" and "chat_template.jinja" in dict(done.files)
    one = tmp_path / "one"
    one.mkdir()
    merge_worker(str(small / "adapter"), str(small / "student"), "f32", str(one))
    ids = list(range(5, 40))
    assert np.array_equal(of_transformers(load(out), ids), of_transformers(load(one), ids))


def test_adapter_is_copied_whole(small: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    done = export_model("adapter", small / "adapter", small / "student", tmp_path / "copy", name="small")
    assert "NF4" in done.base and done.size > 0
    ids = list(range(5, 40))
    one, other = (
        of_transformers(PeftModel.from_pretrained(load(small / "student"), folder), ids)
        for folder in (small / "adapter", tmp_path / "copy")
    )
    assert np.array_equal(one, other)


# --- refused, and stopped -----------------------------------------------------------------------------


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _copy(small: Path, to: Path) -> tuple[Path, Path]:
    import shutil

    for name in ("student", "adapter"):
        shutil.copytree(small / name, to / name)
    return to / "student", to / "adapter"


@pytest.mark.parametrize(
    ("file", "values", "form", "sentence"),
    [
        ("student/config.json", {"architectures": ["PhiForCausalLM"]}, "gguf", "architectures names PhiForCausalLM"),
        ("student/config.json", {"architectures": ["PhiForCausalLM"]}, "gguf-adapter", "use --to merged"),
        ("adapter/adapter_config.json", {"bias": "all"}, "merged", "bias = 'all' is not plain LoRA"),
        ("adapter/adapter_config.json", {"peft_type": "LOHA"}, "merged", "peft_type is LOHA"),
        ("adapter/adapter_config.json", {"init_lora_weights": "pissa"}, "gguf", "init_lora_weights = 'pissa'"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(
    file: str, values: dict[str, Any], form: Any, sentence: str, small: Path, tmp_path: Path
) -> None:
    folder, adapter = _copy(small, tmp_path)
    _edit(tmp_path / file, **values)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")) as refused:
        export_model(form, adapter, folder, tmp_path / "out.gguf", name="x")
    assert str(refused.value).count(". ") == 0 and str(refused.value).endswith(".")
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"hidden_act": "relu"}, "llama.cpp's llama has no hidden_act = 'relu'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "no rope_type = 'yarn'",
        ),
    ],
)
def test_settings_that_llama_cpp_lacks_are_refused(
    values: dict[str, Any], sentence: str, small: Path, tmp_path: Path
) -> None:
    folder, adapter = _copy(small, tmp_path)
    _edit(folder / "config.json", **values)
    with pytest.raises(UserError, match=sentence):
        gguf_worker(str(adapter), str(folder), "f32", str(tmp_path / "out.gguf"), "F16", "x")
    assert not (tmp_path / "out.gguf").exists()


def test_unknown_pre_tokenizer_is_refused(small: Path, tmp_path: Path, workers_here: None) -> None:
    folder, adapter = _copy(small, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    _edit(folder / "tokenizer.json", **tokenizer)
    with pytest.raises(UserError, match=r"pre_tokenizer .Digits then ByteLevel. is none that llama.cpp"):
        export_model("gguf", adapter, folder, tmp_path / "out.gguf", name="x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "student"]


def test_tokenizer_that_llama_cpp_would_cut_otherwise_is_refused(small: Path, tmp_path: Path) -> None:
    folder, adapter = _copy(small, tmp_path)
    _edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(UserError, match=r"llama.cpp would cut . of 8 test texts otherwise"):
        gguf_worker(str(adapter), str(folder), "f32", str(tmp_path / "out.gguf"), "F16", "x")
    assert not (tmp_path / "out.gguf").exists()


def test_adapter_of_another_student_is_refused(small: Path, tmp_path: Path) -> None:
    other = tiny("qwen3", tmp_path / "student")
    words = (str(small / "adapter"), str(other), "f32", str(tmp_path / "out"))
    with pytest.raises(UserError, match="name the student that it was trained on"):
        merge_worker(*words)
    with pytest.raises(UserError, match="name the student that it was trained on"):
        adapter_worker(*words, "F32", "x")


def test_dora_has_no_gguf_adapter(small: Path, tmp_path: Path) -> None:
    add_lora(load(small / "student"), tmp_path / "dora", use_dora=True)
    assert Adapter(tmp_path / "dora").uses_dora
    words = (str(tmp_path / "dora"), str(small / "student"), "f32", str(tmp_path / "a.gguf"))
    with pytest.raises(UserError, match="no DoRA adapters"):
        adapter_worker(*words, "F32", "x")


def test_what_exists_is_replaced_only_by_force(small: Path, tmp_path: Path) -> None:
    folder, adapter = _copy(small, tmp_path)
    out = tmp_path / "out"
    export_model("adapter", adapter, folder, out, name="x")
    (out / "marked").touch()
    with pytest.raises(UserError, match="replace it with --force"):
        export_model("adapter", adapter, folder, out, name="x")
    assert (out / "marked").exists()
    export_model("adapter", adapter, folder, out, name="x", force=True)
    assert not (out / "marked").exists()
    for sacred in (folder, adapter, folder / "config.json", tmp_path):
        with pytest.raises(UserError, match="lies over what it is made from"):
            export_model("adapter", adapter, folder, sacred, name="x", force=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(UserError, match="leaves it alone"):
        export_model("adapter", adapter, folder, mine, name="x", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "mine", "out", "student"]


def test_quantized_by_llama_cpp(small: Path, tmp_path: Path, workers_here: None) -> None:
    from srtui.models import inspect

    out = tmp_path / "q.gguf"
    done = export_model("gguf", small / "adapter", small / "student", out, name="q", quantization="q8_0")
    info = inspect(out, with_hash=False)
    assert (done.stored, info.quantization, info.name) == ("Q8_0", "Q8_0", "q")
    assert info.chat_template and info.context == 256
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(UserError, match="for gguf-adapter it can be F16, BF16, F32"):
        export_model(
            "gguf-adapter",
            small / "adapter",
            small / "student",
            tmp_path / "a.gguf",
            name="q",
            quantization="Q8_0",
        )


@pytest.mark.model
def test_killed_in_the_middle_leaves_no_half_result(real: dict[str, Any], tmp_path: Path) -> None:
    """Killed once some of the weights are in the file."""
    out = tmp_path / "out.gguf"
    code = (
        "import sys; from pathlib import Path; from srtui.models.export import export_model\n"
        "a, s, o = map(Path, sys.argv[1:]); export_model('gguf', a, s, o, name='x', trained_as='f32')"
    )
    words = [sys.executable, "-c", code, real["adapter"], real["student"], out]
    running = subprocess.Popen(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    parts: list[Path] = []
    while running.poll() is None and not parts and time.monotonic() < until:
        parts = [p for p in tmp_path.rglob("out.gguf") if p.stat().st_size > 10_000_000]
        time.sleep(0.02)
    assert parts and running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.wait(timeout=30)
    size = -1
    while parts[0].stat().st_size != size:  # until its worker has ended too
        size = parts[0].stat().st_size
        time.sleep(1)
    assert not out.exists()


# --- the command --------------------------------------------------------------------------------------


def test_the_command(small: Path, workspace: Workspace) -> None:
    """A run that has trained, to a GGUF that its name in a recipe finds; and what is refused on the way."""
    import shutil

    from srtui.models import resolve_teacher
    from srtui.pipeline import import_file
    from srtui.recipe import Recipe
    from srtui.store import Store
    from srtui.student.model import weights_sha256

    folder = workspace.models / "little"
    shutil.copytree(small / "student", folder)
    recipe = Recipe(name="tuned", dataset="rows", student={"model": "little"})  # type: ignore[arg-type]
    rows = workspace.root / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "Say a.", "input": "", "output": "a"}) + "\n")
    with Store(workspace.store_path) as store:
        dataset = import_file(store, rows).dataset_id
        run = store.runs.create("tuned", dataset, "", recipe.model_dump_json(), recipe.fingerprint, [])
        identity = f"{weights_sha256(folder)[:32]}:nf4:float32"
        store.runs.update(
            run.id, setting_id=store.scores.setting("little", identity, "nf4", "alpaca", "default", 2048)
        )

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return srtui(workspace, "export-model", *words, fresh_workers=True)

    early = command("tuned", "--to", "gguf")
    assert early.returncode == 2 and "has trained no adapter (it has not come to it)" in early.stderr
    shutil.copytree(small / "adapter", workspace.runs / "tuned" / "adapter")
    with Store(workspace.store_path) as store:
        training = store.training.start(run.id, 1, 1)
        store.training.finish(training, "done", 1, 1.0, "store/runs/tuned/adapter", {})

    done = command("tuned", "--to", "gguf", "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert "NF4" in reported["base"] and reported["stored"] == "F16" and reported["prompt"] == "alpaca"
    assert 'teacher.model = "tuned.F16"' in reported["use"]
    assert resolve_teacher(workspace.models, "tuned.F16") == Path(reported["path"])

    _edit(folder / "config.json", initializer_range=0.5)
    changed = command("tuned", "--to", "merged")
    assert changed.returncode == 2 and "has changed since run tuned was trained on it" in changed.stderr
    assert not (workspace.models / "tuned").exists()
