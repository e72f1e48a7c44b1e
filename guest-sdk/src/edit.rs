//! Ways to say what became of a window.

use crate::Edit;

impl Edit {
    /// Settles the first `bytes` bytes as `text`. They must end on a character boundary of the window.
    pub fn replace(bytes: usize, text: impl Into<String>) -> Self {
        Self { consumed: window_bytes(bytes), emit: Some(text.into()), stop: false }
    }

    /// Settles the whole window as `text`.
    pub fn replace_all(window: &str, text: impl Into<String>) -> Self {
        Self::replace(window.len(), text)
    }

    /// Settles the first `bytes` bytes unchanged.
    pub fn pass(bytes: usize) -> Self {
        Self { consumed: window_bytes(bytes), emit: None, stop: false }
    }

    /// Settles nothing yet: the whole window comes again with more text behind it.
    pub fn hold() -> Self {
        Self::pass(0)
    }

    /// Ends the generation after this.
    #[must_use]
    pub fn and_stop(self) -> Self {
        Self { stop: true, ..self }
    }
}

fn window_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a window is memory of a 32-bit guest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_says_how_much_it_settles_and_as_what() {
        assert_eq!((Edit::pass(3).consumed, Edit::pass(3).emit), (3, None));
        let edit = Edit::replace_all("añb", "x").and_stop();
        assert_eq!((edit.consumed, edit.emit.as_deref(), edit.stop), (4, Some("x"), true));
        assert_eq!(Edit::hold().consumed, 0);
    }
}
