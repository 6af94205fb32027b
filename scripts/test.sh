#!/usr/bin/env bash
# The whole suite, on every Python of 3.11, 3.12 and 3.13 that is here. Arguments go to pytest.
# PYTHONS="3.13" limits the versions; WORKERS=1 runs the tests one after the other. More workers than processors: many
# tests wait for a server or a limit. Files in the order of pyproject's testpaths, the slow ones first, and not by how
# many tests they have: the few of a fault suite take the longest.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

versions=${PYTHONS:-$(scripts/env.sh list)}
workers=${WORKERS:-3}
if [ -z "$versions" ]; then scripts/env.sh main; fi || exit 1

summary=()
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for version in $versions; do
    home=$(scripts/env.sh for "$version") || { summary+=("Python $version: could not be set up"); status=1; continue; }
    printf '\n== Python %s (%s)\n' "$version" "$home"
    "$home/bin/python" -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -q -p no:cacheprovider "$@" 2>&1 | tee "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
    summary+=("Python $version: $(tail -n 1 "$log")")
done

printf '\n== Summary\n'
printf '%s\n' "${summary[@]}"
exit $status
