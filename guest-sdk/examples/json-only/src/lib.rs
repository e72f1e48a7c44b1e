//! An example guest: every answer is JSON, of the schema in the manifest. The host enforces it; the guest only selects it.

use guest_sdk::{Grammar, Rejection, Request, RequestHook, Verdict, host};

#[derive(Default)]
struct JsonOnly;

impl RequestHook for JsonOnly {
    fn request(&mut self, mut request: Request) -> Result<Verdict, Rejection> {
        if request.sampling.grammar.is_some() {
            let message = "This model answers in JSON of its own schema: ask for no other form.".into();
            return Err(Rejection { status: 400, code: "json_only".into(), message });
        }
        let schema = host::config("schema").unwrap_or_else(|| r#"{"type": "object"}"#.into());
        request.sampling.grammar = Some(Grammar::JsonSchema(schema));
        Ok(Verdict::Replace(request))
    }
}

guest_sdk::export!(JsonOnly: request);
