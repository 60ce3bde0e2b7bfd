#!/usr/bin/env bash
# Build `postgres:15` or, with TAG=postgres:17, the one of Debian 13 out of Debian's own package, to the contract of the official image that isyone uses.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${TAG:=postgres:15}"
case ${MAJOR:=${TAG##*:}} in
  15) SUITE=bookworm ;;
  17) SUITE=trixie ;;
  *) die "no Debian release has PostgreSQL $MAJOR: 15 and 17 there are (set MAJOR where TAG does not end in it)" ;;
esac
export PG_MAJOR=$MAJOR PG_UID=999 # the official Debian image's uid: volumes stay exchangeable
BIN=/usr/lib/postgresql/$MAJOR/bin

# LLVM (JIT) is 130 MB; PostgreSQL runs without it, jit is then simply unavailable.
slim=(
  --dpkgopt='path-exclude=/usr/lib/*/libLLVM*' --dpkgopt='path-exclude=/usr/lib/llvm*'
  --dpkgopt="path-exclude=/usr/lib/postgresql/$MAJOR/lib/bitcode/*"
  --dpkgopt="path-exclude=/usr/lib/postgresql/$MAJOR/lib/llvmjit*" --dpkgopt='path-exclude=/usr/lib/*/libz3*')

# shellcheck disable=SC2016  # the hooks' $1 is mmdebstrap's
hooks=(
  --essential-hook="$(user_hook postgres "$PG_UID" "$PG_UID" /var/lib/postgresql)"
  --essential-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"'
  --customize-hook='sed -i "s/^#listen_addresses = .localhost./listen_addresses = '"'*'"'/" "$1/usr/share/postgresql/$PG_MAJOR/postgresql.conf.sample"'
  --customize-hook='install -d -o "$PG_UID" -g "$PG_UID" -m 3775 "$1/run/postgresql"'
  --customize-hook='install -d -o "$PG_UID" -g "$PG_UID" -m 700 "$1/var/lib/postgresql/data"; mkdir -p "$1/docker-entrypoint-initdb.d"'
  --customize-hook="upload $HERE/postgres/entrypoint.sh /usr/local/bin/docker-entrypoint.sh"
  --customize-hook='chmod 755 "$1/usr/local/bin/docker-entrypoint.sh"'
  --customize-hook='cd "$1"; rm -rf usr/share/perl usr/share/perl5 usr/lib/*/perl var/cache/debconf var/lib/apt var/lib/dpkg/info usr/lib/*/gconv usr/share/zoneinfo/right')

build_image "$TAG" "ENV PATH=$BIN:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PG_MAJOR=$MAJOR PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT [\"docker-entrypoint.sh\"]
CMD [\"postgres\"]" "$SUITE" "postgresql-$MAJOR" "${slim[@]}" --skip=cleanup/run "${hooks[@]}"
