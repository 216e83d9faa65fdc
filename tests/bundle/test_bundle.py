"""A bundle of a tiny index of wheels on this disk: what is taken, refused, kept and checked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from srtui.bundle import Target, make, plan
from srtui.bundle.built import built_here, processor
from srtui.bundle.making import LLAMA, _llama_source
from srtui.cli.bundle import bundle
from srtui.errors import UserError
from tests.conftest import ROOT

HERE = Target.of(None, None, "none")
OLD = Target("3.11", HERE.platform, "none")


def wheel(folder: Path, name: str, needs: tuple[str, ...] = (), version: str = "1.0") -> Path:
    """A wheel with one module and its requirements."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {one}\n" for one in needs))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that needs ``alpha`` (which needs ``beta``) and ``gamma``, and an index with those files alone."""
    index, project = tmp_path / "index", tmp_path / "project"
    index.mkdir()
    (project / "srtui").mkdir(parents=True)
    files = [
        wheel(index, "alpha", ("beta",)),
        wheel(index, "beta"),
        wheel(index, "gamma"),
        wheel(index, "pip"),
    ]
    pins = [
        f"{file.name.split('-')[0]}==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n"
        f"    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in files
    ]
    (project / "constraints.txt").write_text("".join(pins))
    (project / "srtui" / "__init__.py").touch()
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "srtui"\nversion = "0.1.0"\ndependencies = ["alpha", "gamma>=1"]\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["srtui"]\n'
    )
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return project


def planned(checkout: Path, *have: str, models: tuple[str, ...] = ()):
    return plan(checkout, checkout / "models", HERE, ["llama_cpp.python", *have], models)


def test_what_the_target_needs_and_what_only_that_needs(checkout: Path) -> None:
    what = planned(checkout)
    assert {w.name for w in what.wheels} == {"alpha", "beta", "gamma", "pip"}
    index = checkout.parent / "index"
    assert {w.name: w.size for w in what.wheels} == {
        f.name.split("-")[0]: f.stat().st_size for f in index.glob("*.whl")
    }
    assert {w.name for w in planned(checkout, "Alpha").wheels} == {"gamma", "pip"}


def test_made_resumed_and_checked(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "models").mkdir()
    (checkout / "models" / "m.Q8_0.gguf").write_bytes(b"GGUF")
    what, out = planned(checkout, models=("m",)), checkout.parent / "out"
    # Cut off after some wheels: what is whole is not fetched again, and what is not whole is.
    with pytest.raises(KeyboardInterrupt):
        make(what, out, lambda line: (_ for _ in ()).throw(KeyboardInterrupt) if "srtui" in line else None)
    assert not out.exists()
    part = checkout.parent / "out.part" / "wheels"
    (part / "beta-1.0-py3-none-any.whl").write_bytes(b"half")
    (part.parent / "models").mkdir()
    (part.parent / "models" / "another.gguf").touch()
    index = checkout.parent / "index"
    (index / "alpha-1.0-py3-none-any.whl").unlink()
    made = make(what, out, lambda line: None)
    assert not part.exists()
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    files = {f.relative_to(out).as_posix(): f for f in out.rglob("*") if f.is_file()}
    assert made.files == len(files)
    assert set(sums) == set(files) - {"SHA256SUMS"} and "models/m.Q8_0.gguf" in sums
    assert "models/another.gguf" not in sums
    assert all(
        hashlib.sha256(files[name].read_bytes()).hexdigest() == digest for name, digest in sums.items()
    )
    with pytest.raises(UserError, match="there already"):
        make(what, out, lambda line: None)

    def install() -> subprocess.CompletedProcess[str]:
        return subprocess.run([out / "install.sh"], capture_output=True, text=True, env=dict(os.environ))

    shutil.copy(index / "gamma-1.0-py3-none-any.whl", out / "wheels" / "extra-1.0-py3-none-any.whl")
    refused = install()
    assert refused.returncode == 2 and "extra-1.0-py3-none-any.whl is not of this bundle" in refused.stderr
    (out / "wheels" / "extra-1.0-py3-none-any.whl").unlink()
    (out / "wheels" / "linked-1.0-py3-none-any.whl").symlink_to(index / "gamma-1.0-py3-none-any.whl")
    refused = install()
    assert refused.returncode == 2 and "linked-1.0-py3-none-any.whl is not of this bundle" in refused.stderr
    sums_file = out / "SHA256SUMS"
    whole = sums_file.read_text()
    sums_file.write_text(whole[: whole.index("  requirements.txt") - 9])
    refused = install()
    assert refused.returncode == 2 and "SHA256SUMS is damaged" in refused.stderr
    sums_file.write_text(whole)
    (out / "wheels" / "linked-1.0-py3-none-any.whl").unlink()
    (out / "wheels" / "gamma-1.0-py3-none-any.whl").write_bytes(b"changed")
    refused = install()
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "wheels/gamma-1.0-py3-none-any.whl is not as it was packed" in refused.stderr
    assert not (out / ".venv").exists()


def test_a_file_that_is_not_the_pinned_one_and_one_that_is_not_there(checkout: Path) -> None:
    index = checkout.parent / "index"
    wheel(index, "beta", ("pip",))
    with pytest.raises(UserError, match=r"constraints\.txt does not list the sum of the beta"):
        planned(checkout)
    (index / "gamma-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"^pip finds no files for Python .*gamma"):
        planned(checkout)


def test_targets() -> None:
    assert re.fullmatch(r"manylinux_2_\d+_\w+", HERE.platform)
    machine = HERE.platform.split("_", 3)[3]
    words = Target("3.12", f"manylinux_2_28_{machine}", "12.8").pip_options()
    assert f"manylinux_2_28_{machine}" in words and f"manylinux_2_29_{machine}" not in words
    for python, tag, cuda in [("3.9", None, None), (None, "win32", None), (None, None, "new"),
                              (None, "manylinux_2_28_" + {"x86_64": "aarch64"}.get(machine, "x86_64"), None)]:  # fmt: skip
        with pytest.raises(UserError):
            Target.of(python, tag, cuda)


def test_this_process_opens_no_connection(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    make(planned(checkout), checkout.parent / "out", lambda line: None)


def test_the_installer_on_a_machine_with_many_processors(checkout: Path) -> None:
    """What it reads is longer than a pipe holds: nothing that it starts may end for want of a reader."""
    what = planned(checkout, "alpha", "beta", "gamma", "pip")
    out = make(what, checkout.parent / "out", lambda line: None).path
    script = (out / "install.sh").read_text()
    cpus = checkout.parent / "cpuinfo"
    cpus.write_text(f"model name\t: A\nflags\t\t: {'f' * 1500}\n" * 512)
    for n in range(300):
        (out / "wheels" / f"{'a' * 200}-{n:03}.whl").touch()
    # As far as what is added, and the line about the processor alone.
    checks = script[: script.index(". ./llama_backend.sh")]
    done = subprocess.run(["bash", "-c", checks, "install.sh"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith(
        "a-000.whl is not of this bundle; remove it, or copy the bundle again if nobody added it.\n"
    )
    (line,) = [one for one in script.splitlines() if "here=" in one]
    line = line.replace("/proc/cpuinfo", str(cpus))
    read = subprocess.run(
        ["bash", "-c", f'set -euo pipefail\n{line}\necho "$here"'], capture_output=True, text=True
    )
    assert read.returncode == 0 and len(read.stdout) == 65


def test_the_installer_knows_the_processor_by_the_same_sum() -> None:
    line = re.search(r'here="\$\((.*)\)"', (ROOT / "srtui" / "bundle" / "install.sh").read_text())
    assert line and subprocess.check_output(["bash", "-c", line[1]], text=True).strip() == processor()


def test_the_registrys_pytorch_is_taken_for_its_cuda_and_a_labelled_one_for_none(checkout: Path) -> None:
    """pip prefers a build with a label (2.0+cpu) to one without, which on the registry is CUDA's."""
    index, constraints = checkout.parent / "index", checkout / "constraints.txt"
    made = [
        wheel(index, "torch", ("nvidia-cuda-runtime",), "2.0"),
        wheel(index, "torch", (), "2.0+cpu"),
        wheel(index, "nvidia_cuda_runtime", (), "13.0.96"),
    ]
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in made]
    constraints.write_text(
        constraints.read_text()
        + f"torch==2.0 \\\n    --hash=sha256:{sums[0]} \\\n    --hash=sha256:{sums[1]}\n"
        + f"nvidia-cuda-runtime==13.0.96 \\\n    --hash=sha256:{sums[2]}\n"
    )
    text = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(text.replace('"alpha", ', '"alpha", "torch", '))

    def versions(cuda: str) -> dict[str, str]:
        target = Target(HERE.python, HERE.platform, cuda)
        what = plan(checkout, checkout / "models", target, ["llama-cpp-python"], [])
        assert all(one.size for one in what.wheels)
        return {one.name: one.version for one in what.wheels if "cuda" in one.name or one.name == "torch"}

    assert versions("13.0") == {"torch": "2.0", "nvidia-cuda-runtime": "13.0.96"}
    assert versions("none") == {"torch": "2.0+cpu"}
    with pytest.raises(UserError, match=r"built for CUDA 13\.0, not 12\.8; point PIP_EXTRA_INDEX_URL"):
        versions("12.8")


