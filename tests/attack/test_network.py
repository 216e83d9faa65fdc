"""Nothing opens a connection: not a command, not a library as it is imported. (A whole run, with every
socket watched, is in tests/test_pipeline.py; `srtui bundle`, whose pip alone uses a network, in tests/bundle.)"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.attack.ground import Attack, Ground

WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")
tried: list[str] = []
watching = False


def watch(event: str, given: tuple[object, ...]) -> None:
    if watching and event in WATCHED:
        tried.append(f"{event} {given[-1]!r}")
        raise PermissionError(event)


@pytest.fixture(scope="module", autouse=True)
def watcher() -> None:
    """An audit hook cannot be taken away again; it looks only while ``watching``."""
    sys.addaudithook(watch)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    global watching  # noqa: PLW0603 - of the hook
    tried.clear()
    watching = True
    yield
    watching = False
    assert tried == []


ATTACKS = [
    *(
        Attack(f"no connection: {command.split(' --')[0]}", command, 0, keeps=False, leaves=("ws/x.*", "ws/b.sqlite", "ws/new/*"))
        for command in [
            "--help", "status", "status quickstart", "show 1", "scores quickstart", "db", "db check", "db vacuum",
            "db backup b.sqlite", "models list", "eval list", "export quickstart --out x.json",
            "export quickstart --out x.parquet --format parquet", "import recipes/quickstart.jsonl --name n",
            "report quickstart --out x.html", "init new",
        ]
    ),
    Attack("no connection: a model that is not here", "models inspect smollm2-135m", says="srtui models add"),
    Attack("no connection: a run without its model", "run recipes/quickstart.toml", says="srtui models add",
           keeps=False, leaves=("ws/store/*",)),
    Attack("no connection: an address for a model", "models add https://example.com/m.gguf"),
    Attack("no connection: an address for data", "import https://example.com/d.json", says="does not exist"),
    Attack("no connection: an address for a recipe", "run https://example.com/r.toml"),
    Attack("no connection: a name of a hub", "models add HuggingFaceTB/SmolLM2-135M"),
    Attack("no connection: data of a hub", "import tatsu-lab/alpaca", says="does not exist"),
    Attack("no connection: a share", "import //127.0.0.1/share/d.json", says="does not exist"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_network(attack: Attack, ground: Ground) -> None:
    attack.hold(ground)


LIBRARIES = (
    "torch transformers trl peft accelerate datasets bitsandbytes llama_cpp gguf safetensors statsmodels.api "
    "matplotlib.pyplot textual pyarrow.parquet"
)


def test_no_library_reaches_out_as_it_is_imported(ground: Ground) -> None:
    script = (
        "import sys; tried = []\n"
        f"sys.addaudithook(lambda event, given: tried.append((event, given)) if event in {WATCHED!r} else None)\n"
        "from srtui.workspace import go_offline; go_offline()\n"
        f"import importlib\nfor name in {LIBRARIES.split()!r}: importlib.import_module(name)\n"
        "print(tried)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=ground.environment(),
        cwd=ground.root,
    )
    assert done.stdout.strip().split("\n")[-1] == "[]", done.stderr
