"""What the shell completes: names of this workspace, read from folders and the store without a model or a header.

None of these raises: a shell that completes has no place for an error.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from srtui.workspace import Workspace

if TYPE_CHECKING:
    from srtui.store import Store


def run_names(incomplete: str) -> list[str]:
    """The runs that a name typed so far may become."""
    return _stored_names(incomplete, lambda store: (run.name for run in store.runs.all()))


def dataset_names(incomplete: str) -> list[str]:
    """The datasets that were imported."""
    return _stored_names(incomplete, lambda store: (d.name for d in store.corpus.datasets()))


def _stored_names(incomplete: str, names_in: Callable[[Store], Iterable[str]]) -> list[str]:
    """The names in this workspace's store that begin so; none where there is no store to read."""
    try:
        from srtui.store import Store

        with Store(Workspace.find().store_path, read_only=True) as store:
            return [name for name in names_in(store) if name.startswith(incomplete)]
    except Exception:
        return []


def recipe_files(incomplete: str) -> list[str]:
    """The workspace's recipes as paths from here, and what else of folders and TOML files begins so."""
    try:
        recipes = [os.path.relpath(p) for p in Workspace.find().recipes.glob("*.toml")]
    except Exception:
        recipes = []
    typed = [
        path + os.sep if os.path.isdir(path) else path  # noqa: PTH112 - the word as it was typed
        for path in glob.glob(glob.escape(incomplete) + "*")  # noqa: PTH207 - the same
        if incomplete and (os.path.isdir(path) or path.endswith(".toml"))  # noqa: PTH112
    ]
    return sorted({name for name in [*recipes, *typed] if name.startswith(incomplete)})


def model_names(incomplete: str) -> list[str]:
    """What lies in models/, as commands and recipes name it."""
    return [name for name in _models() if name.startswith(incomplete)]


def catalogue_names(incomplete: str) -> list[str]:
    """What ``srtui models add`` can fetch."""
    try:
        from srtui.models.catalogue import read_catalogue

        return [name for name in read_catalogue(Workspace.find().models) if name.startswith(incomplete)]
    except Exception:
        return []


def contestants(incomplete: str) -> list[str]:
    """What an evaluation compares: runs, their students before them, models."""
    runs = run_names("")
    names = [*runs, *(f"base:{run}" for run in runs), *_models()]
    return [name for name in names if name.startswith(incomplete)]


def recipe_settings(incomplete: str) -> list[str]:
    """The words of ``--set`` up to their equals sign."""
    try:
        from srtui.recipe.reference import recipe_keys

        return [f"{key.name}=" for key in recipe_keys() if key.name.startswith(incomplete)]
    except Exception:
        return []


def _models() -> list[str]:
    try:
        return sorted(_named(Workspace.find().models))
    except Exception:
        return []


def _named(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.suffix == ".gguf":
            yield path.stem
        elif (path / "config.json").exists():
            yield path.name
