#!/bin/sh
# Makes the certificate and the login, then serves in the foreground.
set -eu
: "${LOGIN:?}" "${PASSWORD:?}" "${ADDRESS:?}" "${PORTS:=587 465}"
own=/etc/isyone
mkdir -p $own
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7 -subj "/CN=mail.example.com" \
  -addext "subjectAltName=DNS:mail.example.com,IP:$ADDRESS" -keyout $own/key.pem -out $own/certificate.pem 2>/dev/null
chmod 600 $own/key.pem
echo "$LOGIN $(smtpctl encrypt "$PASSWORD")" >$own/logins
chmod 640 $own/logins
chgrp opensmtpd $own/logins
echo mail.example.com >/etc/mailname
sed -e "s/@STARTTLS@/${PORTS% *}/" -e "s/@TLS@/${PORTS#* }/" /etc/smtpd.conf.in >/etc/smtpd.conf
mkdir -p /inbox
chown keeper /inbox
exec smtpd -d
