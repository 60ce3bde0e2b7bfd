#!/usr/bin/env bash
# Build the stand-in for Odoo and PostgreSQL: one static binary under several names, no shell, less than 1 MB.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${TAG:=isyone/standin:4}"
compiler=${CC:-$(command -v musl-gcc || command -v gcc)} # musl makes it smaller still, when it is there
root=$(mktemp -d "$CACHE/standin.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,etc,tmp,mnt/extra-addons,etc/odoo,var/lib/odoo,var/lib/postgresql/data,run/postgresql}
"$compiler" -Os -s -static -D_GNU_SOURCE -Wall -Wextra -o "$root/bin/standin" "$HERE/standin/standin.c"
for name in odoo postgres pg_isready psql pg_dump pg_restore createdb dropdb sh true chown chmod cp mkdir rm; do
  ln "$root/bin/standin" "$root/bin/$name"
done
printf '%s\n' root:x:0:0::/root:/bin/sh odoo:x:100:101::/var/lib/odoo:/bin/sh postgres:x:999:999::/var/lib/postgresql:/bin/sh >"$root/etc/passwd"
printf '%s\n' root:x:0: odoo:x:101: postgres:x:999: >"$root/etc/group"
base=$(import_dir "$root")
tag_image "$TAG" 'LABEL one.isy.standin=1
ENV PATH=/bin PORTS=8069,8072,5432
EXPOSE 8069 8072 5432
ENTRYPOINT ["/bin/standin"]' "$base"
docker tag "$TAG" "${TAG/standin:/standin-postgres:}"
