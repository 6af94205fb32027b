#!/usr/bin/env bash
# Writes constraints.txt: one pinned version per package, for every Python and platform that we support.
# Versions only: no index lines, no hashes, no annotations, so that the file names no package host.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export UV_NO_PROGRESS=1

uv=.venv/bin/uv
if [ ! -x "$uv" ]; then
    scripts/env.sh main >/dev/null
fi
new=$(mktemp)
trap 'rm -f "$new"' EXIT

groups=(--group dev)
{
    echo "-e .[all]"
    for manifest in plugins/*/pyproject.toml examples/*/pyproject.toml; do
        [ -f "$manifest" ] || continue
        echo "-e ./$(dirname "$manifest")"
    done
} >"$new.in"
for manifest in plugins/*/pyproject.toml examples/*/pyproject.toml; do
    if [ -f "$manifest" ] && grep -q '^test *=' "$manifest"; then groups+=(--group "$manifest:test"); fi
done
mv "$new.in" .requirements.in
trap 'rm -f "$new" .requirements.in' EXIT

"$uv" pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-header --no-emit-index-url \
    --no-emit-find-links "${groups[@]}" .requirements.in -o "$new"
{
    echo "# Made by \`make lock\`; do not edit. Versions only, for every install (see scripts/env.sh)."
    grep -E '^[a-zA-Z0-9]' "$new" | grep -v ' @ '
} >constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) pins"
