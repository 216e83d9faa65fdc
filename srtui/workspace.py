"""Where models/, store/ and recipes/ are, and the guard that keeps everything offline."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from srtui.errors import UserError
from srtui.files import current_folder

# Read by huggingface_hub, transformers, datasets, trl and friends at import time.
OFFLINE_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "USE_HUB_KERNELS": "NO",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "true",
}


def go_offline() -> None:
    """Set every offline switch of the libraries below us; call before any of them is imported.

    ``kernels`` fetches compiled code from a hub when it is imported by bitsandbytes or transformers,
    also where it happens to be installed: here nothing can import it. bitsandbytes' advice to install
    it, which it gives on CPUs with AVX-512, is not for users of this program.
    """
    os.environ.update(OFFLINE_SETTINGS)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def dataset_file(name: str, recipe_path: Path, root: Path) -> Path | None:
    """The data file that a recipe's ``dataset`` names: beside the recipe, in the workspace ``root``, or in the folder
    where the command was given; None where there is none."""
    folders = filter(None, (recipe_path.parent, root, current_folder()))
    return next((path for folder in folders if (path := folder / name).is_file()), None)


@dataclass(frozen=True)
class Workspace:
    """A folder with ``models/``, ``store/`` and ``recipes/``."""

    root: Path

    @property
    def models(self) -> Path:
        """The folder of models."""
        return self.root / "models"

    @property
    def recipes(self) -> Path:
        """The folder of recipes."""
        return self.root / "recipes"

    @property
    def store_path(self) -> Path:
        """The store's file, whether it is there or not."""
        return self.root / "store" / "srtui.sqlite"

    @property
    def runs(self) -> Path:
        """Adapters, exports and logs that are files rather than rows, one folder a run."""
        return self.root / "store" / "runs"

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """The workspace named by ``SRTUI_WORKSPACE``, else the nearest one at or above ``start``.

        Raises UserError where there is none.
        """
        named = os.environ.get("SRTUI_WORKSPACE")
        if named:
            try:
                root = Path(named).expanduser()
            except RuntimeError:  # ~nobody/x
                raise UserError(
                    f"SRTUI_WORKSPACE={named}: there is no such user's home folder; write the path in full."
                ) from None
            if not _is_workspace(root):
                raise UserError(
                    f"SRTUI_WORKSPACE={named} is not a workspace; make it one with: srtui init {named}"
                )
            return cls(root.resolve())
        try:
            here = (start or Path.cwd()).resolve()
        except FileNotFoundError:
            raise UserError(
                "The current folder has been deleted; change to one that exists, or set SRTUI_WORKSPACE."
            ) from None
        for folder in (here, *here.parents):
            if _is_workspace(folder):
                return cls(folder)
        raise UserError(f"No srtui workspace at or above {here}; make one with: srtui init my-workspace")

    @classmethod
    def create(cls, root: Path) -> tuple[Workspace, list[Path]]:
        """Make ``root`` a workspace; existing files stay as they are. Returns what was written."""
        written: list[Path] = []
        try:
            for name in ("models", "store", "recipes"):
                (root / name).mkdir(parents=True, exist_ok=True)
            source = _packaged_workspace()
            for path in [source / "models" / "models.toml", *sorted((source / "recipes").rglob("*"))]:
                target = root / path.relative_to(source)
                if path.is_file() and not target.exists():
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, target)
                    written.append(target)
        except OSError as error:
            raise UserError(
                f"Cannot make a workspace at {root}: {error.strerror or error}; name another folder."
            ) from error
        return cls(root.resolve()), written


def _is_workspace(folder: Path) -> bool:
    return (folder / "models" / "models.toml").is_file() and (folder / "recipes").is_dir()


def _packaged_workspace() -> Path:
    """The catalogue and recipes that ship with srtui: in the wheel, or in the checkout itself."""
    packaged = Path(str(files("srtui"))) / "_workspace"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent
