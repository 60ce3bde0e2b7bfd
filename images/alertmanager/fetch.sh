#!/usr/bin/env bash
# Put `alertmanager` and `amtool` into $CACHE/bin, out of this machine's own distribution: the package is unpacked, not
# installed, so no service starts. Debian's build has its templates in one place only, /usr/share/prometheus/alertmanager, so
# `alertmanager` is a script that puts them there when they are missing (the only thing outside $CACHE; needs root).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
work=$(mktemp -d "$CACHE/alertmanager.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt's sandbox user may not write here, and need not: root unpacks
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download prometheus-alertmanager && dpkg-deb -x prometheus-alertmanager_*.deb root)
mkdir -p "$CACHE/bin" "$CACHE/lib/alertmanager"
cp -r "$work/root/usr/share/prometheus/alertmanager/." "$CACHE/lib/alertmanager/"
# put NAME FILE — by rename: a running Alertmanager keeps its file
put() {
  install -m 755 "$2" "$1.new"
  mv -f "$1.new" "$1"
}
put "$CACHE/bin/amtool" "$work/root/usr/bin/amtool"
put "$CACHE/lib/alertmanager/alertmanager" "$work/root/usr/bin/prometheus-alertmanager"
cat >"$work/alertmanager" <<'SCRIPT'
#!/bin/sh
# Written by images/alertmanager/fetch.sh.
own=$(dirname "$(dirname "$(readlink -f "$0")")")/lib/alertmanager
share=/usr/share/prometheus/alertmanager
if [ ! -e "$share/default.tmpl" ]; then mkdir -p "$share" && cp "$own"/*.tmpl "$share/" || exit 1; fi
exec "$own/alertmanager" "$@"
SCRIPT
put "$CACHE/bin/alertmanager" "$work/alertmanager"
show_version "$CACHE/bin/alertmanager" --version
