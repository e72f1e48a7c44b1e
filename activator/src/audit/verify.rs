//! Reading the audit: is it as it was written?

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::{GENESIS, Linked, hash};

/// A line is no longer.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// What precedes a line's hash, and what follows it.
const BEFORE: &str = ",\"hash\":\"";
const AFTER: &str = "\"}";
/// How the first line begins.
const FIRST: &[u8] = b"{\"seq\":1,";

/// An audit without a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many lines.
    pub lines: u64,
    /// The last one's hash: keep it elsewhere to find out later whether the end was cut off.
    pub hash: String,
}

/// The first fault.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line is not what was written.
    #[error("line {line}, byte {byte}: {why}")]
    Line {
        /// From 1.
        line: u64,
        /// Where it begins.
        byte: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Looks at every line.
///
/// # Errors
/// The first that is wrong.
pub fn verify(path: &Path) -> Result<Verified, Broken> {
    verify_lines(BufReader::new(File::open(path)?))
}

/// The same of an audit that comes from elsewhere.
///
/// # Errors
/// The first line that is wrong.
pub fn verify_lines(mut reader: impl BufRead) -> Result<Verified, Broken> {
    let (mut byte, mut lines, mut prev) = (0, 0, GENESIS.to_owned());
    loop {
        let mut text = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)? as u64;
        if read == 0 {
            return Ok(Verified { lines, hash: prev });
        }
        let wrong = |why| Broken::Line { line: lines + 1, byte, why };
        let (linked, found) = parse(&text).map_err(wrong)?;
        if linked.prev != prev {
            return Err(wrong("it does not follow the line before it: one was removed, put in or moved"));
        }
        if linked.seq != lines + 1 {
            return Err(wrong("its number is not the next"));
        }
        (byte, lines, prev) = (byte + read, lines + 1, found);
    }
}

fn parse(text: &[u8]) -> Result<(Linked, String), &'static str> {
    let text = text.strip_suffix(b"\n").ok_or("it does not end")?;
    let text = str::from_utf8(text).map_err(|_| "it is no text")?;
    let rest = text.strip_suffix(AFTER).ok_or("it has no hash")?;
    let (body, found) = rest.rsplit_once(BEFORE).ok_or("it has no hash")?;
    let body = format!("{body}}}");
    if hash(body.as_bytes()) != found {
        return Err("it was changed");
    }
    let linked: Linked = serde_json::from_str(&body).map_err(|_| "it is no line of an audit")?;
    Ok((linked, found.to_owned()))
}

/// Where an audit goes on.
pub(super) struct End {
    pub bytes: u64,
    pub seq: u64,
    pub hash: String,
    /// What lies behind the last whole line.
    pub rest: Option<Vec<u8>>,
}

/// Looks at the last lines alone.
pub(super) fn end(file: &File) -> io::Result<End> {
    let bytes = file.metadata()?.len();
    let from = bytes.saturating_sub(2 * LINE_BYTES_MAX);
    let mut tail = Vec::new();
    let mut file = file;
    file.seek(SeekFrom::Start(from))?;
    file.take(2 * LINE_BYTES_MAX).read_to_end(&mut tail)?;
    let mut whole = tail.len();
    loop {
        whole = tail[..whole].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 {
            break;
        }
        let begin = tail[..whole - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if let Ok((linked, hash)) = parse(&tail[begin..whole]) {
            let rest = (whole < tail.len()).then(|| tail[whole..].to_vec());
            return Ok(End { bytes: from + whole as u64, seq: linked.seq, hash, rest });
        }
        whole -= 1;
    }
    // All that can be there without a whole line is the first one's beginning.
    let begins = tail.iter().zip(FIRST).all(|(there, written)| there == written);
    if from > 0 || !begins {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its end is no audit's; move it away"));
    }
    Ok(End { bytes: 0, seq: 0, hash: String::new(), rest: (!tail.is_empty()).then_some(tail) })
}
