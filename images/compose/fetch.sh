#!/usr/bin/env bash
# Install the `docker compose` plugin for the current user. Debian 12 has none, but the plugin of trixie is one
# binary that needs only glibc ≥ 2.34, so it runs as it is.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${PLUGINS:=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins}"
dir=$CACHE/compose
fetch_deb trixie docker-compose "$dir"
mkdir -p "$PLUGINS"
install -m 755 "$(find "$dir" -path '*cli-plugins*' -name docker-compose -type f -print -quit)" "$PLUGINS/docker-compose"
rm -rf "$dir"
docker compose version >&2
