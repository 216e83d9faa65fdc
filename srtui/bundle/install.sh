#!/usr/bin/env bash
# Make .venv here from this folder alone, without a network; docs/offline.md says more.
#   PYTHON=...       the Python to use: of the version that the bundle is for, with the packages it was told of
#   SRTUI_LLAMA=cpu  builds llama.cpp for the CPU even where a GPU answers
set -euo pipefail
cd "$(dirname "$0")"
say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 2; }

# Before anything of the bundle is run: every file is the one that was packed, and none was added.
[ -f SHA256SUMS ] || die "SHA256SUMS is missing; copy the bundle again."
wrong="$(sha256sum --check --quiet SHA256SUMS 2>/dev/null | head -n 1 || true)"
[ -z "$wrong" ] || die "${wrong%%: *} is not as it was packed (its sha256 sum differs, or it is missing); copy the bundle again."
added="$(find wheels llama.cpp -type f 2>/dev/null | while read -r file; do
    cut -c67- SHA256SUMS | grep -qxF -- "$file" || echo "$file"; done | head -n 1)"
[ -z "$added" ] || die "$added is not of this bundle; remove it."

version="$(sed -n 's/^python=//p' target)"
have="$(sed -n 's/^have=//p' target)"
python="${PYTHON:-}"
[ -n "$python" ] || python="$(command -v "python$version" || command -v python3)" || die "Python $version is missing; install it."
"$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null ||
    die "this bundle is for Python $version, and $python is another; name one with PYTHON=/path/to/python$version."
"$python" -c 'import venv, ensurepip' 2>/dev/null || die "$python has no venv module; install it (for example: python3-venv)."
"$python" -m venv --clear .venv
venv="$PWD/.venv/bin/python"
if [ -n "$have" ]; then
    # What the target has is seen after what the bundle brings.
    "$python" -I -c 'import sysconfig; print("\n".join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})))' \
        >"$("$venv" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/srtui-have.pth"
    for name in ${have//,/ }; do
        "$venv" -c "import importlib.metadata as m; m.version('$name')" 2>/dev/null ||
            die "this bundle was made with --have $name, and $python has no $name."
    done
fi
pip() { PIP_CONFIG_FILE=/dev/null "$venv" -m pip --disable-pip-version-check --no-input "$@"; }
local_only=(--no-index --find-links wheels)
say "installing the packages"
grep '^pip==' requirements.txt >.venv/pip.txt && pip install --quiet "${local_only[@]}" --no-deps --require-hashes -r .venv/pip.txt
pip install --quiet "${local_only[@]}" --no-deps --no-compile --ignore-installed --require-hashes -r requirements.txt

if [ -d llama.cpp ]; then
    here="$(grep -E '^(model name|flags|Features)\b' /proc/cpuinfo | head -n 2 | sha256sum | cut -c1-64)"
    wheel="$(ls llama.cpp/*.whl 2>/dev/null | head -n 1)" || true
    nvcc="$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)"
    gpu=""
    if [ "${SRTUI_LLAMA:-auto}" != cpu ] && nvidia-smi -L 2>/dev/null | grep -q GPU; then gpu=yes; fi
    if [ -n "$gpu" ] && [ -z "$nvcc" ]; then say "a GPU answers, and there is no nvcc: llama.cpp is built for the CPU"; gpu=""; fi
    if [ -z "$gpu" ] && [ -n "$wheel" ] && [ "$(cat llama.cpp/processor)" = "$here" ]; then
        say "llama.cpp as it was built on the same processor"
    else
        command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || die "a C++ compiler is missing; install one (for example: g++)."
        if [ -n "$gpu" ]; then
            export CUDACXX="${CUDACXX:-$nvcc}" CMAKE_ARGS="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=native ${CMAKE_ARGS:-}"
        fi
        say "building llama.cpp for $([ -n "$gpu" ] && echo "the GPU in this machine" || echo "this CPU") (minutes)"
        pip wheel --quiet --no-index --find-links "$PWD/wheels" --no-deps --no-cache-dir --wheel-dir .venv/llama llama.cpp/*.tar.gz ||
            die "llama.cpp could not be built; the compiler's message is above."
        wheel="$(ls .venv/llama/*.whl)"
    fi
    pip install --quiet --no-index --no-deps --ignore-installed "$wheel"
fi
say "ready: $PWD/.venv/bin/srtui"
.venv/bin/srtui doctor
