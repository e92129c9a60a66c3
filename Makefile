# kmsgate: the commands of daily work. `make` alone lists them.

GO ?= go

# PKCS#11 modules are C libraries: without cgo there is no kmsgate.
export CGO_ENABLED := 1

# The revision is stamped into the binary where git can tell it.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)

# The packages that decide who may do what: their own tests run every statement.
COVERED_PACKAGES := ./policy ./gateway/sigv4 ./gateway/session

# The packages where goroutines share state; -race makes them several times slower.
RACE_PACKAGES := ./gateway ./hsm/pkcs11 ./metadata ./metadata/audit
# The conformance suite, the parts of which do one thing at a time, and crashes of whole
# processes have nothing for it to find.
RACE_SKIP := Exercise|Crash|OfASecondKind

.DEFAULT_GOAL := help
.NOTPARALLEL: # a set-up is complete before a build begins

.PHONY: help
help: ## list these commands
	@echo 'kmsgate: the AWS KMS API on your own HSM. Commands:'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-8s %s\n' "$$name" "$$what"; done

.PHONY: run
run: setup build ## install what is missing, build, and run a gateway for development (ARGS="-listen …")
	@./bin/kmsgate dev $(ARGS)

.PHONY: build
build: ## build bin/kmsgate
	@command -v $$($(GO) env CC) >/dev/null || { echo 'no C compiler: ./deployments/setup run installs one'; exit 1; }
	$(GO) build -trimpath -buildvcs=$(VCS) -o bin/kmsgate ./cmd/kmsgate

.PHONY: test
test: ## install what is missing and run all tests
	@./deployments/setup test
	$(GO) test ./...
	$(GO) test -race -skip '$(RACE_SKIP)' $(RACE_PACKAGES)
	@$(MAKE) --no-print-directory cover

.PHONY: cover
cover: ## check that the tests of the deciding packages run every statement of them
	@echo coverage of $(COVERED_PACKAGES); out=$$($(GO) test -cover $(COVERED_PACKAGES)) || { echo "$$out"; exit 1; }; \
		if echo "$$out" | grep -v 'coverage: 100.0% of statements'; then echo 'not every statement is run'; exit 1; fi

.PHONY: lint
lint: ## check format, vet, staticcheck, dead code, go.mod, and the rules of the house
	@echo gofumpt; files=$$($(GO) tool gofumpt -l .) && [ -z "$$files" ] || \
		{ printf 'to be formatted (go tool gofumpt -w .):\n%s\n' "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@echo deadcode; dead=$$($(GO) tool deadcode -test ./...) && [ -z "$$dead" ] || \
		{ printf 'unreachable:\n%s\n' "$$dead"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) test -run '^TestHouse' ./integration
	@if command -v golangci-lint >/dev/null; then echo golangci-lint run; golangci-lint run; fi

.PHONY: faults
faults: ## make every function of the token's library fail in every way, under load, and print what came of it
	@./deployments/setup test
	KMSGATE_ALL_FAULTS=1 $(GO) test -count=1 -v -timeout 30m -run '^(TestFaults|TestCrashesLoseNoKey)$$' ./hsm/pkcs11

.PHONY: bench
bench: setup build ## measure the gateway against its token on this machine
	@./bin/kmsgate bench $(ARGS)

.PHONY: check
check: test lint ## run all gates, as CI does

.PHONY: clean
clean: ## remove what build made; .kmsgate, where development keys live, stays
	rm -rf bin

.PHONY: setup
setup:
	@./deployments/setup run
