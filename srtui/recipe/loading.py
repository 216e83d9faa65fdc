"""Recipes read from TOML: a prompts file's contents put in, `--set` words over them, errors in one sentence."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from srtui.errors import UserError
from srtui.fields import mistake, nearest
from srtui.files import expand_home, parse_toml, read_text
from srtui.prompts import read_prompts
from srtui.recipe.measure_weights import read_weights
from srtui.recipe.settings import Recipe
from srtui.recipe.teacher import SamplingSettings


def load(path: Path, overrides: list[str] | None = None, limit: int | None = None) -> Recipe:
    """Read a recipe; ``overrides`` are ``section.key=value`` words, the value in TOML or bare text.

    Raises UserError, one sentence with the file, the key, and the nearest valid key.
    """
    if path.parent.is_dir() and not os.path.lexists(path):
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise UserError(
            f"{path}: there is no such recipe{near}. srtui init puts the shipped ones into a workspace."
        )
    data = parse_toml(read_text(path), str(path))
    for word in overrides or []:
        _override(data, word)
    if limit is not None:
        data["limit"] = limit
    data.setdefault("name", path.stem)
    _read_prompts_file(data, path)
    _read_weights_file(data, path)
    return parse(data, str(path))


def from_words(data: dict[str, Any], overrides: list[str], source: str) -> Recipe:
    """A recipe that lies in no file: ``data`` with ``section.key=value`` words over it. Raises UserError."""
    for word in overrides:
        _override(data, word)
    return parse(data, source)


def parse(data: dict[str, Any], source: str) -> Recipe:
    """Validate ``data``; ``source`` names it in the error."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {mistake(error, Recipe)}") from None


def _read_weights_file(data: dict[str, Any], recipe: Path) -> None:
    """Put the contents of a file of weights in the place of its name, so that a run has them whatever becomes of it."""
    selection = data.get("selection")
    name = selection.get("weights") if isinstance(selection, dict) else None
    if not isinstance(selection, dict) or not isinstance(name, str):
        return
    if not name:
        del selection["weights"]
        return
    selection["weights"] = read_weights(_beside(name, recipe)).model_dump(mode="json")


def _beside(name: str, recipe: Path) -> Path:
    """The file of that name beside the recipe, or from here."""
    file = expand_home(name)
    places = [file] if file.is_absolute() else [recipe.parent / file, file]
    return next((p for p in places if os.path.lexists(p)), places[0])


def _read_prompts_file(data: dict[str, Any], recipe: Path) -> None:
    """Put the contents of the prompts file in the place of its name, and its sampling below the recipe's."""
    name = data.get("prompts")
    if not isinstance(name, str):
        return
    if not name:
        del data["prompts"]
        return
    path = _beside(name, recipe)
    prompts = read_prompts(path)
    try:
        SamplingSettings.model_validate(prompts.sampling)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"{path}: sampling.{first['loc'][0]} = {first['input']}: {first['msg']}; correct it."
        ) from None
    data["prompts"] = prompts.model_dump(mode="json")
    sampler = data.get("sampler", {})
    if isinstance(sampler, dict):
        data["sampler"] = {**prompts.sampling, **sampler}


def _override(data: dict[str, Any], word: str) -> None:
    key, equals, raw = word.partition("=")
    if not equals or not key:
        raise UserError(f"--set {word}: write it as section.key=value, for example --set training.epochs=1")
    try:
        value: Any = tomllib.loads(f"v = {raw}")["v"]
    except (ValueError, RecursionError):
        value = raw
    *sections, last = key.split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {word}: {section} is not a section; srtui recipes lists all keys.")
    place[last] = value
