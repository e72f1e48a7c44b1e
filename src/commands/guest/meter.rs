//! What a guest's calls take: time and memory, by hook.

use guests::{Chain, Edited, Refused, Request, Response, Scope, Session, Steer, Verdict};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Calls, by what they are.
#[derive(Default)]
pub struct Meter(BTreeMap<&'static str, Calls>);

/// Of one kind.
#[derive(Default)]
pub struct Calls {
    times: Vec<Duration>,
    /// Linear memory behind the one that left most.
    memory_bytes: usize,
}

/// A session whose calls are measured.
pub struct Metered<'a> {
    session: Session,
    meter: &'a mut Meter,
}

impl Meter {
    /// An instance.
    pub fn begin(&mut self, chain: &Chain) -> Metered<'_> {
        let session = chain.begin(Scope::default());
        let mut metered = Metered { session, meter: self };
        // What cannot be instantiated fails in its first call, too, and is told there.
        let _ = metered.call("instance", Session::instantiate);
        metered
    }

    /// Something else that took so long.
    pub fn add(&mut self, what: &'static str, took: Duration) {
        self.0.entry(what).or_default().times.push(took);
    }

    /// For programs: microseconds, bytes.
    pub fn report(&self) -> Value {
        let calls = |(what, calls): (&&str, &Calls)| {
            let [median, p99, most] = calls.spread();
            let value = json!({"calls": calls.times.len(), "median_us": median, "p99_us": p99, "most_us": most, "memory_bytes": calls.memory_bytes});
            ((*what).to_owned(), value)
        };
        Value::Object(self.0.iter().map(calls).collect())
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let head = format!(
            "{:12} {:>8} {:>12} {:>12} {:>12} {:>12}",
            "", "calls", "median us", "p99 us", "most us", "memory KiB"
        );
        let line = |(what, calls): (&&str, &Calls)| {
            let [median, p99, most] = calls.spread();
            // Of all together there is none of its own.
            let memory = if calls.memory_bytes == 0 { String::new() } else { (calls.memory_bytes / 1024).to_string() };
            format!("{what:12} {:>8} {median:>12.2} {p99:>12.2} {most:>12.2} {memory:>12}", calls.times.len())
        };
        std::iter::once(head).chain(self.0.iter().map(line)).collect()
    }
}

impl Calls {
    /// Median, 99th percentile and most, in microseconds.
    fn spread(&self) -> [f64; 3] {
        let mut times: Vec<f64> = self.times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get(((times.len().max(1) - 1) as f64 * share).round() as usize).copied();
        [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or_default())
    }
}

impl Metered<'_> {
    fn call<T>(
        &mut self,
        what: &'static str,
        call: impl FnOnce(&mut Session) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let begun = Instant::now();
        let said = call(&mut self.session);
        let took = begun.elapsed();
        let calls = self.meter.0.entry(what).or_default();
        calls.times.push(took);
        calls.memory_bytes = calls.memory_bytes.max(self.session.memory_bytes());
        said
    }

    pub fn request(&mut self, request: &Request) -> Result<Verdict, Refused> {
        self.call("on-request", |session| session.request(request))
    }

    pub fn start(&mut self, prompt: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.call("on-token", |session| session.start(prompt, vocab))
    }

    pub fn next(&mut self, accepted: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.call("on-token", |session| session.next(accepted, vocab))
    }

    pub fn text(&mut self, text: &str, end: bool) -> Result<Edited, Refused> {
        self.call("on-text", |session| session.text(text, end))
    }

    pub fn response(&mut self, response: Response) -> Result<Option<String>, Refused> {
        self.call("on-response", |session| session.response(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_was_measured() {
        let of = |times: &[u64]| {
            let times = times.iter().map(|time| Duration::from_micros(*time)).collect();
            Calls { times, memory_bytes: 0 }.spread()
        };
        assert_eq!(of(&[]), [0.0; 3]);
        assert_eq!(of(&[5]), [5.0; 3]);
        assert_eq!(of(&[9, 1, 2, 3, 4]), [3.0, 9.0, 9.0]);
    }
}
