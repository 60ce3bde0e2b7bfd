#!/usr/bin/env bash
# Put `pebble` (a certificate authority for tests, by Let's Encrypt) and `pebble-challtestsrv` (its DNS) into $CACHE/bin, out of this
# machine's own distribution: the package is unpacked, not installed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
work=$(mktemp -d "$CACHE/pebble.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt's sandbox user may not write here, and need not: root unpacks
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download pebble && dpkg-deb -x pebble_*.deb root)
mkdir -p "$CACHE/bin"
for program in pebble-challtestsrv pebble; do
  install -m 755 "$work/root/usr/bin/$program" "$CACHE/bin/.$program.new"
  mv -f "$CACHE/bin/.$program.new" "$CACHE/bin/$program"
done
show_version "$CACHE/bin/pebble" -help
