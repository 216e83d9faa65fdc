"""``srtui doctor``: does this machine really do what a run needs?

PyTorch, bitsandbytes and llama.cpp are not asked for their version but made to compute something
small and known. Each does so in a process of its own, so that a library built for another processor
(which kills its process) is a line of the report and not the end of it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtui.files import current_folder
from srtui.gpu_errors import gpu_fault
from srtui.workspace import OFFLINE_SETTINGS, go_offline

GIB = 1 << 30
_PATIENCE = 180  # seconds; a cold import of torch from a slow disk takes most of a minute


@dataclass(frozen=True)
class Check:
    """One line. ``ok`` is None where something is worth knowing but nothing is wrong with it.

    ``detail`` says what was found, ``fix`` what to do about it (empty where there is nothing to do).
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def checks(workspace_root: Path | None) -> Iterator[Check]:
    """Every check in turn, each as soon as it is known; ``workspace_root`` None leaves its disk out."""
    workers = {name: _start(name) for name in _WORKERS}
    try:
        yield _python()
        yield from _workspace(workspace_root)
        yield _memory()
        yield _disk(workspace_root)
        yield _sqlite(workspace_root)
        yield from _log(workspace_root)
        yield _offline()
        yield from _servers(workspace_root)
        yield _terminal()
        for name, worker in workers.items():
            yield from _finish(name, worker)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()


# --- what needs no heavy library --------------------------------------------------------------------


def _python() -> Check:
    detail = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, detail, "" if ok else "install Python 3.11 or newer and run `make setup`")


def _workspace(root: Path | None) -> Iterator[Check]:
    if root is None:
        yield Check(
            "workspace", None, "none at or above this folder", "make one with: srtui init my-workspace"
        )
        return
    from srtui.errors import UserError
    from srtui.models import list_models

    yield Check("workspace", True, str(root))
    try:
        models = list_models(root / "models")
    except UserError as error:
        yield Check("models", False, str(error), "make the folder readable")
        return
    broken = [model for model in models if model.problem]
    if broken:
        yield Check("models", False, str(broken[0].problem), f"remove or replace {broken[0].path.name}")
    elif models:
        yield Check("models", True, ", ".join(model.name for model in models))
    else:
        yield Check("models", None, "none yet", "get the small one with: srtui models add smollm2-135m")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    detail = (
        f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free, {len(_processors())} processors"
    )
    limit = _container_limit()
    if limit and limit < memory.total:
        detail += f"; this container may use {limit / GIB:.1f} GiB"
    ok = min(memory.available, limit or memory.available) >= 3 * GIB
    return Check(
        "memory", ok, detail, "" if ok else "the small models need about 3 GiB; close other programs"
    )


def _processors() -> set[int] | range:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _container_limit() -> int | None:
    """The memory limit of this control group (version 2), in bytes; None where there is none."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return None


def _disk(root: Path | None) -> Check:
    where = root or current_folder() or Path("/")
    try:
        free = shutil.disk_usage(where).free
    except OSError as error:
        return Check("disk", False, f"{where}: {error.strerror}", "choose another folder")
    ok = free >= 2 * GIB
    fix = "" if ok else "a run with the small models writes up to 2 GiB; make room"
    return Check("disk", ok, f"{free / GIB:.1f} GiB free at {where}", fix)


def _sqlite(root: Path | None) -> Check:
    """Version, FTS5, and write-ahead logging on the store's own disk (network disks refuse it)."""
    from srtui.store.connection import DatabaseError
    from srtui.store.probe import SQLITE_VERSION, probe

    folder = root / "store" if root and (root / "store").is_dir() else None
    try:
        sqlite = probe(folder)
    except DatabaseError as error:
        return Check(
            "SQLite",
            False,
            f"{SQLITE_VERSION}: {error}",
            "use a Python whose SQLite has FTS5 (3.35 or newer)",
        )
    except OSError as error:
        return Check(
            "SQLite", False, f"{folder}: {error.strerror}", "make store/ writable, and the disk not full"
        )
    if sqlite.journal_mode != "wal" or not sqlite.searches:
        detail = f"{SQLITE_VERSION}, journal mode {sqlite.journal_mode}"
        return Check("SQLite", False, detail, "put the workspace on a local disk")
    fix = "" if sqlite.new_enough else "use a newer Python"
    return Check("SQLite", sqlite.new_enough, f"{SQLITE_VERSION}, WAL and FTS5 work", fix)


