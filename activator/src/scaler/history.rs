//! The last cold starts of all slots, for who wants to see where their time went. Data, and no clock.
//!
//! **Invariant:** bounded: the oldest makes room.

use std::{collections::VecDeque, time::SystemTime};

use serde::Serialize;

use super::ColdStart;
use crate::slot::LaunchId;

/// Cold starts that are remembered, of all models together.
const STARTS_MAX: usize = 32;

/// A cold start that became ready.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PastStart {
    /// Whose.
    pub model: String,
    /// Which launch of that slot it was.
    pub launch: u64,
    /// When it was ready, in milliseconds since 1970 (UTC).
    pub ready_unix_ms: u64,
    /// Where its time went.
    #[serde(flatten)]
    pub took: ColdStart,
}

/// Newest first.
#[derive(Debug, Default)]
pub struct History(VecDeque<PastStart>);

impl History {
    /// One more.
    pub fn ready(&mut self, model: &str, launch: LaunchId, at: SystemTime, took: ColdStart) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.truncate(STARTS_MAX - 1);
        self.0.push_front(PastStart {
            model: model.to_owned(),
            launch: launch.0,
            ready_unix_ms: since.as_millis() as u64,
            took,
        });
    }

    /// All that are remembered, newest first.
    pub fn all(&self) -> Vec<PastStart> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use protocol::control::RestoreTimings;
    use std::time::Duration;

    #[test]
    fn the_newest_come_first_and_the_oldest_make_room() {
        let mut history = History::default();
        let took = ColdStart { standby: true, launch_ms: 1.5, restore_ms: 2.5, restore: RestoreTimings::default() };
        for launch in 1..=STARTS_MAX as u64 + 3 {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(launch);
            history.ready("m", LaunchId(launch), at, took);
        }
        let launches: Vec<u64> = history.all().iter().map(|start| start.launch).collect();
        assert_eq!(launches, (4..=STARTS_MAX as u64 + 3).rev().collect::<Vec<_>>());
        let newest = serde_json::to_value(&history.all()[0]).unwrap();
        assert_eq!(
            (&newest["ready_unix_ms"], &newest["restore_ms"], &newest["restore"]["total_us"]),
            (&35.into(), &2.5.into(), &0.into())
        );
    }
}
