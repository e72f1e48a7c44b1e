//! What programs did that the real driver would not forgive, and what tests ask.

use std::sync::Mutex;

static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub fn misuse(what: String) {
    eprintln!("fake-cuda: {what}");
    FOUND.lock().unwrap().push(what);
}

/// How many there were; their texts, one a line, as far as there is room for them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakeCudaMisuse(text: *mut u8, room: usize) -> usize {
    let found = FOUND.lock().unwrap();
    let lines = found.join("\n");
    let bytes = lines.len().min(room);
    unsafe { text.copy_from_nonoverlapping(lines.as_ptr(), bytes) };
    found.len()
}
