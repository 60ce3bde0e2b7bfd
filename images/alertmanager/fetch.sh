#!/usr/bin/env bash
# Put `alertmanager` (and `amtool`) into $CACHE/bin, out of this machine's own distribution: the package is unpacked, not
# installed, so no service starts.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
work=$(mktemp -d "$CACHE/alertmanager.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt's sandbox user may not write here, and need not: root unpacks
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download prometheus-alertmanager && dpkg-deb -x prometheus-alertmanager_*.deb root)
mkdir -p "$CACHE/bin"
# Debian's names carry a prefix, because others use the short ones too
for program in amtool alertmanager; do
  # by rename: a running Alertmanager keeps its file
  install -m 755 "$work/root/usr/bin/prometheus-$program" "$CACHE/bin/.$program.new" 2>/dev/null ||
    install -m 755 "$work/root/usr/bin/$program" "$CACHE/bin/.$program.new"
  mv -f "$CACHE/bin/.$program.new" "$CACHE/bin/$program"
done
"$CACHE/bin/alertmanager" --version 2>&1 | head -n 1 >&2
