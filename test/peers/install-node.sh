#!/bin/sh
# Fetches the packages of npm's registry that the tests in this folder run (smtp-server, nodemailer, Haraka), in the
# versions that node/package-lock.json names and with their checksums. It needs node 20 or later and npm on PATH.
#
# Nothing gets installed on the machine: the packages lie in a folder of their own, none of their scripts is run. The
# folder is node in that of install.sh. When it is complete, nothing is done or said.
set -eu

dir=${RELAYD_PEERS_DIR:-/var/cache/relayd-peers}/node
from=$(dirname "$0")/node

die() {
	echo "test/peers/install-node.sh: $*" >&2
	exit 1
}

stamp=$(cksum <"$from/package-lock.json")
[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

for tool in node npm flock; do
	command -v "$tool" >/dev/null 2>&1 || die "there is no $tool here; the tests need node 20 or later, with npm"
done
[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || die "node is $(node --version); the tests need 20 or later"

mkdir -p "$dir"
exec 8>"$dir/lock"
flock -w 600 8 || die "another run of this script holds $dir/lock"
[ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

rm -rf "$dir/stamp" "$dir/node_modules"
cp "$from/package.json" "$from/package-lock.json" "$dir/"
(cd "$dir" && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error >log 2>&1) || {
	tail -n 15 "$dir/log" >&2
	die "the packages could not be fetched; is npm's registry reachable?"
}
printf '%s\n' "$stamp" >"$dir/stamp"
echo "npm's packages for the tests are in $dir"
