#!/bin/sh
# Runs relayd against real mail programs, as root, on Debian with node. install.sh and install-node.sh fetch them. Words
# after the command go to "go test": run.sh -run Exim
set -eu
cd "$(dirname "$0")/../.."
sh test/peers/install.sh
sh test/peers/install-node.sh
exec go test -tags peers -count=1 -timeout=20m -v "$@" ./test/peers/...
