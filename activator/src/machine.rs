//! What this machine, or the container that we are in, has: the whole of which slots have their slices.

use std::{fs, num::NonZero, path::Path};

use serde::Serialize;

/// Our control group, as a container sees it; absent elsewhere.
const MEMORY_MAX: &str = "/sys/fs/cgroup/memory.max";

/// Cores and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Cores that we may use.
    pub cores: usize,
    /// Memory that there is, or that we may use if that is less; 0 if the system does not say.
    pub memory_bytes: u64,
}

impl Machine {
    /// As it is now.
    pub fn here() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            memory_bytes: memory_bytes(Path::new("/proc/meminfo"), Path::new(MEMORY_MAX)),
        }
    }
}

/// The smaller of both, of what can be read.
fn memory_bytes(meminfo: &Path, limit: &Path) -> u64 {
    let meminfo = fs::read_to_string(meminfo).unwrap_or_default();
    let limit = fs::read_to_string(limit).ok().and_then(|text| text.trim().parse().ok());
    total(&meminfo).into_iter().chain(limit).min().unwrap_or(0)
}

/// `MemTotal`, whose unit is 1024 bytes whatever it says.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_where_it_is_below_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let (meminfo, limit) = (folder.path().join("meminfo"), folder.path().join("limit"));
        assert_eq!(memory_bytes(&meminfo, &limit), 0);
        fs::write(&meminfo, "MemTotal:       1000 kB\nMemFree:  1 kB\n").unwrap();
        for (text, expected) in [("max\n", 1_024_000), ("4096\n", 4096), ("9223372036854771712\n", 1_024_000)] {
            fs::write(&limit, text).unwrap();
            assert_eq!(memory_bytes(&meminfo, &limit), expected, "{text}");
        }
    }

    #[test]
    fn there_is_something_here() {
        let here = Machine::here();
        assert!(here.cores > 0 && here.memory_bytes > 0, "{here:?}");
    }
}
