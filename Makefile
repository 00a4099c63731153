# make run     three members on loopback that etcdctl can use at once; Ctrl-C stops them
# make test    everything that proves the product
# make bench   side by side with etcd 3.5.1, in one run
# make help    the rest
#
# Build products live outside of the clone, so that a clean clone need not compile RocksDB again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/dipper-target
CARGO := .ci/cargo
BIN := $(CARGO_TARGET_DIR)/dist
RELEASE := $(CARGO_TARGET_DIR)/release

.PHONY: help setup build run test lint mutants judge judge-full sim bench bench-large curve soak test-large clean
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
	$(CARGO) build --release -p dipper-raft-node -p dipper-jepsen --bins --features dipper-jepsen/mutants
	mkdir -p $(CARGO_TARGET_DIR)/mutants && cp $(RELEASE)/dipper $(RELEASE)/jepsen $(CARGO_TARGET_DIR)/mutants/

test: ## everything that proves the product
	@.ci/setup test
	$(MAKE) mutants
	$(MAKE) lint
	DIPPER_REQUIRE_PEERS=1 DIPPER_MUTANTS_BIN=$(CARGO_TARGET_DIR)/mutants/dipper \
		DIPPER_ETCD_35=$$(.ci/etcd-3.5) \
		$(CARGO) test --release --workspace --no-fail-fast -- --nocapture --test-threads=1
	$(CARGO_TARGET_DIR)/mutants/jepsen mutants --rounds 1 --jobs 2

# Release with debug assertions and overflow checks, in a directory of its own: every crate is compiled again, which
# is why no other target uses it. The traces must be those of the release build, or something is left to chance.
judge: setup ## simulated seeds with debug assertions, traces compared with the release build
	$(CARGO) build --release -p dipper-jepsen
	$(CARGO) build --profile judge -p dipper-jepsen
	$(CARGO_TARGET_DIR)/judge/jepsen sim --seeds 0..200 --jobs 2
	for seed in 1 2 3 4 5; do for profile in release judge; do \
		$(CARGO_TARGET_DIR)/$$profile/jepsen sim --seed $$seed | tail -n 1 > $(CARGO_TARGET_DIR)/trace-$$profile; done; \
		cmp $(CARGO_TARGET_DIR)/trace-release $(CARGO_TARGET_DIR)/trace-judge || exit 1; done

# The members are those of the tests' build; mutants are built first, because both use the same directory. Results stay
# outside of the clone, a directory for each commit: `make judge-full FULL=--resume` goes on, FULL="--part sim" runs a
# part. The report is written whatever they are.
RESULTS = $(CARGO_TARGET_DIR)/judge-results/$$(git rev-parse --short=12 HEAD)
judge-full: ## the whole judge and its report, within an hour on a quiet machine (needs root)
	@.ci/setup test
	$(MAKE) mutants
	$(CARGO) build --release -p dipper-raft-node -p dipper-jepsen --bins
	well=0; $(RELEASE)/jepsen full --dir $(RESULTS) --mutants $(CARGO_TARGET_DIR)/mutants/jepsen $(FULL) || well=$$?; \
		$(RELEASE)/jepsen report --from $(RESULTS) --to jepsen/reports/$$(date -u +%F) && exit $$well

sim: setup ## a thousand simulated seeds, and how many cluster-hours a CPU-hour gives
	$(CARGO) build --release -p dipper-jepsen
	$(RELEASE)/jepsen sim --seeds 0..1000 --jobs 2

test-large: build ## one member in 1 GiB of memory with 8 GB of data (needs root and 30 GB of disk)
	.ci/test-large $(BIN)

# The limit of what is measured: a service that does nothing.
.PHONY: null
null: build
	$(CARGO) build --profile dist -p dipper-raft-node --example null_service

bench: null ## side by side with etcd 3.5.1, within an hour; BENCH=--quick: five minutes
	.ci/bench $(BIN)

bench-large: null ## its rows of 20 GB, ten million keys, five million revisions; GB=4: less
	BENCH="--large $(or $(GB),20) $(BENCH)" .ci/bench $(BIN)

MEASURED = --dipper $(BIN)/dipper --load $(BIN)/dipperctl --svg $(CARGO_TARGET_DIR)
curve: build ## cost per operation over keys, connections and watches, as a table and a picture
	python3 -B .ci/benchmark/curve.py $(MEASURED)/curve.svg

soak: build ## an hour at half load: memory as a table and a picture
	python3 -B .ci/benchmark/soak.py $(MEASURED)/soak.svg

clean: ## removes the build products, RocksDB's included
	rm -rf $(CARGO_TARGET_DIR)
