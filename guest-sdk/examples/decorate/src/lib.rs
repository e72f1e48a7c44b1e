//! An example guest: puts a system message before a chat, and behind it what is kept for the asker (`remember SECRET KEY: TEXT` in a message of the
//! role `system` keeps a text for who knows the manifest's `secret`; the request's `user` is the key). Retrieval with a store of one's own is the same with another source.

use guest_sdk::{Message, Prompt, Rejection, Request, RequestHook, Verdict, host, state};

#[derive(Default)]
struct Decorator;

impl RequestHook for Decorator {
    fn request(&mut self, mut request: Request) -> Result<Verdict, Rejection> {
        let user = request.metadata.iter().find(|(key, _)| key == "user").map(|(_, user)| user.clone());
        let Prompt::Chat(messages) = &mut request.prompt else { return Ok(Verdict::Pass) };
        if let Some(secret) = host::config("secret") {
            remember(messages, &secret)?;
        }
        let mut text = host::config("system").unwrap_or_default();
        if let Some(known) = user.and_then(|user| state::get(&user).ok().flatten()) {
            text = format!("{text}\n{}", String::from_utf8_lossy(&known));
        }
        if !text.is_empty() {
            messages.insert(0, Message { role: "system".into(), content: text });
        }
        Ok(Verdict::Replace(request))
    }
}

/// Keeps what is to be kept, and takes it out.
fn remember(messages: &mut Vec<Message>, secret: &str) -> Result<(), Rejection> {
    let begins = format!("remember {secret} ");
    let mut kept = Ok(());
    messages.retain(|message| {
        let told = message.content.strip_prefix(&begins).filter(|_| message.role == "system");
        let Some((key, text)) = told.and_then(|told| told.split_once(": ")) else { return true };
        kept = state::set(key, text.as_bytes(), 0);
        false
    });
    kept.map_err(|_| Rejection { status: 507, code: "no_room".into(), message: "This cannot be remembered.".into() })
}

guest_sdk::export!(Decorator: request);
