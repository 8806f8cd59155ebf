#!/usr/bin/env bash
# Installs the programs that pictor works with, those that are missing: Blender, ffmpeg, python3, and
# what Rust needs for linking. Knows Debian and its relatives; elsewhere it says what is missing.
set -euo pipefail

declare -A package=([blender]=blender [ffmpeg]=ffmpeg [ffprobe]=ffmpeg [python3]=python3 [cc]=build-essential)
missing=()
for program in blender ffmpeg ffprobe python3 cc; do
    if ! command -v "$program" > /dev/null; then
        missing+=("${package[$program]}")
    fi
done
if ! command -v cargo > /dev/null; then
    echo "error: Rust is not installed (https://rustup.rs)" >&2
    exit 1
fi
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if ! command -v apt-get > /dev/null; then
    echo "error: please install: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
        echo "error: please install, as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
    echo "sudo may ask for your password: it is for apt-get alone."
fi
echo "Installing with apt-get: ${missing[*]}"
"${as_root[@]}" apt-get update -qq < /dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" < /dev/null > /dev/null
echo "Installed: ${missing[*]}"
