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

# flautino beside other pools, under load: `just compare --quick`.
compare *args:
    cargo run --release -p flautino-bench -- {{args}}

ci:
    bash .ci/run

# Needs nightly and cargo-fuzz; the targets are token, config, classify, lexical.
fuzz target *args:
    cargo +nightly fuzz run {{target}} {{args}}

# Faults at random under load, and whether any promise broke: `just torture --seed 7`.
torture *args:
    cargo run --release -p flautino-torture -- {{args}}

# Ten minutes of it, and whether the apps hold more at the end than at the start.
soak *args:
    cargo run --release -p flautino-torture -- --soak --seconds 600 {{args}}

# Whether torture finds the bugs in crates/flautino-torture/mutants.
mutants *names:
    bash crates/flautino-torture/mutants/run {{names}}
