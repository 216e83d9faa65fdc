"""A student's tokenizer as keys of a GGUF header, and llama.cpp's word on it.

llama.cpp itself decides: before any weight is written it cuts test texts with the vocabulary that would go into
the file, and what it cuts otherwise than the student's tokenizer does is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from srtui.errors import UserError
from srtui.files import parse_json, read_bytes, remembered
from srtui.models.convert import PROBES, PROVENANCE, SPLITS, VocabularyFile
from srtui.models.formats import file_sha256
from srtui.models.gguf_fields import (
    HeaderField,
    bool_field,
    floats_field,
    int_field,
    ints_field,
    text_field,
    texts_field,
)
from srtui.models.safetensors_folder import read_safetensors_folder

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type


class TokenizerCheck(NamedTuple):
    """``agrees`` of ``probes`` texts are cut by llama.cpp as by the student's tokenizer."""

    agrees: int
    probes: int
    carried_over: bool


def tokenizer_fields(student: Path, rows: int) -> tuple[dict[str, HeaderField], bool]:
    """The header's keys for a vocabulary of ``rows`` tokens, and whether they are a GGUF's own.

    A student that srtui made from a GGUF takes them over from that file where it still lies beside
    the folder; the chat template is always the student's. Raises UserError where neither way works.
    """
    fields = _carried_over(student, rows)
    carried_over = bool(fields)
    if not fields:
        fields = _from_tokenizer_json(student, rows)
    template = read_safetensors_folder(student).chat_template
    fields.pop("tokenizer.chat_template", None)
    if template:
        fields["tokenizer.chat_template"] = text_field(template)
    return fields, carried_over


