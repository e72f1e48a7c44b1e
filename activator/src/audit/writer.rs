//! The thread that writes the audit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use super::{GENESIS, Line, link, verify};

/// Lines that are written and flushed together at most.
const BATCH_MAX: usize = 1024;
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes that are whole lines.
    bytes: u64,
    seq: u64,
    prev: String,
}

impl Writer {
    /// A last line that is not whole (the machine stopped while it was written) is kept beside the file, as `FILE.broken-TIME`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
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
        std::fs::write(&aside, rest)?;
        self.file.set_len(self.bytes)
    }

    /// Until nobody can write any more.
    pub fn run(mut self, mut lines: mpsc::Receiver<Line>) {
        let mut batch = Vec::new();
        while lines.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            let mut text = String::new();
            for line in batch.drain(..) {
                self.seq += 1;
                let (line, hash) = link(self.seq, line, &self.prev);
                text.push_str(&line);
                self.prev = hash;
            }
            self.append(text.as_bytes());
        }
    }

    /// Again and again, until it is on disk.
    fn append(&mut self, text: &[u8]) {
        while let Err(error) = self.file.write_all(text).and_then(|()| self.file.sync_data()) {
            tracing::error!(path = %self.path.display(), %error, "the audit cannot be written; new requests wait for it");
            std::thread::sleep(RETRY);
            // What was written in part is written again.
            if let Err(error) = self.file.set_len(self.bytes) {
                tracing::error!(%error, "the audit's last line may be there twice");
            }
        }
        self.bytes += text.len() as u64;
    }
}