def _log(root: Path | None) -> Iterator[Check]:
    """Rows that a copy of the store's one file would lack."""
    from srtui.store.connection import pages_in_log
    from srtui.workspace import Workspace

    path = Workspace(root).store_path if root else None
    if path is None or not path.is_file():
        return
    pages = pages_in_log(path)
    detail = f"{pages:,} pages lie in {path.name}-wal alone" if pages else f"{path.name} holds everything"
    yield Check("store", None if pages else True, detail, "before you copy the file: srtui db checkpoint")


def _offline() -> Check:
    missing = [name for name, value in OFFLINE_SETTINGS.items() if os.environ.get(name) != value]
    if missing:
        return Check(
            "offline", False, f"not set: {', '.join(missing)}", "start srtui by its command, which sets them"
        )
    return Check(
        "offline", True, "the libraries' own downloads and reports are off; nothing needs a network or proxy"
    )


def _servers(root: Path | None) -> Iterator[Check]:
    """Runs whose recipe names a server as the teacher: the one thing that opens a connection."""
    from srtui.errors import UserError
    from srtui.store import Store
    from srtui.workspace import Workspace

    path = Workspace(root).store_path if root else None
    if path is None or not path.is_file():
        return
    try:
        with Store(path, read_only=True) as store:
            teachers = [(run.name, run.recipe.get("teacher") or {}) for run in store.runs.all()]
    except UserError:
        return  # another check says what is wrong with it
    for name, teacher in teachers:
        if not teacher.get("endpoint"):
            continue
        elsewhere = (
            " and may be another machine, which reads the texts" if teacher.get("allow_remote") else ""
        )
        yield Check(
            "server",
            None if elsewhere else True,
            f"the teacher of run {name} is a server's, {teacher['endpoint']}{elsewhere}; its weights cannot be hashed",
        )


def _terminal() -> Check:
    size = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if not sys.stdout.isatty():
        return Check("terminal", None, "output is not a terminal; progress is printed as plain lines")
    detail = f"{size.columns} × {size.lines}, {os.environ.get('TERM', 'no TERM')}, {encoding}"
    if encoding != "utf8":
        return Check("terminal", False, detail, "set a UTF-8 locale, for example LANG=C.UTF-8")
    if size.columns < 80 or size.lines < 24:
        return Check("terminal", None, detail, "make it 80 × 24 or larger for the dashboard")
    return Check("terminal", True, detail)


# --- what is made to compute, each in its own process -------------------------------------------------


def _torch() -> list[Check]:
    import torch

    def right(device: str) -> bool:
        a = torch.arange(12, dtype=torch.float32, device=device).reshape(3, 4)
        return (a @ a.T).tolist() == [[14, 38, 62], [38, 126, 214], [62, 214, 366]]

    checks = [
        Check("PyTorch", True, f"{torch.__version__}, a small matrix product is right")
        if right("cpu")
        else Check("PyTorch", False, f"{torch.__version__} multiplies wrongly", "reinstall: make clean setup")
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        device = Path("/dev/nvidiactl").exists()
        fix = "update the NVIDIA driver, or install the CUDA build of torch" if device else ""
        detail = (
            "a GPU is here and torch cannot use it" if device else "no CUDA GPU; everything runs on the CPU"
        )
        checks.append(
            Check("CUDA", False if device else None, detail + (f" (built for {built})" if built else ""), fix)
        )
        return checks
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        fix, why = "its arithmetic is wrong; test the GPU", ""
        try:
            works = right(f"cuda:{index}")
        except RuntimeError as error:
            if gpu_fault(error) is None:
                raise
            works, why = False, str(error).split("\n")[0]
            if gpu_fault(error) == "no code":
                fix = "install a build of PyTorch for this GPU, or update its driver"
            else:
                fix = "close what else uses it; see what nvidia-smi and dmesg say of it"
        kind, version = ("ROCm", torch.version.hip) if torch.version.hip else ("CUDA", torch.version.cuda)
        detail = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {kind} {version}"
        if torch.cuda.get_device_properties(index).major < 8 and not torch.version.hip:
            detail += "; it has no bfloat16 arithmetic, so students compute in float32 there"
        checks.append(
            Check(f"{kind} {index}", works, detail + (f"; {why}" if why else ""), "" if works else fix)
        )
    return checks


def _bitsandbytes() -> list[Check]:
    import bitsandbytes as bnb
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 32, bias=False)
    layer = bnb.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict(plain.state_dict())
    layer = layer.to(device)  # quantises
    x = torch.randn(4, 64)
    with torch.no_grad():
        off = layer(x.to(device)).cpu() - plain(x)
    relative = float(off.norm() / plain(x).norm())
    packed = layer.weight.dtype == torch.uint8
    ok = packed and 0 < relative < 0.25  # NF4 is off by about a tenth on Gaussian weights
    detail = f"{bnb.__version__}, a 4-bit NF4 layer on {device} is within {relative:.0%} of the full one"
    return [Check("bitsandbytes", ok, detail, "" if ok else "reinstall: make clean setup")]


