"""What the import contracts cannot say about the cut of the source: SQL lies in the store alone."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import srtui.tui

ROOT = Path(__file__).resolve().parents[1]
BEGINS_A_STATEMENT = re.compile(
    r"\s*(?:SELECT\s+\S|INSERT\s+(?:OR\s+\w+\s+)?INTO\s|REPLACE\s+INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|"
    r"CREATE\s+(?:TEMP\w*\s+|VIRTUAL\s+|UNIQUE\s+)*(?:TABLE|INDEX|TRIGGER|VIEW)\s|DROP\s+\w+\s|ALTER\s+TABLE\s|"
    r"WITH\s+(?:RECURSIVE\s+)?\w+(?:\(.*?\))?\s+AS\s*\(|PRAGMA\s+\w|ATTACH\s|VACUUM\b|EXPLAIN\s|(?:BEGIN|COMMIT|ROLLBACK)\s*$)",
    re.DOTALL,
)
"""A statement that stands alone in a text; keywords in capitals, as the whole project writes them."""
ASKING = {"execute", "executemany", "executescript", "rows", "row", "value", "fetch_rows", "fetch_row", "fetch_value"}  # fmt: skip


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """The texts of an expression that are written out, the parts of f-strings and sums among them."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner


def sql_of(source: str) -> list[tuple[int, str]]:
    """(line, text) of what is SQL in a module: a text that begins as a statement does, docstrings left out, or
    any text that is handed to a method that runs statements."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = {
        (text.lineno, str(text.value))
        for text in literals(tree)
        if id(text) not in docstrings and BEGINS_A_STATEMENT.match(str(text.value))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ASKING:
                found |= {
                    (text.lineno, str(text.value))
                    for text in literals(node.args[0])
                    if re.match(r"\s*[A-Z]{4,}\b", str(text.value))
                }
    return sorted(found)


@pytest.mark.parametrize(
    "source",
    [
        'conn.execute("SELECT 1")',
        'store.value(f"SELECT count(*) FROM {table}")',
        'store.rows("EXPLAIN QUERY PLAN " + query)',
        '_ROWS = {"sample": "SELECT s.id FROM sample s "\n    "WHERE true"}',
        'conn.executemany("INSERT OR IGNORE INTO score VALUES (?)", rows)',
        'mode = db.execute("PRAGMA journal_mode = WAL")',
        'conn.execute("BEGIN")',
        'q = "WITH one(a) AS (SELECT 1) SELECT * FROM one"',
    ],
)
def test_a_statement_is_seen(source: str) -> None:
    assert sql_of(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""SELECT is a word of a docstring."""',
        'say("Select a run, or create one.")',
        'PATTERN = r"```|^\\s*(?:def |SELECT |function )"',
        'row.value("I")',
        'canvas.row(0, "UP", None)',
    ],
)
def test_other_words_are_not(source: str) -> None:
    assert not sql_of(source)


def test_every_statement_is_in_the_store() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for path in sorted((ROOT / "srtui").rglob("*.py"))
        if (ROOT / "srtui" / "store") not in path.parents
        for line, text in sql_of(path.read_text(encoding="utf-8"))
    ]
    assert not found, "SQL belongs to srtui/store, as a query with a name:\n" + "\n".join(found)


def test_no_public_method_of_the_store_takes_sql() -> None:
    from srtui.store import Store

    assert not {"rows", "row", "value", "execute", "query"} & {
        name for name in dir(Store) if not name.startswith("_")
    }


