//! An example guest: a request that was answered before is answered from its state, without the model. For requests that name a seed or no
//! temperature, as others want another answer each time. Guests see no tools, penalties or biases: a model whose clients use those has no use for it. The model wakes all the same: the guest is the runtime's, not the activator's.

use guest_sdk::{Finish, Prompt, Rejection, Request, RequestHook, Response, ResponseHook, Verdict, state};

#[derive(Default)]
struct Cache {
    /// Under which the answer is to be kept.
    key: Option<String>,
}

const HOUR_MS: u64 = 3_600_000;

impl RequestHook for Cache {
    fn request(&mut self, request: Request) -> Result<Verdict, Rejection> {
        let sampling = &request.sampling;
        if sampling.seed.is_none() && sampling.temperature != Some(0.0) {
            return Ok(Verdict::Pass);
        }
        let key = key(&request);
        if let Ok(Some(answer)) = state::get(&key) {
            return Ok(Verdict::Answer(String::from_utf8_lossy(&answer).into_owned()));
        }
        self.key = Some(key);
        Ok(Verdict::Pass)
    }
}

impl ResponseHook for Cache {
    fn response(&mut self, response: Response) -> Result<Option<String>, Rejection> {
        // Calls of tools are no text, and what was cut is no answer.
        let whole = response.finish == Finish::Stop && !response.text.is_empty();
        if let Some(key) = self.key.take().filter(|_| whole) {
            // Where there is no room the model is asked again.
            let _ = state::set(&key, response.text.as_bytes(), HOUR_MS);
        }
        Ok(None)
    }
}

/// All that an answer depends on, as a hash of 128 bits (FNV-1a).
fn key(request: &Request) -> String {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    };
    add(&request.model);
    match &request.prompt {
        Prompt::Text(text) => add(text),
        Prompt::Chat(messages) => messages.iter().for_each(|message| {
            add(&message.role);
            add(&message.content);
        }),
    }
    add(&format!("{:?}", request.sampling));
    format!("{hash:032x}")
}

guest_sdk::export!(Cache: request, response);
