//! The scaler's door.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{PastStart, SliceView, SlotId, SlotView};
use crate::{hold::Arrival, placement::Rules, settings::SlotSpec};

/// What the scaler can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Let a request through, when its model is ready.
    Arrive(Arrival),
    /// What every slot is to be, in the order of their numbers; those that were there before are among them; and how they share the slices.
    /// Told when that is taken in; what is to be started for it starts then.
    Reconfigure(Vec<SlotSpec>, Rules, oneshot::Sender<()>),
    /// An operator's wish for one slot.
    Wish(SlotId, Wish),
    /// Every slot, as it is now.
    Views(oneshot::Sender<Vec<SlotView>>),
    /// Every slice, and who is on it now.
    Slices(oneshot::Sender<Vec<SliceView>>),
    /// The last cold starts, newest first.
    ColdStarts(oneshot::Sender<Vec<PastStart>>),
    /// Tell when no request is held or in flight.
    WhenQuiet(oneshot::Sender<()>),
    /// End every runtime, by the given time; then end.
    Close {
        /// Runtimes are killed then.
        give_up_at: Instant,
    },
    /// Kill every runtime now; then end.
    Kill,
}

/// What an operator can wish of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Be started, though nobody asks.
    Load,
    /// End when what runs has been answered.
    Unload,
    /// The same, without a change of whether it is to stay: where it is, it starts again.
    Drain,
    /// Stay, whether or not somebody asks; or no longer, but as configured.
    Pin(bool),
}
