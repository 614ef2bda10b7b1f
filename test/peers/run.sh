#!/bin/sh
# Runs relayd against real mail programs: Postfix, Exim, swaks and msmtp. As root, on Debian; see install.sh for what
# is fetched. Words after the command go to "go test": run.sh -run Exim
set -eu
cd "$(dirname "$0")/../.."
sh test/peers/install.sh
exec go test -tags peers -count=1 -timeout=5m -v "$@" ./test/peers/...
