"""What a run exports, read back by the loaders of the trainers that it is for: every record, every text.

    python benchmarks/check_loaders.py RUN [--workspace DIR] [--tokenizer FOLDER]

Conversations go out as sharegpt and as messages, preference pairs in the layout of each trainer. TRL, axolotl and
LLaMA-Factory are read with where they are installed (their requirements are not needed, so: pip install --no-deps axolotl
llamafactory, and what is missing then); what is not installed is "absent". Texts are those that srtui's own reader takes
from the same files. Prints one JSON line last: by trainer and layout, records read with equal texts, of how many.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
Talk = list[tuple[str, str]]
"""(role, text) of each turn, the roles being system, user and assistant."""
ROLES = {"human": "user", "gpt": "assistant"}
LAYOUTS = {"TRL": "trl", "axolotl": "axolotl", "LLaMA-Factory": "llama-factory"}


def exported(workspace: Path, folder: Path, run: str) -> dict[str, Path]:
    """The files that a run is exported to, by layout."""
    from typer.testing import CliRunner

    from srtui.cli import app

    files: dict[str, Path] = {}
    words = {"sharegpt": ["--format", "sharegpt"], "messages": ["--format", "messages"]}
    words |= {name: ["--format", "preference", "--layout", name] for name in LAYOUTS.values()}
    for name, options in words.items():
        files[name] = folder / f"{name}.{'json' if name == 'sharegpt' else 'jsonl'}"
        command = ["export", run, *options, "--out", str(files[name])]
        done = CliRunner().invoke(app, command, env={"SRTUI_WORKSPACE": str(workspace)})
        if done.exit_code:
            raise SystemExit(f"srtui {' '.join(command)}: {done.output}")
    return files


def talks(path: Path) -> list[Talk]:
    """The conversations of a file, as srtui reads them."""
    from srtui import datasets

    rows = datasets.read(path, turns="each").conversations()
    return [
        [(turn.role, turn.text) for turn in row.conversation.turns]
        for row in rows
        if not isinstance(row, datasets.BadRow)
    ]


def pairs(path: Path) -> list[tuple[Talk, str, str]]:
    """The turns before, the chosen and the rejected answer of a file in TRL's layout."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        (
            [(t["role"], t["content"]) for t in r["prompt"]],
            r["chosen"][0]["content"],
            r["rejected"][0]["content"],
        )
        for r in records
    ]


class Trl:
    """Its datasets are those of ``datasets``, its shapes those of trl.data_utils."""

    def rows(self, path: Path) -> Any:
        from datasets import load_dataset

        return load_dataset("json", data_files=str(path), split="train")

    def talks(self, path: Path, layout: str) -> list[Talk]:
        from trl.data_utils import is_conversational, maybe_convert_to_chatml

        read = []
        for row in self.rows(path):
            chat = maybe_convert_to_chatml(dict(row))
            assert is_conversational(chat)
            turns = chat["messages"]  # it leaves ShareGPT's names for roles as they are
            read.append([(ROLES.get(turn["role"], turn["role"]), turn["content"]) for turn in turns])
        return read

    def pairs(self, path: Path) -> list[tuple[Talk, str, str]]:
        from trl.data_utils import is_conversational

        read = []
        for row in self.rows(path):
            assert is_conversational(row)
            before = [(turn["role"], turn["content"]) for turn in row["prompt"]]
            read.append((before, row["chosen"][0]["content"], row["rejected"][0]["content"]))
        return read


