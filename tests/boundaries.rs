//! The directions of dependencies that ARCHITECTURE.md promises, asked of cargo itself.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_activator_depends_on_neither_burn_nor_wasmtime() {
    let tree = packages_below("activator");
    assert!(tree.iter().any(|name| name == "protocol"), "the tree was read: {tree:?}");
    let heavy: Vec<&String> = tree.iter().filter(|name| forbidden(name)).collect();
    assert!(heavy.is_empty(), "{heavy:?}");
}

#[test]
fn the_snapshot_depends_on_nothing_of_ours() {
    let tree = packages_below("snapshot");
    for ours in ["protocol", "activator", "runtime", "models", "kernels", "store"] {
        assert!(!tree.iter().any(|name| name == ours), "snapshot depends on {ours}");
    }
}

fn forbidden(name: &str) -> bool {
    ["burn", "wasmtime", "cubecl", "cranelift"].iter().any(|word| name.starts_with(word))
        || name == "models"
        || name == "kernels"
}

fn packages_below(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}", "-p", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("package names are text");
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
