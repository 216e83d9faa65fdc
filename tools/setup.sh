#!/usr/bin/env bash
# Make .venv with the pinned versions of constraints.txt. A second run finds a stamp and does nothing.
#
#   tools/setup.sh          what srtui needs to run
#   tools/setup.sh --dev    and what its tests need
#
# PYTHON=...        the Python to use (3.11 or newer)
# SRTUI_LLAMA=cpu   builds llama.cpp for the CPU even where there is a CUDA GPU (or =cuda to insist)
# CMAKE_ARGS=...    is handed on to llama.cpp's build
# pip's own settings hold too: on Linux its default torch brings CUDA libraries (gigabytes, unused
# without a GPU); PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can point to a CPU-only build of it.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

dev=""
case "${1:-}" in
    "") ;;
    --dev) dev="-dev" ;;
    *) die "unknown option $1; the only one is --dev." ;;
esac

# --- what must be on the machine ---------------------------------------------------------------------

command -v git >/dev/null || die "git is missing; install it (for example: apt install git)."
command -v make >/dev/null || die "make is missing; install it (for example: apt install make)."

# A cheap look; whether the GPU really answers is only asked when something is to be built.
gpu_device() { [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; }
find_nvcc() { command -v nvcc || { for at in "${CUDA_HOME:-}" /usr/local/cuda; do
    [ -n "$at" ] && [ -x "$at/bin/nvcc" ] && echo "$at/bin/nvcc" && return; done; return 1; }; }
nvcc="$(find_nvcc || true)"
sign="${SRTUI_LLAMA:-auto} ${CMAKE_ARGS:-} $(gpu_device && echo gpu || echo none) ${nvcc:+nvcc}"

key="$({ pwd; echo "$sign"; cat constraints.txt pyproject.toml tools/setup.sh; } | git hash-object --stdin | cut -c1-16)"
venv_runs() { .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -e ".venv/.srtui-$key$dev" ] && venv_runs; then
    say "the environment is ready; nothing to do."
    exit 0
fi

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}
if ! venv_runs; then
    python="$(find_python)" || die "Python 3.11 or newer is missing (looked for ${PYTHON:-python3, python3.13, python3.12, python3.11}); install it, or name it with PYTHON=/path/to/python3."
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module; install it (for example: apt install python3-venv)."
fi
compiler=""
for candidate in ${CXX:-} c++ g++ clang++; do
    command -v "$candidate" >/dev/null && compiler="$candidate" && break
done
[ -n "$compiler" ] || die "a C++ compiler is missing; install one (for example: apt install g++)."

# --- the environment ---------------------------------------------------------------------------------

if ! venv_runs; then
    say "making .venv with $("$python" --version 2>&1)"
    "$python" -m venv --clear .venv
fi
rm -f .venv/.srtui-*
log=.venv/setup.log
: >"$log"

step() { # step "what is being done" command...
    local what="$1" started=$SECONDS
    shift
    say "$what …"
    if ! "$@" >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        die "this failed: $what (above, the end of $log); mend it and run the same command again."
    fi
    [ $((SECONDS - started)) -lt 5 ] || say "  done in $((SECONDS - started)) s"
}
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
install() { pip install --constraint constraints.txt "$@"; }

llama=cpu
if [ "${SRTUI_LLAMA:-auto}" = cuda ]; then
    [ -n "$nvcc" ] || die "SRTUI_LLAMA=cuda was asked for, and there is no nvcc; install the CUDA toolkit."
    llama=cuda
elif [ "${SRTUI_LLAMA:-auto}" = auto ] && [ -n "$nvcc" ] && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    llama=cuda
fi

step "pip and build tools" install pip setuptools hatchling editables
step "PyTorch" install torch

# pip keeps a wheel that it built and does not ask for which device; so a CUDA build neither takes
# one from that cache nor leaves one there. What .venv holds now is noted, to rebuild when it changes.
flavour="$llama ${CMAKE_ARGS:-}"
again=()
if [ -e .venv/.llama ] && [ "$(cat .venv/.llama)" != "$flavour" ]; then
    again=(--force-reinstall --no-deps)
fi
if [ "$llama" = cuda ]; then
    export CUDACXX="${CUDACXX:-$nvcc}" CMAKE_ARGS="-DGGML_CUDA=on ${CMAKE_ARGS:-}"
fi
if [ "$flavour" != "cpu " ] && [ ! -e .venv/.llama ] || [ ${#again[@]} -gt 0 ]; then
    again+=(--no-cache-dir)
fi
if [ "$llama" = cuda ]; then
    step "llama.cpp, built for CUDA with $compiler and nvcc (5 to 20 minutes the first time)" \
        install ${again[@]+"${again[@]}"} llama-cpp-python
else
    step "llama.cpp, built for this CPU with $compiler (2 to 10 minutes the first time)" \
        install ${again[@]+"${again[@]}"} llama-cpp-python
fi
echo "$flavour" >.venv/.llama

.venv/bin/python - ${dev:+dev} >.venv/requirements.txt <<'PYTHON_END'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
wanted = project["project"]["dependencies"] + [r for g in sys.argv[1:] for r in project["dependency-groups"][g]]
print("\n".join(r for r in wanted if not r.startswith(("torch", "llama-cpp-python"))))
PYTHON_END
step "the other packages" install --requirement .venv/requirements.txt
step "srtui itself" pip install --no-deps --no-build-isolation --editable .

touch ".venv/.srtui-$key"
[ -z "$dev" ] || touch ".venv/.srtui-$key-dev"
say "the environment is ready."
