# What one types while working on FastChat. `just` alone lists the recipes.

_default:
    @just --list --unsorted

# Everything that CI runs
check *options:
    scripts/test {{ options }}

# Format all code
fmt:
    cargo fmt --all

# All tests, or those whose name has WORDS in it
test *words:
    #!/usr/bin/env bash
    set -euo pipefail
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --release --locked --workspace {{ words }}
    else
        cargo test --release --locked --workspace -- {{ words }}
    fi

# Let two people talk on this machine (`just demo --keep` leaves it running)
demo *options:
    scripts/quickstart {{ options }}

# Durable messages per second and latency of a server on this machine; address and options as the example says
bench *options:
    cargo run --release --locked -p fastchat-server --example load -- {{ options }}

# What groups cost: encrypt, decrypt, add, remove, join at 2, 10, 100 members (FASTCHAT_BENCH_MEMBERS=1000 for more)
bench-groups *options:
    cargo bench --locked -p fastchat-e2ee -- {{ options }}

# What is known of weaknesses in our dependencies (asks the network)
advisories:
    cargo deny --locked check advisories

# The documentation of the code, in a browser
doc:
    cargo doc --locked --workspace --no-deps --open
