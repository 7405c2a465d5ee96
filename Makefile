# Every target works from a fresh clone and says what to install if something is missing. CARGO_TARGET_DIR is respected.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
LOOM_FLAGS := --cfg loom
LOOM_TESTS := loom_ring loom_reply_ring loom_lane loom_wait loom_claim

.PHONY: help demo test build lint clean bench flamegraphs loom tools doc

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: tools ## Build, serve a private region, show every basic command, run the verified workload, clean up
	$(CARGO) build --release --locked -p server -p shmtable
	@TARGET="$(TARGET)" sh benchmark/demo.sh

build: tools ## Release build of everything
	$(CARGO) build --release --locked --workspace

lint: tools ## Formatting, clippy and docs, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet

loom: tools ## Model checking of the lock-free parts
	RUSTFLAGS="$(LOOM_FLAGS)" $(CARGO) test --locked --release --target-dir "$(TARGET)/loom" -p shmqueue $(LOOM_TESTS:%=--test %)
	RUSTFLAGS="$(LOOM_FLAGS)" $(CARGO) test --locked --release --target-dir "$(TARGET)/loom" -p table --test loom_seqlock --test loom_split --test loom_deadlines

test: lint loom ## Everything that must pass
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace

bench: tools ## The hyperfine suite and the bench binaries; writes benchmark/results/<date>-<host>-<commit>/
	@command -v hyperfine >/dev/null || { echo "error: hyperfine is missing; install it (Debian: apt-get install hyperfine)" >&2; exit 2; }
	$(CARGO) build --profile benchmark --locked --workspace --bins
	"$(TARGET)/benchmark/bench-suite"

flamegraphs: tools ## Record server and client under load and redraw flamegraphs/*.svg
	@command -v perf >/dev/null || { echo "error: perf is missing; install it (Debian: apt-get install linux-perf)" >&2; exit 2; }
	$(CARGO) build --profile benchmark --locked --workspace --bins
	"$(TARGET)/benchmark/flamegraphs"

clean: ## Remove what was built
	$(CARGO) clean

tools:
	@command -v $(CARGO) >/dev/null || { echo "error: cargo is missing; install Rust with rustup (https://rustup.rs), the toolchain is pinned in rust-toolchain.toml" >&2; exit 2; }
	@command -v cc >/dev/null || { echo "error: a C linker is missing; install it (Debian: apt-get install gcc)" >&2; exit 2; }
