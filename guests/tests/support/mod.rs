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
          (export "inference:guest/on-text@0.1.0" (instance $hook)))"#
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}"))
}

/// A component that exports on-token, with these bodies of `start` (`$ptr`, `$len` of the prompt, `$vocab`) and `next` (`$ptr`, `$len` of what was
/// accepted). `$say` takes what is said (0 free, 1 bias, 2 mask, 3 force, 4 stop), where its list is and how long; memory is free from 4096 on.
pub fn token_guest(start: &str, next: &str) -> Vec<u8> {
    let bias = r#"(record (field "token" u32) (field "add" f32))"#;
    let variant = |bias: &str| {
        format!(
            r#"(variant (case "free") (case "bias" (list {bias})) (case "mask" (list u32)) (case "force" (list u32)) (case "stop"))"#
        )
    };
    let rejection = r#"(record (field "status" u16) (field "code" string) (field "message" string))"#;
    let functions = |constraint: &str, rejection: &str, kind: &str| {
        let result = format!("(result (result {constraint} (error {rejection})))");
        let parameters = [
            ("start", r#"(param "prompt" (list u32)) (param "vocab-size" u32)"#),
            ("next", r#"(param "accepted" (list u32))"#),
        ];
        parameters.map(|(name, parameters)| match kind {
            "lift" => format!(
                r#"(func ${name} {parameters} {result} (canon lift (core func $i "{name}") (memory $i "memory") (realloc (func $i "realloc"))))"#
            ),
            "import" => format!(r#"(import "{name}" (func ${name} {parameters} {result}))"#),
            _ => format!(r#"(export "{name}-out" (func ${name}) (func {parameters} {result}))"#),
        })
        .concat()
    };
    let wat = format!(
        r#"(component
          (core module $m
            (memory (export "memory") 4)
            (global $top (mut i32) (i32.const 131072))
            (global $vocab (mut i32) (i32.const 0))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
              (local $p i32)
              (local.set $p (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
              (global.set $top (i32.add (local.get $p) (local.get 3)))
              (local.get $p))
            (func $say (param $what i32) (param $ptr i32) (param $len i32) (result i32)
              (global.set $top (i32.const 131072))
              (i32.store8 (i32.const 16) (i32.const 0))
              (i32.store8 (i32.const 20) (local.get $what))
              (i32.store (i32.const 24) (local.get $ptr))
              (i32.store (i32.const 28) (local.get $len))
              (i32.const 16))
            (func (export "start") (param $ptr i32) (param $len i32) (param $vocab i32) (result i32)
              (global.set $vocab (local.get $vocab)) {start})
            (func (export "next") (param $ptr i32) (param $len i32) (result i32) {next}))
          (core instance $i (instantiate $m))
          (type $bias {bias}) (type $constraint {constraint}) (type $rejection {rejection})
          {lifts}
          (component $shape
            (type $b0 {bias}) (import "bias" (type $b (eq $b0)))
            (type $c0 {inner}) (import "constraint" (type $c (eq $c0)))
            (type $r0 {rejection}) (import "rejection" (type $r (eq $r0)))
            {imports}
            (export $b1 "bias-out" (type $b0))
            (type $c2 {outer}) (export $c1 "constraint-out" (type $c2))
            (export $r1 "rejection-out" (type $r0))
            {exports})
          (instance $out (instantiate $shape
            (with "bias" (type $bias)) (with "constraint" (type $constraint)) (with "rejection" (type $rejection))
            (with "start" (func $start)) (with "next" (func $next))))
          (instance $hook (export "bias" (type $out "bias-out")) (export "constraint" (type $out "constraint-out"))
            (export "rejection" (type $out "rejection-out"))
            (export "start" (func $out "start-out")) (export "next" (func $out "next-out")))
          (export "inference:guest/on-token@0.1.0" (instance $hook)))"#,
        constraint = variant("$bias"),
        inner = variant("$b"),
        outer = variant("$b1"),
        lifts = functions("$constraint", "$rejection", "lift"),
        imports = functions("$c", "$r", "import"),
        exports = functions("$c1", "$r1", "export"),
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}"))
}

/// A body of `start` or `next` that says nothing of the next token.
pub const FREE: &str = "(call $say (i32.const 0) (i32.const 0) (i32.const 0))";

/// A mask of ids from this one on, so many words of 32, wherever the vocabulary ends.
pub fn mask_of_words(from: u32, words: u32) -> String {
    format!(
        "(memory.fill (i32.const 4096) (i32.const 0) (i32.const 65536))
        (memory.fill (i32.const {}) (i32.const 255) (i32.const {}))
        (call $say (i32.const 2) (i32.const 4096) (i32.div_u (i32.add (global.get $vocab) (i32.const 31)) (i32.const 32)))",
        4096 + from / 8,
        words * 4
    )
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
