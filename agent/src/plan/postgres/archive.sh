# PostgreSQL's archive_command, run in its data directory: sh archive PATH NAME
# Puts a finished segment of the write-ahead log into the tenant's spool, whole or not at all. It never fails for ever, or
# segments would pile up in pg_wal until the disk is full: where the spool is at its bound, or cannot be written while so much
# waits, a segment is let go. `gap` then names the first and the last that were; a gap is also seen by the names in the spool, which
# follow each other. Only a base backup that begins after a gap begins another chain.
from=$1 name=$2

let_go() {
  first=$name
  if [ -s "$spool/gap" ]; then
    read -r first _ <"$spool/gap"
  else
    echo "isyone: $name is not archived, and perhaps others after it: $1" >&2
  fi
  printf '%s %s\n' "$first" "$name" >"$spool/.gap" && mv -f "$spool/.gap" "$spool/gap"
  exit 0
}

used=$(du -sk "$spool" | cut -f1)
[ "${used:-0}" -lt "$limit_kib" ] || let_go "the spool has $used KiB, its bound is $limit_kib"

# Flushed before it has its name, and the name before PostgreSQL uses the segment again.
dd if="$from" of="$spool/.new" bs=1048576 conv=fsync 2>/dev/null &&
  mv -f "$spool/.new" "$spool/$name" && sync "$spool" && exit 0

rm -f "$spool/.new"
waiting=$(find pg_wal/archive_status -name '*.ready' | wc -l)
bytes=$(wc -c <"$from")
[ $((waiting * ${bytes:-16777216} / 1024)) -lt "$patience_kib" ] || let_go "the spool cannot be written, and $waiting segments wait"
exit 1