def test_conditions_are_read_by_the_targets_python(checkout: Path) -> None:
    """pip itself reads them by the Python that it runs on."""
    index, constraints = checkout.parent / "index", checkout / "constraints.txt"
    other = "3.13" if HERE.python != "3.13" else "3.12"
    made = [
        wheel(
            index, "alpha", (f"beta; python_version != '{other}'", f"delta>=1; python_version == '{other}'")
        ),
        wheel(index, "delta", (f"epsilon; python_full_version >= '{other}'", "zeta; extra == 'more'")),
        wheel(index, "epsilon"),
    ]
    constraints.write_text(
        constraints.read_text()
        + "".join(
            f"{file.name.split('-')[0]}==1.0 \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
            for file in made[1:]
        )
    )
    text = constraints.read_text().splitlines()
    text[2] = f"    --hash=sha256:{hashlib.sha256(made[0].read_bytes()).hexdigest()}"
    constraints.write_text("\n".join(text) + "\n")

    def names(python: str) -> set[str]:
        target = Target(python, HERE.platform, "none")
        return {
            one.name for one in plan(checkout, checkout / "models", target, ["llama-cpp-python"], []).wheels
        }

    assert names(HERE.python) == {"alpha", "beta", "gamma", "pip"}
    assert {"alpha", "gamma", "delta", "epsilon", "pip"} <= names(other)


