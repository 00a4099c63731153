# make run     three members on loopback that etcdctl can use at once; Ctrl-C stops them
# make test    everything that proves the product
# make bench   side by side with etcd 3.5.1, in one run
# make help    the rest
#
# Build products live outside of the clone, so that a clean clone need not compile RocksDB again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/dipper-target
CARGO := .ci/cargo
BIN := $(CARGO_TARGET_DIR)/dist

.PHONY: help setup build run test lint mutants bench test-large clean
.DEFAULT_GOAL := help

help: ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## installs what is missing to build and to run (apt packages when root)
	@.ci/setup build

build: setup ## the binaries dipper and dipperctl
	$(CARGO) build --profile dist -p dipper-raft-node -p dipper-client --bins

run: build ## three members on loopback; Ctrl-C stops all
	@.ci/cluster $(BIN)/dipper

lint: setup ## formatting and clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

# Deliberately broken builds, kept apart from the product: tests must notice each.
mutants: setup
	$(CARGO) build --release -p dipper-raft-node --features mutants
	mkdir -p $(CARGO_TARGET_DIR)/mutants && cp $(CARGO_TARGET_DIR)/release/dipper $(CARGO_TARGET_DIR)/mutants/dipper

test: ## everything that proves the product
	@.ci/setup test
	$(MAKE) mutants
	$(MAKE) lint
	DIPPER_REQUIRE_PEERS=1 DIPPER_MUTANTS_BIN=$(CARGO_TARGET_DIR)/mutants/dipper \
		DIPPER_ETCD_35=$$(.ci/etcd-3.5) \
		$(CARGO) test --release --workspace --no-fail-fast -- --nocapture --test-threads=1

test-large: build ## one member in 1 GiB of memory with 8 GB of data (needs root and 30 GB of disk)
	.ci/test-large $(BIN)

bench: build ## put and range, side by side with etcd 3.5.1
	.ci/bench $(BIN)

clean: ## removes the build products, RocksDB's included
	rm -rf $(CARGO_TARGET_DIR)
