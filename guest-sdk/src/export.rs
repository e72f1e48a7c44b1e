//! `export!`: makes a type the guest of a component.

/// Exports a type as the guest, with exactly the hooks that are named: `request`, `token`, `text`, `response`.
///
/// The type is made by `Default` once for each request, and all its hooks share that one value.
///
/// ```ignore
/// guest_sdk::export!(Redactor: text, response);
/// ```
#[macro_export]
macro_rules! export {
    ($guest:ty: $($hook:ident),+ $(,)?) => {
        #[doc(hidden)]
        mod __guest_export {
            use super::*;

            ::std::thread_local! {
                // A component has one thread, and an instance serves one request.
                static GUEST: ::std::cell::RefCell<$guest> = ::std::default::Default::default();
            }

            struct Component;

            $($crate::__export_hook!($hook);)+
        }
    };
}

/// One hook of [`export!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (request) => {
        impl $crate::bindings::request_hook::exports::inference::guest::on_request::Guest for Component {
            fn handle(req: $crate::Request) -> Result<$crate::Verdict, $crate::Rejection> {
                GUEST.with_borrow_mut(|guest| $crate::RequestHook::request(guest, req))
            }
        }
        $crate::bindings::request_hook::export_request!(Component with_types_in $crate::bindings::request_hook);
    };
    (token) => {
        impl $crate::bindings::token_hook::exports::inference::guest::on_token::Guest for Component {
            fn start(prompt: Vec<$crate::TokenId>, vocab: u32) -> Result<$crate::Constraint, $crate::Rejection> {
                GUEST.with_borrow_mut(|guest| $crate::TokenHook::start(guest, &prompt, vocab))
            }
            fn next(accepted: Vec<$crate::TokenId>) -> Result<$crate::Constraint, $crate::Rejection> {
                GUEST.with_borrow_mut(|guest| $crate::TokenHook::next(guest, &accepted))
            }
        }
        $crate::bindings::token_hook::export_token!(Component with_types_in $crate::bindings::token_hook);
    };
    (text) => {
        impl $crate::bindings::text_hook::exports::inference::guest::on_text::Guest for Component {
            fn handle(window: String, end: bool) -> Result<$crate::Edit, $crate::Rejection> {
                GUEST.with_borrow_mut(|guest| $crate::TextHook::text(guest, &window, end))
            }
        }
        $crate::bindings::text_hook::export_text!(Component with_types_in $crate::bindings::text_hook);
    };
    (response) => {
        impl $crate::bindings::response_hook::exports::inference::guest::on_response::Guest for Component {
            fn handle(res: $crate::Response) -> Result<Option<String>, $crate::Rejection> {
                GUEST.with_borrow_mut(|guest| $crate::ResponseHook::response(guest, res))
            }
        }
        $crate::bindings::response_hook::export_response!(Component with_types_in $crate::bindings::response_hook);
    };
}