def _llama() -> list[Check]:
    from srtui.llama.devices import gpus
    from srtui.llama.self_test import evaluate_tiny

    tiny = evaluate_tiny()
    if not tiny.loaded:
        return [Check("llama.cpp", False, "a tiny model could not be loaded", "rebuild: make clean setup")]
    backends = list(dict.fromkeys(device.backend for device in tiny.devices))
    checks = [
        Check(
            "llama.cpp",
            tiny.evaluated,
            f"llama-cpp-python {tiny.version}, {'backends' if len(backends) > 1 else 'backend'} {', '.join(backends)}, "
            + ("a tiny model was evaluated" if tiny.evaluated else "a tiny model gave no usable result"),
            "" if tiny.evaluated else "rebuild it for this machine: make clean setup",
        )
    ]
    used = {device.name for device in gpus()}
    for device in tiny.devices:
        if device.kind not in ("gpu", "integrated"):
            continue
        detail = f"{device.description}, {device.free / GIB:.1f} of {device.total / GIB:.1f} GiB free"
        if device.name not in used:
            checks.append(
                Check(f"llama.cpp {device.name}", None, f"{detail}; not used beside a GPU of its own")
            )
            continue
        right = (
            "a tiny model's logits there are the CPU's"
            if tiny.on_gpu
            else "a tiny model's logits there are wrong"
        )
        fix = "" if tiny.on_gpu else "update its driver, or set teacher.gpu_layers = 0"
        checks.append(Check(f"llama.cpp {device.name}", tiny.on_gpu, f"{detail}; {right}", fix))
    if not used and (fix := _gpu_without_backend()):
        checks.append(
            Check("llama.cpp GPU", None, "a GPU is here and llama.cpp has no backend that runs it", fix)
        )
    return checks


def _gpu_without_backend() -> str:
    """What to do where the system has a GPU; empty where it has none."""
    if Path("/dev/nvidiactl").exists():
        return "install the CUDA toolkit (nvcc) and run `make setup` again"
    if any(Path("/dev/dri").glob("renderD*")):
        return "for AMD and Intel: SRTUI_LLAMA=vulkan make setup (docs/hardware.md)"
    return ""


_WORKERS: dict[str, Callable[[], list[Check]]] = {
    "PyTorch": _torch,
    "bitsandbytes": _bitsandbytes,
    "llama.cpp": _llama,
}


def _start(name: str) -> subprocess.Popen[str]:
    script = "import sys; from srtui.doctor import work; work(sys.argv[1])"
    package_root = str(Path(__file__).resolve().parents[1])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", script, name],
        env=os.environ | OFFLINE_SETTINGS | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def work(name: str) -> None:
    """The worker's main: its checks as one JSON line, or an exception on standard error."""
    go_offline()
    print(json.dumps([vars(check) for check in _WORKERS[name]()]), flush=True)
    sys.stdout.flush()
    os._exit(0)  # some libraries fail while they are taken down, which says nothing about the machine


def _raised(errors: str) -> str:
    """The line of a traceback that says what was raised: behind it an exception's message may go on, as CUDA's do."""
    lines = [line for line in errors.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (raised or lines or ["it failed in silence"])[-1]


def _finish(name: str, worker: subprocess.Popen[str]) -> Iterator[Check]:
    fix = "reinstall it for this machine: make clean setup"
    try:
        out, errors = worker.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        yield Check(
            name, False, f"no answer within {_PATIENCE} s", "free memory and processors, and try again"
        )
        return
    try:
        findings: list[dict[str, Any]] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        if worker.returncode < 0:
            why = f"its process was ended by {signal.Signals(-worker.returncode).name}"
        else:
            why = _raised(errors)
        yield Check(name, False, why[:200], fix)
        return
    for check in findings:
        yield Check(**check)
