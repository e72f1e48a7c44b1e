//! What guests hand over: any bytes as the answer of `on-text`, and any bytes as a snapshot's guests section. Each is taken or refused, soon, and
//! nothing is lost or said twice.
#![no_main]

#[path = "../../guests/tests/support/mod.rs"]
mod wasm;

use guests::{Bundle, Chain, Scope, Spec};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// Answers with its window's characters, U+0100 and so on, each taken for a byte.
static PARROT: LazyLock<Chain> = LazyLock::new(|| {
    let body = "(local $i i32)
        (block $done (loop $next
          (br_if $done (i32.ge_u (local.get $i) (i32.div_u (local.get $len) (i32.const 2))))
          (i32.store8 offset=16 (local.get $i)
            (i32.or
              (i32.shl (i32.and (i32.load8_u (i32.add (local.get $ptr) (i32.shl (local.get $i) (i32.const 1)))) (i32.const 3)) (i32.const 6))
              (i32.and (i32.load8_u offset=1 (i32.add (local.get $ptr) (i32.shl (local.get $i) (i32.const 1)))) (i32.const 63))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
        (i32.const 16)";
    Chain::new([wasm::load(Spec::new("parrot"), &wasm::text_guest(body))])
});

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    if what % 2 == 0 {
        if let Ok(bundle) = Bundle::from_bytes(bytes) {
            assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).expect("what was written can be read"), bundle);
        }
        return;
    }
    let window: String =
        bytes.iter().take(256).map(|byte| char::from_u32(0x100 + u32::from(*byte)).unwrap_or('x')).collect();
    let mut session = PARROT.begin(Scope::default());
    match session.text(&window, what % 4 == 3) {
        Ok(edited) => assert!(edited.text.len() <= 8 << 20),
        Err(refused) => assert!((400..=599).contains(&refused.status) && !refused.message.is_empty()),
    }
});
