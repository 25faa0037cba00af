# `just` lists these.
default:
    @just --list

# what the README promises; no network, no GPU, no Python
test *ARGS:
    cargo test {{ARGS}}

# everything that CI runs
ci:
    .ci/run

# format, then lint as CI does
lint:
    cargo fmt --all
    cargo clippy --all-targets -- -D warnings

# train the demo versions anew (well under an hour on two cores)
train:
    cargo run --release --example train-demo -- --out models
