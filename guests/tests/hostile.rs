//! Guests that mean harm, or are broken: each ends in its stated policy within its budget, the process lives, and nobody else notices.
#![allow(clippy::unwrap_used)]
mod support;

use guests::{Budgets, Chain, LoadError, OnFailure, Scope, Spec};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::{HOST, PASS, chain, load, redact, session, stream, text_guest, text_guest_with};

const LOOP: &str = "(loop $l (br $l)) (unreachable)";
const TRAP: &str = "(unreachable)";

/// The status and message that a guest with this body comes to, closed.
fn refusal(more: &str, body: &str) -> (u16, String) {
    let plugin = load(Spec::new("g"), &text_guest_with(more, body));
    let refused = Chain::new([plugin]).begin(Scope::default()).text("some text", false).unwrap_err();
    (refused.status, refused.message)
}

#[test]
fn a_guest_that_passes_all_on_changes_nothing() {
    assert_eq!(stream(&mut session(PASS), ["a", "ñ🙂", ""]).unwrap(), "añ🙂");
}

#[test]
fn an_endless_loop_ends_in_504_soon_after_its_budget() {
    let begun = Instant::now();
    let (status, message) = refusal("", LOOP);
    assert_eq!((status, message.as_str()), (504, "The guest 'g' took longer than its 2 ms."));
    // Generous: other tests run beside this one.
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_trap_is_502_and_named() {
    let (status, message) = refusal("", TRAP);
    assert_eq!(status, 502);
    assert!(message.contains("'g' trapped") && message.contains("unreachable"), "{message}");
}

#[test]
fn endless_recursion_ends_in_a_trap() {
    let (status, message) = refusal(
        "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))",
        "(call $deep (i32.const 1))",
    );
    assert_eq!(status, 502);
    assert!(message.contains("stack"), "{message}");
}

#[test]
fn memory_and_tables_grow_within_their_bounds_alone() {
    // Traps where growing succeeded.
    let grows = |pages: u32| {
        format!("(if (i32.ne (memory.grow (i32.const {pages})) (i32.const -1)) (then (unreachable))) {PASS}")
    };
    let bomb = session(&grows(1024)).text("x", false);
    assert_eq!(bomb.unwrap().text, "x", "it was refused, and lives");
    assert_eq!(session(&grows(1000)).text("x", false).unwrap_err().status, 502, "62 MiB are within 64");
    let table = |entries: u32| {
        let grow = format!(
            "(if (i32.ne (table.grow $t (ref.null func) (i32.const {entries})) (i32.const -1)) (then (unreachable))) {PASS}"
        );
        Chain::new([load(Spec::new("g"), &text_guest_with("(table $t 1 funcref)", &grow))])
            .begin(Scope::default())
            .text("x", false)
    };
    assert_eq!(table(1_000_000).unwrap().text, "x");
    assert_eq!(table(1000).unwrap_err().status, 502);
}

#[test]
fn what_cannot_be_an_edit_is_502() {
    for (body, why) in [
        ("(call $answer (i32.const 100000) (i32.const 0) (i32.const 0))", "100000 bytes of a window of 9"),
        ("(call $answer (i32.const -1) (i32.const 0) (i32.const 0))", "4294967295 bytes of a window"),
        // A string that lies beyond its memory.
        (
            "(drop (call $answer (i32.const 0) (i32.const 1) (i32.const 0))) (i32.store (i32.const 28) (i32.const -16)) (i32.const 16)",
            "out of bounds",
        ),
        // Bytes that are no UTF-8.
        (
            "(drop (call $answer (i32.const 0) (i32.const 1) (i32.const 0))) (i32.store8 (i32.const 8) (i32.const 255)) (i32.const 16)",
            "utf-8",
        ),
        // Neither none nor some.
        ("(call $answer (i32.const 0) (i32.const 7) (i32.const 0))", "discriminant"),
        ("(i32.const -4)", "out of bounds"),
        ("(i32.const 17)", "aligned"),
    ] {
        let (status, message) = refusal("", body);
        assert_eq!(status, 502, "{body}: {message}");
        assert!(message.to_lowercase().contains(why), "{body}: {message}");
    }
    let mut cuts = session("(call $answer (i32.const 1) (i32.const 0) (i32.const 0))");
    assert!(cuts.text("ñ", false).unwrap_err().message.contains("middle of a character"));
}

#[test]
fn a_huge_return_is_refused_before_it_is_the_hosts() {
    // A string of all its 64 MiB.
    let body = "(drop (memory.grow (i32.const 1000)))
        (drop (call $answer (i32.const 0) (i32.const 1) (i32.const 0)))
        (i32.store (i32.const 28) (i32.const 0)) (i32.store (i32.const 32) (i32.const 60000000)) (i32.const 16)";
    let (status, message) = refusal("", body);
    assert_eq!(status, 502, "{message}");
}

#[test]
fn text_that_is_held_back_is_bounded_and_settled_at_the_end() {
    let hold = "(call $answer (i32.const 0) (i32.const 0) (i32.const 0))";
    let mut session = session(hold);
    assert_eq!(session.text(&"x".repeat(4096), false).unwrap().text, "");
    assert!(session.text("x", false).unwrap_err().message.contains("held back 4097 bytes"));
    let mut session = chain(hold).begin(Scope::default());
    session.text("secret", false).unwrap();
    assert!(session.text("", true).unwrap_err().message.contains("held back 6 bytes at the end"));
}

#[test]
fn an_open_guest_that_fails_is_left_out_and_what_it_held_is_passed_on() {
    // Holds the first window back, and traps at the second.
    let body = "(if (i32.gt_u (local.get $len) (i32.const 3)) (then (unreachable))) (call $answer (i32.const 0) (i32.const 0) (i32.const 0))";
    let spec = Spec { on_failure: OnFailure::Open, ..Spec::new("g") };
    let chain = Chain::new([load(spec, &text_guest(body))]);
    assert_eq!(stream(&mut chain.begin(Scope::default()), ["ab", "cd", "ef"]).unwrap(), "abcdef");
}

#[test]
fn nothing_goes_through_a_closed_guest_that_has_failed() {
    let mut session = session(TRAP);
    let first = session.text("secret", false).unwrap_err();
    assert_eq!(session.text("more", false).unwrap_err(), first);
    assert_eq!(session.text("", true).unwrap_err(), first);
    let finish = guests::Finish::Stop;
    let usage = guests::Usage { prompt_tokens: 1, completion_tokens: 1, prefill_us: 0, decode_us: 0 };
    assert_eq!(session.response(guests::Response { text: "secret".into(), finish, usage }).unwrap_err(), first);
}

#[test]
fn what_may_not_be_seen_twice_is_no_replay() {
    let replayable = |policy, component: &[u8]| {
        let spec = Spec { replayable: true, on_failure: policy, ..Spec::new("g") };
        Chain::new([load(spec, component)]).is_replayable()
    };
    assert!(replayable(OnFailure::Closed, &text_guest(PASS)));
    assert!(!replayable(OnFailure::Open, &text_guest(PASS)), "it may have been left out before");
    assert!(!chain(PASS).is_replayable());
}

#[test]
fn a_module_of_two_memories_is_refused() {
    let refused = HOST.load(Spec::new("g"), &text_guest_with("(memory $second 1)", PASS)).unwrap_err().to_string();
    assert!(refused.contains("memories count of 2"), "{refused}");
}

#[test]
fn guests_after_a_stop_see_the_end_and_nothing_follows() {
    let stops = load(Spec::new("stops"), &text_guest("(call $answer (local.get $len) (i32.const 1) (i32.const 1))"));
    let passes = load(Spec::new("passes"), &text_guest(PASS));
    let mut session = Chain::new([stops, passes]).begin(Scope::default());
    let edited = session.text("abc", false).unwrap();
    assert_eq!((edited.text.as_str(), edited.stop), ("<!>", true));
}

#[test]
fn a_rejection_is_what_the_client_gets_and_a_status_that_is_none_is_400() {
    for (status, seen) in [(451, 451), (599, 599), (200, 400), (0, 400), (600, 400)] {
        let refused = session(&format!("(call $reject (i32.const {status}))")).text("x", false).unwrap_err();
        assert_eq!((refused.status, refused.code.as_str(), refused.message.as_str()), (seen, "nope", "nope"));
    }
}

#[test]
fn what_is_no_guest_is_refused_when_it_is_loaded() {
    let refused = |wat: &str| HOST.load(Spec::new("g"), &wat::parse_str(wat).unwrap()).unwrap_err().to_string();
    assert!(matches!(HOST.load(Spec::new("g"), b"oops"), Err(LoadError::Component(_))));
    assert!(matches!(HOST.load(Spec::new("g"), &[]), Err(LoadError::Component(_))));
    assert!(refused("(module)").contains("component"), "a module is none");
    assert!(refused("(component)").contains("exports none of"));
    let asks = refused(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    assert!(asks.contains("imports 'wasi:cli/environment@0.2.0', which is no service"), "{asks}");
    let asks = refused(r#"(component (import "inference:guest/state@0.1.0" (instance)))"#);
    assert!(asks.contains("'inference:guest/state@0.1.0', which it was not granted: grant 'state'"), "{asks}");
    let asks = refused(
        r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (instance $h (export "handle" (func $f)))
        (export "inference:guest/on-text@0.1.0" (instance $h)))"#,
    );
    assert!(asks.contains("its on-text has another type"), "{asks}");
    let spec = Spec { budgets: Budgets { memory_bytes: 1 << 30, ..Budgets::default() }, ..Spec::new("g") };
    assert!(matches!(HOST.load(spec, &redact()), Err(LoadError::Memory { .. })));
}

#[test]
fn a_guest_that_cannot_begin_is_refused_when_it_is_loaded() {
    let start = |body: &str| text_guest_with(&format!("(func $begin {body}) (start $begin)"), PASS);
    let refused = |body: &str| HOST.load(Spec::new("g"), &start(body)).unwrap_err().to_string();
    assert!(refused("(unreachable)").contains("cannot be instantiated"));
    assert!(refused("(loop $l (br $l))").contains("took longer than its 50 ms"));
}

#[test]
fn memory_comes_back_and_others_are_not_disturbed() {
    let (good, bad) = (chain(PASS), chain(TRAP));
    let greedy = chain(&format!(
        "(drop (memory.grow (i32.const 900))) (memory.fill (i32.const 4096) (i32.const 1) (i32.const 50000000)) {PASS}"
    ));
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    // Filling 50 MB takes its time.
    let round = || {
        let mut undisturbed = good.begin(Scope::default());
        assert_eq!(undisturbed.text("a", false).unwrap().text, "a");
        let _ = greedy.begin(Scope::default()).text("x", false);
        assert_eq!(bad.begin(Scope::default()).text("x", false).unwrap_err().status, 502);
        assert_eq!(undisturbed.text("b", true).unwrap().text, "b");
    };
    round();
    let before = resident();
    (0..50).for_each(|_| round());
    assert!(resident() < before + (40 << 20), "{} MB more", (resident() - before) >> 20);
}

#[test]
fn more_instances_than_there_is_room_for_are_503_and_then_there_is_room_again() {
    // A host of its own: others need instances meanwhile.
    let host = guests::Host::new().unwrap();
    let chain = Chain::new([Arc::new(host.load(Spec::new("g"), &text_guest(PASS)).unwrap())]);
    let mut kept = Vec::new();
    let refused = loop {
        let mut session = chain.begin(Scope::default());
        match session.text("x", false) {
            Ok(_) => kept.push(session),
            Err(refused) => break refused,
        }
        assert!(kept.len() <= 1000);
    };
    assert_eq!((refused.status, refused.code.as_str()), (503, "guest_unavailable"));
    drop(kept);
    assert_eq!(chain.begin(Scope::default()).text("x", false).unwrap().text, "x");
}
