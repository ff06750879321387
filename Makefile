# Two commands do everything: `make run` shows it, `make test` proves it.

.PHONY: run test bench soak million old-kernel fuzz build verify-speed lint

run: build
	@[ "$$(id -u)" = 0 ] || tests/need.sh fusermount3 fuse3
	@examples/demo.sh

build:
	@tests/need.sh cc gcc
	cargo build

test:
	tests/run.sh

# Needs root; prints medians, p99, rates and ratios, and writes target/bench.json. QUICK=1: in
# less than a minute.
bench:
	@tests/need.sh cc gcc
	cargo bench --bench bench

# Long forms, each for MINUTES: kills, disks, clocks, mounts, and once: sizes, systemd.
MINUTES ?= 10
SCENARIOS ?=
soak:
	tests/soak.sh $(MINUTES) $(SCENARIOS)

# The main suites on Linux 6.1 and 6.12 (Debian 12 and 13), in an emulator.
old-kernel:
	tests/old-kernel.sh

# A million reads of a secret that is rewritten all the time: none torn, none failed.
million:
	cargo test --release --test e2e -- --ignored --nocapture a_million_reads \
	    | grep '^reads '

# A log of a million records is verified: records a second beside the bare digest's.
verify-speed:
	cargo test --release -p jarvis-audit -- --ignored --nocapture a_million_records \
	    | grep -E '^(append|verify)'

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	# As it is built for use: without what only the tests' crates switch on.
	cargo clippy --workspace -- -D warnings
	shellcheck examples/*.sh tests/*.sh .ci/run

# Needs cargo-fuzz (cargo install --locked cargo-fuzz); SECONDS_EACH a target.
SECONDS_EACH ?= 60
fuzz:
	for target in control_request worker_message policy; do \
	    cargo fuzz run -s none $$target -- -max_total_time=$(SECONDS_EACH) -max_len=4096 || exit 1; \
	done
