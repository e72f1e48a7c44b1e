//! Tools from other ecosystems. Where one is missing, the test that needs it says which and is skipped; with `CI=true` it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// On a continuous-integration machine nothing may be skipped.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Says why a test is skipped.
///
/// # Panics
/// With `CI=true`.
pub fn skip(reason: &str) {
    assert!(!in_ci(), "may not be skipped with CI=true: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// The python that has `openai` and the other pinned tools, installed on first use; `None` after [`skip`].
pub fn test_tools() -> Option<PathBuf> {
    script("test-tools").map(PathBuf::from)
}

/// The folder of a Python's programs that has what this file of requirements names, installed on first use; `None` after [`skip`].
pub fn python_tools(requirements: &str) -> Option<PathBuf> {
    let python = script_with("test-tools", &[requirements]).map(PathBuf::from)?;
    python.parent().map(Path::to_path_buf)
}

/// Where node's packages of this folder's `package.json` are, installed on first use; `None` after [`skip`].
pub fn node_tools(folder: &str) -> Option<PathBuf> {
    script_with("node-tools", &[folder]).map(PathBuf::from)
}

/// Chromium, as Debian has it; `None` after [`skip`].
pub fn chromium() -> Option<PathBuf> {
    let found = on_path("chromium");
    if found.is_none() {
        skip("no chromium on PATH; on Debian: apt-get install chromium");
    }
    found
}

/// Runs a script of `scripts/` and returns the last line it prints; `None` after [`skip`] where it fails.
pub fn script(name: &str) -> Option<String> {
    script_with(name, &[])
}

fn script_with(name: &str, arguments: &[&str]) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("scripts").join(name);
    let mut command = Command::new(&path);
    command.args(arguments).current_dir(root);
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !output.status.success() {
        skip(&format!("scripts/{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        return None;
    }
    String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned)
}

/// Whether this program is on PATH.
pub fn has(program: &str) -> bool {
    on_path(program).is_some()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
