# `just` lists these.
default:
    @just --list

# the main job: the demo on CPU
serve *ARGS:
    cargo run --release -- serve {{ARGS}}

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

# the measured claims of models/README.md
bench-demo:
    cargo run --release -- bench demo --json

# the measured claims about switching under load
bench-switch:
    cargo run --release -- bench switch --json

# the tables of docs/rollouts.md
simulate-tables:
    cargo build --release
    docs/rollouts-table.sh

# train the demo versions anew (well under an hour on two cores)
train:
    cargo run --release --example train-demo -- --out models

# look for inputs that panic: config, prompt, suite, template, structure, image, gguf, encoder or request (needs nightly and cargo-fuzz)
fuzz TARGET *ARGS:
    cargo +nightly fuzz run {{TARGET}} {{ARGS}}
