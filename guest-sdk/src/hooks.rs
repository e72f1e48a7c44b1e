//! The hooks, as traits with the request's own state in `self`.

use crate::bindings::{request_hook, response_hook, text_hook, token_hook};
use crate::{Rejection, Request, TokenId};

pub use request_hook::exports::inference::guest::on_request::Verdict;
pub use response_hook::exports::inference::guest::on_response::Response;
pub use text_hook::exports::inference::guest::on_text::Edit;
pub use token_hook::exports::inference::guest::on_token::{Bias, Constraint};

/// Sees a request before it is rendered, possibly while the weights still load.
pub trait RequestHook {
    /// Lets the request pass, replaces it, or answers it without the model.
    ///
    /// # Errors
    /// A [`Rejection`] is what the client gets instead of an answer.
    fn request(&mut self, request: Request) -> Result<Verdict, Rejection>;
}

/// Constrains which token comes next; for what grammars cannot say.
pub trait TokenHook {
    /// Before the first token is sampled. A mask has one bit a token, bit `i % 32` of word `i / 32`.
    ///
    /// # Errors
    /// A [`Rejection`] ends the request.
    fn start(&mut self, prompt: &[TokenId], vocab_size: u32) -> Result<Constraint, Rejection>;

    /// After tokens were appended: more than one where the host speculates. Runs while the next forward pass does.
    ///
    /// # Errors
    /// A [`Rejection`] ends the generation.
    fn next(&mut self, accepted: &[TokenId]) -> Result<Constraint, Rejection>;
}

/// Edits the text on its way to the client.
pub trait TextHook {
    /// `window` is what is not settled yet; it begins where the last call's `consumed` ended, on a character boundary.
    /// The answer settles a part of it ([`Edit`]); the rest comes again with more text behind it. With `end` nothing more
    /// comes, and everything must be settled. The host bounds how much may be held back (4 KiB by default).
    ///
    /// # Errors
    /// A [`Rejection`] ends the generation; in a stream it is an error event.
    fn text(&mut self, window: &str, end: bool) -> Result<Edit, Rejection>;
}

/// Sees the whole answer of a request that is not streamed.
pub trait ResponseHook {
    /// The text that the client gets instead; `None` leaves it.
    ///
    /// # Errors
    /// A [`Rejection`] is what the client gets instead of the answer.
    fn response(&mut self, response: Response) -> Result<Option<String>, Rejection>;
}
