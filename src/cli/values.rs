//! Durations, sizes, addresses and models as people write them.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

/// Longer waits than a year are mistakes.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `30s`, `500ms`, `2m`, `1h`, `1.5s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let unit_seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no duration; write for example 30s, 500ms or 2m")),
    };
    let seconds = positive(number).ok_or_else(|| format!("{number:?} is no number"))? * unit_seconds;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| format!("{text:?} is longer than a year"))
}

/// Sequences of one engine: at least one, and no more than it takes.
pub fn sequences(text: &str) -> Result<usize, String> {
    let most = runtime::SEQUENCES_MAX;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is not between 1 and {most}"))
}

/// `2GiB`, `500MB`, `64k`, `4096`: bytes. Units without an `i` are decimal.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let unit_bytes: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{text:?} is no size; write for example 2GiB or 500MB")),
    };
    let bytes = positive(number).ok_or_else(|| format!("{number:?} is no number"))? * unit_bytes;
    // Whole numbers up to 2^53 are exact in an f64, and no machine has more memory than that.
    if bytes < (1_u64 << 53) as f64 { Ok(bytes as u64) } else { Err(format!("{text:?} is more than any machine has")) }
}

fn split(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

fn positive(number: &str) -> Option<f64> {
    number.parse().ok().filter(|number: &f64| number.is_finite())
}

/// `127.0.0.1:8080`, `[::1]:0`, `localhost:8080`, or `:8080` for all interfaces.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let bare_port = text.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
    let text = bare_port.as_deref().unwrap_or(text);
    let wrong = |why: String| format!("{text:?} is no address ({why}); write for example 127.0.0.1:8080");
    text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?.next().ok_or_else(|| wrong("none found".into()))
}

/// What `serve` is asked to serve: `NAME=FILE`, or one word that is a model of the store or a snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelArg {
    /// The name clients ask for, and its snapshot.
    Named(String, PathBuf),
    /// A name of the store, or a file that says its own name.
    Bare(PathBuf),
}

/// A model on the command line.
pub fn model(text: &str) -> Result<ModelArg, String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("{text:?} has no name before the '='")),
        Some((_, "")) => Err(format!("{text:?} has no file after the '='")),
        Some((name, file)) => Ok(ModelArg::Named(name.into(), file.into())),
        None if text.is_empty() => Err("the name is empty".into()),
        None => Ok(ModelArg::Bare(text.into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("1.5s", 1_500), ("0s", 0)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "s", "30", "-1s", "1 fortnight", "1..5s", "1e9h", "9000h0"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("99999999999h").is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("4096", 4096), ("64k", 64_000), ("500MB", 500_000_000), ("2GiB", 2 << 30), ("0.5 KiB", 512)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GiB", "-1", "2XB", "99999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        for (text, meant) in [("127.0.0.1:0", "127.0.0.1:0"), (":80", "0.0.0.0:80"), ("[::1]:8080", "[::1]:8080")] {
            assert_eq!(address(text).unwrap().to_string(), meant);
        }
        for text in ["8080", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn models() {
        assert_eq!(model("a=b=c").unwrap(), ModelArg::Named("a".into(), "b=c".into()));
        assert_eq!(model("smollm2").unwrap(), ModelArg::Bare("smollm2".into()));
        for text in ["", "=x", "x="] {
            assert!(model(text).is_err(), "{text}");
        }
    }
}
