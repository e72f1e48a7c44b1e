//! The thread that writes the audit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::sync::{mpsc, watch};

use super::{Entry, GENESIS, Line, Writing, link, verify};

/// Lines that are written and flushed together at most.
const BATCH_MAX: usize = 1024;
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    pub file: File,
    pub path: PathBuf,
    /// Bytes that are whole lines.
    pub bytes: u64,
    pub seq: u64,
    pub prev: String,
}

impl Writer {
    /// A last line that is not whole (the machine stopped while it was written) is kept beside the file, as `FILE.broken-TIME`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::other("another process writes it; two chains in one file would be none"),
            error => error.into(),
        })?;
        let end = verify::end(&file)?;
        let mut writer = Self { file, path: path.into(), bytes: end.bytes, seq: end.seq, prev: end.hash };
        if let Some(rest) = end.rest {
            writer.put_aside(&rest)?;
        }
        if writer.prev.is_empty() {
            writer.prev = GENESIS.into();
        }
        Ok(writer)
    }

    fn put_aside(&mut self, rest: &[u8]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut aside = self.path.clone().into_os_string();
        aside.push(format!(".broken-{now}"));
        tracing::warn!(aside = %aside.display(), bytes = rest.len(), "the audit's last line is not whole and was put aside");
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(&aside)?.write_all(rest)?;
        self.file.set_len(self.bytes)
    }

    /// Until it is told to end, or nobody can write any more.
    pub fn run(mut self, mut entries: mpsc::Receiver<Entry>, told: &watch::Sender<Writing>) {
        let (mut batch, mut ends) = (Vec::new(), false);
        while !ends && entries.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            let mut text = String::new();
            for entry in batch.drain(..) {
                match entry {
                    Entry::Line(line) => text.push_str(&self.link(*line)),
                    Entry::End => ends = true,
                }
            }
            self.append(text.as_bytes(), told);
        }
        // The file is let go of before that is told.
        drop(self);
        told.send_replace(Writing::Done);
    }

    fn link(&mut self, line: Line) -> String {
        self.seq += 1;
        let (text, hash) = link(self.seq, line, &self.prev);
        self.prev = hash;
        text
    }

    /// Again and again, until it is on disk.
    fn append(&mut self, text: &[u8], told: &watch::Sender<Writing>) {
        while let Err(error) = self.file.write_all(text).and_then(|()| self.file.sync_data()) {
            told.send_replace(Writing::Badly);
            tracing::error!(path = %self.path.display(), %error, "the audit cannot be written; new requests wait for it");
            std::thread::sleep(RETRY);
            // What was written in part is written again.
            if let Err(error) = self.file.set_len(self.bytes) {
                tracing::error!(%error, "the audit's last line may be there twice");
            }
        }
        told.send_if_modified(|writing| std::mem::replace(writing, Writing::Well) != Writing::Well);
        self.bytes += text.len() as u64;
    }
}
