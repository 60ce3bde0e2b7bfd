#!/bin/sh
# Entrypoint of our `odoo` image. Contract kept from the official image: HOST, PORT, USER,
# PASSWORD (and PASSWORD_FILE) name the database server unless /etc/odoo/odoo.conf does; the server
# waits for the database; `odoo …`, `-flag …` and any other command work as arguments.
# The credentials go to libpq through the environment, so they do not show in the process list.
set -eu
: "${ODOO_RC:=/etc/odoo/odoo.conf}"; export ODOO_RC
[ -z "${PASSWORD_FILE:-}" ] || PASSWORD=$(cat "$PASSWORD_FILE")

conf() { sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$ODOO_RC" 2>/dev/null | tail -n1 | sed 's/[[:space:]]*$//; s/^False$//'; }
pick() { _v=$(conf "$1"); echo "${_v:-$2}"; }              # configuration file first, then the environment
PGHOST=$(pick db_host "${HOST:-db}");         PGPORT=$(pick db_port "${PORT:-5432}")
PGUSER=$(pick db_user "${USER:-odoo}");       PGPASSWORD=$(pick db_password "${PASSWORD:-odoo}")
export PGHOST PGPORT PGUSER PGPASSWORD

case ${1:-} in --) shift; set -- odoo "$@";; -*|'') set -- odoo "$@";; esac
case "$1 ${2:-}" in
  'odoo scaffold'|'odoo --help'|'odoo --version') ;;
  odoo\ *) wait-for-psql "${DB_WAIT_SECONDS:-30}";;
esac
# Where the configuration file has the password, Odoo takes it from there: no process of its children then has it in its environment.
[ -z "$(conf db_password)" ] || unset PGPASSWORD
unset PASSWORD
exec "$@"
