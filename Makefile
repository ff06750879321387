# Two commands do everything: `make run` shows it, `make test` proves it.

.PHONY: run test build lint

run: build
	@examples/demo.sh

build:
	@tests/need.sh cc gcc
	cargo build

test:
	tests/run.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	shellcheck examples/*.sh tests/*.sh .ci/run
