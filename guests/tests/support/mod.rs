//! Guests written in WebAssembly text, for this crate's tests and those of the command, so that they need no toolchain, and the example guest of the SDK.
#![allow(dead_code)]

use guests::{Chain, Host, Plugin, Refused, Scope, Session, Spec};
use std::sync::{Arc, LazyLock};

pub static HOST: LazyLock<Host> = LazyLock::new(|| Host::new().unwrap());

/// Settles everything unchanged.
pub const PASS: &str = "(call $answer (local.get $len) (i32.const 0) (i32.const 0))";

/// A component that exports on-text, with this body: `$ptr`, `$len`, `$end` are its parameters. `$answer` takes bytes settled, whether something is
/// emitted instead (the 3 bytes at 8), and whether it stops.
pub fn text_guest(body: &str) -> Vec<u8> {
    text_guest_with("", body)
}

/// The same with more functions, tables and globals of the module.
pub fn text_guest_with(more: &str, body: &str) -> Vec<u8> {
    let wat = format!(
        r#"(component
          (core module $m
            (memory (export "memory") 2)
            (data (i32.const 8) "<!>")
            (data (i32.const 100) "nope")
            (global $top (mut i32) (i32.const 1024))
            {more}
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
              (local $p i32)
              (local.set $p (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
              (global.set $top (i32.add (local.get $p) (local.get 3)))
              (local.get $p))
            (func $answer (param $consumed i32) (param $emits i32) (param $stop i32) (result i32)
              (global.set $top (i32.const 1024))
              (i32.store8 (i32.const 16) (i32.const 0))
              (i32.store (i32.const 20) (local.get $consumed))
              (i32.store8 (i32.const 24) (local.get $emits))
              (i32.store (i32.const 28) (i32.const 8))
              (i32.store (i32.const 32) (i32.const 3))
              (i32.store8 (i32.const 36) (local.get $stop))
              (i32.const 16))
            (func $reject (param $status i32) (result i32)
              (i32.store8 (i32.const 16) (i32.const 1))
              (i32.store16 (i32.const 20) (local.get $status))
              (i32.store (i32.const 24) (i32.const 100))
              (i32.store (i32.const 28) (i32.const 4))
              (i32.store (i32.const 32) (i32.const 100))
              (i32.store (i32.const 36) (i32.const 4))
              (i32.const 16))
            (func (export "handle") (param $ptr i32) (param $len i32) (param $end i32) (result i32) {body}))
          (core instance $i (instantiate $m))
          (type $edit' (record (field "consumed" u32) (field "emit" (option string)) (field "stop" bool)))
          (type $rejection' (record (field "status" u16) (field "code" string) (field "message" string)))
          (func $handle (param "window" string) (param "end" bool) (result (result $edit' (error $rejection')))
            (canon lift (core func $i "handle") (memory $i "memory") (realloc (func $i "realloc"))))
          (component $shape
            (import "edit'" (type $edit' (eq $e0)))
          ))"#
    );
    let wat = wat.replace(
        r#"(component $shape
            (import "edit'" (type $edit' (eq $e0)))
          ))"#,
        r#"(component $shape
            (type $e0 (record (field "consumed" u32) (field "emit" (option string)) (field "stop" bool)))
            (import "edit" (type $e (eq $e0)))
            (type $r0 (record (field "status" u16) (field "code" string) (field "message" string)))
            (import "rejection" (type $r (eq $r0)))
            (import "handle" (func $f (param "window" string) (param "end" bool) (result (result $e (error $r)))))
            (export $e1 "edit-out" (type $e0))
            (export $r1 "rejection-out" (type $r0))
            (export "handle-out" (func $f) (func (param "window" string) (param "end" bool) (result (result $e1 (error $r1))))))
          (instance $out (instantiate $shape
            (with "edit" (type $edit'))
            (with "rejection" (type $rejection'))
            (with "handle" (func $handle))))
          (instance $hook (export "edit" (type $out "edit-out")) (export "rejection" (type $out "rejection-out"))
            (export "handle" (func $out "handle-out")))
          (export "inference:guest/on-text@0.1.0" (instance $hook)))"#,
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}"))
}

pub fn load(spec: Spec, component: &[u8]) -> Arc<Plugin> {
    Arc::new(HOST.load(spec, component).unwrap_or_else(|error| panic!("{error}")))
}

/// One guest with this body, its policy closed.
pub fn session(body: &str) -> Session {
    chain(body).begin(Scope::default())
}

pub fn chain(body: &str) -> Chain {
    Chain::new([load(Spec::new("g"), &text_guest(body))])
}

/// All text that comes of these pieces, the end behind them.
pub fn stream<'a>(session: &mut Session, pieces: impl IntoIterator<Item = &'a str>) -> Result<String, Refused> {
    let mut seen = String::new();
    for piece in pieces {
        let edited = session.text(piece, false)?;
        seen += &edited.text;
        if edited.stop {
            return Ok(seen);
        }
    }
    Ok(seen + &session.text("", true)?.text)
}

pub fn redact() -> Vec<u8> {
    include_bytes!("../../../guest-sdk/examples/redact/redact.wasm").to_vec()
}