def test_what_llama_cpp_is_built_with_comes_along_whatever_the_target_has(checkout: Path) -> None:
    """pip builds in an environment of its own: what the target has is not seen there, and no index either."""
    index, constraints = checkout.parent / "index", checkout / "constraints.txt"
    needs = {"scikit_build_core": ("packaging",), "cmake": (), "ninja": (), "packaging": (), "numpy": (),
             "typing_extensions": (), "diskcache": (), "jinja2": ()}  # fmt: skip
    files = [wheel(index, name, lines) for name, lines in needs.items()]
    constraints.write_text(
        constraints.read_text()
        + "".join(
            f"{file.name.split('-')[0].replace('_', '-')}==1.0 \\\n"
            f"    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
            for file in files
        )
    )
    what = plan(checkout, checkout / "models", HERE, ["packaging", "cmake", "numpy", "alpha"], [])
    assert {w.name for w in what.wheels} == {
        "gamma", "pip", "typing-extensions", "diskcache", "jinja2", "scikit-build-core", "cmake", "ninja", "packaging",
    }  # fmt: skip


def test_a_target_that_has_everything_gets_srtui_alone(checkout: Path) -> None:
    what = planned(checkout, "alpha", "beta", "gamma", "pip")
    assert not what.wheels
    made = make(what, checkout.parent / "out", lambda line: None)
    assert [file.name.split("-")[0] for file in (made.path / "wheels").iterdir()] == ["srtui"]


