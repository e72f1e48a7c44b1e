//! What a post-processor puts around a text, checked before the tokenizers crate does: its templates trust that all they name is there.

use serde_json::Value as Json;

/// Checks every template in a `post_processor`, as the crate writes it out.
pub(super) fn check(post_processor: &Json) -> Result<(), String> {
    let each = |field: &str| post_processor[field].as_array().into_iter().flatten();
    match post_processor["type"].as_str() {
        // One level deeper each time; serde_json bounds the depth of what it reads.
        Some("Sequence") => each("processors").try_for_each(check),
        Some("TemplateProcessing") => {
            let there = &post_processor["special_tokens"];
            each("single").try_for_each(|piece| check_piece(piece, there))
        }
        _ => Ok(()),
    }
}

/// A piece of a template for one text.
fn check_piece(piece: &Json, special_tokens: &Json) -> Result<(), String> {
    match (piece["SpecialToken"]["id"].as_str(), piece["Sequence"]["id"].as_str()) {
        (Some(token), _) if special_tokens.get(token).is_none() => {
            Err(format!("single: {token:?} is in no special_tokens"))
        }
        (None, Some("B")) => Err("single: $B, where there is one text".into()),
        _ => Ok(()),
    }
}
