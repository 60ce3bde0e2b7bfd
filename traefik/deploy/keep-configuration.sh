#!/bin/sh
# Keeps an edge's configuration in a file, so that Traefik comes up with its routes also while the coordinator is away:
#
#   keep-configuration.sh URL FILE [option of curl]...
#
# Traefik watches the file's folder (traefik-file.yml). Run this as Traefik's user, beside it, for as long as it runs
# (keep-configuration.service); the file may carry private keys, so only that user can read it. Over TLS and with the token:
#
#   keep-configuration.sh https://coordinator.example.com:7445/traefik/config /var/lib/isyone-edge/isyone.yml \
#     --cacert /etc/traefik/isyone-ca.pem --header @/etc/traefik/isyone-edge.header
#
# It asks once a second; the coordinator answers "not modified" (some 200 bytes) until something changes. What is not received
# as a whole, or not with status 200, changes nothing.
set -eu
url=$1
file=$2
shift 2
umask 077
while :; do
  # A tag without its file would keep the file away for ever.
  [ -e "$file" ] || rm -f "$file.etag"
  rm -f "$file.new"
  if curl --silent --show-error --fail --max-time 30 --etag-compare "$file.etag" --etag-save "$file.etag.new" \
    --output "$file.new" "$@" "$url" && [ -s "$file.new" ]; then
    mv "$file.new" "$file"
    mv "$file.etag.new" "$file.etag"
  fi
  sleep 1
done
