#!/usr/bin/env bash
# Put `prometheus` and `promtool` into $CACHE/bin, out of this machine's own distribution: the package is
# unpacked, not installed, so no service starts.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
work=$(mktemp -d "$CACHE/prometheus.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt's sandbox user may not write here, and need not: root unpacks
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb root)
mkdir -p "$CACHE/bin"
for program in promtool prometheus; do
  # by rename: a running Prometheus keeps its file
  install -m 755 "$work/root/usr/bin/$program" "$CACHE/bin/.$program.new"
  mv -f "$CACHE/bin/.$program.new" "$CACHE/bin/$program"
done
show_version "$CACHE/bin/prometheus" --version