def test_what_was_built_here_goes_along_with_its_backend(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stamp = checkout / ".venv" / ".llama"
    with pytest.raises(UserError, match="is not built yet"):
        built_here(checkout)
    stamp.parent.mkdir()
    folder = tmp_path / "cache" / "srtui" / "llama.cpp" / "f1a"
    folder.mkdir(parents=True)
    (folder / "llama_cpp_python-1-py3-none-linux_x86_64.whl").touch()
    for line, backend in (("f1a vulkan\n", "vulkan"), ("f1a\n", "cpu")):
        stamp.write_text(line)
        assert built_here(checkout).backend == backend


def refused(folder: Path, *before: str, **more: str) -> str:
    """The one sentence that install.sh ends with, before it has made anything."""
    words = [*before, "./install.sh"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=dict(os.environ) | more)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / ".venv").exists()
    return done.stderr


def test_damaged_sums_are_refused_and_a_damaged_line_hides_no_changed_file(checkout: Path) -> None:
    out = make(
        planned(checkout, "alpha", "beta", "gamma", "pip"), checkout.parent / "out", lambda line: None
    ).path
    sums = out / "SHA256SUMS"
    text = sums.read_text()
    for damaged in ("", re.sub(r"(?m)^.(?=.*  target$)", "x", text)):
        sums.write_text(damaged)
        (out / "target").write_text("python=9.9\n")
        assert "SHA256SUMS is damaged; copy the bundle again" in refused(out)


def test_where_no_environment_can_be_made_the_installer_says_so_first(checkout: Path) -> None:
    out = make(
        planned(checkout, "alpha", "beta", "gamma", "pip"), checkout.parent / "out", lambda line: None
    ).path
    for name in ("co:lon", 'a "quote', "$HOME b", "back`quote", "back\\slash", "new\nline"):
        odd = out.parent / name
        shutil.copytree(out, odd)
        assert "move the bundle" in refused(odd)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0:
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
        assert "nothing can be written to" in refused(out, "unshare", "-rm", "bash", "-c", mount, str(out))


def test_the_targets_settings_of_pip_lead_nothing_elsewhere(checkout: Path) -> None:
    what = planned(checkout, "pip")
    out, elsewhere = checkout.parent / "out", checkout.parent / "elsewhere"
    make(what, out, lambda line: None)
    # This package is taken for installed; the tiny index has none.
    script = (out / "install.sh").read_text()
    (out / "install.sh").write_text(script.replace("m.version('$name')", "m"))
    (out / "SHA256SUMS").write_text(re.sub(r"(?m)^.*  install\.sh\n", "", (out / "SHA256SUMS").read_text()))
    env = dict(os.environ) | {"PIP_TARGET": str(elsewhere), "PIP_NO_BINARY": ":all:"}
    done = subprocess.run(["./install.sh"], cwd=out, capture_output=True, text=True, env=env)
    assert "install: ready" in done.stdout, done.stderr
    assert list(out.glob(".venv/lib/*/site-packages/alpha.py")) and not elsewhere.exists()


def test_what_cannot_be_meant_is_refused_before_pip_is_asked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(checkout / "nothing"))
    with pytest.raises(UserError, match=r"--have alhpa: constraints\.txt has no such package"):
        planned(checkout, "alhpa")
    with pytest.raises(UserError, match="is there already"):
        bundle(checkout)
    file = checkout / "constraints.txt"
    with pytest.raises(UserError, match=r"constraints\.txt is not a folder that can be written to"):
        bundle(file / "a" / "b")

    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    with pytest.raises(UserError, match="has no glibc; name the target's platform with --platform"):
        Target.of(None, None, None)


def test_a_source_of_another_version_does_not_stay_beside_the_pinned_one(checkout: Path) -> None:
    folder = checkout.parent / "llama.cpp"
    folder.mkdir()
    good, old = folder / "llama-2.tar.gz", folder / "llama-1.tar.gz"
    good.write_bytes(b"2")
    old.write_bytes(b"1")
    pinned = {LLAMA: ("2", frozenset([hashlib.sha256(b"2").hexdigest()]))}
    _llama_source(planned(checkout), folder, pinned, lambda line: None)
    assert list(folder.iterdir()) == [good]
