//! `generation_config.json`, with `config.json` behind it → [`Generation`].

use crate::{Error, Generation};
use serde_json::Value as Json;

/// Most tokens that may end a generation.
const EOS_MAX: usize = 64;

/// The generation's own file wins, key by key.
pub(super) fn parse(config: &Json, generation: Option<&Json>) -> Result<Generation, Error> {
    let find = |key: &str| {
        [generation, Some(config)].into_iter().flatten().find_map(|file| file.get(key).filter(|value| !value.is_null()))
    };
    // Sampling defaults are the generation's own; old configurations carry meaningless ones.
    let own = |key: &str| generation.and_then(|file| file.get(key)).filter(|value| !value.is_null());
    let number = |key: &str| {
        own(key).map(|value| value.as_f64().ok_or_else(|| bad(key, value)).map(|number| number as f32)).transpose()
    };
    let sampled = own("do_sample").and_then(Json::as_bool).unwrap_or(false);
    let mut wanted = Generation {
        bos: find("bos_token_id")
            .map(|value| ids("bos_token_id", value))
            .transpose()?
            .and_then(|ids| ids.first().copied()),
        eos: find("eos_token_id").map(|value| ids("eos_token_id", value)).transpose()?.unwrap_or_default(),
        // Penalties are no part of sampling: greedy decoding has them, too.
        repetition_penalty: number("repetition_penalty")?,
        ..Generation::default()
    };
    // Without `do_sample` the makers mean greedy decoding by these files, yet servers sample at 1.0 where nothing is said.
    if sampled {
        wanted.temperature = number("temperature")?;
        wanted.top_p = number("top_p")?;
        wanted.min_p = number("min_p")?;
        wanted.top_k = own("top_k").map(|value| id("top_k", value)).transpose()?;
    }
    Ok(wanted)
}

/// One id, or a list of them.
fn ids(key: &str, value: &Json) -> Result<Vec<u32>, Error> {
    match value {
        Json::Array(each) if each.len() <= EOS_MAX => each.iter().map(|value| id(key, value)).collect(),
        one => Ok(vec![id(key, one)?]),
    }
}

fn id(key: &str, value: &Json) -> Result<u32, Error> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| bad(key, value))
}

fn bad(key: &str, value: &Json) -> Error {
    Error::BadModel(format!("generation_config.json or config.json: {key}: {value} is not what belongs there"))
}
