#!/bin/sh
# Entrypoint of our `postgres` image. Honours the parts of the official image's contract
# that we use: POSTGRES_{USER,PASSWORD,DB,INITDB_ARGS,HOST_AUTH_METHOD} (and *_FILE), PGDATA,
# /docker-entrypoint-initdb.d/*.{sh,sql,sql.gz}, first-start init, run as user postgres, log to stdout.
set -eu

# secret NAME [DEFAULT] — value of $NAME, or the content of the file named by $NAME_FILE.
secret() {
  eval "_v=\${$1:-} _f=\${${1}_FILE:-}"
  [ -z "$_v" ] || [ -z "$_f" ] || { echo "both $1 and $1_FILE are set" >&2; exit 1; }
  [ -z "$_f" ] || _v=$(cat "$_f")
  eval "$1=\${_v:-${2:-}}; unset ${1}_FILE"
}

case ${1:-} in -*|'') set -- postgres "$@";; esac        # only flags given: they are postgres's
[ "$1" = postgres ] || exec "$@"                         # `docker run IMAGE psql …`

: "${PGDATA:=/var/lib/postgresql/data}"; export PGDATA

if [ "$(id -u)" = 0 ]; then                              # root: hand the volume over, drop privileges
  mkdir -p "$PGDATA"
  [ "$(stat -c %U "$PGDATA")" = postgres ] || chown -R postgres:postgres "$PGDATA"
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  secret POSTGRES_PASSWORD
  secret POSTGRES_USER postgres
  secret POSTGRES_DB "$POSTGRES_USER"
  secret POSTGRES_INITDB_ARGS
  auth=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  [ -n "$POSTGRES_PASSWORD" ] || [ "$auth" = trust ] || {
    echo 'POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) must be set to initialise the database' >&2; exit 1; }

  # A crash half-way through must not leave a half-made cluster that looks complete: build beside, then move.
  stage=$PGDATA/.init; rm -rf "$stage"; mkdir -m 700 "$stage"
  pw=$(mktemp); printf '%s\n' "${POSTGRES_PASSWORD:-}" >"$pw"
  # shellcheck disable=SC2086  # word splitting of the extra arguments is wanted
  initdb -D "$stage" --no-sync --username="$POSTGRES_USER" --encoding=UTF8 --locale=C.UTF-8 \
    ${POSTGRES_PASSWORD:+--pwfile="$pw"} --auth-local=trust --auth-host="$auth" $POSTGRES_INITDB_ARGS
  rm -f "$pw"
  printf 'host all all all %s\n' "$auth" >>"$stage/pg_hba.conf"

  pg_ctl -D "$stage" -w -s -o "-c listen_addresses='' -c fsync=off -c unix_socket_directories=/tmp" start
  sql() { psql -v ON_ERROR_STOP=1 -X -q -h /tmp -U "$POSTGRES_USER" "$@"; }
  [ "$POSTGRES_DB" = postgres ] || sql -d postgres -v db="$POSTGRES_DB" <<'SQL'
CREATE DATABASE :"db";
SQL
  # shellcheck disable=SC1090  # whatever was mounted there
  for f in /docker-entrypoint-initdb.d/*; do
    case $f in
      *.sh)     echo "running $f"; PGHOST=/tmp PGUSER=$POSTGRES_USER PGDATABASE=$POSTGRES_DB . "$f";;
      *.sql)    echo "running $f"; sql -d "$POSTGRES_DB" -f "$f";;
      *.sql.gz) echo "running $f"; gunzip -c "$f" | sql -d "$POSTGRES_DB";;
    esac
  done
  pg_ctl -D "$stage" -w -s -m fast stop
  # One sync of this cluster only: `sync -f` would flush everything else on the host too.
  [ "${POSTGRES_INIT_FSYNC:-1}" = 0 ] || initdb --sync-only -D "$stage" >/dev/null
  for f in "$stage"/* ; do [ "${f##*/}" = PG_VERSION ] || mv "$f" "$PGDATA/"; done
  mv "$stage/PG_VERSION" "$PGDATA/"                       # last: it marks the cluster as complete
  rmdir "$stage"
  echo 'PostgreSQL init process complete; ready for start up.'
fi
unset POSTGRES_PASSWORD
exec "$@"
