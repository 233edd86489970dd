# The commands of the project. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Where rustup puts cargo, for shells that were opened before it.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Where nothing is compiled a second time, what would make that faster is not kept.
ifdef CI
export CARGO_INCREMENTAL := 0
endif

say = @echo "==> $(1)"
need = @command -v $(1) >/dev/null || { echo "$(1) is missing: $(2)" >&2; exit 1; }

WEB_SOURCES := $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -print 2>/dev/null)
SCRIPTS := $(wildcard scripts/* benches/*.sh) .ci/run

.PHONY: help run build web cluster cluster-stop simulate drills test check bench install clean rust FORCE

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: build ## Install what is missing, build, and start the server with embedded stores
	$(call say,starting the server with config/weir.toml)
	@exec target/release/weir serve --config config/weir.toml $(ARGS)

build: rust web ## Build target/release/weir
	$(call say,building target/release/weir (takes minutes the first time))
	@cargo build --quiet --release --locked

cluster: build ## Start N=3 nodes with a database and an object store on this machine; OPEN=1 lets anyone publish
	@scripts/cluster start

cluster-stop: ## End that cluster and delete its data
	@scripts/cluster stop

rust:
	@scripts/install-deps run
	$(call need,cargo,install Rust from https://rustup.rs)
	$(call need,cc,install a C compiler (Debian: apt-get install gcc libc6-dev))

web: target/web.stamp ## Build the pages, when their sources changed

# The stamps live outside the folders they speak of; a folder that was deleted is made again.
target/web-packages.stamp: web/package.json web/package-lock.json $(if $(wildcard web/node_modules),,FORCE)
	@scripts/install-deps run
	$(call say,fetching the npm packages of the pages)
	@scripts/with-node npm --prefix web ci --no-audit --no-fund --loglevel=error
	@mkdir -p target && touch $@

target/web.stamp: target/web-packages.stamp $(WEB_SOURCES) $(if $(wildcard web/dist/index.html),,FORCE)
	$(call say,building the pages)
	@scripts/with-node npm --prefix web run --silent build
	@touch $@

test: rust web ## Install what the tests need and run all of them
	@scripts/install-deps test drills
	@scripts/with-node scripts/run-tests

check: rust web ## Formatting, lints, documentation, types, layout rules, shell syntax
	$(call say,checking the formatting)
	@cargo fmt --check
	$(call say,checking the shell scripts)
	@for script in $(SCRIPTS); do bash -n "$$script"; done
	$(call say,checking the types of the pages)
	@scripts/with-node npm --prefix web run --silent check
	$(call say,linting)
	@cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	@cargo clippy --quiet --locked --bench peers --bench transcode --bench stores --test drills -- -D warnings
	$(call say,checking the documentation)
	@RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --locked
	$(call say,checking the layout rules)
	@cargo test --quiet --locked --test tidy

simulate: rust web ## Run a million schedules of faults against the cluster's decisions, in virtual time
	$(call say,building the simulation (takes minutes the first time))
	@SIMULATE=$${SIMULATE:-500000} cargo test --profile simulate --locked --test simulation -- --nocapture

drills: rust web ## Cut, kill and stop nodes of a live cluster for minutes, and tell what viewers saw (needs root)
	@scripts/install-deps test drills
	@servers=$$(mktemp -d)/servers; trap "scripts/test-servers stop $$servers" EXIT; \
		eval "$$(scripts/test-servers start $$servers)"; export DRILL_S=$${DRILL_S:-120}; \
		scripts/with-node cargo test --locked --test drills -- --nocapture --test-threads 1

bench: build ## Measure: microbenches, then Weir against its peers
	@scripts/install-deps test bench
	$(call say,running the microbenches)
	@cargo bench --locked
	@if [ -x benches/run.sh ]; then echo "==> measuring against the peers"; benches/run.sh; fi

install: ## Install the system packages for running and testing
	@scripts/install-deps run test

clean: ## Delete everything that was built
	$(call say,deleting what was built)
	@rm -rf target web/node_modules web/dist
