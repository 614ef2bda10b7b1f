# relayd: a local smarthost relay. "make help" lists the targets.

GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=
# The race detector needs cgo and a C compiler.
RACE    := $(shell if command -v $${CC:-cc} >/dev/null 2>&1 && [ "$$($(GO) env CGO_ENABLED)" = 1 ]; then echo -race; fi)
# How long "make fuzz" fuzzes each target.
FUZZTIME ?= 1m
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help build test check fuzz crash disks soak peers demo install clean

help:           ## list the targets
	@sed -n 's/^\([a-z-]*\): *[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build:          ## build bin/relayd and bin/relayctl
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/relayd ./cmd/relayctl

test:           ## run the whole suite, with the race detector where there is a C compiler
	$(GO) test $(RACE) -timeout=30m ./...

check: test     ## test, and vet, staticcheck, formatting, import rules, a thousand inputs of fuzzing each
	$(GO) vet ./... && $(GO) vet -tags peers ./...
	$(GO) run $(STATICCHECK) -tags peers ./...
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) test -count=1 ./test/house
	GO=$(GO) FUZZTIME=1000x FUZZCACHE=none sh test/fuzz/run.sh
	$(GO) mod verify && $(GO) mod tidy -diff

# Other systems do not compile: Solaris and illumos have no flock(2). On Windows relayd says at its start that it cannot run;
# some tests do not compile there.
PLATFORMS ?= linux/amd64 linux/arm64 linux/arm linux/386 linux/riscv64 linux/mipsle darwin/arm64 freebsd/amd64 openbsd/amd64 windows/amd64
.PHONY: cross
cross:          ## build and vet for each of PLATFORMS, and run tests as 32-bit programs
	@set -e; for p in $(PLATFORMS); do echo "$$p"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) build ./...; \
		GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) vet ./...; done
	@case $$($(GO) env GOARCH) in amd64) GOARCH=386 CGO_ENABLED=0 $(GO) test -short $(PURE);; esac

# What computes more than it asks of the system, and the queue with its files.
PURE := ./queue ./internal/config ./internal/dsn ./internal/envelope ./internal/header ./internal/pace ./internal/provider \
	./internal/rewrite ./internal/sevenbit

fuzz:           ## fuzz each parser of foreign octets for FUZZTIME (1m)
	GO=$(GO) FUZZTIME=$(FUZZTIME) sh test/fuzz/run.sh

CRASHES ?= 400
CUTS    ?= 400
FAULTS  ?= all
SOAK    ?= 5m
crash soak: SHELL := /bin/bash
# Without the subtests, of which there are many.
FIGURES := grep -vE '^=== |^ +--- PASS'

crash:          ## crash, fail and cut the power of relayd hundreds of times: about 20 minutes; CRASHES, CUTS and FAULTS say how often
	@set -o pipefail; RELAYD_CRASHES=$(CRASHES) RELAYD_CUTS=$(CUTS) RELAYD_FAULTS=$(FAULTS) RELAYD_TAP_REQUIRED=1 $(GO) test -count=1 -v -timeout=120m \
		-run 'KilledTenTimes|CrashesLoseNothing|AFaultAtEachCall|PowerCuts|Each250' ./cmd/relayd | $(FIGURES)

disks:          ## fill and drain small disks of every kind, as root: about 40 minutes
	@set -o pipefail; RELAYD_SMALL_DISKS=all $(GO) test -count=1 -v -timeout=120m -run 'FullDisk_IsNoWedge' ./queue | $(FIGURES)

soak:           ## run relayd under load, faults and reloads, and measure that nothing grows; SOAK=8h says how long
	@set -o pipefail; RELAYD_SOAK=$(SOAK) $(GO) test -count=1 -v -timeout=0 -run SoakGrowsNothing ./cmd/relayd | $(FIGURES)

peers:          ## install real Postfix, Exim, swaks, msmtp and npm's smtp-server, and run against them
	sh test/peers/run.sh

demo: build     ## show the relay at work on loopback
	$(GO) run ./test/demo

# How often each benchmark runs; what bench-peers is told: see "go run ./test/bench -help".
BENCH_COUNT ?= 6
PEERS_ARGS  ?=
.PHONY: bench bench-peers

bench:          ## benchmark the rooms, for benchstat; needs 5 GB in TMPDIR, whose disk it measures
	$(GO) test -run '^$$' -bench . -benchmem -count=$(BENCH_COUNT) -timeout=60m ./relay ./queue ./smarthost ./internal/sevenbit

bench-peers: build ## measure relayd beside Postfix, as root; PEERS_ARGS="-write docs/performance.md" keeps it
	@$(GO) run ./test/bench $(PEERS_ARGS)

install: build  ## install to $(PREFIX); see packaging/ for the service
	install -D -m 0755 bin/relayd $(DESTDIR)$(PREFIX)/sbin/relayd
	install -D -m 0755 bin/relayctl $(DESTDIR)$(PREFIX)/bin/relayctl
	install -D -m 0644 config.example.toml $(DESTDIR)$(PREFIX)/share/doc/relayd/config.example.toml

clean:          ## remove what was built
	rm -rf bin
