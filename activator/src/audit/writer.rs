//! The thread that writes the audit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{FlockOperation, flock};
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
        let mut writer = Self { file, path: path.into(), bytes: u64::MAX, seq: 0, prev: GENESIS.into() };
        writer.locked(Self::go_on)?;
        Ok(writer)
    }

    /// Does something that no other process does at the same time: one that is succeeded writes until its last answer.
    fn locked<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        flock(&self.file, FlockOperation::LockExclusive)?;
        let done = act(self);
        flock(&self.file, FlockOperation::Unlock)?;
        done
    }

    /// Finds the end of the chain, where others have written since.
    fn go_on(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == self.bytes {
            return Ok(());
        }
        let end = verify::end(&self.file)?;
        (self.bytes, self.seq) = (end.bytes, end.seq);
        self.prev = if end.hash.is_empty() { GENESIS.into() } else { end.hash };
        end.rest.map_or(Ok(()), |rest| self.put_aside(&rest))
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
            let mut lines = Vec::new();
            for entry in batch.drain(..) {
                match entry {
                    Entry::Line(line) => lines.push(*line),
                    Entry::End => ends = true,
                }
            }
            self.append(&lines, told);
        }
        // The file is let go of before that is told.
        drop(self);
        told.send_replace(Writing::Done);
    }

    /// Again and again, until it is on disk.
    fn append(&mut self, lines: &[Line], told: &watch::Sender<Writing>) {
        while let Err(error) = self.locked(|writer| writer.write(lines)) {
            told.send_replace(Writing::Badly);
            tracing::error!(path = %self.path.display(), %error, "the audit cannot be written; new requests wait for it");
            std::thread::sleep(RETRY);
        }
        told.send_if_modified(|writing| std::mem::replace(writing, Writing::Well) != Writing::Well);
    }

    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        self.go_on()?;
        let (mut text, mut seq, mut prev) = (String::new(), self.seq, self.prev.clone());
        for line in lines {
            seq += 1;
            let (linked, hash) = link(seq, line.clone(), &prev);
            text.push_str(&linked);
            prev = hash;
        }
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // What was written in part is written again.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        (self.bytes, self.seq, self.prev) = (self.bytes + text.len() as u64, seq, prev);
        Ok(())
    }
}
