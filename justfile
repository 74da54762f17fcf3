# Short names for cargo's commands.

# The example server on a throwaway cluster.
demo:
    cargo run -p notes

# Everything, on real clusters.
test *args:
    cargo test --workspace {{args}}

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench *args:
    cargo bench --workspace {{args}}

ci:
    bash .ci/run

# Needs nightly and cargo-fuzz; the targets are token, config, classify.
fuzz target *args:
    cargo +nightly fuzz run {{target}} {{args}}
