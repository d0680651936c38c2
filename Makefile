# make run   starts a hub on 127.0.0.1:8082, its log in ./data (FLAGS='…' for more)
# make test  is what CI runs: it installs what the tests need, checks, and tests
GO       ?= go
FLAGS    ?=
FUZZTIME ?= 1m
# Every fuzzer, as package:function.
# gosec's rules, chosen in docs/adr/0011-dependencies-and-lint.md.
GOSEC    := G101,G102,G103,G106,G108,G109,G110,G111,G112,G114,G203,G204,G301,G302,G303,G305,G306,G401,G402,G403,G405,G406,G407,G501,G502,G503,G504,G505,G506,G507,G602
TOOL     := $(GO) tool -modfile=tools.mod

FUZZERS  := ./internal/storeapi:FuzzRecord ./auth:FuzzToken ./auth:FuzzGrants ./internal/forwarded:FuzzForwarded .:FuzzPosition .:FuzzPattern .:FuzzRule ./pebblelog:FuzzImport ./pebblelog:FuzzTip ./sse:FuzzParser ./sse:FuzzRoundTrip ./internal/hub:FuzzTrie ./internal/wire:FuzzFrames ./server:FuzzPublish ./internal/publish:FuzzObject ./internal/publish:FuzzTimes ./internal/httpapi:FuzzText ./internal/http1:FuzzRequest

.PHONY: run build build-all vet-all test check sec vuln unit unit-server unit-others race e2e setup fuzz bench cover nightly clean

run: ## start a hub
	@$(GO) run ./cmd/fanfare serve $(FLAGS)

build: ## build bin/fanfare
	$(GO) build -o bin/fanfare ./cmd/fanfare

# On other systems than Linux streams and publishers' connections have a goroutine each.
SYSTEMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64

build-all: ## build static programs for all systems into bin/, with their checksums
	@mkdir -p bin && rm -f bin/fanfare-* bin/SHA256SUMS
	@for s in $(SYSTEMS); do os=$${s%/*}; arch=$${s#*/}; out=bin/fanfare-$$os-$$arch; [ $$os = windows ] && out=$$out.exe; \
	  echo "build $$out"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -trimpath -ldflags '-s -w' -o $$out ./cmd/fanfare || exit 1; done
	@cd bin && if command -v sha256sum >/dev/null; then sha256sum fanfare-*; else shasum -a 256 fanfare-*; fi >SHA256SUMS && cat SHA256SUMS

vet-all: ## vet for the systems that tests do not run on
	@for s in darwin/arm64 windows/amd64; do echo "vet $$s"; GOOS=$${s%/*} GOARCH=$${s#*/} CGO_ENABLED=0 $(GO) vet ./cmd/... ./server ./internal/... ./pebblelog || exit 1; done

test: check unit e2e ## everything that CI runs

check: ## format, vet, lint (the allow-list is in staticcheck.conf)
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these files:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

sec: ## gosec, where it can be had (tools.mod has its own dependencies)
	@if $(TOOL) gosec -version >/dev/null 2>&1; then $(TOOL) gosec -quiet -include=$(GOSEC) -exclude-dir=e2e -exclude-dir=bench ./...; else echo "gosec cannot be had: skipped"; fi

vuln: ## known weaknesses of what is built in, by the database of the Go project, which comes as a module; needs no other network
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && osv=$$($(GO) mod download -modfile=tools.mod -json golang.org/x/vulndb | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/data/osv && \
	$(TOOL) indexdb -out "$$dir" -vulns "$$osv" && $(TOOL) govulncheck -db "file://$$dir" ./...

RACE = $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race)

unit: ## the tests of each package, with the race detector where a C compiler is there
	@$(MAKE) --no-print-directory -j2 -Otarget unit-server unit-others

unit-server: # all kinds of stream; with the race detector two of them, make race has all
	$(GO) test -timeout 30m -parallel 16 ./server
	FANFARE_KINDS=detached,HTTP2 $(GO) test -timeout 30m -parallel 16 $(RACE) ./server

unit-others:
	$(GO) test -timeout 30m -parallel 4 $(RACE) $$($(GO) list ./... | grep -v -e /e2e -e /server)

e2e: setup ## the real binary with real clients
	$(GO) test -timeout 20m -parallel 4 -count=1 -v ./e2e | grep -v '^=== '; exit $${PIPESTATUS[0]}

setup:
	@./e2e/setup

race: ## all tests with the race detector
	$(GO) test -race -timeout 30m ./...

fuzz: ## each fuzzer for FUZZTIME
	@for f in $(FUZZERS); do echo "fuzz $$f"; $(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) "$${f%:*}" || exit 1; done

bench: ## figures, as ratios within one run; never a test
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./bench
	./bench/compare

cover: ## coverage of all packages by all tests, in coverage.html
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o coverage.html
	@$(GO) tool cover -func=coverage.out | tail -1

nightly: ## what is too long for every change: fuzzers for ten minutes each, and the suites many times
	$(MAKE) fuzz FUZZTIME=10m
	$(MAKE) sec
	$(MAKE) build-all vet-all
	-$(MAKE) vuln
	FANFARE_LONG=1 $(GO) test -timeout 60m ./pebblelog ./server
	$(GO) test -race -timeout 120m -count=20 ./internal/hub ./pebblelog ./server
	$(GO) test -timeout 60m -count=10 ./e2e

clean:
	rm -rf bin coverage.out coverage.html e2e/.venv e2e/.btubbs e2e/node_modules e2e/.tools

SHELL := /bin/bash
