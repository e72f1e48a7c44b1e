//! What a sealed file has between header and checksum table: bytes in, written once, front to back; sums, digest and tags out.

use crate::{ARENA_ALIGN, DataKey, HEADER_BYTES, PAGE_BYTES, encrypt::seal_piece};
use ring::aead::LessSafeKey;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use twox_hash::XxHash3_64;

/// Everything between header and checksum table. The buffer ends with the current chunk, so a chunk is summed once, whole.
///
/// It goes to the file up to a huge page's border at a time, or a chunk where that is larger: file systems that keep large folios keep what one call
/// writes in one of them, and a file that lies in the page cache in huge pages is mapped in a fraction of the time, from its first restore on.
pub(crate) struct Body<'a> {
    file: &'a mut dyn Write,
    buffer: Vec<u8>,
    /// Where in the buffer the current chunk begins; what is before it waits to be written.
    chunk: usize,
    chunk_bytes: u64,
    position: u64,
    total: u64,
    sums: Vec<u64>,
    digest: Sha256,
    key: Option<LessSafeKey>,
    tags: Vec<u8>,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// What was written between header and checksum table.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) sums: Vec<u64>,
    pub(crate) digest: Sha256,
    /// One after the other; none of a plain file.
    pub(crate) tags: Vec<u8>,
}

impl<'a> Body<'a> {
    pub(crate) fn new(
        file: &'a mut dyn Write,
        chunk_bytes: u32,
        total: u64,
        key: Option<&DataKey>,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> io::Result<Self> {
        let chunk_bytes = u64::from(chunk_bytes);
        let mut body = Self {
            file,
            buffer: Vec::with_capacity(chunk_bytes.max(ARENA_ALIGN) as usize),
            chunk: 0,
            chunk_bytes,
            position: HEADER_BYTES as u64,
            total,
            sums: Vec::new(),
            digest: Sha256::new(),
            key: key.map(DataKey::cipher),
            tags: Vec::new(),
            progress,
        };
        if body.position == chunk_bytes {
            // The header alone fills chunk 0: its sum is of nothing.
            body.end_chunk()?;
        }
        Ok(body)
    }

    /// Zeros up to an absolute offset.
    pub(crate) fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        while self.position < offset {
            let count = (offset - self.position).min(PAGE_BYTES);
            self.write_all(&ZEROS[..count as usize])?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        let chunk = &mut self.buffer[self.chunk..];
        self.sums.push(XxHash3_64::oneshot(chunk));
        self.digest.update(&*chunk);
        if let Some(key) = &self.key {
            let piece = self.sums.len() as u64 - 1;
            self.tags.extend(seal_piece(key, piece, &[], chunk)?);
        }
        self.chunk = self.buffer.len();
        if self.position.is_multiple_of(ARENA_ALIGN) || self.position == self.total {
            self.write_out()?;
        }
        (self.progress)(self.position, self.total);
        Ok(())
    }

    /// Also the last of the body, before it is said to be done.
    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        self.chunk = 0;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<Written> {
        if self.buffer.len() > self.chunk {
            self.end_chunk()?;
        }
        debug_assert!(self.buffer.is_empty(), "the body is as long as was said");
        Ok(Written { sums: self.sums, digest: self.digest, tags: self.tags })
    }
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.chunk_bytes - self.position % self.chunk_bytes;
        let taken = (bytes.len() as u64).min(room) as usize;
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.position += taken as u64;
        if taken as u64 == room {
            self.end_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::CHUNK_BYTES;

    /// How long each write was.
    struct Writes(Vec<usize>, Vec<u8>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.len());
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_body_is_written_up_to_the_borders_of_huge_pages_and_said_to_be_done_when_it_is() {
        const HUGE: usize = ARENA_ALIGN as usize;
        let content: Vec<u8> = (0..3 * HUGE + 5000 - HEADER_BYTES).map(|i| (i ^ (i >> 9)) as u8).collect();
        let total = (HEADER_BYTES + content.len()) as u64;
        for (chunk, expected) in [
            (4096, vec![HUGE - HEADER_BYTES, HUGE, HUGE, 5000]),
            (CHUNK_BYTES, vec![HUGE - HEADER_BYTES, HUGE, HUGE, 5000]),
            (4 << 20, vec![2 * HUGE - HEADER_BYTES, HUGE + 5000]),
        ] {
            let (mut writes, mut last) = (Writes(Vec::new(), Vec::new()), 0);
            let mut progress = |done, all| {
                assert_eq!(all, total);
                last = done;
            };
            let mut body = Body::new(&mut writes, chunk, total, None, &mut progress).unwrap();
            content.chunks(70_001).for_each(|some| body.write_all(some).unwrap());
            let written = body.finish().unwrap();
            assert_eq!(writes.0, expected, "chunks of {chunk}");
            assert!(writes.1 == content);
            assert_eq!((last, written.sums.len() as u64), (total, total.div_ceil(u64::from(chunk))));
        }
    }

    #[test]
    fn a_body_that_cannot_be_written_to_its_end_is_not_said_to_be_done() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut full, mut last) = (Full, 0);
        let mut progress = |done, _| last = done;
        let mut body = Body::new(&mut full, 8192, 20_000, None, &mut progress).unwrap();
        body.write_all(&[1; 20_000 - HEADER_BYTES]).unwrap();
        assert_eq!(body.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(last < 20_000, "{last}");
    }
}
