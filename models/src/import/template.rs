//! The `template` section: the chat templates' Jinja text, and the special tokens' strings that they name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the section holds, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Templates {
    /// `default`, and sometimes others such as `tool_use`.
    pub by_name: BTreeMap<String, String>,
    /// `bos_token`, `eos_token`, … → its text.
    pub tokens: BTreeMap<String, String>,
}
