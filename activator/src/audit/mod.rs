//! The audit: who asked which model when, and what came of it; never what was said. One JSON object a line, each with the hash of the one
//! before it, so that a line that was changed, removed or put in is found ([`verify`]).
//!
//! ```text
//! {"seq":1,"at_ms":…,…,"prev":"<64 hex>","hash":"<64 hex>"}       hash = SHA-256 of the line up to and without `,"hash":…`, and `}`
//! ```
//!
//! **Invariant:** a request that is let in has its line: room for it is taken before anything else is done, and where lines cannot be written
//! (a full disk), new requests wait, until their deadlines, rather than go unrecorded. A line is on disk at most a moment after its answer's
//! end; a crash can lose those of that moment, and whoever can write the file can cut off its end: send it elsewhere, or keep its last hash.

mod verify;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

pub use verify::{Broken, Verified, verify, verify_lines};
use writer::Writer;

/// Lines that are not written yet, and requests that have not ended.
const LINES_MAX: usize = 1 << 17;

/// The hash before the first line.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A line without its place in the chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The answer's id, where there was one to be.
    pub id: String,
    /// When the request arrived, in milliseconds since 1970.
    pub at_ms: u64,
    /// The tenant; empty for nobody's.
    pub tenant: String,
    /// How that is known: a key's ID, a token's subject, a certificate's name. Empty for who is not known.
    pub by: String,
    /// The path.
    pub path: String,
    /// The model, as it is served; empty where none was found.
    pub model: String,
    /// Its snapshot's digest.
    pub digest: String,
    /// The digests of the guests that it went through, in their order, with commas between them; empty where there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub guests: String,
    /// What the client was told.
    pub status: u16,
    /// All of the answer was sent.
    pub complete: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// From arrival to end.
    pub took_ms: u64,
}

/// A line in its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Linked {
    seq: u64,
    #[serde(flatten)]
    line: Line,
    prev: String,
}

/// The hash of a line without it.
fn hash(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text and hash of a line in its place; the text ends in a line feed.
fn link(seq: u64, line: Line, prev: &str) -> (String, String) {
    let mut text =
        serde_json::to_string(&Linked { seq, line, prev: prev.to_owned() }).expect("texts and numbers serialise");
    let hash = hash(text.as_bytes());
    text.truncate(text.len() - 1);
    text.push_str(&format!(",\"hash\":\"{hash}\"}}\n"));
    (text, hash)
}

/// Why the audit cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("the audit {path}: {error}", path = path.display())]
pub struct AuditError {
    /// Which file.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

/// What the writer is told.
#[derive(Debug)]
enum Entry {
    Line(Box<Line>),
    /// Write what came before, and end.
    End,
}

/// The way to the file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    entries: mpsc::Sender<Entry>,
    writing: watch::Receiver<Writing>,
}

/// How the writer fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// Lines reach the disk.
    Well,
    /// They do not, at the moment.
    Badly,
    /// It has ended, and all is written.
    Done,
}

/// Room for one line.
#[derive(Debug)]
pub struct Room(mpsc::OwnedPermit<Entry>);

impl Audit {
    /// Goes on behind the file's last line, or begins one.
    ///
    /// # Errors
    /// It cannot be opened or read, or it is no audit.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let started = Writer::open(path).and_then(Self::start);
        started.map_err(|error| AuditError { path: path.into(), error })
    }

    fn start(writer: Writer) -> io::Result<Self> {
        let (entries, read) = mpsc::channel(LINES_MAX);
        let (told, writing) = watch::channel(Writing::Well);
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || writer.run(read, &told))?;
        Ok(Self { entries, writing })
    }

    /// Room for one line; waits while there is none, and while lines do not reach the disk.
    pub async fn room(&self) -> Option<Room> {
        self.writing.clone().wait_for(|writing| *writing == Writing::Well).await.ok()?;
        self.entries.clone().reserve_owned().await.ok().map(Room)
    }

    /// Has what came so far written, and waits for that. What comes later is not recorded: it was cut.
    pub async fn finish(self) {
        let mut writing = self.writing.clone();
        // A writer that has failed is told of below.
        let _ = self.entries.send(Entry::End).await;
        if writing.wait_for(|writing| *writing == Writing::Done).await.is_err() {
            tracing::error!("the audit's writer failed");
        }
    }
}

impl Room {
    /// Writes it.
    pub fn write(self, line: Line) {
        self.0.send(Entry::Line(Box::new(line)));
    }
}

#[cfg(test)]
mod tests;
