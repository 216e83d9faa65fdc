"""For what llama.cpp is built: chosen by a shell script that set-up and a bundle's installer share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "srtui" / "bundle" / "llama_backend.sh"
TOOLKIT = Path("/usr/local/cuda/bin/nvcc")  # where NVIDIA's toolkit lies, and is looked for
SMI = """#!/bin/sh
case "$1" in
    -L) i=0; while [ $i -lt 4000 ]; do echo "GPU $i: NVIDIA A (UUID: GPU-00000000-0000-0000-0000)"; i=$((i + 1)); done;;
    --query-gpu=compute_cap) printf '%s\\n' 8.9 12.0 8.9;;
esac"""
ENUMERATOR = "#!/bin/sh\nprintf '%s\\n' gfx000 gfx1100"
HIPCONFIG = '#!/bin/sh\ncase "$1" in -l) echo /rocm/llvm/bin;; -R) echo /rocm;; esac'


class Machine:
    """A PATH with these programs alone, beside what the script itself is made of."""

    def __init__(self, folder: Path, **programs: str) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in (
            "bash",
            "sed",
            "sort",
            "paste",
            "grep",
            "find",
            "head",
            "uname",
            "env",
            "mktemp",
            "rm",
            "cat",
        ):
            (self.bin / name).symlink_to(
                f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}"
            )
        for name, text in programs.items():
            program = self.bin / {"nvidia_smi": "nvidia-smi"}.get(name, name)
            program.write_text(text or "#!/bin/sh\n")
            program.chmod(0o755)

    def chosen(self, wanted: str | None = None, **env: str) -> tuple[dict[str, str], str]:
        """What is chosen, and what is said; empty where the script ended with a sentence."""
        ends = 'say() { echo "said: $*" >&2; }; die() { echo "died: $*" >&2; exit 2; }'
        shown = 'printf "%s\\n" "$llama" "$llama_tool" "$built_for" "${CMAKE_ARGS:-}" "${CUDACXX:-}" "${HIPCXX:-}"'
        more = {"SRTUI_LLAMA": wanted} if wanted else {}
        done = subprocess.run(
            [self.bin / "bash", "-c", f"set -euo pipefail; {ends}; . {SCRIPT}; choose_llama; {shown}"],
            env={"PATH": str(self.bin), **more, **env}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode in (0, 2), done.stderr
        names = ("llama", "tool", "for", "args", "nvcc", "hip")
        return dict(zip(names, done.stdout.splitlines(), strict=True)) if done.stdout else {}, done.stderr


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    here = Machine(tmp_path)
    for wanted in (None, "auto", "cpu"):
        chosen, said = here.chosen(wanted, CMAKE_ARGS="-DGGML_NATIVE=off")
        assert (chosen["llama"], chosen["args"], said) == ("cpu", "-DGGML_NATIVE=off", "")
    for wanted, words in {
        "cuda": "there is no nvcc; install the CUDA toolkit",
        "vulkan": "apt install glslc libvulkan-dev spirv-headers",
        "hip": "there is no hipconfig; install ROCm",
        "metal": "this is no Mac",
        "tpu": "SRTUI_LLAMA=tpu: it can be auto, cpu, cuda, vulkan, hip or metal.",
    }.items():
        if wanted == "cuda" and TOOLKIT.exists():
            continue
        chosen, said = here.chosen(wanted)
        assert not chosen and words in said and said.count("\n") == 1


def test_cuda_is_built_for_the_gpus_that_are_here_alone(tmp_path: Path) -> None:
    here = Machine(tmp_path, nvidia_smi=SMI, nvcc="")
    for wanted in (None, "cuda"):
        chosen, _ = here.chosen(wanted, CMAKE_ARGS="-DMORE=1")
        assert chosen["llama"] == "cuda" and chosen["nvcc"] == str(here.bin / "nvcc")
        assert chosen["args"] == "-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=120-real;89-real -DMORE=1"
    assert here.chosen("cpu")[0]["args"] == ""
    (here.bin / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert here.chosen()[0]["llama"] == "cpu"
    assert "ARCHITECTURES=all-major" in here.chosen("cuda")[0]["args"]


def test_a_gpu_without_its_compiler_is_said(tmp_path: Path) -> None:
    chosen, said = Machine(tmp_path, nvidia_smi=SMI).chosen(CUDA_HOME="/nowhere")
    if not TOOLKIT.exists():
        assert chosen["llama"] == "cpu" and "there is no nvcc: llama.cpp is built for the CPU" in said


@pytest.mark.parametrize(("header", "is_new"), [("VK_EXT_layer_settings", True), ("VK_KHR_surface", False)])
def test_vulkan_by_the_headers_of_an_sdk(tmp_path: Path, header: str, is_new: bool) -> None:
    sdk = tmp_path / "sdk"
    (sdk / "include" / "vulkan").mkdir(parents=True)
    (sdk / "include" / "vulkan" / "vulkan_core.h").write_text(f'#define {header}_EXTENSION_NAME "{header}"\n')
    (sdk / "share" / "cmake" / "SPIRV-Headers").mkdir(parents=True)
    (sdk / "share" / "cmake" / "SPIRV-Headers" / "SPIRV-HeadersConfig.cmake").touch()
    chosen, said = Machine(tmp_path, glslc="").chosen("vulkan", VULKAN_SDK=str(sdk))
    if is_new:
        assert chosen["args"] == f"-DGGML_VULKAN=on -DVulkan_INCLUDE_DIR={sdk}/include "
    else:
        assert f"{sdk}/include/vulkan/vulkan_core.h are older than 1.3.272" in said and not chosen


def test_rocm(tmp_path: Path) -> None:
    chosen, _ = Machine(tmp_path, hipconfig=HIPCONFIG, rocm_agent_enumerator=ENUMERATOR).chosen("hip")
    assert chosen["args"].split() == ["-DGGML_HIP=on", "-DGPU_TARGETS=gfx1100"]
    assert chosen["hip"] == "/rocm/llvm/bin/clang" and "gfx1100" in chosen["for"]


def test_both_callers_take_it(tmp_path: Path) -> None:
    assert ". srtui/bundle/llama_backend.sh" in (ROOT / "tools" / "setup.sh").read_text()
    assert ". ./llama_backend.sh" in (ROOT / "srtui" / "bundle" / "install.sh").read_text()
    for script in (SCRIPT, ROOT / "tools" / "setup.sh", ROOT / "srtui" / "bundle" / "install.sh"):
        assert subprocess.run(["bash", "-n", script], env=dict(os.environ)).returncode == 0
