//! SentencePiece's table of replacements (`precompiled_charsmap`), checked before the tokenizers crate walks through it: that
//! walk trusts its offsets.
//!
//! Layout: a little-endian u32, the bytes of a double-array trie (Aoe 1989) of u32 units, then the replacements, each ended by
//! a zero byte. **Invariant:** no text makes the walk leave what [`check`] has let through.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

/// Checks every table in a `normalizer`.
pub(super) fn check(normalizer: &Json) -> Result<(), String> {
    if let Some(table) = normalizer.get("precompiled_charsmap") {
        let text = table.as_str().ok_or("precompiled_charsmap is no string")?;
        let bytes = STANDARD.decode(text).map_err(|error| format!("precompiled_charsmap: {error}"))?;
        return check_table(&bytes).ok_or_else(|| "precompiled_charsmap: its trie leads out of the table".into());
    }
    let steps = normalizer.get("normalizers").and_then(Json::as_array);
    // One level deeper each time; serde_json bounds the depth of what it reads.
    steps.into_iter().flatten().try_for_each(check)
}

fn check_table(bytes: &[u8]) -> Option<()> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let (trie, replacements) = rest.split_at_checked(size)?;
    let replacements = std::str::from_utf8(replacements).ok()?;
    let units: Vec<usize> = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(*units.first()?)];
    while let Some(base) = open.pop() {
        // All 256 children of a node lie in one block.
        if base | 0xFF >= units.len() {
            return None;
        }
        for byte in 1..=0xFF {
            let at = base ^ byte;
            let unit = units[at];
            if unit & (1 << 31 | 0xFF) != byte || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = units.get(next)? & ((1 << 31) - 1);
                replacements.is_char_boundary(value).then_some(())?;
            }
            open.push(next);
        }
    }
    Some(())
}

fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

    fn table(units: &[u32], replacements: &str) -> Json {
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(replacements.as_bytes());
        serde_json::json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)})
    }

    /// `a` becomes what stands at `value`.
    fn units(value: u32) -> Vec<u32> {
        let mut units = vec![0; 512];
        units[0] = (256 >> 8) << 10 | 1 << 9;
        units[256 ^ 97] = 97 | 1 << 8 | 97 << 10;
        units[256] = value;
        units
    }

    #[test]
    fn a_table_that_works_is_let_through() {
        let json = table(&units(2), "x\0y\0");
        assert_eq!(check(&json), Ok(()));
        let normalizer: NormalizerWrapper = serde_json::from_value(json).unwrap();
        let mut text = NormalizedString::from("ban");
        normalizer.normalize(&mut text).unwrap();
        assert_eq!(text.get(), "byn");
    }

    #[test]
    fn what_leads_out_of_the_table_is_refused() {
        assert!(check(&table(&units(5), "x\0y\0")).is_err());
        assert!(check(&table(&[1 << 10], "")).is_err());
        assert!(check(&table(&[], "")).is_err());
    }

    proptest! {
        /// Whatever passes does not panic on any text.
        #[test]
        fn what_is_let_through_can_be_walked(seed in prop::collection::vec(any::<u32>(), 1..8), text in ".{0,40}") {
            let mut units = units(0);
            for (at, unit) in seed.iter().enumerate() {
                units[(at * 97 + 161) % 512] = *unit;
            }
            let json = table(&units, "ab\0é\0");
            if check(&json).is_ok() {
                let normalizer: NormalizerWrapper = serde_json::from_value(json).unwrap();
                normalizer.normalize(&mut NormalizedString::from(text.as_str())).unwrap();
            }
        }
    }
}
