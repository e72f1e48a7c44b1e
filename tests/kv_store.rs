//! Conversations that go on after their model went to zero, seen from outside: what was computed is there again, what is answered is the
//! same, and whatever happens to the folder only costs time.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use support::{Serve, golden, pilotlight, until};
use tempfile::TempDir;

/// Ten whole blocks and a rest.
const TOKENS: usize = 330;
const BLOCKS: usize = TOKENS / 32;
/// Of llama3-tiny with float16: 3 layers, 2 heads of 8, keys and values, 32 positions; and the index.
const RECORD_BYTES: usize = 8192 + 72;

fn conversation(number: usize) -> Vec<usize> {
    (0..TOKENS).map(|t| 2 + (t * 31 + number) % 700).collect()
}

/// Asks conversation `number`, gone on by `more` tokens, and returns what must not depend on where its beginning comes from.
fn ask(server: &Serve, number: usize, more: usize) -> Value {
    let prompt: Vec<usize> = conversation(number).into_iter().chain((0..more).map(|i| 5 + i)).collect();
    let answer = server.post(
        "/v1/completions",
        &json!({"model": "tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": true, "temperature": 0.7, "seed": number,
            "logprobs": 2, "return_tokens_as_token_ids": true}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"].clone()
}

fn serve(idle: &str, more: &[&str]) -> Serve {
    let model = format!("tiny={}", golden("llama3-tiny", "native").display());
    Serve::start(&[&["--model", &model, "--idle", idle], more].concat())
}

fn plain() -> Serve {
    serve("60s", &[])
}

fn keeping(folder: &Path, records: usize) -> Serve {
    serve("400ms", &["--kv-dir", folder.to_str().unwrap(), "--kv-disk", &(records * RECORD_BYTES).to_string()])
}

fn reused(server: &Serve) -> usize {
    server.metric("prefix_reused_tokens_total{model=\"tiny\"}") as usize
}

/// What all lives so far have reused, once the last of them is over and has said so.
fn reused_in_all(server: &Serve) -> usize {
    server.until_slot("tiny", "cold");
    reused(server)
}

fn file(folder: &Path, suffix: &str) -> PathBuf {
    let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == suffix)).unwrap()
}

#[test]
fn of_a_hundred_conversations_those_that_the_disk_holds_go_on_where_they_were_and_all_are_answered_alike() {
    let folder = TempDir::new().unwrap();
    let (kept, plain) = (keeping(folder.path(), 50 * BLOCKS), plain());
    for number in 0..100 {
        assert_eq!(ask(&kept, number, 0), ask(&plain, number, 0), "conversation {number}");
    }
    assert_eq!(reused_in_all(&kept), 0);
    let on_disk = fs::metadata(file(folder.path(), "blocks")).unwrap().len() as usize;
    assert!(on_disk <= 50 * BLOCKS * RECORD_BYTES, "{on_disk} bytes");
    // The newest first: who is computed again takes the place of the longest unused.
    for number in (50..100).rev() {
        assert_eq!(ask(&kept, number, 9), ask(&plain, number, 9), "conversation {number}");
    }
    let newest = reused_in_all(&kept);
    assert_eq!(newest, 50 * BLOCKS * 32, "all blocks of the newest fifty");
    for number in (0..50).rev() {
        assert_eq!(ask(&kept, number, 9), ask(&plain, number, 9), "conversation {number}");
    }
    assert_eq!(reused_in_all(&kept), newest, "the oldest were computed again");
}

#[test]
fn a_flipped_bit_a_lost_file_or_a_lost_key_is_computed_again() {
    let plain = plain();
    let expected = ask(&plain, 1, 9);
    for damage in ["block", "index", "file", "key"] {
        let folder = TempDir::new().unwrap();
        let server = keeping(folder.path(), 100);
        ask(&server, 1, 0);
        server.until_slot("tiny", "cold");
        let flip = |path: PathBuf, at: usize| {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            fs::write(path, bytes).unwrap();
        };
        match damage {
            // Of the fourth block, which the first three come before.
            "block" => flip(file(folder.path(), "blocks"), 3 * 8192 + 1000),
            "index" => flip(file(folder.path(), "index"), 3 * 72 + 55),
            "file" => fs::remove_file(file(folder.path(), "blocks")).unwrap(),
            _ => fs::remove_file(folder.path().join("key")).unwrap(),
        }
        assert_eq!(ask(&server, 1, 9), expected, "{damage}");
        let found = if matches!(damage, "block" | "index") { 3 * 32 } else { 0 };
        assert_eq!(reused_in_all(&server), found, "{damage}");
    }
}

#[test]
fn a_killed_runtime_has_kept_what_it_had_time_for() {
    let folder = TempDir::new().unwrap();
    let server = serve("60s", &["--kv-dir", folder.path().to_str().unwrap()]);
    let plain = plain();
    ask(&server, 1, 0);
    // A block's entry is written when the block is there.
    let said = |index: Vec<u8>| index.chunks(72).filter(|entry| entry.iter().any(|byte| *byte != 0)).count();
    until("all blocks on disk", || (said(fs::read(file(folder.path(), "index")).ok()?) == BLOCKS).then_some(()));
    let pid = server.slot("tiny")["replicas"][0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    until("a new life", || (server.slot("tiny")["replicas"][0]["pid"].as_i64() != Some(pid)).then_some(()));
    assert_eq!(ask(&server, 1, 9), ask(&plain, 1, 9));
    until("the reused tokens", || (reused(&server) == BLOCKS * 32).then_some(()));
}

#[test]
fn a_folder_or_key_that_cannot_be_used_is_said_before_anything_is_served() {
    let folder = TempDir::new().unwrap();
    let model = format!("tiny={}", golden("llama3-tiny", "native").display());
    let no_folder = folder.path().join("file");
    fs::write(&no_folder, [0; 31]).unwrap();
    let refused = |words: &[&str], code: i32, said: &str| {
        let mut command = pilotlight();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--model", &model]).args(words);
        let (found, log) = Serve::try_spawn(command).err().unwrap();
        assert!(found == Some(code) && log.contains(said), "{words:?}: {found:?}: {log}");
    };
    refused(&["--kv-dir", no_folder.to_str().unwrap()], 74, "file");
    refused(&["--kv-dir", folder.path().to_str().unwrap(), "--kv-key", no_folder.to_str().unwrap()], 74, "32 bytes");
    refused(&["--kv-key", no_folder.to_str().unwrap()], 64, "--kv-dir");
}
