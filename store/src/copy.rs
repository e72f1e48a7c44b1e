//! Bytes from one place to another, with their digest and a report of how far it is.

use crate::{Error, FileRecord, Progress};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// Bytes moved between two reports, but for the last: a huge page, in which the file then lies in the page cache where the file system keeps large folios.
const PIECE_BYTES: usize = 2 << 20;

/// Where progress goes.
pub(crate) struct Sink<'a>(pub(crate) &'a mut dyn FnMut(Progress));

impl Sink<'_> {
    pub(crate) fn say(&mut self, step: &str, done: u64, total: Option<u64>) {
        (self.0)(Progress { step: step.to_owned(), done, total });
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies all of `reader` and returns its size and SHA-256.
pub(crate) fn pump(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    step: &str,
    total: Option<u64>,
    sink: &mut Sink<'_>,
) -> io::Result<(u64, String)> {
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    let mut digest = Sha256::new();
    let mut done = 0;
    loop {
        buffer.clear();
        if reader.take(PIECE_BYTES as u64).read_to_end(&mut buffer)? == 0 {
            return Ok((done, hex(&digest.finalize())));
        }
        digest.update(&buffer);
        writer.write_all(&buffer)?;
        done += buffer.len() as u64;
        sink.say(step, done, total);
    }
}

/// How a file of the user's, or of a cache, comes into the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The file may be edited by its owner: shared blocks where the file system has them, else a copy.
    Copy,
    /// The file is never edited in place: a second name where that is possible, else a copy.
    Link,
}

/// Puts `from` at `to`, which must not exist, and returns what it is.
pub(crate) fn place(from: &Path, to: &Path, name: &str, how: How, sink: &mut Sink<'_>) -> Result<FileRecord, Error> {
    let linked = how == How::Link && fs::hard_link(from, to).is_ok();
    let mut source = File::open(from).map_err(Error::io("opening", from))?;
    let total = source.metadata().map_err(Error::io("sizing", from))?.len();
    let step = format!("{} {name}", if linked { "verifying" } else { "copying" });
    let (bytes, sha256) = if linked {
        pump(&mut source, &mut io::sink(), &step, Some(total), sink).map_err(Error::io("reading", from))?
    } else {
        copy(&mut source, to, &step, total, sink).map_err(Error::io("copying", from))?
    };
    Ok(FileRecord { path: name.to_owned(), bytes, sha256 })
}

fn copy(source: &mut File, to: &Path, step: &str, total: u64, sink: &mut Sink<'_>) -> io::Result<(u64, String)> {
    let mut target = File::options().read(true).write(true).create_new(true).open(to)?;
    let copied = if rustix::fs::ioctl_ficlone(&target, &*source).is_ok() {
        // The blocks are shared; what remains is to know them.
        pump(&mut target, &mut io::sink(), step, Some(total), sink)?
    } else {
        pump(source, &mut target, step, Some(total), sink)?
    };
    target.sync_all()?;
    Ok(copied)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Gives a little at a time, and now and then nothing for the moment.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let some = self.0.len().min(100_003);
            let some = some.min(to.len());
            self.0.read(&mut to[..some])
        }
    }

    #[test]
    fn whatever_a_reader_gives_at_once_whole_pieces_are_moved() {
        let content: Vec<u8> = (0..2 * PIECE_BYTES + 1).map(|i| (i ^ (i >> 7)) as u8).collect();
        let (mut copied, mut reports) = (Vec::new(), Vec::new());
        let mut report = |progress: Progress| reports.push(progress.done);
        let (bytes, digest) =
            pump(&mut Slow(&content, 0), &mut copied, "copying", None, &mut Sink(&mut report)).unwrap();
        assert!(copied == content);
        assert_eq!((bytes, digest), (content.len() as u64, hex(&Sha256::digest(&content))));
        assert_eq!(reports, [PIECE_BYTES as u64, 2 * PIECE_BYTES as u64, content.len() as u64]);
    }
}
