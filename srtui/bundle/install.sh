#!/usr/bin/env bash
# Make .venv here from this folder alone, without a network; docs/offline.md says more.
#   PYTHON=...       the Python to use: of the version that the bundle is for, with the packages it was told of
#   SRTUI_LLAMA=...  for what llama.cpp is built: auto, cpu, cuda, vulkan, hip or metal (llama_backend.sh says more)
set -euo pipefail
cd "$(dirname "$0")"
say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 2; }

case "$PWD" in *[:\"\$\`\\]* | *$'\n'*)
    die "the path of this folder has a colon, a double quote, a dollar, a backquote, a backslash or a line break, and Python's environments do not work there; move the bundle." ;;
esac
[ -w . ] || die "nothing can be written to $PWD; copy the bundle to where it can."

# Before anything of the bundle is run: every file is the one that was packed, and none was added.
[ -f SHA256SUMS ] || die "SHA256SUMS is missing; copy the bundle again."
if ! sums="$(sha256sum --check --strict --quiet SHA256SUMS 2>/dev/null)"; then
    wrong="${sums%%$'\n'*}"
    [ -n "$wrong" ] || die "SHA256SUMS is damaged; copy the bundle again."
    die "${wrong%%: *} is not as it was packed (its sha256 sum differs, or it is missing); copy the bundle again."
fi
# (No reader here that stops early: under pipefail whoever writes to it would fail.)
added="$(comm -13 <(cut -c67- SHA256SUMS | LC_ALL=C sort) <({ find wheels llama.cpp ! -type d 2>/dev/null || true; } | LC_ALL=C sort))"
[ -z "$added" ] || die "${added%%$'\n'*} is not of this bundle; remove it, or copy the bundle again if nobody added it."
. ./llama_backend.sh

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
# The bundle alone says what goes where: PIP_USER, PIP_TARGET and others would have it elsewhere, also in pip's own calls of pip.
unset "${!PIP_@}"
pip() { PIP_CONFIG_FILE=/dev/null "$venv" -m pip --disable-pip-version-check --no-input "$@"; }
local_only=(--no-index --find-links wheels)
say "installing the packages"
if grep '^pip==' requirements.txt >.venv/pip.txt; then
    pip install --quiet "${local_only[@]}" --no-deps --require-hashes -r .venv/pip.txt
fi
pip install --quiet "${local_only[@]}" --no-deps --no-compile --ignore-installed --require-hashes -r requirements.txt

if [ -d llama.cpp ]; then
    here="$(grep -m 2 -E '^(model name|flags|Features)\b' /proc/cpuinfo | sha256sum | cut -c1-64)"
    wheel="$(ls llama.cpp/*.whl 2>/dev/null | head -n 1)" || true
    choose_llama
    # What was built elsewhere runs here where the processor is the same; CUDA's code is also for one kind of GPU.
    if [ -n "$wheel" ] && [ "$(cat llama.cpp/built)" = "$llama $here" ] && [ "$llama" != cuda ] && [ "$llama" != hip ]; then
        say "llama.cpp as it was built for $llama on the same processor"
    else
        compiler="$(find_compiler)" || die "a C++ compiler is missing; install one (for example: g++)."
        flags="$(llama_flags "$compiler")"
        say "building llama.cpp for $built_for; its output goes to .venv/llama.log"
        CFLAGS="${CFLAGS:-} $flags" CXXFLAGS="${CXXFLAGS:-} $flags" pip wheel --no-index --find-links "$PWD/wheels" --no-deps \
            --no-cache-dir --wheel-dir .venv/llama llama.cpp/*.tar.gz >.venv/llama.log 2>&1 ||
            { tail -n 25 .venv/llama.log >&2; die "llama.cpp could not be built; above is the end of .venv/llama.log."; }
        wheel="$(ls .venv/llama/*.whl)"
    fi
    pip install --quiet --no-index --no-deps --ignore-installed "$wheel"
fi
say "ready: $PWD/.venv/bin/srtui"
.venv/bin/srtui doctor
