//! `guest bench`: what a request through a guest takes, without a model.
//!
//! One request after the other, each with an instance of its own: the request, the prompt's tokens and as many that come, a text in as many pieces,
//! the whole answer; of these the hooks that it exports. `request` is all of it together, instance included.

use super::{cases::whole, meter::Meter, test};
use crate::{cli::GuestBench, environment::Environment, exit::Result, output};
use guests::{Chain, Message, Plugin, Prompt, Refused, Request, Sampling, Steer};
use serde_json::json;
use std::sync::Arc;

/// What the model says, over and over.
const WORDS: [&str; 8] = ["The", " ship", " came", " in", " from", " the", " sea,", " and"];
/// Tokens of the prompt.
const PROMPT: u32 = 16;

/// Measures, and prints.
pub fn bench(args: &GuestBench, environment: &Environment) -> Result<()> {
    let (_, plugin) = test::load(&args.guest, environment)?;
    let plugin = Arc::new(plugin);
    let chain = Chain::new([plugin.clone()]);
    let mut meter = Meter::default();
    let mut refusals = 0;
    // The first ones touch memory that later ones find.
    (0..args.requests / 10).for_each(|_| drop(request(&chain, &plugin, args, &mut Meter::default())));
    for _ in 0..args.requests {
        refusals += usize::from(request(&chain, &plugin, args, &mut meter).is_err());
    }
    if refusals > 0 {
        eprintln!("pilotlight: {refusals} of {} requests were refused by the guest, and end there", args.requests);
    }
    if args.json {
        let (name, digest) = (&plugin.spec().name, plugin.digest());
        return output::json(&json!({
            "guest": name, "digest": digest, "requests": args.requests, "refused": refusals, "tokens": args.tokens, "vocab": args.vocab,
            "hooks": meter.report(),
        }));
    }
    meter.lines().into_iter().try_for_each(output::line)
}

/// One request, as far as the guest lets it.
fn request(chain: &Chain, plugin: &Plugin, args: &GuestBench, meter: &mut Meter) -> std::result::Result<(), Refused> {
    let (hooks, begun) = (plugin.hooks(), std::time::Instant::now());
    let mut session = meter.begin(chain);
    if hooks.request {
        session.request(&asked())?;
    }
    if hooks.token {
        let mut steer = session.start(&(0..PROMPT).collect::<Vec<_>>(), args.vocab)?;
        let mut tokens = 0;
        // As a runtime does: what is forced comes, and is told together.
        while tokens < args.tokens && !steer.stop {
            let came = if steer.force.is_empty() { vec![allowed(&steer, tokens % args.vocab)] } else { steer.force };
            tokens += came.len() as u32;
            steer = session.next(&came, args.vocab)?;
        }
    }
    if hooks.text {
        let mut words = WORDS.iter().cycle().take(args.tokens as usize);
        let mut stopped = false;
        while let (Some(word), false) = (words.next(), stopped) {
            stopped = session.text(word, false)?.stop;
        }
        if !stopped {
            session.text("", true)?;
        }
    }
    if hooks.response {
        session.response(whole(WORDS.concat()))?;
    }
    drop(session);
    meter.add("request", begun.elapsed());
    Ok(())
}

/// This token, or the first that may come.
fn allowed(steer: &Steer, token: u32) -> u32 {
    let Some(mask) = &steer.mask else { return token };
    let may = |token: &u32| mask.get(*token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
    Some(token).filter(may).or_else(|| (0..mask.len() as u32 * 32).find(may)).unwrap_or(token)
}

fn asked() -> Request {
    let content = "Write one sentence about a lighthouse that is dark until a ship comes.".to_owned();
    let prompt = Prompt::Chat(vec![Message { role: "user".into(), content }]);
    Request { model: "model".into(), prompt, sampling: Sampling::default(), metadata: Vec::new() }
}
