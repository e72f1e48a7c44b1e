//! Pieces of devices.
use serde::Serialize;

/// A piece of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub bytes: u64,
}

/// This machine's.
pub fn here() -> Vec<Slice> {
    vec![Slice { name: "cpu".into(), bytes: crate::machine::Machine::here().memory_bytes }]
}
