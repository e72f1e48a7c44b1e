//! Memory of a thread that lives as long as the thread, so that no call allocates.

use std::cell::RefCell;

/// One cache line, so that vectors of the widest kind are aligned.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

/// A thread's memory; each kernel takes what it needs and leaves it dirty.
#[derive(Default)]
pub(super) struct Scratch {
    /// Unpacked tiles of block formats.
    lines: Vec<Line>,
    /// Stored rows of a tile that is not full.
    rows: Vec<u8>,
    /// Widened rows, scores, or a widened block of keys.
    pub floats: Vec<f32>,
    /// Bytes of one unpacked row.
    pub bytes: Vec<i8>,
}

impl Scratch {
    #[cfg(target_arch = "x86_64")]
    pub fn lines_and_rows(&mut self, lines: usize, rows: usize) -> (&mut [Line], &mut [u8]) {
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        if self.rows.len() < rows {
            self.rows.resize(rows, 0);
        }
        (&mut self.lines[..lines], &mut self.rows[..rows])
    }

    /// Lines in two parts.
    #[cfg(target_arch = "x86_64")]
    pub fn lines(&mut self, first: usize, second: usize) -> (&mut [Line], &mut [Line]) {
        if self.lines.len() < first + second {
            self.lines.resize(first + second, Line([0; 64]));
        }
        self.lines[..first + second].split_at_mut(first)
    }

    /// Bytes of one stored row.
    pub fn row(&mut self, count: usize) -> &mut [u8] {
        if self.rows.len() < count {
            self.rows.resize(count, 0);
        }
        &mut self.rows[..count]
    }

    pub fn floats(&mut self, count: usize) -> &mut [f32] {
        if self.floats.len() < count {
            self.floats.resize(count, 0.0);
        }
        &mut self.floats[..count]
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `f` with this thread's scratch.
///
/// # Panics
/// Where `f` calls this again: kernels do not nest.
pub(super) fn with<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}
