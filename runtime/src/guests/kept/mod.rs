//! What durable guests keep, on disk: encrypted, in the operator's folder beside keys and values.
//!
//! Two files for each model, `NAME.state-0` and `NAME.state-1`, of which the one with the higher generation counts:
//!
//! ```text
//! 8 bytes   "PLSTATE1"
//! u64 LE    generation
//! 16 bytes  salt of the file's own key
//! 16 bytes  tag of the above under that key
//! records   u32 LE length of what is sealed | 12 bytes nonce | sealed: scope, times, plug-in, key, value | 16 bytes tag
//! ```
//!
//! A value is added behind the others when it is set, so that the end of its process loses nothing; a machine that loses power may lose the last
//! seconds. When much in the file counts no more, the other is written by a thread beside, has its header last, and then counts; what it replaces stays
//! until it is written itself.
//!
//! **Invariants:** one process has a model's files at a time (a lock on the first). A record opens only in its file and at its place; what does not open
//! is an error and is left as it is, but for what ends with the file, which passes for torn and is cut off. Where the disk is full nothing is lost that
//! was there, and all is written anew when there is room.

mod sealing;
#[cfg(test)]
mod tests;

use crate::kv_store::Folder;
use guests::{Keeper, Kept};
use rustix::fs::FlockOperation;
use sealing::{Bad, HEADER_BYTES, MAGIC, SALT_BYTES, Sealing};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A file at most: what guests keep is bounded, and so is what is behind it.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// So much may count no more before it is written anew, and as much as counts.
const STALE_BYTES: u64 = 4 << 20;
/// What is set while the other file is written waits in memory, within these bounds; beyond them it waits for the file.
const LATER_MAX: usize = 1 << 16;
const LATER_BYTES_MAX: usize = 16 << 20;
/// How long after what could not be written anew is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// See the module.
pub struct StateFile {
    name: String,
    files: Arc<[File; 2]>,
    /// What the files' keys are made of.
    root: [u8; 32],
    /// The one that counts.
    current: Current,
    writing: Option<Writing>,
    /// Something could not be added, and that was said.
    missed: bool,
    /// What could not be written anew is not tried again before.
    not_before: Option<Instant>,
}

/// A file that records are added to.
struct Current {
    /// Which of the two.
    at: usize,
    sealing: Sealing,
    end: u64,
    /// What of it counts.
    live: u64,
}

/// The other one while it is written beside.
struct Writing {
    done: mpsc::Receiver<io::Result<Current>>,
    /// Set since it was begun.
    later: Vec<Kept>,
    later_bytes: usize,
}

