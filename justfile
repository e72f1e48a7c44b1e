# Everyday commands. `just` lists them; each is one line that can be typed without just.

[private]
default:
    @just --list --unsorted

# The default model, from nothing to its first words.
demo *QUESTION:
    cargo run --release -- demo {{ QUESTION }}

# The program that is shipped, optimised by what it does with requests.
release:
    scripts/release

# What continuous integration runs, all of it.
ci:
    .ci/run

# Format everything.
fmt:
    cargo fmt --all
    cargo fmt --manifest-path guest-sdk/examples/redact/Cargo.toml

# Lints as CI takes them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    scripts/check-layers

test *ARGS:
    cargo test --workspace {{ ARGS }}

# Licences, bans and advisories (needs cargo-deny).
deny:
    cargo deny check

# Type-check the CUDA code on a machine without a GPU.
cuda:
    scripts/check-cuda

# Test copies to CUDA devices against a stand-in for the driver, and assemble all kernels.
fake-cuda:
    scripts/check-fake-cuda

# Test the kernels of GPUs on a Vulkan device made of software.
vulkan:
    scripts/check-vulkan

# Build the example guest to a component.
guest:
    guest-sdk/build-guest guest-sdk/examples/redact guest-sdk/examples/redact/redact.wasm

# The bindings of the guest SDK, after a change of its WIT.
bindings:
    guest-sdk/generate-bindings

# The committed manifest, after a change of the renderer.
manifests:
    cargo run --package knative --example smollm2 > knative/service.yaml

# Fuzz one target for some seconds.
fuzz TARGET SECONDS="60":
    fuzz/run {{ SECONDS }} {{ TARGET }}
