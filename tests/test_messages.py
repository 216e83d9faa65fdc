"""Every message that names a problem says what to do next, and what it names to do exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from srtui.recipe.reference import recipe_keys
from tests.command_tree import commands

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "srtui"
_VERBS = (
    "add|ask|build|bring|change|check|choose|close|continue|convert|copy|correct|decompress|delete|export|fetch|find|free|"
    "get|give|go|import|install|keep|leave|look|lower|make|measure|merge|move|name|open|pilot|point|press|put|read|remove|"
    "rename|repair|replace|resize|restore|resume|run|save|say|see|send|set|show|start|stop|switch|take|train|try|unpack|"
    "update|upgrade|use|wait|write"
)
_ADVICE = re.compile(
    rf"(?:^|[;:,.?(]) ?(?:or |and |then |so |where \w+ \w+, )?(?:{_VERBS})\b"  # an imperative, where a clause begins
    r"|\bsrtui [a-z]+|pip install|tools/|docs/\w+\.md"
    r"| --[a-z]|\b(?:teacher|student|training|selection|scoring|prompt|reflection|gates)\.[a-z]"
    r"|\bit can be\b|\bit is (?:a number|manylinux|none, or)|\bmust\b|\bdid you mean\b|\b(?:stages|arms) are\b|\bhas to\b"
    r"|resume",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"^(?:--[a-z-]+|[a-z]+\.[a-z_]+ =)\s?")  # what a message is about is no advice
_TOLD_ELSEWHERE = {
    "CUDA {target.cuda}: {error}": "the sentence of another UserError, which is held to this itself",
    "{self.path} {kind}; {fix}.": "what to do stands in a table beside it",
    "{path}: {sentence}.": "the same",
    "{str(final.result)}": "the same, of a process that trains",
    "{report['refused']}": "the same, of a process that converts",
    "": "llama.cpp's log has the words, which the process that started this one adds",
    "{mistake(": "the key, and what it expects: srtui.fields",
    "{path}: {message}.": "what SQLite says and no sentence is known for",
    "segment's grammar": "a grammar is made by srtui alone: where it is wrong, so is srtui",
}
"""Messages whose advice is not beside them in the source, by what they hold, each with why."""


def _named(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(path: Path, node: ast.expr, depth: int = 4, part: bool = False) -> list[str]:
    """All texts that an expression may come to; what is not written out stands in braces. Names, attributes and
    functions stand for the texts that the same module gives them, else any module where they are no ``part``."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for piece in node.values:
            inner = piece.value if isinstance(piece, ast.FormattedValue) else piece
            texts = [begun + text for begun in texts for text in _texts(path, inner, depth, True) or [""]][
                :64
            ]
        return texts
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _texts(path, node.left, depth) for b in _texts(path, node.right, depth)]
    if isinstance(node, ast.IfExp):
        return _texts(path, node.body, depth) + _texts(path, node.orelse, depth)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(path, value, depth)]
    whole = [f"{{{ast.unparse(node)}}}"]
    if isinstance(node, ast.Call) and _named(node.func) in ("rstrip", "lstrip") and depth:
        return _texts(path, node.func.value, depth) if isinstance(node.func, ast.Attribute) else whole
    name = _named(node.func) if isinstance(node, ast.Call) else _named(node)
    if (
        not name
        or not depth
        or (part and isinstance(node, ast.Attribute))
        or (isinstance(node, ast.Call) and name == "mistake")
    ):
        return whole
    kind = ast.FunctionDef if isinstance(node, ast.Call) else type(node)
    given = _source()[0].get((kind, name), [])
    beside = [(p, value) for p, value in given if p == path]
    given = beside if beside or part else given
    if part and not all(isinstance(value, ast.Constant | ast.JoinedStr | ast.IfExp) for _, value in given):
        return whole
    texts = [text for p, value in given for text in _texts(p, value, depth - 1)]
    return [t for t in dict.fromkeys(texts) if " " in t][:64] or whole


