#!/usr/bin/env bash
# Make .venv with the pinned versions of constraints.txt, whose files' sha256 sums pip checks. A second run finds a
# stamp and does nothing.
#
#   tools/setup.sh          what srtui needs to run
#   tools/setup.sh --dev    and what its tests need
#
# PYTHON=...        the Python to use (3.11 or newer)
# SRTUI_LLAMA=...   for what llama.cpp is built: auto, cpu, cuda, vulkan, hip or metal (srtui/bundle/llama_backend.sh)
# CMAKE_ARGS=...    is handed on to llama.cpp's build
# SRTUI_TORCH=any   takes PyTorch's pinned version from whatever pip is pointed to, without checking a sum
# pip's own settings hold too: on Linux its default torch brings CUDA libraries (gigabytes, unused without a GPU);
# PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can point to another build of it (CPU only, ROCm), with SRTUI_TORCH=any
# where constraints.txt does not list that build's sum.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
. srtui/bundle/llama_backend.sh

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
nvcc="$(find_nvcc || true)"
sign="${SRTUI_LLAMA:-auto} ${SRTUI_TORCH:-listed} ${CMAKE_ARGS:-} $(gpu_device && echo gpu || echo none) ${nvcc:+nvcc}"

key="$({ pwd; echo "$sign"; cat constraints.txt pyproject.toml tools/setup.sh srtui/bundle/llama_backend.sh; } | git hash-object --stdin | cut -c1-16)"
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
compiler="$(find_compiler)" || die "a C++ compiler is missing; install one (for example: apt install g++)."

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
        die "this failed: $what (above, the end of $log); correct it and run the same command again."
    fi
    [ $((SECONDS - started)) -lt 5 ] || say "  done in $((SECONDS - started)) s"
}
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
# Modules are compiled as they are first imported, which most of them never are: compiling all takes a minute.
install() { pip install --no-compile --constraint constraints.txt --build-constraint constraints.txt "$@"; }
# The lines of constraints.txt that pin package $1, with its sums.
pinned() { awk -v name="$1==" 'index($0, name) == 1 { on = 1 } on { print } on && !/\\$/ { on = 0 }' constraints.txt; }

choose_llama

# The pip that a new environment brings may be too old to check the others' sums, so the pinned one comes first.
pinned pip >.venv/pip.txt
step "pip" pip install --require-hashes --requirement .venv/pip.txt
step "build tools" install setuptools hatchling editables

# Which build of PyTorch is right depends on the machine, so pip chooses the file by its own settings, and its sum is
# checked here (pip itself would pass over a build that an index without sums offers).
pytorch() {
    local version file
    version="$(pinned torch | sed -n '1s/^torch==\([^ ;]*\).*/\1/p')"
    if .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$version')"; then
        return
    fi
    rm -rf .venv/torch
    pip download --no-deps --only-binary=:all: --dest .venv/torch "torch==$version" || return 1
    file="$(ls .venv/torch/torch-*.whl)"
    if [ "${SRTUI_TORCH:-listed}" != any ] &&
        ! pinned torch | grep -q "sha256:$(.venv/bin/python -c "import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], 'rb'), 'sha256').hexdigest())" "$file")"; then
        echo "constraints.txt does not list the sum of $file. If you trust where pip found it: SRTUI_TORCH=any $0"
        return 1
    fi
    pip install --no-compile --no-deps "$file" || return 1
    rm -rf .venv/torch
}
step "PyTorch" pytorch
step "what PyTorch needs" install torch

flags="$(llama_flags "$compiler")"
[ -z "$flags" ] || say "$compiler makes AMX code that does not run; llama.cpp is built without it"

# A build is kept by all that it depends on: pip's own cache asks neither for which device nor for which processor.
flavour="$({ pinned llama-cpp-python | head -n 1; uname -sm; echo "$llama $flags ${CMAKE_ARGS:-} ${CFLAGS:-} ${CXXFLAGS:-}"
    "$compiler" --version | head -n 1; [ -z "$llama_tool" ] || "$llama_tool" --version
    grep -m 2 -E '^(model name|flags)' /proc/cpuinfo 2>/dev/null; } | git hash-object --stdin | cut -c1-16)"
wheels="${XDG_CACHE_HOME:-$HOME/.cache}/srtui/llama.cpp/$flavour"
build_llama() {
    mkdir -p "$wheels" && rm -rf "$wheels/new"
    CFLAGS="${CFLAGS:-} $flags" CXXFLAGS="${CXXFLAGS:-} $flags" pip wheel --no-deps --no-cache-dir --wheel-dir "$wheels/new" \
        --constraint constraints.txt --build-constraint constraints.txt llama-cpp-python || return 1
    mv "$wheels"/new/*.whl "$wheels/" && rm -rf "$wheels/new"
}
if ! ls "$wheels"/*.whl >/dev/null 2>&1; then
    step "llama.cpp, built by $compiler for $built_for" build_llama
fi
if [ ! -e .venv/.llama ] || [ "$(cut -d ' ' -f 1 .venv/.llama)" != "$flavour" ]; then
    step "llama.cpp" pip install --no-deps --force-reinstall "$wheels"/*.whl
fi
echo "$flavour $llama" >.venv/.llama

.venv/bin/python - ${dev:+dev} >.venv/requirements.txt <<'PYTHON_END'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
wanted = project["project"]["dependencies"] + [r for g in sys.argv[1:] for r in project["dependency-groups"][g]]
print("\n".join(wanted))
PYTHON_END
step "the other packages" install --requirement .venv/requirements.txt
step "srtui itself" pip install --no-deps --no-build-isolation --editable .

touch ".venv/.srtui-$key"
[ -z "$dev" ] || touch ".venv/.srtui-$key-dev"
say "the environment is ready."
