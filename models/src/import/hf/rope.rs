//! The rotation in `config.json`, as written by transformers 5 (`rope_parameters`, one object or one for each kind of layer)
//! and before (`rope_theta`, `rope_scaling`).

use super::fields::{Fields, bad};
use crate::{Error, Rope, RopeScaling};

/// The kinds of layers that rotations are nested by.
const FULL: &str = "full_attention";
const KINDS: [&str; 2] = [FULL, "sliding_attention"];

/// The model's rotation: that of layers which see everything, where kinds of layers differ.
pub(super) fn parse(fields: &Fields, context_length: usize) -> Result<Rope, Error> {
    if let Some(parameters) = fields.object("rope_parameters")? {
        let nested = nested(fields, &parameters)?;
        return rope_of(nested.as_ref().unwrap_or(&parameters), fields, context_length);
    }
    match fields.object("rope_scaling")? {
        Some(scaling) => rope_of(&scaling, fields, context_length),
        None => Ok(Rope { theta: theta(fields)?, scaling: RopeScaling::None }),
    }
}

/// The share of a head that is rotated.
pub(super) fn partial_factor(fields: &Fields) -> Result<Option<f64>, Error> {
    if let Some(parameters) = fields.object("rope_parameters")?
        && let Some(factor) = parameters.number("partial_rotary_factor")?
    {
        return Ok(Some(factor));
    }
    fields.number("partial_rotary_factor")
}

/// The rotation of layers of this kind, where the file has one for each.
pub(super) fn of_kind(fields: &Fields, kind: &str) -> Result<Option<Rope>, Error> {
    let Some(parameters) = fields.object("rope_parameters")? else { return Ok(None) };
    let Some(own) = parameters.object(kind).ok().flatten() else { return Ok(None) };
    rope_of(&own, fields, fields.context_length()?).map(Some)
}

/// The parameters for layers that see everything, where they are nested by kind: of that kind, or of the only one there is.
fn nested<'a>(fields: &Fields, parameters: &Fields<'a>) -> Result<Option<Fields<'a>>, Error> {
    let objects = parameters.json.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    let mut each = objects.map(|(kind, value)| (kind.as_str(), value));
    let Some((first_kind, first)) = each.next() else { return Ok(None) };
    let same = each.clone().all(|(_, other)| other == first);
    let known = KINDS.contains(&first_kind) && each.all(|(kind, _)| KINDS.contains(&kind));
    if !(same || known && fields.has("layer_types")) {
        let what = "config.json: rope_parameters differ between kinds of layers";
        return Err(Error::Unsupported(format!(
            "{what} other than full_attention and sliding_attention of layer_types"
        )));
    }
    let own = if same { None } else { parameters.object(FULL)? };
    Ok(Some(own.unwrap_or(Fields { json: first, ..*fields })))
}

fn theta(fields: &Fields) -> Result<f64, Error> {
    Ok(fields.number("rope_theta")?.unwrap_or(fields.theta_default))
}

fn rope_of(parameters: &Fields, fields: &Fields, context_length: usize) -> Result<Rope, Error> {
    let theta = match parameters.number("rope_theta")? {
        None => theta(fields)?,
        Some(theta) => theta,
    };
    let kind = match parameters.text("rope_type")? {
        None => parameters.text("type")?.unwrap_or("default"),
        Some(kind) => kind,
    };
    let needed = |key: &str| parameters.number(key)?.ok_or_else(|| bad(key, "is missing in the rope parameters"));
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: original_context(parameters, fields)?.unwrap_or(context_length),
        },
        // Phi-3 was published with the second name.
        "longrope" | "su" => long_rope(parameters, fields, context_length)?,
        // Phi-3 knows this as a third name for it.
        "yarn" if parameters.has("short_factor") => long_rope(parameters, fields, context_length)?,
        "yarn" => yarn(parameters, fields, context_length)?,
        other => {
            let runs = "this version runs default, linear, llama3, yarn and longrope";
            return Err(Error::Unsupported(format!("config.json: rope type `{other}`; {runs}")));
        }
    };
    Ok(Rope { theta, scaling })
}

fn original_context(parameters: &Fields, fields: &Fields) -> Result<Option<usize>, Error> {
    const KEY: &str = "original_max_position_embeddings";
    Ok(match parameters.size(KEY)? {
        None => fields.size(KEY)?,
        found => found,
    })
}

fn yarn(parameters: &Fields, fields: &Fields, context_length: usize) -> Result<RopeScaling, Error> {
    let factor = parameters.number("factor")?.ok_or_else(|| bad("factor", "is missing in the rope parameters"))?;
    let attention_factor = match parameters.number("attention_factor")? {
        Some(factor) => factor,
        None => match (parameters.number("mscale")?, parameters.number("mscale_all_dim")?) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => yarn_factor(factor, one) / yarn_factor(factor, all),
            _ => yarn_factor(factor, 1.0),
        },
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_context: original_context(parameters, fields)?.unwrap_or(context_length),
        beta_fast: parameters.number("beta_fast")?.unwrap_or(YARN_FAST),
        beta_slow: parameters.number("beta_slow")?.unwrap_or(YARN_SLOW),
        truncate: parameters.flag("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

/// Turns in the original context above which YaRN keeps a frequency, where nothing else is said.
pub(crate) const YARN_FAST: f64 = 32.0;
/// The same, below which it divides.
pub(crate) const YARN_SLOW: f64 = 1.0;

/// YaRN's sharpening of scores for a context `factor` times as long.
pub(crate) fn yarn_factor(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

fn long_rope(parameters: &Fields, fields: &Fields, context_length: usize) -> Result<RopeScaling, Error> {
    let factors = |key: &str| parameters.numbers(key)?.ok_or_else(|| bad(key, "is missing in the rope parameters"));
    let original = original_context(parameters, fields)?;
    let original_context = original.unwrap_or(context_length);
    let stretch = match (original, parameters.number("factor")?) {
        (Some(original), _) if original > 0 => context_length as f64 / original as f64,
        (_, factor) => factor.unwrap_or(1.0),
    };
    let attention_factor = match parameters.number("attention_factor")? {
        Some(factor) => factor,
        None => attention_factor(stretch, original_context),
    };
    Ok(RopeScaling::LongRope {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_context,
        attention_factor,
    })
}

/// By how much scores are sharpened so that a context `stretch` times as long spreads them no wider.
pub(crate) fn attention_factor(stretch: f64, original_context: usize) -> f64 {
    if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original_context as f64).ln()).sqrt() }
}
