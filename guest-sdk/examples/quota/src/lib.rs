//! An example guest: so many requests for each `user`, counted in its state; one more is 429, until there was none for a minute. Who names no user
//! is one user. Not `replayable`: a request that is seen twice would be counted twice.

use guest_sdk::{Rejection, Request, RequestHook, Verdict, host, state};

#[derive(Default)]
struct Quota;

const MINUTE_MS: u64 = 60_000;

impl RequestHook for Quota {
    fn request(&mut self, request: Request) -> Result<Verdict, Rejection> {
        let user = request.metadata.iter().find(|(key, _)| key == "user").map_or("", |(_, user)| user.as_str());
        let most = host::config("requests").and_then(|most| most.parse().ok()).unwrap_or(60);
        let count = state::add(&format!("requests of {user}"), 1, MINUTE_MS).map_err(|_| Rejection {
            status: 503,
            code: "quota_unavailable".into(),
            message: "Requests cannot be counted now.".into(),
        })?;
        match count > most {
            true => Err(Rejection {
                status: 429,
                code: "quota".into(),
                message: format!("'{user}' has made its {most} requests; ask again in a minute."),
            }),
            false => Ok(Verdict::Pass),
        }
    }
}

guest_sdk::export!(Quota: request);
