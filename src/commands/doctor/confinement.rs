//! How far this kernel confines runtimes: tried, not looked up.

use serde_json::{Value, json};

/// What it gives; what it lacks joins `missing`.
pub fn confinement(missing: &mut Vec<String>) -> Value {
    let given = runtime::confinement();
    if let Err(why) = &given.seccomp {
        missing.push(format!(
            "seccomp, by which runtimes give up sockets and programs ({why}): a kernel with CONFIG_SECCOMP_FILTER, and a container that \
             allows the call seccomp"
        ));
    }
    if let Err(why) = &given.landlock {
        missing.push(format!(
            "Landlock, by which runtimes with --kv-dir give up all other files ({why}): Linux 5.13 or later with \
             CONFIG_SECURITY_LANDLOCK, `landlock` in the kernel's parameter lsm=, and a container that allows the calls landlock_*"
        ));
    }
    json!({"seccomp": given.seccomp.is_ok(), "landlock_abi": given.landlock.ok()})
}

/// `seccomp yes, Landlock ABI 7`
pub fn words(confinement: &Value) -> String {
    let seccomp = if confinement["seccomp"] == true { "yes" } else { "no" };
    let landlock = confinement["landlock_abi"].as_i64().map_or_else(|| "no".to_owned(), |abi| format!("ABI {abi}"));
    format!("seccomp {seccomp}, Landlock {landlock}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_said_in_words() {
        assert_eq!(words(&json!({"seccomp": true, "landlock_abi": 7})), "seccomp yes, Landlock ABI 7");
        assert_eq!(words(&json!({"seccomp": false, "landlock_abi": null})), "seccomp no, Landlock no");
    }

    #[test]
    fn nothing_is_missing_where_all_is_given() {
        let mut missing = Vec::new();
        let report = confinement(&mut missing);
        let lacking = usize::from(report["seccomp"] != true) + usize::from(report["landlock_abi"].is_null());
        assert_eq!(missing.len(), lacking, "{missing:?}");
    }
}
