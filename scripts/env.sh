#!/usr/bin/env bash
# Finds interpreters and makes the virtual environments that everything else runs in.
#
#   scripts/env.sh main          make or refresh .venv (the newest Python found); prints its path
#   scripts/env.sh for VERSION   make or refresh the environment of one Python, e.g. 3.12; prints its path
#   scripts/env.sh bench         make or refresh .venv-bench, which has the peers that we compare with; prints its path
#   scripts/env.sh list          the versions of Python that are here, newest first, one per line
#
# Needs a Python >= 3.11 and nothing else: `uv` is installed into .venv. Nothing is written outside this folder
# (uv's and pip's own caches apart). An environment whose inputs haven't changed is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSIONS=(3.13 3.12 3.11)
export PIP_DISABLE_PIP_VERSION_CHECK=1
export UV_NO_PROGRESS=1
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX

say() { printf '%s\n' "$*" >&2; }

# Prints every path that may be an interpreter of version $1: the environments' own first, then PATH, then pyenv.
candidates() {
    local version=$1
    for home in .venv ".venv-$version"; do
        if [ -x "$home/bin/python" ]; then echo "$home/bin/python"; fi
    done
    type -aP "python$version" python3 python || true
    if command -v pyenv >/dev/null 2>&1; then
        local root
        root=$(pyenv root 2>/dev/null) && ls -d "$root/versions/$version".*/bin/python 2>/dev/null || true
    fi
}

# Prints the real interpreter of version $1 (never a shim, never one inside an environment); fails when there is none.
find_python() {
    local version=$1 candidate found
    while read -r candidate; do
        found=$("$candidate" -c '
import sys
if "%d.%d" % sys.version_info[:2] != sys.argv[1] or sys.implementation.name != "cpython": sys.exit(1)
print(getattr(sys, "_base_executable", sys.executable))' "$version" 2>/dev/null) || continue
        if [ -x "$found" ]; then
            echo "$found"
            return 0
        fi
    done < <(candidates "$version")
    return 1
}

list_versions() {
    local version
    for version in "${VERSIONS[@]}"; do
        if find_python "$version" >/dev/null; then echo "$version"; fi
    done
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# What an environment depends on: its interpreter, the declared requirements and the pins.
fingerprint() {
    { "$1" -VV; cat pyproject.toml plugins/*/pyproject.toml examples/*/pyproject.toml constraints.txt benchmarks/requirements.txt scripts/env.sh 2>/dev/null || true; } | cksum
}

# Prints the arguments that install the core, every plugin, every example and the tools, all of them editable.
requirements() {
    local manifest
    printf '%s\n' -c constraints.txt --group dev -e '.[all]'
    for manifest in plugins/*/pyproject.toml examples/*/pyproject.toml; do
        [ -f "$manifest" ] || continue
        printf '%s\n' -e "./$(dirname "$manifest")"
        if grep -q '^\[dependency-groups\]' "$manifest" && grep -q '^test *=' "$manifest"; then
            printf '%s\n' --group "$manifest:test"
        fi
    done
}

# Prints the arguments that install what the benchmarks compare. The peers have pins of their own.
bench_requirements() {
    local manifest
    printf '%s\n' -r benchmarks/requirements.txt -e '.[all]'
    for manifest in plugins/*/pyproject.toml; do
        printf '%s\n' -e "./$(dirname "$manifest")"
    done
}

# Fills the environment $1 with what the function $2 prints, unless its stamp says that nothing changed since last time.
install_into() {
    local home=$1 stamp="$1/.svcframework-stamp" want args
    want=$(fingerprint "$home/bin/python")
    if [ -f "$stamp" ] && [ "$want" = "$(cat "$stamp")" ]; then return 0; fi
    mapfile -t args < <("${2:-requirements}")
    say "installing into $home"
    if ! .venv/bin/uv pip install --quiet --python "$home/bin/python" "${args[@]}" >&2; then
        # uv doesn't read pip's configuration: a machine that is set up for pip alone is served by pip.
        say "uv could not install them; trying pip with its own configuration"
        "$home/bin/python" -m ensurepip >/dev/null 2>&1 || true
        "$home/bin/python" -m pip install --quiet --upgrade pip -c constraints.txt >&2
        "$home/bin/python" -m pip install --quiet "${args[@]}" >&2
    fi
    echo "$want" >"$stamp"
}

# Makes .venv from the newest Python that can make one, with pip and uv inside.
make_main() {
    local version python
    if [ ! -x .venv/bin/python ]; then
        for version in "${VERSIONS[@]}"; do
            python=$(find_python "$version") || continue
            "$python" -c 'import ensurepip, venv' 2>/dev/null || continue
            say "making .venv with Python $version"
            "$python" -m venv .venv
            break
        done
    fi
    if [ ! -x .venv/bin/python ]; then
        say "No usable Python 3.11, 3.12 or 3.13 was found. Install one (on Debian and Ubuntu also its venv package,"
        say "e.g. python3-venv), make sure that it is on PATH, and run this again."
        exit 1
    fi
    if [ ! -x .venv/bin/uv ]; then
        .venv/bin/python -m ensurepip >/dev/null 2>&1 || true
        .venv/bin/python -m pip install --quiet uv -c constraints.txt >&2
    fi
    install_into .venv
    echo .venv
}

make_for() {
    local version=$1 home=".venv-$1" python
    make_main >/dev/null
    if [ "$(version_of .venv/bin/python)" = "$version" ]; then
        echo .venv
        return 0
    fi
    if [ ! -x "$home/bin/python" ]; then
        python=$(find_python "$version") || { say "Python $version was not found"; exit 1; }
        say "making $home"
        .venv/bin/uv venv --quiet --python "$python" "$home" >&2
    fi
    install_into "$home"
    echo "$home"
}

make_bench() {
    make_main >/dev/null
    if [ ! -x .venv-bench/bin/python ]; then
        .venv/bin/uv venv --quiet --python "$(find_python "$(version_of .venv/bin/python)")" .venv-bench >&2
    fi
    install_into .venv-bench bench_requirements
    echo .venv-bench
}

case "${1:-}" in
    main) make_main ;;
    for) make_for "${2:?a version such as 3.12}" ;;
    bench) make_bench ;;
    list) list_versions ;;
    *) say "usage: scripts/env.sh main | for VERSION | bench | list"; exit 2 ;;
esac
