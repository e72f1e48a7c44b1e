//! Starting processes: for a slot, which has a standby where there is one, and for standbys.

use std::{os::fd::OwnedFd, time::Instant};

use futures_util::stream;
use protocol::control::ToRuntime;

use super::{
    Scaler,
    life::{Life, LifeId, Role},
};
use crate::{
    child::ChildEvents,
    launcher::{self, LaunchError},
    slot::{Event, Failure, LaunchId, SlotId, Stage},
};

impl Scaler {
    /// Starts what is to be started. What was given up before it began ends without having begun: its exit is said here, as no process has one.
    pub(super) async fn launch_wished(&mut self) {
        while let Some((slot, launch)) = self.wished.pop_front() {
            if !matches!(self.fleet.slot(slot).stage(launch), Some(Stage::Starting { .. })) {
                let ended = Failure::internal("the runtime was given up before it was started");
                self.step(slot, Event::Exited(launch, ended));
            } else if let Err(failure) = self.launch(slot, launch).await {
                self.step(slot, Event::NotLaunched(launch, failure));
            }
        }
    }

    /// Gives the slot a process, a standby if there is one, and the process its model.
    async fn launch(&mut self, slot: SlotId, launch: LaunchId) -> Result<(), Failure> {
        let file = self.places[slot.0].open_snapshot()?;
        let verified = self.places[slot.0].is_verified();
        let wrapped_key = self.places[slot.0].wrapped_key();
        let file = OwnedFd::from(file);
        let (role, slice) = (Role::Slot(slot, launch), self.fleet.slice_of(slot, launch));
        let id = match self.take_standby(role, slice) {
            Some(id) => id,
            None => self.begin(role, slice).await.map_err(|error| Failure::internal(error.to_string()))?,
        };
        self.places[slot.0].lives.insert(launch, id);
        let kv_memory_bytes = self.places[slot.0].kv_memory_bytes;
        let (place, life) = (&self.places[slot.0], self.lives.get_mut(&id).expect("it has just begun"));
        let name = &place.name;
        tracing::info!(
            model = name,
            launch = launch.0,
            pid = life.child.pid(),
            standby = life.was_standby,
            "launching"
        );
        let guests = place
            .plugins
            .as_ref()
            .map_or(Ok(()), |guests| life.child.tell(&ToRuntime::Guests, Some(guests.descriptor())));
        let told =
            guests.and_then(|()| life.restore(name, &file, (verified, wrapped_key, kv_memory_bytes), Instant::now()));
        if let Err(error) = told {
            // Its end will be seen, and counts as a launch that failed.
            tracing::warn!(model = name, %error, "a runtime cannot be told to restore");
            life.child.kill();
        }
        Ok(())
    }

    /// Starts a process on a slice.
    pub(super) async fn begin(&mut self, role: Role, slice: Option<usize>) -> Result<LifeId, LaunchError> {
        let spawned = Instant::now();
        let more = if matches!(role, Role::Standby { .. }) { self.standby.arguments() } else { Vec::new() };
        let command = [self.runtime_command.as_slice(), &more].concat();
        let launched = launcher::launch(&command, slice.and_then(|slice| self.slices.get(slice))).await?;
        self.lives_begun += 1;
        let id = LifeId(self.lives_begun);
        self.lives.insert(id, Life::new(&launched, role, slice, spawned));
        self.begun.push(Box::pin(stream::unfold(launched.events, move |mut events: ChildEvents| async move {
            let event = events.next().await?;
            Some(((id, event), events))
        })));
        Ok(id)
    }
}
