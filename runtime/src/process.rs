//! What the kernel knows about this process. Files are opened once, at launch: a confined process cannot ([`crate::confine`]).

use rustix::{
    param::{clock_ticks_per_second, page_size},
    time::{ClockId, clock_gettime},
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, Instant},
};

/// What can only be asked at launch.
pub struct Launch {
    age: Duration,
    asked: Instant,
    /// Its memory, from now on.
    pub(crate) resident: Resident,
}

impl Launch {
    /// Asks; to be called as early as can be.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn begun() -> io::Result<Self> {
        Ok(Self { age: age(), asked: Instant::now(), resident: Resident::open()? })
    }

    /// How long the process exists.
    pub(crate) fn age(&self) -> Duration {
        self.age + self.asked.elapsed()
    }
}

/// How long this process exists, to the precision of the kernel's clock ticks (10 ms), or zero where it is not told.
fn age() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let Some(start) = start_ticks(&stat) else { return Duration::ZERO };
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
    now.saturating_sub(Duration::from_secs_f64(start as f64 / clock_ticks_per_second() as f64))
}

/// A word for the program that this process runs: another where its file was built, or put there, at another time. Empty where the kernel
/// does not tell.
pub fn program() -> String {
    let Ok(file) = std::fs::metadata("/proc/self/exe") else { return String::new() };
    format!("{:x}-{:x}-{:x}.{:x}", file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}

/// Lets whatever else wants the processors have all but a tenth of one, beside this thread, from now on. Where it may not be said, nothing is lost but time.
pub(crate) fn stand_back() {
    const NICE: i32 = 10;
    // Of this thread alone.
    let _ = rustix::process::nice(NICE);
}

/// Field 22 of `/proc/self/stat` (proc_pid_stat(5)); the name before it may hold blanks and brackets.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Resident memory of this process.
pub struct Resident(File);

impl Resident {
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/statm").map(Self)
    }

    /// In bytes; 0 where the kernel does not tell.
    pub fn bytes(&self) -> u64 {
        let mut buffer = [0; 128];
        let text = self.0.read_at(&mut buffer, 0).ok().and_then(|n| std::str::from_utf8(&buffer[..n]).ok());
        let pages = text.and_then(|t| t.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        pages.unwrap_or(0) * page_size() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 99 88";
        assert_eq!(start_ticks(stat), Some(123456));
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_program_is_the_same_as_itself() {
        assert_eq!(program(), program());
        assert!(program().len() > 6);
    }

    #[test]
    fn this_process_has_an_age_and_memory() {
        assert!(age() < Duration::from_secs(3600));
        assert!(Resident::open().is_ok_and(|r| r.bytes() > 100_000));
    }
}
