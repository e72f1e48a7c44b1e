//! Slices of the processor: cores and bytes.
//!
//! **Invariant:** pure; no core is on two slices that name cores, and the slices' bytes together are not more than the machine has.

use std::collections::BTreeSet;

use super::{Slice, SliceEntry, SliceError, SliceKind};
use crate::machine::Machine;

/// The name of the one that is there where none is configured.
const WHOLE: &str = "cpu";

/// All of the machine.
pub fn whole(machine: Machine) -> Slice {
    Slice { name: WHOLE.into(), kind: SliceKind::Cpu { cores: Vec::new() }, bytes: bytes_of(machine), limited: false }
}

/// Where the system does not say, there is no bound.
fn bytes_of(machine: Machine) -> u64 {
    if machine.memory_bytes == 0 { u64::MAX } else { machine.memory_bytes }
}

/// As configured; entries have been checked one by one. Those that say nothing of memory share alike what the others leave.
///
/// # Errors
/// Cores that this machine, or container, does not have, and more memory than it has.
pub fn configured(entries: &[SliceEntry], machine: Machine, here: &BTreeSet<usize>) -> Result<Vec<Slice>, SliceError> {
    let there = bytes_of(machine);
    let said: Vec<u64> = entries.iter().filter_map(|entry| entry.memory).collect();
    let together = said.iter().copied().fold(0, u64::saturating_add);
    let silent = entries.len() - said.len();
    let rest = there.saturating_sub(together).checked_div(silent as u64).unwrap_or(0);
    if together > there || silent > 0 && rest == 0 {
        return Err(SliceError::TooMuch { of: "this machine".into(), together, there });
    }
    let slice = |entry: &SliceEntry| {
        let cores = entry.cores()?;
        if let Some(core) = cores.iter().find(|core| !here.is_empty() && !here.contains(core)) {
            return Err(SliceError::NoCore { slice: entry.name.clone(), core: *core });
        }
        let bytes = entry.memory.unwrap_or(if there == u64::MAX { u64::MAX } else { rest });
        Ok(Slice { name: entry.name.clone(), kind: SliceKind::Cpu { cores }, bytes, limited: bytes < there })
    };
    entries.iter().map(slice).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(name: &str, cores: Option<&str>, memory: Option<u64>) -> SliceEntry {
        SliceEntry { name: name.into(), cores: cores.map(Into::into), memory, device: None }
    }

    const MACHINE: Machine = Machine { cores: 4, memory_bytes: 1000 };

    fn slices(entries: &[SliceEntry], machine: Machine) -> Result<Vec<(Vec<usize>, u64)>, SliceError> {
        let slices = configured(entries, machine, &BTreeSet::from([0, 1, 2, 3]))?;
        let of = |slice: Slice| match slice.kind {
            SliceKind::Cpu { cores } => (cores, slice.bytes),
            SliceKind::Gpu { .. } => panic!("{slice:?}"),
        };
        Ok(slices.into_iter().map(of).collect())
    }

    #[test]
    fn slices_have_their_cores_and_what_is_not_said_of_memory_is_shared_alike() {
        let both = [entry("a", Some("0-1"), None), entry("b", Some("3"), Some(400))];
        assert_eq!(slices(&both, MACHINE).unwrap(), [(vec![0, 1], 600), (vec![3], 400)]);
        let three = ["a", "b", "c"].map(|name| entry(name, None, None));
        assert_eq!(slices(&three, MACHINE).unwrap(), [(vec![], 333), (vec![], 333), (vec![], 333)]);
    }

    #[test]
    fn what_this_machine_does_not_have_is_refused() {
        let absent = SliceError::NoCore { slice: "a".into(), core: 4 };
        assert_eq!(slices(&[entry("a", Some("3-4"), None)], MACHINE), Err(absent));
        let much = |together| Err(SliceError::TooMuch { of: "this machine".into(), together, there: 1000 });
        assert_eq!(slices(&[entry("a", None, Some(600)), entry("b", None, Some(401))], MACHINE), much(1001));
        assert_eq!(slices(&[entry("a", None, Some(1000)), entry("b", None, None)], MACHINE), much(1000));
    }

    #[test]
    fn a_machine_that_does_not_say_what_it_has_bounds_nothing() {
        let machine = Machine { memory_bytes: 0, ..MACHINE };
        assert_eq!(whole(machine).bytes, u64::MAX);
        let both = [entry("a", None, Some(600)), entry("b", None, None)];
        assert_eq!(slices(&both, machine).unwrap(), [(vec![], 600), (vec![], u64::MAX)]);
    }
}
