#!/usr/bin/env bash
# Builds an OpenTelemetry Collector from the Go packages of Debian's newest suite.
#
#   .ci/get_otelcol.sh DEST
#
# Prints the path of the program, DEST/otelcol. Does nothing else if DEST holds a build of the same
# source. Writes to DEST only and installs nothing; needs a Debian system, 3 GiB in DEST during the
# build, and a few minutes. If it fails, it prints one line with the reason and exits with status 1.
set -euo pipefail

SUITE=sid
SOURCES=/etc/apt/sources.list.d/debian.sources
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
DOWNLOAD_S=600
BUILD_S=900

fail() {
    echo "no OpenTelemetry Collector: $1" >&2
    exit 1
}

# Runs a command with a time limit in seconds. If it fails, the reason is the last line it printed.
run() {
    local limit_s=$1
    shift
    timeout "$limit_s" "$@" >"$work/log" 2>&1 && return
    fail "${1##*/}: $(tail -n 1 "$work/log" | grep . || echo "failed within $limit_s s")"
}

[ $# -eq 1 ] || fail 'usage: get_otelcol.sh DEST'
source=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/otelcol/main.go
mkdir -p "$1" 2>/dev/null || fail "cannot create $1"
dest=$(readlink -f "$1")

exec 9>"$dest/lock"
flock 9 # of several checks that run at the same time, the first one builds it
if [ -x "$dest/otelcol" ] && cmp --quiet "$source" "$dest/main.go"; then
    echo "$dest/otelcol"
    exit
fi

for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null || fail "$program not found"
done
uri=$(awk '/^URIs:/ {print $2; exit}' "$SOURCES" 2>/dev/null) || fail "$SOURCES not found"
work=$(mktemp -d "$dest/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# A private apt, with its sources, lists and cache in $work. Its status file is empty, so that it
# downloads every dependency.
mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,state} "$work/main"
: >"$work/apt/status"
cat >"$work/apt/sources.sources" <<END
Types: deb
URIs: $uri
Suites: $SUITE
Components: main
Signed-By: $KEYRING
END
cat >"$work/apt/apt.conf" <<END
Dir::Etc::SourceList "$work/apt/sources.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$work/apt/state";
Dir::State::Lists "$work/apt/lists";
Dir::State::Status "$work/apt/status";
Dir::Cache "$work/apt/cache";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
END
export APT_CONFIG="$work/apt/apt.conf"
run "$DOWNLOAD_S" apt-get --quiet update
run "$DOWNLOAD_S" apt-get --quiet --yes --download-only install \
    golang-go golang-opentelemetry-collector-dev
cd "$work/apt/cache/archives"
version=$(dpkg-deb --field golang-opentelemetry-collector-dev_*.deb Version)
for package in golang-*.deb; do
    run "$BUILD_S" dpkg-deb --extract "$package" "$work/root"
    rm "$package"
done

# Debian's packages have the layout of a GOPATH and contain every dependency.
cp "$source" "$work/main/main.go"
cd "$work/main"
goroot=$(readlink -f "$work/root/usr/lib/go")
export GOROOT="$goroot" GOPATH="$work/root/usr/share/gocode" GOCACHE="$work/cache"
export GO111MODULE=off GOPROXY=off GOTOOLCHAIN=local GOTELEMETRY=off GOFLAGS='' CGO_ENABLED=0
run "$BUILD_S" "$goroot/bin/go" build -ldflags "-s -w -X main.version=$version" -o "$work/otelcol" .
run 60 "$work/otelcol" --version

mv "$work/otelcol" "$dest/otelcol"
cp "$source" "$dest/main.go"
echo "$dest/otelcol"
