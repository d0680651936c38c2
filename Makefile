# make run   starts a hub on 127.0.0.1:8082, its log in ./data (FLAGS='…' for more)
# make test  is what CI runs: it installs what the tests need, checks, and tests
GO       ?= go
FLAGS    ?=
FUZZTIME ?= 1m
# Every fuzzer, as package:function.
FUZZERS  := .:FuzzPosition .:FuzzPattern .:FuzzRule ./pebblelog:FuzzImport ./sse:FuzzParser ./sse:FuzzRoundTrip ./hub:FuzzTrie ./server:FuzzPublish

.PHONY: run build test check unit race e2e setup fuzz bench cover nightly clean

run: ## start a hub
	@$(GO) run ./cmd/fanfare serve $(FLAGS)

build: ## build bin/fanfare
	$(GO) build -o bin/fanfare ./cmd/fanfare

test: check unit e2e ## everything that CI runs

check: ## format, vet, lint (the allow-list is in staticcheck.conf)
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w these files:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

unit: ## the tests of each package, with the race detector where a C compiler is there
	$(GO) test -timeout 10m $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race) $$($(GO) list ./... | grep -v /e2e)

e2e: setup ## the real binary with real clients
	$(GO) test -timeout 10m -count=1 -v ./e2e | grep -v '^=== '; exit $${PIPESTATUS[0]}

setup:
	@./e2e/setup

race: ## all tests with the race detector
	$(GO) test -race -timeout 15m ./...

fuzz: ## each fuzzer for FUZZTIME
	@for f in $(FUZZERS); do echo "fuzz $$f"; $(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) "$${f%:*}" || exit 1; done

bench: ## figures, as ratios within one run; never a test
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./bench

cover: ## coverage of all packages by all tests, in coverage.html
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o coverage.html
	@$(GO) tool cover -func=coverage.out | tail -1

nightly: ## what is too long for every change: fuzzers for ten minutes each, and the suites many times
	$(MAKE) fuzz FUZZTIME=10m
	$(GO) test -race -timeout 60m -count=20 ./hub ./pebblelog ./server
	$(GO) test -timeout 60m -count=10 ./e2e

clean:
	rm -rf bin coverage.out coverage.html e2e/.venv e2e/node_modules e2e/.tools

SHELL := /bin/bash
