#!/usr/bin/env bash
# Everything that can be said about the code without running its tests. All steps run; the first failure doesn't hide
# the others. `scripts/check.sh NAME...` runs only the steps named.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$(scripts/env.sh main)/bin || exit 1
export PATH="$PWD/$bin:$PATH"
# mkdocs-material greets with a notice about other projects; it says nothing about this one.
export NO_MKDOCS_2_WARNING=1

shopt -s nullglob
sources=(src/svcframework plugins/*/src/*/ examples/*/src/*/)
failed=()

step() {
    local name=$1
    shift
    if [ ${#only[@]} -gt 0 ] && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
    local started=$SECONDS
    printf '== %s\n' "$name"
    if "$@"; then
        printf '   %s: passed in %d s\n' "$name" $((SECONDS - started))
    else
        printf '   %s: FAILED\n' "$name"
        failed+=("$name")
    fi
}

# deptry reads one project at a time: the core, then each plugin in its own folder.
dependencies() {
    local status=0 manifest
    deptry src || status=1
    for manifest in plugins/*/pyproject.toml examples/*/pyproject.toml; do
        (cd "$(dirname "$manifest")" && deptry src) || status=1
    done
    return $status
}

only=("$@")
step lint ruff check .
step format ruff format --check .
step mypy mypy --strict "${sources[@]}" tests/typing/*.py
step pyright basedpyright tests/typing
step imports lint-imports
step dependencies dependencies
step docs mkdocs build --strict --quiet --site-dir .cache/site

if [ ${#failed[@]} -gt 0 ]; then
    printf '\ncheck failed: %s\n' "${failed[*]}"
    exit 1
fi
printf '\ncheck passed\n'