def public_functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions and methods of a module that others may call, by name."""
    waiting: list[tuple[str, ast.Module | ast.ClassDef]] = [("", ast.parse(path.read_text(encoding="utf-8")))]
    while waiting:
        outer, node = waiting.pop()
        for inner in node.body:
            if isinstance(inner, ast.ClassDef) and not inner.name.startswith("_"):
                waiting.append((f"{outer}{inner.name}.", inner))
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                yield f"{outer}{inner.name}", inner


def test_functions_of_four_parameters_say_what_each_is() -> None:
    """Of commands, each parameter's help does. (That all functions have a docstring, ruff's D rules check.)"""
    missing = []
    for path in sorted((ROOT / "srtui").rglob("*.py")):
        if path.parent.name == "cli":
            continue
        for name, function in public_functions(path):
            taken = function.args
            parameters = [a.arg for a in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
            parameters = [p for p in parameters if p not in ("self", "cls")]
            said = (ast.get_docstring(function) or "").partition("Args:\n")[2]
            if len(parameters) >= 4:
                missing += [
                    f"{path.relative_to(ROOT)}:{function.lineno}: {name}({parameter})"
                    for parameter in parameters
                    if not re.search(rf"^ +{parameter}: \S", said, re.MULTILINE)
                ]
    assert not missing, "Args of a docstring:\n" + "\n".join(missing)


def test_two_classes_never_share_a_name() -> None:
    """One name, one thing: a reader who looks a class up finds one."""
    homes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "srtui").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


SHOW_OR_KEEP = {"cli", "tui/screens", "recipe", "store"}
"""Rooms whose files are named for their command, screen, section of a recipe, or rows."""
ONE_CONCEPT = {
    "ablate", "bundle", "choose", "evaluation", "gates", "judgements", "models", "pilot", "prompts", "report", "runs",
    "sample", "scores", "training",
}  # fmt: skip
"""What such files share with the module or room that knows it, or with each other: the very same concept."""


def test_two_modules_share_a_name_only_where_one_shows_or_keeps_what_the_other_knows() -> None:
    """The rule is in docs/architecture.md. A name that is new in ONE_CONCEPT has to mean one thing everywhere."""
    faces: dict[str, list[str]] = {}
    homes: dict[str, list[str]] = {}
    for path in sorted((ROOT / "srtui").rglob("*.py")):
        file = path.relative_to(ROOT / "srtui")
        if path.name == "__init__.py":
            homes.setdefault(path.parent.name, []).append(f"{file.parent}/")
        elif file.parent.as_posix() in SHOW_OR_KEEP:
            faces.setdefault(path.stem, []).append(str(file))
        else:
            homes.setdefault(path.stem, []).append(str(file))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
    shared = {name for name, files in faces.items() if len(files) + len(homes.get(name, [])) > 1}
    assert shared == ONE_CONCEPT


def imports_at_the_top(path: Path) -> Iterator[str]:
    """What a module imports as it is loaded, or for types alone: names in full, of modules or of what is in them."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import, which no rule here follows"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)  # a try, a with or a class is loaded too


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not for types either: what two modules both know stands below both. The store's modules alone know the Store that
    has them, and otherwise make no circle either."""
    modules: dict[str, Path] = {}
    for path in (ROOT / "srtui").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    imports = {
        name: {
            target if target in modules else target.rpartition(".")[0] for target in imports_at_the_top(path)
        }.intersection(modules)
        for name, path in modules.items()
    }
    left = modules.keys() - {"srtui.store"}
    while leaves := {name for name in left if not imports[name] & left}:
        left -= leaves
    while unused := {name for name in left if not any(name in imports[other] for other in left)}:
        left -= unused
    assert not left


def test_no_screen_has_an_attribute_that_textual_uses_for_its_own() -> None:
    """``_closed`` of a screen was Textual's word for a widget that is gone: it never went, and the dashboard hung."""
    from textual.message_pump import MessagePump

    assigned = re.compile(
        r"self\.(_\w+)\b(?: *:[^=\n]+)? *=(?!=)|^    (_\w+)(?: *:[^=\n]+)? *=(?!=)", re.MULTILINE
    )

    def names(of: type) -> set[str]:
        return {a or b for a, b in assigned.findall(inspect.getsource(of))}

    ours: set[type] = set()
    for module in pkgutil.walk_packages(srtui.tui.__path__, "srtui.tui."):
        found = vars(importlib.import_module(module.name)).values()
        ours |= {
            c
            for c in found
            if isinstance(c, type) and issubclass(c, MessagePump) and c.__module__ == module.name
        }
    assert len(ours) > 20
    clashes = {
        f"{own.__name__}.{name}"
        for own in ours
        for base in own.__mro__
        if base.__module__.startswith("textual.")
        for name in names(own) & names(base)
    }
    assert clashes == set()
