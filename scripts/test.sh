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

# A test that fails beside the others is run once more by itself, and is red if it fails again. One that then passes is
# named in the summary: it depends on how busy the machine is, and wants mending. More than three are no chance.
unsteady_at_most=3

kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
run() { "$home/bin/python" -m pytest -q -o cache_dir="$kept/$version" "$@" 2>&1 | tee "$kept/log"; return "${PIPESTATUS[0]}"; }
failed() { "$home/bin/python" -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$kept/$version/v/cache/lastfailed"; }

summary=()
status=0
for version in $versions; do
    home=$(scripts/env.sh for "$version") || { summary+=("Python $version: could not be set up"); status=1; continue; }
    printf '\n== Python %s (%s)\n' "$version" "$home"
    run -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
    found=$?
    summary+=("Python $version: $(tail -n 1 "$kept/log")")
    if [ $found -eq 1 ] && names=$(failed) && [ "$(wc -l <<<"$names")" -le $unsteady_at_most ]; then
        printf '\n== Python %s: by itself, what failed beside the others\n' "$version"
        run --last-failed --last-failed-no-failures none "$@"
        found=$?
        [ $found -ne 0 ] || while read -r name; do summary+=("  unsteady, passed by itself: $name"); done <<<"$names"
    fi
    [ $found -eq 0 ] || status=1
done

printf '\n== Summary\n'
printf '%s\n' "${summary[@]}"
exit $status
