//! A new configuration, taken into slots that are at work.
//!
//! **Invariant:** no request is lost by it: what runs with another snapshot is succeeded, and other guests are handed to the runtimes that are there.

use protocol::control::ToRuntime;

use super::{Scaler, place::Place};
use crate::{
    placement::Rules,
    settings::SlotSpec,
    slot::{Event, LaunchId, Phase, SlotId, Stage},
};

impl Scaler {
    pub(super) fn reconfigure(&mut self, specs: Vec<SlotSpec>, rules: Rules) {
        let (mut policies, mut exchanged) = (Vec::new(), Vec::new());
        for (i, spec) in specs.into_iter().enumerate() {
            let plugins = spec.entry.guests.clone();
            exchanged.extend(self.places.get_mut(i).is_some_and(|place| place.exchange(plugins)).then_some(SlotId(i)));
            policies.push(match self.places.get_mut(i) {
                Some(place) => place.reconfigure(spec),
                None => {
                    self.places.push(Place::new(spec));
                    self.metrics.model(&self.places[i].name);
                    self.phases.send_modify(|phases| phases.push(Phase::Cold));
                    self.fleet.add(self.places[i].policy());
                    self.places[i].policy()
                }
            });
        }
        // Before anybody is started that would be put elsewhere by them.
        self.fleet.configure(self.places.iter().map(Place::need).collect(), rules);
        // Before those that the new policies ask for, which have no process yet and so pass for another's.
        let renewed: Vec<bool> =
            self.fleet.slots().map(|(slot, state)| self.places[slot.0].runs_another_snapshot(state)).collect();
        for (i, (policy, renewed)) in policies.into_iter().zip(renewed).enumerate() {
            self.step(SlotId(i), Event::NewPolicy(policy));
            if renewed {
                tracing::info!(
                    model = self.places[i].name,
                    "another snapshot: what runs is succeeded, and ends when it has answered"
                );
                self.step(SlotId(i), Event::Renew);
                exchanged.retain(|slot| *slot != SlotId(i));
            }
        }
        for slot in exchanged {
            self.exchange_guests(slot);
        }
    }

    /// Hands a slot's runtimes the guests that the configuration has now. One that cannot be told, though it lives, is ended, and another succeeds it.
    fn exchange_guests(&mut self, slot: SlotId) {
        let (place, state) = (&self.places[slot.0], self.fleet.slot(slot));
        let Some(plugins) = &place.plugins else { return };
        let stays = |launch: &LaunchId| matches!(state.stage(*launch), Some(Stage::Ready(_) | Stage::Starting { .. }));
        for life in place.lives.iter().filter(|(launch, _)| stays(launch)).filter_map(|(_, life)| self.lives.get(life))
        {
            if let Err(error) = life.child.tell(&ToRuntime::Guests, Some(plugins.descriptor())) {
                tracing::warn!(model = place.name, %error, "a runtime cannot be told its new guests, and is ended");
                life.kill();
            }
        }
        if state.phase() == Phase::Failed {
            // They may have been the reason.
            self.step(slot, Event::SnapshotChanged);
        }
    }
}
