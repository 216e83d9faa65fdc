"""What is wrong with the fields of a file that a person wrote, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

_FEW = 8  # as many keys are all named; of more, the one that was meant


def mistake(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of the mistakes that ``model`` found, with its key; an unknown key before all others, since
    what is missing may only be misspelt."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    # Union members (``"auto"`` or a number) add their own parts to the location; keys are real fields.
    annotation: Any = model
    keys: list[str] = []
    known_names: list[str] = []
    for part in first["loc"]:
        if part == "[key]" or not (_is_model(annotation) or _is_table(annotation)):
            break
        keys.append(str(part))
        if _is_table(annotation):
            names, value = get_args(annotation)
            known_names, annotation = _literals(names), _plain(value)
        else:
            field = annotation.model_fields.get(str(part))
            known_names, annotation = (
                list(annotation.model_fields),
                _plain(field.annotation) if field else None,
            )
    where = ".".join(keys)
    is_name = "[key]" in first["loc"]
    if first["type"] == "extra_forbidden" or (is_name and known_names):
        return f"{where} is not a key{_instead(keys[-1], known_names)}."
    if is_name:
        return f"{where} cannot be a name here: {_uncapitalised(first['msg'])}."
    if first["type"] == "missing":
        return f"the key {where} is missing."
    of_this_key = [e for e in errors if [str(p) for p in e["loc"][: len(keys)]] == keys]
    expected = " or ".join(dict.fromkeys(_uncapitalised(e["msg"]) for e in of_this_key))
    shown = "" if first["type"] == "value_error" else f" = {first['input']!r}"
    return f"{where}{shown}: {expected.removeprefix('value error, ')}.".lstrip(": ")


def nearest(word: str, known: Sequence[str]) -> str:
    """What was probably meant, or what there is."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"[:-1]
    return f"; it can be {', '.join(sorted(known))}" if known else ""


def _instead(word: str, known: Sequence[str]) -> str:
    return f"; it can be {', '.join(sorted(known))}" if 0 < len(known) <= _FEW else nearest(word, known)


def _plain(annotation: Any) -> Any:
    """The type behind Annotated and an optional's None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    members = [a for a in get_args(annotation) if a is not NoneType]
    return members[0] if NoneType in get_args(annotation) and len(members) == 1 else annotation


def _literals(annotation: Any) -> list[str]:
    return [str(a) for a in get_args(annotation)] if get_origin(annotation) is Literal else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_table(annotation: Any) -> bool:
    return get_origin(annotation) in (dict, Mapping)


def _uncapitalised(words: str) -> str:
    return words[:1].lower() + words[1:]
