#!/bin/sh
# Makes the certificate and the login, then serves in the foreground.
set -eu
: "${LOGIN:?}" "${PASSWORD:?}" "${ADDRESS:?}" "${PORTS:=587 465}"
own=/etc/isyone
mkdir -p $own
openssl req -x509 -newkey rsa:2048 -nodes -days 7 -subj "/CN=mail.example.com" \
  -addext "subjectAltName=DNS:mail.example.com,IP:$ADDRESS" -keyout $own/key.pem -out $own/certificate.pem 2>/dev/null
chmod 600 $own/key.pem
echo "$LOGIN $(smtpctl encrypt "$PASSWORD")" >$own/logins
chmod 640 $own/logins
chgrp opensmtpd $own/logins
echo mail.example.com >/etc/mailname
sed -e "s/@STARTTLS@/${PORTS% *}/" -e "s/@TLS@/${PORTS#* }/" /etc/smtpd.conf.in >/etc/smtpd.conf
# It wants some authorities to trust, though it sends nothing.
mkdir -p /etc/ssl/certs
cp $own/certificate.pem /etc/ssl/certs/ca-certificates.crt
cp $own/certificate.pem /etc/ssl/cert.pem
mkdir -p /inbox
chown keeper /inbox
exec smtpd -d
