//! The way in: a request asks for its model's runtime and waits here until it is admitted, refused, or given up.
//!
//! **Invariant:** accounting is RAII. An [`Admitted`], or the future that waits for one, owns one place; dropping it (the
//! answer is complete, the client has gone, the deadline has passed) gives the place back to the scaler, always, and before
//! anything that comes after it. A held request costs memory alone, no descriptor.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use protocol::timings::Wake;
use tokio::sync::{mpsc, oneshot};

use crate::{
    endpoint::Endpoint,
    scaler::{Command, Desk, SlotId},
    slot::{Claim, LaunchId, Refusal, RequestId},
};

/// Messages that wait for the scaler.
pub const COMMANDS_MAX: usize = 1 << 17;

/// The requests' handle of the scaler. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    desk: Arc<Desk>,
    commands: mpsc::Sender<Command>,
    requests: Arc<AtomicU64>,
}

/// A request that asks to be let through.
#[derive(Debug)]
pub struct Arrival {
    /// To which model.
    pub slot: SlotId,
    /// Who.
    pub request: RequestId,
    /// What it claims of it.
    pub claim: Claim,
    /// Its last attempt found this launch unreachable.
    pub lost: Option<LaunchId>,
    /// It was admitted before, and has lost its runtime since.
    pub again: bool,
    /// It is let through only if somebody outside has ended the launch that it lost.
    pub suspect: bool,
    /// Where the answer goes.
    pub reply: Reply,
}

/// What is said to a request that asks to be let through.
pub type Said = Result<Grant, Refusal>;

/// Where what is said to a request goes.
#[derive(Debug)]
pub enum Reply {
    /// It stands at the desk and is told there, if it need not wait.
    AtDesk,
    /// Closed means that the request has left.
    To(oneshot::Sender<Said>),
}

/// What comes of it that a request stands at the desk.
#[derive(Debug)]
pub enum Outcome {
    /// It need not wait.
    Now(Said),
    /// It has to wait, and is told there.
    Later(oneshot::Receiver<Said>),
}

/// Where to go, and what it took.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Where the request goes.
    pub endpoint: Endpoint,
    /// Whose endpoint that is.
    pub launch: LaunchId,
    /// The slot was not ready when the request arrived.
    pub cold: bool,
    /// When the runtime did what.
    pub times: Times,
    /// Set once the runtime says that it was told to end.
    pub leaving: Arc<AtomicBool>,
    /// Set once the runtime has had guests that may be shown a request once alone: it is not asked again of another.
    pub once: Arc<AtomicBool>,
    /// The runtime that was lost before was ended by somebody outside.
    pub blameless: bool,
}

/// When one runtime did what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The process was started.
    pub spawned: Instant,
    /// It said that it was launched.
    pub launched: Option<Instant>,
    /// It was handed the model.
    pub handed: Option<Instant>,
    /// It said that it was ready.
    pub ready: Option<Instant>,
}

impl Times {
    /// When the restore began: with the model in its hands, and itself ready for it.
    pub fn restoring(&self) -> Option<Instant> {
        Some(self.handed?.max(self.launched?))
    }

    /// What a request went through that arrived and was forwarded at these times.
    pub fn wake(&self, cold: bool, arrived: Instant, forwarded: Instant) -> Wake {
        let part = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) if cold => milliseconds(from.max(arrived), to.min(forwarded)),
            _ => 0.0,
        };
        Wake {
            cold,
            held_ms: milliseconds(arrived, forwarded),
            launch_ms: part(Some(self.spawned), self.launched),
            restore_ms: part(self.restoring(), self.ready),
        }
    }
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

/// A place, held or in flight. Dropping it gives it back.
#[derive(Debug)]
pub struct Ticket {
    slot: SlotId,
    request: RequestId,
    /// `None` for who has not come in.
    desk: Option<Arc<Desk>>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(desk) = self.desk.take() {
            desk.leave(self.slot, self.request);
        }
    }
}

/// A request that has been let through.
#[derive(Debug)]
pub struct Admitted {
    /// Where to go.
    pub grant: Grant,
    /// To be kept until the last byte of the answer.
    pub ticket: Ticket,
}

impl Gate {
    /// To that desk; over that channel where somebody is at work there.
    pub fn new(desk: Arc<Desk>, commands: mpsc::Sender<Command>) -> Self {
        Self { desk, commands, requests: Arc::default() }
    }

    /// The scaler's commands, for the few that are no requests.
    pub fn commands(&self) -> &mpsc::Sender<Command> {
        &self.commands
    }

    /// Waits until the model's runtime can answer. Dropping the future gives the place up. Who comes `again` is held beyond all bounds: it
    /// has been let in already. A suspect is refused as [`Refusal::Poison`] unless somebody outside has ended what it lost.
    pub async fn admit(
        &self,
        slot: SlotId,
        claim: Claim,
        (lost, suspect): (Option<LaunchId>, bool),
        again: bool,
    ) -> Result<Admitted, Refusal> {
        let request = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        // Declared before the reply's receiver, thus dropped after it: the scaler hears of a leaving only when it can see
        // that nobody waits for the reply.
        let mut ticket = Ticket { slot, request, desk: None };
        let arrival = Arrival { slot, request, claim, lost, again, suspect, reply: Reply::AtDesk };
        // In a block of its own, so that who is held has nothing of it.
        let said = {
            let outcome = self.desk.arrive(arrival).or_else(|arrival| self.send(arrival))?;
            ticket.desk = Some(self.desk.clone());
            match outcome {
                Outcome::Now(said) => return Ok(Admitted { grant: said?, ticket }),
                Outcome::Later(said) => said,
            }
        };
        match said.await {
            Ok(said) => Ok(Admitted { grant: said?, ticket }),
            Err(_) => Err(Refusal::Closing),
        }
    }

    fn send(&self, arrival: Arrival) -> Result<Outcome, Refusal> {
        let (reply, said) = oneshot::channel();
        let arrival = Arrival { reply: Reply::To(reply), ..arrival };
        let sent = self.commands.try_send(Command::Arrive(arrival)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Full,
            mpsc::error::TrySendError::Closed(_) => Refusal::Closing,
        });
        sent.map(|()| Outcome::Later(said))
    }
}