class Axolotl:
    """By axolotl.utils.data and its strategies ``chat_template`` and ``chat_template.default`` of dpo."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
        sys.modules["posthog"] = types.ModuleType("posthog")  # its telemetry, which reads nothing

    def rows(self, path: Path) -> Any:
        from axolotl.utils.data.shared import load_dataset_with_config
        from axolotl.utils.dict import DictDefault

        config = DictDefault({"path": str(path), "ds_type": "json", "split": "train"})
        return load_dataset_with_config(config, use_auth_token=False)

    def talks(self, path: Path, layout: str) -> list[Talk]:
        from axolotl.prompt_strategies import load
        from axolotl.utils.dict import DictDefault

        columns: dict[str, Any] = {"message_field_training": "weight"}
        if layout == "sharegpt":
            columns |= {
                "field_messages": "conversations",
                "message_property_mappings": {"role": "from", "content": "value"},
            }
        config = DictDefault(
            {"chat_template": "tokenizer_default", "sequence_len": 4096, "train_on_inputs": False}
        )
        strategy = load("chat_template", self.tokenizer, config, columns)
        read = []
        for row in self.rows(path):
            # A system text that only some records have is null in the others' rows.
            whole = {key: value for key, value in row.items() if value is not None}
            turns = strategy.get_conversation_thread(whole)
            assert strategy.tokenize_prompt(whole)["input_ids"]
            read.append([(turn["role"], turn["content"]) for turn in turns])
        return read

    def pairs(self, path: Path) -> list[tuple[Talk, str, str]]:
        from axolotl.prompt_strategies.dpo import load
        from axolotl.utils.dict import DictDefault

        config = DictDefault(
            {
                "chat_template": "tokenizer_default",
                "datasets": [{"field_messages": "messages", "type": "chat_template.default"}],
            }
        )
        transform, _ = load("chat_template.default", config, dataset_idx=0)
        read = []
        for row in self.rows(path):
            made = transform(row, tokenizer=self.tokenizer)
            before = [(turn["role"], turn["content"]) for turn in row["messages"]]
            laid_out = self.tokenizer.apply_chat_template(
                [{"role": r, "content": t} for r, t in before], tokenize=False, add_generation_prompt=True
            )
            assert made["prompt"] == laid_out
            answers = [row[side]["content"] for side in ("chosen", "rejected")]
            assert all(
                made[side].startswith(text)
                for side, text in zip(("chosen", "rejected"), answers, strict=True)
            )
            read.append((before, answers[0], answers[1]))
        return read


class LlamaFactory:
    """By llamafactory.data, as its dataset_info.json has to name a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Its package of plug-ins for sounds and pictures wants this, which no text does.
        if importlib.util.find_spec("torchaudio") is None:
            sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))

    def rows(self, path: Path, info: dict[str, Any]) -> Any:
        from llamafactory.data.loader import _load_single_dataset
        from llamafactory.data.parser import get_dataset_list

        (attributes,) = get_dataset_list(["d"], {"d": {"file_name": path.name, **info}})
        nothing: dict[str, Any] = {"cache_dir": None, "hf_hub_token": None}
        data = types.SimpleNamespace(
            dataset_dir=str(path.parent), streaming=False, preprocessing_num_workers=None, max_samples=None,
            overwrite_cache=True, media_dir=str(path.parent),
        )  # fmt: skip
        training = types.SimpleNamespace(local_process_index=0)
        return _load_single_dataset(attributes, types.SimpleNamespace(**nothing), data, training)

    def talks(self, path: Path, layout: str) -> list[Talk]:
        info: dict[str, Any] = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
        if layout == "messages":
            tags = {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": "user",
                "assistant_tag": "assistant",
            }
            info = {
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": {**tags, "system_tag": "system"},
            }
        else:
            has_system = '"system":' in path.read_text(encoding="utf-8")
            info["columns"] |= {"system": "system"} if has_system else {}
        return [self._talk(row) for row in self.rows(path, info)]

    def pairs(self, path: Path) -> list[tuple[Talk, str, str]]:
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        info = {"formatting": "sharegpt", "ranking": True, "columns": columns}
        read = []
        for row in self.rows(path, info):
            *before, chosen, rejected = self._talk(row)
            read.append((before, chosen[1], rejected[1]))
        return read

    @staticmethod
    def _talk(row: dict[str, Any]) -> Talk:
        system = [("system", row["_system"])] if row["_system"] else []
        return [*system, *((turn["role"], turn["content"]) for turn in [*row["_prompt"], *row["_response"]])]


def compared(found: list[Any], wanted: list[Any]) -> str:
    equal = sum(
        [tuple(t) for t in a[0]] == [tuple(t) for t in b[0]] and a[1:] == b[1:]
        if isinstance(b, tuple)
        else [tuple(t) for t in a] == b
        for a, b in zip(found, wanted, strict=False)
    )
    return f"{equal} of {len(wanted)}" + ("" if len(found) == len(wanted) else f" ({len(found)} read)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "models" / "smollm2-135m")
    wanted = parser.parse_args()
    result: dict[str, Any] = {"check": "loaders", "run": wanted.run}
    with tempfile.TemporaryDirectory(prefix="srtui-loaders-") as name:
        folder = Path(name)
        os.environ["HF_HOME"], os.environ["HF_HUB_OFFLINE"] = str(folder / "hf"), "1"
        from transformers import AutoTokenizer

        files = exported(wanted.workspace, folder, wanted.run)
        tokenizer = AutoTokenizer.from_pretrained(wanted.tokenizer)
        trainers = {"TRL": ("trl", Trl), "axolotl": ("axolotl", lambda: Axolotl(tokenizer)),
                    "LLaMA-Factory": ("llamafactory", lambda: LlamaFactory(folder))}  # fmt: skip
        for trainer, (package, make) in trainers.items():
            if importlib.util.find_spec(package) is None:
                result[trainer] = "absent"
                continue
            reader = make()
            result[trainer] = {
                layout: compared(reader.talks(files[layout], layout), talks(files[layout]))
                for layout in ("sharegpt", "messages")
            }
            result[trainer]["pairs"] = compared(reader.pairs(files[LAYOUTS[trainer]]), pairs(files["trl"]))
            print(f"{trainer}: {result[trainer]}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