def _carried_over(student: Path, rows: int) -> dict[str, HeaderField]:
    from gguf import GGUFReader

    try:
        made_from = remembered(student / PROVENANCE)
        source = student.parent / Path(made_from["made_from"]).name
        if file_sha256(source) != made_from["sha256"]:
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    fields = {
        name: HeaderField(field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        for name, field in GGUFReader(source).fields.items()
        if name.startswith("tokenizer.")
    }
    tokens = fields.get("tokenizer.ggml.tokens")
    return fields if tokens and len(tokens.value) == rows else {}


def _from_tokenizer_json(student: Path, rows: int) -> dict[str, HeaderField]:
    from transformers import AutoTokenizer

    file = student / "tokenizer.json"
    try:
        described = parse_json(read_bytes(file, 1_000_000_000), str(file))
        model = described["model"]
        kind, vocabulary = model["type"], model["vocab"]
        added = {int(token["id"]): token for token in described.get("added_tokens") or []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as a tokenizer ({error}); copy it again.") from None
    if kind != "BPE":
        raise UserError(f"{file}: a {kind} tokenizer has no GGUF form here, only BPE has; use --to merged.")
    tokens: dict[int, str] = {int(number): token for token, number in vocabulary.items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    if max(tokens) >= rows:
        raise UserError(
            f"{file} has a token {max(tokens)}, and {student.name} has embeddings for {rows}; "
            "resize one of them, or use --to merged."
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    like_sentencepiece = bool(model.get("byte_fallback"))
    types: list[int] = []
    for number in range(rows):
        token = tokens.get(number)
        if token is None:
            types.append(_UNUSED)
        elif number in added:
            types.append(_CONTROL if added[number].get("special") else _USER_DEFINED)
        elif like_sentencepiece and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types.append(_BYTE)
        else:
            types.append(_NORMAL)

    loaded = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    plain = [tokens.get(number, f"[PAD{number}]") for number in range(rows)]
    fields: dict[str, HeaderField] = {}
    if like_sentencepiece:
        unknown = vocabulary.get(model.get("unk_token"))
        if unknown is not None:
            types[unknown] = _UNKNOWN
        # A piece's score is the order in which pairs are joined to it; the merges say that order.
        first: dict[str, int] = {}
        for order, merge in enumerate(model["merges"]):
            pair = merge.split(" ") if isinstance(merge, str) else merge
            first.setdefault("".join(pair), order)
        # llama.cpp finds user-defined tokens in the text as it is, with its spaces.
        plain = [t.replace("▁", " ") if k == _USER_DEFINED else t for t, k in zip(plain, types, strict=True)]
        scores = [float(-first.get(token, len(merges))) for token in plain]
        begins_with = loaded.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
        fields |= {
            "tokenizer.ggml.model": text_field("llama"),
            "tokenizer.ggml.pre": text_field("default"),
            "tokenizer.ggml.scores": floats_field(scores),
            "tokenizer.ggml.add_space_prefix": bool_field(begins_with.startswith("▁")),
        }
    else:
        fields |= {
            "tokenizer.ggml.model": text_field("gpt2"),
            "tokenizer.ggml.pre": text_field(
                _pre_tokenizer(file, described, bool(model.get("ignore_merges")))
            ),
            "tokenizer.ggml.merges": texts_field(merges),
        }
    fields |= {"tokenizer.ggml.tokens": texts_field(plain), "tokenizer.ggml.token_type": ints_field(types)}
    return fields | _special_tokens(student, loaded)


def _special_tokens(student: Path, tokenizer: Any) -> dict[str, HeaderField]:
    """Which tokens begin, end and fill a text, and whether the tokenizer adds the first two itself."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            f"{student / 'tokenizer_config.json'} names no eos_token; add the one that ends a text."
        )
    ids = tokenizer("a")["input_ids"]
    # Where there is no beginning-of-text token llama.cpp would take token 11 for it.
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    special = {
        "bos_token_id": begin,
        "eos_token_id": end,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    fields = {f"tokenizer.ggml.{key}": int_field(v) for key, v in special.items() if v is not None}
    fields["tokenizer.ggml.add_bos_token"] = bool_field(ids[0] == tokenizer.bos_token_id)
    fields["tokenizer.ggml.add_eos_token"] = bool_field(len(ids) > 1 and ids[-1] == end)
    return fields


def _pre_tokenizer(file: Path, described: dict[str, Any], ignores_merges: bool) -> str:
    """llama.cpp's name for the rule by which a byte-level BPE splits a text before it joins bytes."""
    step = described.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", []) if step.get("type") == "Sequence" else [step]
    last = steps[-1] if steps else {}
    before = steps[:-1]
    rule_name = None
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space"):
        own_rule = last.get("use_regex", True)
        if not before and own_rule:
            rule_name = "gpt-2"
        elif len(before) == 1 and own_rule and before[0].get("type") == "Digits":
            rule_name = "smollm" if before[0].get("individual_digits") else None
        elif len(before) == 1 and not own_rule and before[0].get("type") == "Split":
            rule, isolated = before[0].get("pattern", {}).get("Regex"), before[0].get("behavior")
            names = [
                name for name, known_rule in SPLITS.items() if known_rule == rule and isolated == "Isolated"
            ]
            # llama.cpp takes whole words from the vocabulary without joining for llama-bpe alone.
            names.sort(key=lambda name: (name == "llama-bpe") != ignores_merges)
            rule_name = names[0] if names else None
    if rule_name is None:
        kinds = " then ".join(str(s.get("type")) for s in steps)
        raise UserError(
            f"{file}: its pre_tokenizer ({kinds}) is none that llama.cpp is known to have a name for; "
            "use --to merged."
        )
    return rule_name


def check_tokenizer(student: Path, vocabulary: Path, carried_over: bool) -> TokenizerCheck:
    """Cut the test texts, and one of special tokens, by both. Raises UserError where they differ.

    A tokenizer that is carried over is the model's own whatever the student's makes of a text, so
    there a difference is only counted.
    """
    from transformers import AutoTokenizer

    in_gguf = VocabularyFile(vocabulary)
    in_student = AutoTokenizer.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    texts = [*PROBES, "a" + "b".join(in_student.all_special_tokens) + "c"]
    differing = [text for text in texts if in_student(text)["input_ids"] != in_gguf.tokens(text)]
    if differing and not carried_over:
        raise UserError(
            f"{student / 'tokenizer.json'}: llama.cpp would cut {len(differing)} of {len(texts)} test texts "
            f"otherwise than the student does, the first {differing[0][:40]!r}; use --to merged."
        )
    return TokenizerCheck(len(texts) - len(differing), len(texts), carried_over)
