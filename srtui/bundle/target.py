"""The machine that a bundle is for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import dataclass

from srtui.errors import UserError


@dataclass(frozen=True)
class Target:
    """Python's version ("3.11"), a platform tag ("manylinux_2_28_x86_64"), and "none" or CUDA's version ("12.8")."""

    python: str
    platform: str
    cuda: str

    @classmethod
    def of(cls, python: str | None, tag: str | None, cuda: str | None) -> Target:
        """What was asked for, and this machine for the rest. Raises UserError for what cannot be meant."""
        target = cls(
            python or f"{sys.version_info.major}.{sys.version_info.minor}",
            tag or _platform_here(),
            cuda or _cuda_here(),
        )
        if not re.fullmatch(r"3\.1[1-4]", target.python):
            raise UserError(f"--python {target.python}: it can be 3.11, 3.12, 3.13 or 3.14.")
        match = re.fullmatch(r"manylinux_2_(\d{1,2})_(x86_64|aarch64)", target.platform)
        if not match:
            raise UserError(
                f"--platform {target.platform}: it is manylinux_2_N_x86_64 or manylinux_2_N_aarch64, where 2.N is the "
                "target's glibc (ldd --version says it)."
            )
        # pip reads the conditions of requirements by the machine that it runs on, whatever --platform says.
        if match[2] != platform.machine():
            raise UserError(
                f"--platform {target.platform}: this machine is {platform.machine()}; make the bundle on a machine "
                "of the target's kind."
            )
        if not re.fullmatch(r"none|\d{1,2}\.\d", target.cuda):
            raise UserError(f"--cuda {target.cuda}: it is none, or CUDA's version, such as 12.8.")
        return target

    def pip_options(self) -> list[str]:
        """pip's options that choose this target's wheels, older glibcs' included."""
        _, _, minor, machine = self.platform.split("_", 3)
        tags = [f"manylinux_2_{n}_{machine}" for n in range(int(minor), 4, -1)]
        tags += [f"manylinux2014_{machine}"] if int(minor) >= 17 else []
        tags += [f"{old}_{machine}" for old in ("manylinux2010", "manylinux1") if machine == "x86_64"]
        tags += [f"linux_{machine}"]
        options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python]
        return options + [word for tag in tags for word in ("--platform", tag)]


def _platform_here() -> str:
    """This machine's tag, by its glibc."""
    try:
        told = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except ValueError:  # what Python says on a Mac and with musl
        told = ""
    name, _, version = told.partition(" ")
    if name != "glibc":
        raise UserError("This machine has no glibc; name the target's platform with --platform.")
    return f"manylinux_2_{version.split('.')[1]}_{platform.machine()}"


def _cuda_here() -> str:
    """The CUDA that this environment's PyTorch was built for, without importing it."""
    for name, form in (("torch", r".*\+cu(\d+)(\d)"), ("nvidia-cuda-runtime", r"(\d+)\.(\d).*")):
        try:
            match = re.fullmatch(form, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
        if match:
            return f"{match[1]}.{match[2]}"
    return "none"
