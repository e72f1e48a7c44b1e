//! Who has what of each slice, as `/slices` shows it.
//!
//! **Invariant:** what is told is what the placement counts, set aside from the wish for a runtime until its exit has been seen; what its
//! process has of the machine's memory is another number (`/slots`).

use serde::Serialize;

use crate::slices::Slice;

/// One slice, and who is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SliceView {
    /// Which.
    #[serde(flatten)]
    pub slice: Slice,
    /// What is taken of it.
    pub used_bytes: u64,
    /// By whom, in the order of the slots.
    pub models: Vec<Share>,
}

/// One model's part of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Whose.
    pub name: String,
    /// Of all its runtimes there.
    pub bytes: u64,
    /// So many.
    pub replicas: usize,
}

/// Every slice. `residents`: for each runtime its model's name, the slice that it is on, and the bytes that it takes; those of one model come
/// one after the other.
pub fn views<'a>(slices: &[Slice], residents: impl Iterator<Item = (&'a str, usize, u64)>) -> Vec<SliceView> {
    let empty = |slice: &Slice| SliceView { slice: slice.clone(), used_bytes: 0, models: Vec::new() };
    let mut views: Vec<SliceView> = slices.iter().map(empty).collect();
    for (name, slice, bytes) in residents {
        let Some(view) = views.get_mut(slice) else { continue };
        view.used_bytes = view.used_bytes.saturating_add(bytes);
        match view.models.last_mut().filter(|share| share.name == name) {
            Some(share) => (share.bytes, share.replicas) = (share.bytes.saturating_add(bytes), share.replicas + 1),
            None => view.models.push(Share { name: name.to_owned(), bytes, replicas: 1 }),
        }
    }
    views
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::slices::SliceKind;
    use serde_json::json;

    fn slice(name: &str, bytes: u64) -> Slice {
        Slice { name: name.into(), kind: SliceKind::Cpu { cores: vec![0] }, bytes, limited: true }
    }

    #[test]
    fn a_models_runtimes_are_one_share_of_each_slice_that_they_are_on() {
        let slices = [slice("left", 100), slice("right", u64::MAX)];
        let residents = [("a", 0, 30), ("a", 1, 30), ("a", 0, 30), ("b", 0, 5)];
        let views = serde_json::to_value(views(&slices, residents.into_iter())).unwrap();
        let cpu = |name: &str, bytes: Option<u64>, used: u64, models| json!({"name": name, "kind": "cpu", "cores": [0], "bytes": bytes, "used_bytes": used, "models": models});
        let left = json!([{"name": "a", "bytes": 60, "replicas": 2}, {"name": "b", "bytes": 5, "replicas": 1}]);
        let right = json!([{"name": "a", "bytes": 30, "replicas": 1}]);
        assert_eq!(views, json!([cpu("left", Some(100), 65, left), cpu("right", None, 30, right)]));
    }

    #[test]
    fn who_is_nowhere_takes_nothing() {
        assert_eq!(views(&[slice("only", 100)], std::iter::empty())[0].used_bytes, 0);
        assert!(views(&[], [("a", 0, 30)].into_iter()).is_empty());
    }
}
