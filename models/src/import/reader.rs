//! A bounded reader of little-endian bytes that knows where it is: every failure names the field and the byte offset.

use crate::Error;

/// A position in foreign bytes. Nothing is read past the end, and no length is trusted before it is checked.
pub(crate) struct Reader<'a> {
    /// What the bytes are, for messages.
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What is wrong with `field`, at this position.
    pub fn bad(&self, field: &str, reason: impl std::fmt::Display) -> Error {
        Error::BadModel(format!("{}: {field} at byte {}: {reason}", self.what, self.at))
    }

    /// The next `count` bytes.
    pub fn take(&mut self, field: &str, count: usize) -> Result<&'a [u8], Error> {
        if count > self.left() {
            return Err(self.bad(field, format_args!("{count} bytes wanted, {} left", self.left())));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        let bytes = self.take(field, N)?;
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    /// One byte.
    pub fn u8(&mut self, field: &str) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &str) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// An eight-byte count of things that take at least `least_bytes` each: at most `max`, and no more than can follow.
    pub fn count(&mut self, field: &str, max: usize, least_bytes: usize) -> Result<usize, Error> {
        let count = self.u64(field)?;
        let fits = (self.left() / least_bytes.max(1)) as u64;
        if count > max as u64 {
            return Err(self.bad(field, format_args!("{count}, at most {max} are accepted")));
        }
        if count > fits {
            return Err(self.bad(field, format_args!("{count}, but only {fits} can follow")));
        }
        Ok(count as usize)
    }

    /// An eight-byte length, at most `max`, and as much UTF-8.
    pub fn string(&mut self, field: &str, max: usize) -> Result<&'a str, Error> {
        let length = self.count(field, max, 1)?;
        let start = self.at;
        let bytes = self.take(field, length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = start + error.valid_up_to();
            Error::BadModel(format!("{}: {field} at byte {at}: no UTF-8", self.what))
        })
    }
}
