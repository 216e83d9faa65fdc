"""``srtui eval human`` as a person meets it: a command, a real terminal, files of answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from srtui.store import Store
from srtui.workspace import Workspace
from tests.tui.terminal import Terminal

WORDS = ["eval", "human", "new.json", "old.json", "--prompts", "prompts.jsonl"]


@pytest.fixture
def asked(empty: Workspace) -> Workspace:
    """A workspace with four prompts and two files of answers."""
    rows = [{"instruction": f"Name {n} things.", "category": "lists"} for n in range(1, 5)]
    (empty.root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("new", "old"):
        answers = [
            {"instruction": r["instruction"], "output": f"{name} answer {n}"} for n, r in enumerate(rows)
        ]
        (empty.root / f"{name}.json").write_text(json.dumps(answers), encoding="utf-8")
    return empty


def srtui(workspace: Workspace, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "srtui", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=workspace.root,
        env=os.environ | {"SRTUI_WORKSPACE": str(workspace.root)},
        timeout=120,
    )


def test_mistakes_are_one_sentence(asked: Workspace) -> None:
    for words, sentence in (
        ((), "Who judges? Give a name with --annotator NAME"),
        (("--annotator", "ada"), "needs a terminal that can be drawn on"),
    ):
        done = srtui(asked, *WORDS, *words)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_answers_without_asking(asked: Workspace) -> None:
    done = srtui(asked, *WORDS, "--no-ask")
    assert done.returncode == 0, done.stderr
    assert "the answers are there, and nobody has judged yet" in done.stdout
    again = json.loads(srtui(asked, *WORDS, "--no-ask", "--json").stdout)
    assert again["id"] == 1
    assert again["result"]["judgements"] == 0


def test_two_people_judge_in_a_terminal_and_their_agreement_is_told(asked: Workspace) -> None:
    def said(name: str) -> dict[int, str]:
        with Store(asked.store_path) as store:
            return {j.item: str(j.choice) for j in store.evaluations.judgements(1, annotator=name)}

    environment = os.environ | {"SRTUI_WORKSPACE": str(asked.root), "TERM": "xterm-256color"}
    files = [str(asked.root / word) if "." in word else word for word in WORDS]
    for name in ("ada", "grace"):
        terminal = Terminal(
            [sys.executable, "-m", "srtui", *files, "--annotator", name], environment, columns=80, lines=24
        )
        try:
            for n, key in enumerate("12tb", 1):
                terminal.shows("Which answer is better?", f"{n} of 4", name)
                assert "new.json" not in terminal.text, "while it asks, nothing says whose answers these are"
                terminal.press(key)
            terminal.shows("Nothing is left to judge")
            assert len(said(name)) == 4
            terminal.press("q")
            assert terminal.ends(within=60) == 0
        finally:
            terminal.kill()
        assert sorted(said(name).values())[-1] == "tie"
    done = srtui(asked, "eval", "show", "1", "--json")
    result = json.loads(done.stdout)["result"]
    assert result["judgements"] == 8
    assert result["agreement"]["method"] == "Cohen"
    assert result["win_rate"]["low"] < result["win_rate"]["value"] < result["win_rate"]["high"]
