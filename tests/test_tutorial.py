"""The tutorial's commands are parsed by the program, and its keys and settings are the program's."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest

from srtui.gates import GATES
from srtui.recipe import Recipe
from srtui.recipe.loading import load
from srtui.recipe.reference import recipe_keys
from tests.command_tree import commands, parse
from tests.conftest import ROOT

DOCS = ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def _commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL)
    return re.findall(r"\bsrtui [^;\n]+", "\n".join(blocks))


@pytest.mark.parametrize("line", _commands())
def test_each_command_is_parsed(line: str) -> None:
    context = parse(shlex.split(line)[1:])
    assert context.parent is not None and context.command.callback is not None


def test_from_chats_to_an_answer_nothing_is_left_out() -> None:
    ran = [line.split()[1] for line in _commands()]
    order = ["init", "models", "import", "pilot", "run", "retrain", "ablate", "eval", "export-model", "chat"]
    places = [ran.index(name) for name in order]
    assert places == sorted(places)
    assert "estimated*" in TUTORIAL


def test_its_recipe_is_one() -> None:
    changes = tomllib.loads(re.findall(r"```toml\n(.*?)```", TUTORIAL, re.DOTALL)[0])
    recipe = load(ROOT / "recipes" / "workstation-24gb.toml").model_dump()
    for key, value in changes.items():
        recipe[key] = {**recipe[key], **value} if isinstance(value, dict) else value
    assert Recipe.model_validate(recipe).selection.policy == "keep"


def test_when_results_are_bad_names_keys_that_there_are() -> None:
    text = (DOCS / "when-results-are-bad.md").read_text(encoding="utf-8")
    keys = {key.name for key in recipe_keys()}
    sections = {name.partition(".")[0] for name in keys}
    named = {
        word.partition("=")[0]
        for word in re.findall(r"`([a-z_]+\.[a-z_]+(?:=[^`]*)?)`", text)
        if word.partition(".")[0] in sections
    }
    assert named <= keys and len(named) > 15, named - keys
    assert {name.partition(".")[2] for name in named if name.startswith("gates.")} <= set(GATES) | {"rater"}
    for line in re.findall(r"`(srtui [^`]+)`", text):
        words = tuple(shlex.split(line)[1:])
        assert words[:1] in commands() or words[:2] in commands(), line


def test_the_demo_ends_in_commands_that_work() -> None:
    demo = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\ntest:")[0]
    lines = [shlex.split(words) for words in re.findall(r'"  (srtui [^"]+)"', demo)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(lines) == 2
    for words in lines:
        assert parse(words[1:]).command.name == words[2 if words[1] == "models" else 1]
        assert f"`{' '.join(words)}`" in readme


def test_the_readme_is_short_and_leads_to_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 200
    for page in ("tutorial", "when-results-are-bad", "screens", "json"):
        assert f"docs/{page}.md" in readme
