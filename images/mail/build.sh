#!/usr/bin/env bash
# Build `isyone/mail:1`: Debian's OpenSMTPD, which takes mail over TLS and with a login only, and keeps it in /inbox (a maildir). For
# tests: its certificate is made when it starts (entrypoint.sh), for the address that ADDRESS names. Of Debian 13: that of 12 does not get
# along with its OpenSSL (no handshake succeeds).
#
#   LOGIN, PASSWORD   who may send
#   ADDRESS           of the machine, in the certificate
#   PORTS             of STARTTLS and of TLS, "587 465" by default
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${TAG:=isyone/mail:1}"
here=$HERE/mail
# shellcheck disable=SC2016  # mmdebstrap's hooks expand $1
build_image "$TAG" 'ENTRYPOINT ["/entrypoint.sh"]' trixie opensmtpd,openssl \
  --customize-hook='useradd -r -m -d /inbox keeper -R "$1" 2>/dev/null || chroot "$1" useradd -r -m -d /inbox keeper' \
  --customize-hook="install -m 755 '$here/entrypoint.sh' \"\$1/entrypoint.sh\"" \
  --customize-hook="install -m 644 '$here/smtpd.conf' \"\$1/etc/smtpd.conf.in\""
