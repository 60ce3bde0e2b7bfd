#!/usr/bin/env bash
# Build `odoo:19.0`, the real Odoo 19, out of Debian's odoo-19, to the contract of the official image.
# The package is in sid only. It is pure Python and is put on trixie, whose Python 3.13 Odoo 19 supports; on
# sid's own 3.14 it does not start (importlib.resources, WeakSet.copy). It prints with wkhtmltopdf.sh's build, which there is for x86-64 only.
#   ODOO_LANGS="pt_BR" ODOO_L10N="l10n_br*" bash build.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
: "${TAG:=odoo:19.0}"
: "${ODOO_LANGS=pt_BR}"                                               # translations kept; "" = none
# Country modules kept (globs): one of each kind of books that is tested, without what declares to tax offices.
: "${ODOO_L10N=l10n_br* l10n_latam_base l10n_latam_invoice_document l10n_es l10n_mx l10n_pt l10n_us l10n_us_account}"
SUITE=trixie
export EXTRA_SUITE=sid ODOO_UID=100 ODOO_GID=101 # the official image's numbers
ADDONS=/usr/lib/python3/dist-packages/odoo/addons

# Of the package's 1.3 GB, 826 MB are translations, 150 MB a second copy of every module's Python
# (dist-packages/addons: nothing imports it), 72 MB tests, 42 MB country modules. They are never unpacked.
# dpkg: the last matching rule decides. The globs below are dpkg's, hence `set -f`.
set -f
rules=()
out() { rules+=(--dpkgopt="path-exclude=$1"); }
keep() { rules+=(--dpkgopt="path-include=$1"); }
out "${ADDONS%/odoo/addons}/addons/*"
out /usr/bin/py3compile # a no-op stands in during installation: everything is compiled once, at the end
out "$ADDONS/l10n_*"
for module in $ODOO_L10N; do keep "$ADDONS/$module/*"; done
out "$ADDONS/*/i18n/*"
for lang in $ODOO_LANGS; do keep "$ADDONS/*/i18n/$lang.po"; done
for path in 'l10n_*/i18n/*.pot' '*/tests/*' 'test_*' '*/static/tests/*' '*/static/description/*.gif' \
  '*/static/description/index.html' '*/static/description/*.jpg'; do out "$ADDONS/$path"; done
LOCALES=/usr/share/python-babel-localedata/locale-data
out "$LOCALES/*"
for lang in root en en_001 en_US en_GB pt pt_BR pt_PT es es_ES es_419 es_MX $ODOO_LANGS; do keep "$LOCALES/$lang.dat"; done
for path in '/usr/share/fonts/X11/*' '/usr/share/fonts/woff/*' '/usr/lib/*/gconv/*' '/usr/share/zoneinfo/right/*'; do out "$path"; done
set +f

# perl serves only maintainer scripts and pg_wrapper, which the links replace: removed at the end.
# shellcheck disable=SC2016  # the hooks' $1 is mmdebstrap's
hooks=(
  --essential-hook="$(user_hook odoo "$ODOO_UID" "$ODOO_GID" /var/lib/odoo)"
  --essential-hook='ln -sf true "$1/usr/bin/py3compile"'
  --customize-hook='rm "$1/usr/bin/py3compile"'
  --customize-hook='cd "$1"; for b in usr/lib/postgresql/*/bin/*; do ln -sf "/$b" usr/bin/; done'
  --customize-hook='cd "$1"; rm -rf usr/share/perl usr/share/perl5 usr/lib/*/perl usr/lib/python3.*/test usr/lib/python3.*/pydoc_data var/cache/debconf var/lib/apt var/lib/dpkg/info var/cache/fontconfig'
  --customize-hook='cd "$1"; install -d -o "$ODOO_UID" -g "$ODOO_GID" var/lib/odoo mnt/extra-addons'
  # excluded modules leave empty directories behind, which Odoo would take for broken modules
  --customize-hook='cd "$1"; for d in usr/lib/python3/dist-packages/odoo/addons/*/; do [ -e "$d/__manifest__.py" ] || rm -rf "$d"; done; rm -rf usr/lib/python3/dist-packages/addons'
  --customize-hook='chroot "$1" python3 -m compileall -q -j 0 /usr/lib/python3/dist-packages >/dev/null || true'
  --customize-hook="upload $HERE/odoo/odoo.conf /etc/odoo/odoo.conf"
  --customize-hook="upload $HERE/odoo/entrypoint.sh /entrypoint.sh"
  --customize-hook="upload $HERE/odoo/wait-for-psql /usr/local/bin/wait-for-psql"
  --customize-hook='chmod 755 "$1/entrypoint.sh" "$1/usr/local/bin/wait-for-psql"'
  --customize-hook='chown "$ODOO_UID:$ODOO_GID" "$1/etc/odoo/odoo.conf"; chmod 640 "$1/etc/odoo/odoo.conf"')

if [ "$(dpkg --print-architecture)" = amd64 ]; then
  bash "$HERE/odoo/wkhtmltopdf.sh"
  # shellcheck disable=SC2016  # as above
  hooks+=(--customize-hook="upload $CACHE/bin/wkhtmltopdf /usr/local/bin/wkhtmltopdf" --customize-hook='chmod 755 "$1/usr/local/bin/wkhtmltopdf"')
fi

# What wkhtmltopdf is linked with, and a font for what reports name none for (the package has Montserrat alone, without most scripts).
PRINTING=libxrender1,libxext6,libfontconfig1,libfreetype6,libstdc++6,fonts-dejavu-core
# python3-phonenumbers: what Odoo installs by itself with the books of countries of the EU needs it (account_peppol), and the package only recommends it.
# tzdata-legacy: zone names that pytz expects (US/Pacific…); without them start-up takes a slow, fragile way.
build_image "$TAG" 'ENV LANG=C.UTF-8 ODOO_RC=/etc/odoo/odoo.conf PYTHONUNBUFFERED=1
VOLUME ["/var/lib/odoo", "/mnt/extra-addons"]
EXPOSE 8069 8071 8072
USER odoo
ENTRYPOINT ["/entrypoint.sh"]
CMD ["odoo"]' "$SUITE" "odoo-19,tzdata-legacy,python3-phonenumbers,$PRINTING" "${rules[@]}" "${hooks[@]}"
