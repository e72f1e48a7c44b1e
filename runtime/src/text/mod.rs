//! Token ids → text for people: whole characters only, stop strings held back.
//!
//! Runs beside the HTTP work of each request, never on the engine's thread.

mod choice;
pub(crate) mod decoder;
mod meter;
mod stop;

pub use choice::{Choice, Piece, PieceToken};
pub use meter::{Meter, Totals};
pub use stop::StopMatcher;
