//! A panic is a mistake of ours: one clear line on standard error, and exit code 70 where it reaches `main`.

use crate::{exit, output};
use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    process::ExitCode,
};

/// Runs `body` with the hook set.
pub fn guard(body: impl FnOnce() -> ExitCode) -> ExitCode {
    panic::set_hook(Box::new(|info| output::complain(&line(info))));
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(ExitCode::from(exit::INTERNAL))
}

fn line(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("no message").replace('\n', " ");
    let place = info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    format!("internal error{place}: {message} (version {}; please report this line)", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_with_70() {
        let code = panic::catch_unwind(|| panic!("found by the test")).map_or(exit::INTERNAL, |()| 0);
        assert_eq!(code, 70);
        assert_eq!(format!("{:?}", guard(|| panic!("found by the test"))), format!("{:?}", ExitCode::from(70)));
    }
}
