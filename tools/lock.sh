#!/usr/bin/env bash
# Write constraints.txt anew: exact versions with sha256 sums, for Python 3.11 and newer on every platform.
# Versions that are in it stay unless --upgrade (all) or --upgrade-package NAME is given. Needs uv and a network.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "lock: uv is missing; install it (for example: pip install uv)." >&2; exit 1; }

out="$(mktemp)"
trap 'rm -f "$out" "$out.new"' EXIT
cp constraints.txt "$out"
uv pip compile pyproject.toml tools/bootstrap.in --group dev --all-extras --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --quiet --output-file "$out" "$@"

# pip takes the first file whose sum is listed. PyTorch's CPU-only builds are not on the registry; theirs stand here:
torch_cpu=(
    6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b  # 2.13.0+cpu, CPython 3.11, Linux x86-64
)
{
    echo "# Exact versions of everything that srtui runs on, and of what tests and builds it, with the sha256 sums of"
    echo "# their files. Made by tools/lock.sh; tools/setup.sh installs by it, and pip refuses any other file."
    # uv keeps the sums of a file that it writes anew: ours among them.
    printf '%s\n' "${torch_cpu[@]}" | grep -vFf - "$out" | awk -v sums="${torch_cpu[*]}" '{ print }
        /^torch==/ { n = split(sums, s, " "); for (i = 1; i <= n; i++) print "    --hash=sha256:" s[i] " \\" }'
} >"$out.new"
cp "$out.new" constraints.txt
echo "lock: $(grep -c '^[A-Za-z].*==' constraints.txt) packages in constraints.txt"
