//! Starts a program with chosen descriptors, in a process group of its own.
//!
//! **Invariant:** costs the same however large this process is: its page tables are not copied (`posix_spawn`, which waits until the program runs),
//! unlike with `fork`, that `std` falls back to where descriptors are mapped. A program that cannot be executed is an error here.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp},
    sys::signal::{SigSet, Signal},
    unistd,
};
use rustix::process::Pid;

/// Descriptors as they come are moved above those that a program expects them as.
const ABOVE: i32 = 16;

/// Starts `command` (a program, looked up where it has no slash, and its arguments; not empty) in this environment. Standard input and output are
/// nothing; standard error is ours. Each of the descriptors becomes the number beside it, below 16; no other is inherited that is
/// close-on-exec.
pub fn spawn(
    command: &[OsString],
    environment: impl Iterator<Item = (OsString, OsString)>,
    descriptors: &[(OwnedFd, i32)],
) -> io::Result<Pid> {
    let arguments = command.iter().map(|word| c_string(word.as_bytes().to_vec())).collect::<io::Result<Vec<_>>>()?;
    let program = arguments.first().ok_or_else(|| io::Error::other("there is no program to start"))?;
    let environment = environment.map(|(name, value)| variable(name, &value)).collect::<io::Result<Vec<_>>>()?;
    let nothing = moved(&File::options().read(true).write(true).open("/dev/null")?)?;
    let moved =
        descriptors.iter().map(|(descriptor, to)| Ok((moved(descriptor)?, *to))).collect::<io::Result<Vec<_>>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    for (descriptor, to) in [(&nothing, 0), (&nothing, 1)].into_iter().chain(moved.iter().map(|(from, to)| (from, *to)))
    {
        actions.add_dup2(descriptor.as_raw_fd(), to)?;
    }
    let pid = posix_spawnp(program, &actions, &attributes()?, &arguments, &environment)?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("a process without a number"))
}

/// A group of its own, and signals as a program expects them.
fn attributes() -> io::Result<PosixSpawnAttr> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_pgroup(unistd::Pid::from_raw(0))?;
    attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    Ok(attributes)
}

/// A copy that no mapping overwrites.
fn moved(descriptor: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, ABOVE)?)
}

fn variable(name: OsString, value: &OsStr) -> io::Result<CString> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    c_string(text)
}

fn c_string(bytes: Vec<u8>) -> io::Result<CString> {
    Ok(CString::new(bytes)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What a shell says into descriptor 3, and how it ends.
    fn run(script: &str) -> (String, i32) {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let command = ["sh", "-c", script].map(OsString::from);
        let environment = [("PATH", "/usr/bin:/bin"), ("WORD", "a=b")].map(|(name, value)| (name.into(), value.into()));
        let descriptors = [(theirs, 3)];
        let pid = spawn(&command, environment.into_iter(), &descriptors).unwrap();
        drop(descriptors);
        let mut said = String::new();
        File::from(ours).read_to_string(&mut said).unwrap();
        let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        (said, status.exit_status().unwrap())
    }

    #[test]
    fn a_program_has_its_descriptors_its_environment_and_its_group() {
        assert_eq!(run("echo $WORD >&3; exit 7"), ("a=b\n".into(), 7));
        assert_eq!(run("read word; echo \"<$word>\" >&3"), ("<>\n".into(), 0), "nothing is read");
        let own = moved(&File::open("/dev/null").unwrap()).unwrap();
        assert_eq!(
            run(&format!("test -e /proc/$$/fd/{}; echo $? >&3", own.as_raw_fd())).0,
            "1\n",
            "no other is inherited"
        );
        assert_eq!(run("test $(ps -o pgid= -p $$) = $$; echo $? >&3").0, "0\n");
    }

    #[test]
    fn what_cannot_be_executed_is_told() {
        let no = |command: &[&str]| {
            let command: Vec<OsString> = command.iter().map(OsString::from).collect();
            spawn(&command, std::iter::empty(), &[]).unwrap_err().kind()
        };
        assert_eq!(no(&["/no/such/program"]), io::ErrorKind::NotFound);
        assert_eq!(no(&["/dev/null"]), io::ErrorKind::PermissionDenied);
        assert_eq!(no(&["a\0b"]), io::ErrorKind::InvalidInput);
        assert_eq!(no(&[]), io::ErrorKind::Other);
    }
}
