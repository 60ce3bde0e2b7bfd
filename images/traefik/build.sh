#!/usr/bin/env bash
# Build `traefik:3.7` around the binary in $CACHE/bin (fetched first when it is missing).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${TAG:=traefik:3.7}"
[ -x "$CACHE/bin/traefik" ] || bash "$HERE/traefik/fetch.sh"
root=$(mktemp -d "$CACHE/traefik-root.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/tmp"
cp "$CACHE/bin/traefik" "$root/usr/local/bin/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true # absent: no HTTPS to the outside
base=$(import_dir "$root")
tag_image "$TAG" 'ENV PATH=/usr/local/bin
EXPOSE 80 443
ENTRYPOINT ["/usr/local/bin/traefik"]' "$base"
