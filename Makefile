# Two commands do everything: `make run` shows it, `make test` proves it.

.PHONY: run test bench build lint

run: build
	@[ "$$(id -u)" = 0 ] || tests/need.sh fusermount3 fuse3
	@examples/demo.sh

build:
	@tests/need.sh cc gcc
	cargo build

test:
	tests/run.sh

# Needs root; prints medians, p99 and ratios, and writes target/bench.json.
bench:
	@tests/need.sh cc gcc
	cargo bench --bench bench

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	shellcheck examples/*.sh tests/*.sh .ci/run
