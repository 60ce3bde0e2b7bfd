# shellcheck shell=bash
# What the build scripts share. They make container images out of Debian packages, for machines on which no
# container registry answers. Each image is one layer: mmdebstrap writes a root file system, `docker import`
# takes it, and metadata is put on top. Nothing is written outside $CACHE, except images in the Docker daemon.
#
#   CACHE          folder for downloads and scratch files (cargo xtask sets it)
#   DEBIAN_MIRROR  a Debian mirror; by default the one that this machine's apt uses

: "${CACHE:?set CACHE to a folder for downloads, or use: cargo xtask images}"
mkdir -p "$CACHE"
# shellcheck disable=SC2034  # for the scripts that source this file
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

log() { printf 'images: %s\n' "$*" >&2; }
die() { log "error: $*"; exit 1; }

# show_version COMMAND [ARGUMENT…] — the first line of what it says, to the log. Read whole: with `| head -n 1` a program that writes
# its next line after head has gone dies of SIGPIPE, and pipefail makes that ours.
show_version() {
  local said
  said=$("$@" 2>&1)
  log "${said%%$'\n'*}"
}

# debian_mirror — the address of a Debian mirror. apt's own index knows it, whatever the format of its sources.
debian_mirror() {
  local uri=${DEBIAN_MIRROR:-}
  # shellcheck disable=SC2016  # apt expands $(REPO_URI), not the shell
  [ -n "$uri" ] || uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
  uri=${uri%%$'\n'*}
  [ -n "$uri" ] || die "apt on this machine has no Debian mirror (or no package lists yet: apt-get update); set DEBIAN_MIRROR"
  echo "${uri%/}"
}

# rootfs SUITE PACKAGE[,…] [mmdebstrap option…] — write a root file system to stdout, as a tar.
# Only Essential packages and those named, no apt inside. Documentation and locales are never unpacked, so
# they cost neither time nor size. A mirror may be a frozen snapshot, so expired lists are accepted.
# With EXTRA_SUITE=S, packages that SUITE lacks (and only those: pinned low) come from S.
rootfs() {
  local suite=$1 include=$2 mirror; shift 2
  mirror=$(debian_mirror)
  if [ -n "${EXTRA_SUITE:-}" ]; then
    # shellcheck disable=SC2016  # mmdebstrap's hooks expand $1
    set -- "$@" --setup-hook='mkdir -p "$1/etc/apt/preferences.d"; printf "Package: *\nPin: release n=%s\nPin-Priority: 100\n" '"$EXTRA_SUITE"' >"$1/etc/apt/preferences.d/extra"'
  fi
  mmdebstrap --quiet --variant=essential --mode=root \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='force-unsafe-io' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --include="$include" "$@" "$suite" - "deb $mirror $suite main" ${EXTRA_SUITE:+"deb $mirror $EXTRA_SUITE main"}
}

# tag_image TAG METADATA BASE — give the imported image BASE the Dockerfile lines METADATA and the name TAG.
# (`docker import --change` of Engine 20.10 does not know STOPSIGNAL; lines like these add no layer and run no
# container in the classic builder.) The image that TAG named before is dropped when nothing else needs it.
tag_image() {
  local tag=$1 metadata=$2 base=$3 old new said
  old=$(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null || true)
  said=$(printf 'FROM %s\n%s\n' "${base#sha256:}" "$metadata" | DOCKER_BUILDKIT=0 docker build -q -t "$tag" - 2>&1) || die "$tag: $said"
  new=$(docker image inspect -f '{{.Id}}' "$tag")
  [ -z "$old" ] || [ "$old" = "$new" ] || docker rmi "$old" >/dev/null 2>&1 || true
}

# build_image TAG METADATA SUITE PACKAGE[,…] [mmdebstrap option…] — TAG moves only when all has succeeded.
build_image() {
  local tag=$1 metadata=$2 base; shift 2
  base=$(rootfs "$@" | docker import -) || { [ -z "$base" ] || docker rmi "$base" >/dev/null; die "no root file system for $tag"; }
  tag_image "$tag" "$metadata" "$base"
}

# import_dir DIRECTORY — import a directory as an image; the same content gives the same image.
import_dir() { tar -C "$1" --numeric-owner --owner=0 --group=0 --mtime=@0 --sort=name -c . | docker import -; }

# user_hook NAME UID GID HOME — an mmdebstrap hook that makes a system user before any package's own script
# does, so that the number is ours. (Nothing but base-passwd is there by then, hence plain files.)
user_hook() {
  echo "echo '$1:x:$3:' >>\"\$1/etc/group\"; echo '$1:x:$2:$3::$4:/bin/sh' >>\"\$1/etc/passwd\"; echo '$1:!:19000::::::' >>\"\$1/etc/shadow\""
}

# fetch_deb SUITE PACKAGE DIRECTORY — download a package of another Debian suite (signature checked) and unpack
# it, without touching this machine's apt configuration or package database.
fetch_deb() {
  local suite=$1 package=$2 dir=$3 state=$CACHE/apt-$1 mirror
  mirror=$(debian_mirror)
  mkdir -p "$state/lists/partial" "$state/archives/partial" "$dir"
  local apt=(apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::PreferencesParts=/dev/null -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status"
    -o Dir::Cache="$state" -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User=root)
  touch "$state/status"
  echo "deb $mirror $suite main" >"$state/sources.list"
  "${apt[@]}" update
  (cd "$state/archives" && rm -f "${package}"_*.deb && "${apt[@]}" download "$package")
  dpkg-deb -x "$state/archives/${package}"_*.deb "$dir"
}
