#!/usr/bin/env bash
# Installs the Blenders that the tests use in addition to the system's into target/blenders: the two newest that pictor
# supports, with PICTOR_SOAK all of them. They are PyPI's bpy module behind a wrapper, not blender.org's build.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
pictor=$target/debug/pictor
mapfile -t versions < <("$pictor" setup-blender --list)
if [ -z "${PICTOR_SOAK-}" ]; then
    versions=("${versions[@]: -2}")
fi
for version in "${versions[@]}"; do
    status=0
    "$pictor" setup-blender "$version" --to "$target/blenders/$version" || status=$?
    # Status 2: there is no build for this Python.
    if [ "$status" -eq 2 ]; then
        echo "The tests of Blender $version are left out." >&2
    elif [ "$status" -ne 0 ]; then
        exit "$status"
    fi
done