impl StateFile {
    /// A model's. Nothing is read yet.
    ///
    /// # Errors
    /// What cannot be opened or made.
    pub fn open(folder: &Folder, model: &str) -> io::Result<Self> {
        let purpose: [u8; 32] =
            Sha256::new().chain_update(b"pilotlight guest state\0").chain_update(model).finalize().into();
        let name: String = purpose[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let open = |n: usize| folder.file(&format!("{name}.state-{n}"));
        let (files, root) = (Arc::new([open(0)?, open(1)?]), folder.derived(&purpose));
        let current = Current { at: 0, sealing: Sealing::fresh(&root, 0), end: 0, live: 0 };
        Ok(Self { name, files, root, current, writing: None, missed: false, not_before: None })
    }

    fn read(&mut self) -> Result<Vec<Kept>, String> {
        let problem = |what: &str| format!("what guests have kept ({}.state-*) {what}", self.name);
        let advice =
            "; it is left as it is: to begin with nothing, end all runtimes of the model and remove both files";
        let failed = |error: io::Error| problem(&format!("cannot be read: {error}"));
        let headers =
            [self.sealing(0), self.sealing(1)].map(|header| header.map_err(|what| problem(&format!("{what}{advice}"))));
        let [first, second] = headers;
        let (at, sealing) = match (first?, second?) {
            (None, None) => {
                let sealing = Sealing::fresh(&self.root, 1);
                self.files[0]
                    .set_len(0)
                    .and_then(|()| self.files[0].write_all_at(&sealing.header(), 0))
                    .map_err(failed)?;
                self.current = Current { at: 0, sealing, end: HEADER_BYTES as u64, live: HEADER_BYTES as u64 };
                return Ok(Vec::new());
            }
            (Some(first), Some(second)) if second.generation > first.generation => (1, second),
            (Some(first), _) => (0, first),
            (None, Some(second)) => (1, second),
        };
        let file = &self.files[at];
        let length = file.metadata().map_err(failed)?.len();
        if length > FILE_BYTES_MAX {
            return Err(problem(&format!("has {length} bytes; the limit is {FILE_BYTES_MAX}{advice}")));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let (mut last, mut offset) = (HashMap::new(), HEADER_BYTES);
        while offset < bytes.len() {
            match sealing.open(&mut bytes, offset) {
                Ok((kept, next)) => {
                    last.insert((kept.plugin.clone(), kept.scope, kept.key.clone()), (next - offset, kept));
                    offset = next;
                }
                Err(Bad::Torn) => {
                    tracing::warn!(offset, "the last of what guests kept was not written whole, and is left out");
                    break;
                }
                Err(Bad::Damaged) => return Err(problem(&format!("is damaged at byte {offset}{advice}"))),
            }
        }
        file.set_len(offset as u64).map_err(failed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        last.retain(|_, (_, kept): &mut (usize, Kept)| kept.until_ms.is_none_or(|until| now < until));
        let live = HEADER_BYTES + last.values().map(|(bytes, _)| bytes).sum::<usize>();
        self.current = Current { at, sealing, end: offset as u64, live: live as u64 };
        Ok(last.into_values().map(|(_, kept)| kept).collect())
    }

    /// Of a file; `None` where it is not whole, as its header is written last.
    fn sealing(&self, n: usize) -> Result<Option<Sealing>, String> {
        let file = &self.files[n];
        let length = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
        let mut header = [0; HEADER_BYTES];
        if length >= HEADER_BYTES as u64 {
            file.read_exact_at(&mut header, 0).map_err(|error| format!("cannot be read: {error}"))?;
        }
        if header == [0; HEADER_BYTES] {
            return Ok(None);
        }
        if !header.starts_with(MAGIC) {
            return Err("is of another version, or damaged in its first bytes".into());
        }
        let generation = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let sealing = Sealing::new(&self.root, generation, header[16..16 + SALT_BYTES].try_into().expect("a salt"));
        match sealing.header() == header {
            true => Ok(Some(sealing)),
            false => Err("was written with another key, or is damaged in its first bytes".into()),
        }
    }

    /// Takes over the file that was written beside, once it is.
    fn look(&mut self, wait: bool) {
        let Some(writing) = &self.writing else { return };
        let written = match wait {
            true => writing.done.recv().ok(),
            false => match writing.done.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return,
                other => other.ok(),
            },
        };
        let later = self.writing.take().map(|writing| writing.later).unwrap_or_default();
        let written = written.unwrap_or_else(|| Err(io::Error::other("its thread ended")));
        match written.and_then(|other| self.switch(other, &later)) {
            Ok(()) => self.missed = false,
            Err(error) => {
                tracing::error!(%error, "what guests keep cannot be written anew: the disk may be full. It goes on as it is");
                // Whatever it has is of no use, and takes room.
                let _ = self.files[1 - self.current.at].set_len(0);
                self.missed = true;
                self.not_before = Instant::now().checked_add(RETRY_AFTER);
            }
        }
    }

    fn switch(&mut self, mut other: Current, later: &[Kept]) -> io::Result<()> {
        let file = &self.files[other.at];
        for kept in later {
            let record = other.sealing.seal(kept, other.end);
            file.write_all_at(&record, other.end)?;
            other.end += record.len() as u64;
        }
        file.write_all_at(&other.sealing.header(), 0)?;
        self.current = other;
        Ok(())
    }
}

/// Writes the file that does not count, but for its header.
fn write_beside(files: &[File; 2], at: usize, sealing: Sealing, all: &[Kept]) -> io::Result<Current> {
    // What counts is on the disk, header and all, before what it has replaced goes.
    files[1 - at].sync_data()?;
    let file = &files[at];
    file.set_len(0)?;
    let mut end = HEADER_BYTES as u64;
    for kept in all {
        let record = sealing.seal(kept, end);
        file.write_all_at(&record, end)?;
        end += record.len() as u64;
    }
    // Whole before it counts.
    file.sync_data()?;
    Ok(Current { at, sealing, end, live: end })
}

impl Keeper for StateFile {
    fn begin(&mut self) -> Result<Option<Vec<Kept>>, String> {
        match rustix::fs::flock(&self.files[0], FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.read().map(Some),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(format!("what guests keep cannot be locked: {error}")),
        }
    }

    fn put(&mut self, kept: &Kept) {
        self.look(false);
        if let Some(writing) = &mut self.writing {
            writing.later_bytes += kept.bytes.len() + kept.key.len();
            writing.later.push(kept.clone());
            if writing.later_bytes > LATER_BYTES_MAX || writing.later.len() > LATER_MAX {
                // It is among them, where they could be written.
                self.look(true);
            }
        }
        let record = self.current.sealing.seal(kept, self.current.end);
        match self.files[self.current.at].write_all_at(&record, self.current.end) {
            Ok(()) => self.current.end += record.len() as u64,
            Err(error) => {
                // Whatever of it came there would pass for a record that is damaged.
                let _ = self.files[self.current.at].set_len(self.current.end);
                if !std::mem::replace(&mut self.missed, true) {
                    tracing::error!(%error, "what guests keep cannot be written: until it can, it is lost with this runtime");
                }
            }
        }
    }

    fn is_stale(&self, at_end: bool) -> bool {
        let stale = self.current.end.saturating_sub(self.current.live);
        if at_end {
            return self.missed;
        }
        let rests = self.not_before.is_some_and(|not_before| Instant::now() < not_before);
        self.writing.is_none() && !rests && (self.missed || stale > self.current.live.max(STALE_BYTES))
    }

    fn rewrite(&mut self, all: Vec<Kept>) {
        self.look(true);
        let (files, at) = (self.files.clone(), 1 - self.current.at);
        let sealing = Sealing::fresh(&self.root, self.current.sealing.generation + 1);
        let (tell, done) = mpsc::channel();
        let work = move || {
            let written = write_beside(&files, at, sealing, &all);
            // The lock goes with the last of them, which is not to be this one.
            drop(files);
            // Who does not listen any more has ended.
            drop(tell.send(written));
        };
        match thread::Builder::new().name("state".into()).spawn(work) {
            Ok(_) => self.writing = Some(Writing { done, later: Vec::new(), later_bytes: 0 }),
            Err(error) => {
                tracing::error!(%error, "what guests keep cannot be written anew");
                self.missed = true;
                self.not_before = Instant::now().checked_add(RETRY_AFTER);
            }
        }
    }

    fn close(&mut self) {
        self.look(true);
    }
}
