"""A prompts file out of the scripts that the paper's authors released, for those who have them.

Their words are not part of srtui: they are read from a checkout of github.com/tianyi-lab/Reflection_Tuning.
The scripts are parsed and never run.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from srtui.errors import UserError
from srtui.files import parse_json, read_text
from srtui.prompts.prompt_set import PromptSet, parse_prompts

_TEMPLATES = {
    "alpaca": "PROMPT_DICT_ALPACA",
    "vicuna": "PROMPT_DICT_VICUNA",
    "wizardlm": "PROMPT_DICT_WIZARDLM",
}
# The scripts' names for what a sample holds.
_NAMES = {
    "ins": "{instruction}", "inp": "{input}", "outp": "{response}", "output_i": "{response}",
    "instruct_i_ori": "{instruction}", "input_i": "{input}",
}  # fmt: skip
# What the service that the scripts ask does not do either.
_NOTHING_ELSE = {"top_k": 0.0, "min_p": 0.0, "repeat_penalty": 1.0}
_SCRIPTS = "selection_code/data_analysis.py, reflection_code/reflect_instruction.py and reflection_code/reflect_response.py"


def released_prompts(sources: Iterable[Path]) -> PromptSet:
    """The prompts in the released scripts (a checkout's folder, or the files), or in a JSON file that holds
    their strings as ``templates``, ``reverse_request``, ``reflect_instruction``, ...

    Raises UserError that says what was not found.
    """
    data: dict[str, Any] = {"name": "released", "templates": {}, "teacher": {}}
    files = [file for source in sources for file in _files(source)]
    for file in files:
        text = read_text(file)
        try:
            if file.suffix == ".json":
                _from_json(parse_json(text, str(file)), data)
            else:
                _from_script(ast.parse(text), data)
        except (
            SyntaxError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            MemoryError,
        ) as error:
            raise UserError(
                f"{file} cannot be read as a released script or its strings ({str(error) or type(error).__name__}); fetch it again."
            ) from error
    missing = [section for section in ("templates", "reverse", "sampling") if not data.get(section)]
    missing += [
        f"teacher.{target}" for target in ("instruction", "response") if target not in data["teacher"]
    ]
    if missing:
        raise UserError(
            f"Nothing says {', '.join(missing)}; name the released repository's folder, or {_SCRIPTS}."
        )
    return parse_prompts(data, "released prompts")


def to_toml(prompts: PromptSet, heading: str) -> str:
    """A prompts file with these prompts; ``heading`` becomes its first comment."""
    whole = prompts.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines = [f"# {heading}", *_table(whole, ())]
    return "\n".join(lines) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path and any(not isinstance(value, Mapping) for value in table.values()):
        yield f"\n[{'.'.join(path)}]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            # A JSON string is a TOML string, but for one control character.
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _table(value, (*path, key))


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return [
            source / name
            for folder in ("selection_code", "reflection_code")
            for name in _scripts(source, folder)
        ]
    if source.suffix in (".py", ".json") and source.is_file():
        return [source]
    raise UserError(f"{source}: there is no such folder, .py or .json file; check the path.")


def _scripts(source: Path, folder: str) -> list[str]:
    names = [word.strip(",") for word in _SCRIPTS.split() if word.startswith(folder)]
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise UserError(
            f"{source} holds no {missing[0]}; it is no checkout of the released repository: name one."
        )
    return names


def _from_json(released: Mapping[str, Any], data: dict[str, Any]) -> None:
    for name, layout in released["templates"].items():
        data["templates"][name] = {
            "with_input": layout["prompt_input"],
            "without_input": layout["prompt_no_input"],
        }
    data["reverse"] = {"instruction": released["reverse_request"], "target": released["reverse_target"]}
    for target in ("instruction", "response"):
        wording = released[f"reflect_{target}"]
        data["teacher"][target] = _teacher(wording["gen_prompt_no_input"], wording.get("gen_prompt_input"))
    data["sampling"] = {**released["teacher_sampling"], "top_p": 1.0, **_NOTHING_ELSE}


def _from_script(tree: ast.Module, data: dict[str, Any]) -> None:
    """What one script says, by the names that the authors gave things in it."""
    wordings: dict[str, dict[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("gen_prompt_no_input", "gen_prompt_input"):
            wordings[node.name] = {name: _text(value) for name, value in _assigned(node) if _is_text(value)}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dispatch_openai_requests":
            texts = {
                k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg in ("temperature", "top_p")
            }
            data["sampling"] = {**texts, **_NOTHING_ELSE}
    for name, value in _assigned(tree):
        for template, their_name in _TEMPLATES.items():
            if name == their_name:
                layout = ast.literal_eval(value)
                data["templates"][template] = {
                    "with_input": layout["prompt_input"],
                    "without_input": layout["prompt_no_input"],
                }
        # The response between two sentences; the target follows the prompt that they make.
        if name == "instruct_i_reverse" and _is_text(value):
            data.setdefault("reverse", {})["instruction"] = _text(value)
        if name == "whole_text_reverse":
            data.setdefault("reverse", {})["target"] = _text(value).removeprefix("promt_to_use_reverse")
    if "gen_prompt_no_input" in wordings:
        teacher = _teacher(wordings["gen_prompt_no_input"], wordings.get("gen_prompt_input"))
        target = "instruction" if "[New Instruction]" in teacher["without_input"]["user"] else "response"
        data["teacher"][target] = teacher


def _teacher(plain: Mapping[str, str], other: Mapping[str, str] | None) -> dict[str, Any]:
    def wording(strings: Mapping[str, str]) -> dict[str, str]:
        user = strings["prompt_template"].replace("{criteria}", strings["criteria"])
        for their_name in ("ins", "inp", "outp"):
            user = user.replace(f"{{{their_name}}}", _NAMES[their_name])
        return {"system": strings["sys_prompt"], "user": user}

    return {"without_input": wording(plain)} | ({"with_input": wording(other)} if other else {})


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Assign) and len(part.targets) == 1 and isinstance(part.targets[0], ast.Name):
            yield part.targets[0].id, part.value


def _is_text(node: ast.expr) -> bool:
    """A string, or strings and variables joined by +."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text(node: ast.expr) -> str:
    """The joined string, with placeholders for what a sample holds."""
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.Name):
        return _NAMES.get(node.id, node.id)
    return str(ast.literal_eval(node))
