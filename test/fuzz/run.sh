#!/bin/sh
# Runs each Fuzz* target of the module in turn, for FUZZTIME each, and stops at the first that fails: what it found then
# stands in testdata/fuzz of its package, to be committed with what mends it. With FUZZCACHE=none it begins with the
# committed corpora alone; otherwise it goes on from what earlier runs found interesting.
#
# FUZZTIME is a time, "1m", or a number of inputs, "1000x". What must not fail by chance takes a number: before Go 1.27 a
# target whose time is over can fail with "context deadline exceeded" and nothing found (golang/go#75804).
set -eu
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-1m}
case $FUZZTIME in
*x) minimize=10x ;; # an input that is only interesting would be made smaller for a minute
*) minimize=60s ;;
esac
module=$($GO list -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cache=$work/cache
[ "${FUZZCACHE:-}" = none ] || cache=$($GO env GOCACHE)/fuzz

for package in $($GO list ./...); do
	dir=$($GO list -f '{{.Dir}}' "$package")
	targets=$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing\.F).*/\1/p' "$dir"/*_test.go 2>/dev/null || true)
	[ -n "$targets" ] || continue
	$GO test -c -fuzz=. -o "$work/fuzz.test" "$package"
	for target in $targets; do
		echo "$package $target"
		(cd "$dir" && "$work/fuzz.test" -test.run='^$' -test.fuzz="^$target\$" -test.fuzztime="$FUZZTIME" -test.fuzzminimizetime=$minimize \
			-test.fuzzcachedir="$cache/$package") >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
		tail -2 "$work/out" | head -1
	done
done
echo "every target of $module was fuzzed for $FUZZTIME"
