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

# The pictures of the README, by the browser tests.
screenshots:
    mkdir -p target/screenshots
    SCREENSHOTS=$PWD/target/screenshots cargo test -p notes --test demo browser
    cp target/screenshots/front-1400-light.png target/screenshots/status-failover.png docs/

# flautino beside other pools, under load: `just compare --quick`.
compare *args:
    cargo run --release -p flautino-bench -- {{args}}

# How many instructions a warm read costs, bare and through flautino: `just instructions URL`, with valgrind's
# callgrind, on a database that has the table `counters` of the bench.
instructions url:
    cargo build --release -p flautino-bench --bin warm_reads
    for through in bare mutex engine route layer; do \
        valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=warm_reads::counted \
            target/release/warm_reads $through 1000 --primary {{url}} 2>&1 \
            | awk -v of=$through '/Collected/ { print of, $4 / 1000 }'; \
    done

# How costs grow with nodes, tasks, texts: `just growth --only nodes`.
growth *args:
    cargo run --release -p flautino-bench -- growth {{args}}

# What flautino adds to an app on axum and sqlx: crates, and a cold build of each app.
sizes:
    #!/usr/bin/env bash
    set -euo pipefail
    here=$PWD
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    TIMEFORMAT='%U s of CPU in user space, %R s'
    for app in without with; do
        cargo init --quiet --vcs none --name app "$folder/$app"
        cd "$folder/$app"
        cp "$here/Cargo.lock" .
        {
            echo 'axum = "0.8"'
            echo 'sqlx = { version = "0.9", default-features = false, features = ["postgres", "runtime-tokio"] }'
            echo 'tokio = { version = "1", features = ["full"] }'
            [ $app = without ] || echo "flautino = { path = \"$here/crates/flautino\" }"
            [ $app = without ] || echo "flautino-axum = { path = \"$here/crates/flautino-axum\" }"
        } >> Cargo.toml
        crates=$(cargo tree --quiet -e normal --prefix none --format '{p}' | sed 's/ (.*//' | sort -u | wc -l)
        echo "$app flautino: $((crates - 1)) crates"
        time CARGO_TARGET_DIR=$folder/target-$app cargo build --quiet
    done

# The tests on PostgreSQL 14 to 18, or `just versions -v 14,18 cargo test -p flautino --test engine extensions`.
versions *args:
    bash .ci/versions {{args}}

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