class _Read(ast.NodeVisitor):
    """One pass over a module: what functions return and names are given, and the messages."""

    def __init__(
        self, path: Path, index: dict[tuple[type[ast.AST], str], list[tuple[Path, ast.expr]]]
    ) -> None:
        self._path, self._index, self._function = path, index, ""
        self.messages: list[ast.Call] = []

    def _keep(self, kind: type[ast.AST], name: str, value: ast.expr) -> None:
        self._index.setdefault((kind, name), []).append((self._path, value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._keep(ast.FunctionDef, self._function, node.value)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._keep(
                ast.Attribute if isinstance(target, ast.Attribute) else ast.Name, _named(target), node.value
            )
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _named(node.func) in ("UserError", "TooCostly") and node.args:
            self.messages.append(node)
        self.generic_visit(node)


@cache
def _source() -> tuple[
    dict[tuple[type[ast.AST], str], list[tuple[Path, ast.expr]]], list[tuple[Path, ast.Call]]
]:
    index: dict[tuple[type[ast.AST], str], list[tuple[Path, ast.expr]]] = {}
    calls = []
    for path in sorted(SOURCE.rglob("*.py")):
        reader = _Read(path, index)
        reader.visit(ast.parse(path.read_text("utf-8")))
        calls += [(path, call) for call in reader.messages]
    return index, calls


@cache
def _messages() -> tuple[tuple[str, str], ...]:
    """(where, text) of every UserError, with each text that it may have."""
    return tuple(
        (f"{path.relative_to(ROOT)}:{call.lineno}", text)
        for path, call in _source()[1]
        for text in _texts(path, call.args[0])
    )


def _advises(text: str) -> bool:
    bare = re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "X", text)
    return bool(_ADVICE.search(_SUBJECT.sub("", bare)))


@pytest.mark.parametrize(
    ("text", "advises"),
    [
        ("There is no run with id {run_id}.", False),
        ("{path} cannot be read ({error}).", False),
        ("--what {what}: it is none.", False),
        ("training.held_out = {value} is too much.", False),
        ("{path} cannot be read ({error}); check the disk.", True),
        ("--what {what}: it can be {', '.join(WHAT)}.", True),
        ("It does not fit; set {fitting} or teacher.slots lower.", True),
        ("There is no run {name}; srtui status lists them.", True),
    ],
)
def test_what_advice_is(text: str, advises: bool) -> None:
    assert _advises(text) == advises


def test_every_message_says_what_to_do() -> None:
    assert len(_messages()) > 400
    silent = [
        f"{where}: {text}"
        for where, text in _messages()
        if not _advises(text) and not any(text == part or (part and part in text) for part in _TOLD_ELSEWHERE)
    ]
    assert silent == []


def test_every_exception_is_one() -> None:
    for part in _TOLD_ELSEWHERE:
        assert any(text == part or (part and part in text) for _, text in _messages()), part


_PROSE = {"was", "has", "did", "to", "never", "does", "works", "sets", "itself", "store", "workspace"}
"""Words behind ``srtui`` where that is the program, and no command of it."""


def _commands_of(text: str) -> Iterator[tuple[list[str], list[str]]]:
    for said in re.finditer(r"\bsrtui((?: [a-z][a-z-]*)+)([^;]*)", re.sub(r"\{[^{}]*\}", "X", text)):
        words = said[1].split()
        if words[0] not in _PROSE and not text[: said.start()].endswith(("earlier ", "newer ", "tested ")):
            yield words, re.findall(r"^(?: (?:--[a-z-]+|[A-Z'\"][^ ,.)]*))+", said[2])


def test_the_commands_that_messages_name_exist() -> None:
    tree = commands()
    named = 0
    for where, text in _messages():
        for words, behind in _commands_of(text):
            path = next(
                (tuple(words[:n]) for n in (3, 2, 1) if tuple(words[:n]) in tree),
                () if not any(p[: len(words)] == tuple(words) for p in tree) else None,
            )
            if path is None:  # a group, as in "srtui eval --help"
                continue
            assert path, f"{where}: srtui {' '.join(words)}"
            named += 1
            options = {o for p in tree[path].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            for option in re.findall(r"--[a-z-]+", " ".join(behind)):
                assert option in options, f"{where}: srtui {' '.join(path)} {option}"
    assert named > 40


def test_the_options_and_keys_that_messages_name_exist() -> None:
    options = {o for c in commands().values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    keys = {entry.name for entry in recipe_keys()}
    for where, text in _messages():
        bare = re.sub(r"\((?:pip|ldd) [^)]*\)|\{[^{}]*\}", "X", text)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", bare):
            assert option in options | {"--help"}, f"{where}: {option}"
        for key in re.findall(
            r"\b(?:teacher|student|training|selection|scoring|prompt|reflection|gates)\.[a-z_]+\b", bare
        ):
            assert key in keys, f"{where}: {key}"
