#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;

fn line(n: u64) -> Line {
    let text = |text: &str| text.to_owned();
    Line {
        id: text("\"hash\":\"not this one\"}"),
        at_ms: n,
        tenant: text("acme"),
        by: text("key:pl_1"),
        path: text("/v1/completions"),
        model: text("m"),
        status: 200,
        complete: true,
        completion_tokens: n,
        ..Line::default()
    }
}

async fn write(path: &Path, lines: std::ops::Range<u64>) {
    let audit = Audit::open(path).unwrap();
    for n in lines {
        audit.room().await.unwrap().write(line(n));
    }
    audit.finish().await;
}

#[tokio::test]
async fn a_chain_goes_on_over_restarts_and_shows_every_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 0..5).await;
    write(&path, 5..9).await;
    let good = verify(&path).unwrap();
    assert_eq!(good.lines, 9);

    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let broken_at = |text: &str| match fs::write(&path, text).map(|()| verify(&path)).unwrap() {
        Err(Broken::Line { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    let without = |left_out: usize| {
        let kept = lines.iter().enumerate().filter(|(n, _)| *n != left_out);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(broken_at(&without(3)), 4);
    assert_eq!(broken_at(&without(0)), 1);
    assert_eq!(broken_at(&text.replacen("\"status\":200", "\"status\":500", 1)), 1);
    assert_eq!(broken_at(&text.replace("\"at_ms\":7", "\"at_ms\":8")), 8);
    assert_eq!(broken_at(&format!("{text}{}\n", lines[8])), 10);
    assert_eq!(broken_at(&format!("{text}{{}}\n")), 10);
    assert_eq!(broken_at(text.trim_end()), 9);
    // Cutting whole lines off the end shows only beside a hash that was kept elsewhere.
    fs::write(&path, without(8)).unwrap();
    assert_ne!(verify(&path).unwrap().hash, good.hash);
}

#[tokio::test]
async fn a_line_that_was_cut_is_put_aside_and_the_chain_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, 0..3).await;
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    write(&path, 3..5).await;
    assert_eq!(verify(&path).unwrap().lines, 4);
    let aside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".broken-");
    assert_eq!(fs::read_dir(folder.path()).unwrap().filter(|entry| aside(entry.as_ref().unwrap())).count(), 1);
}

#[tokio::test]
async fn something_else_is_no_audit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for other in ["x".repeat(1 << 20), "a list of things to buy\n".to_owned()] {
        fs::write(&path, &other).unwrap();
        assert!(Audit::open(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), other, "it was left alone");
    }
    assert!(Audit::open(folder.path()).is_err());
    assert!(matches!(verify(&folder.path().join("nothing")), Err(Broken::Io(_))));
}

/// As a process and its successor do.
#[tokio::test]
async fn two_writers_make_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (one, other) = (Audit::open(&path).unwrap(), Audit::open(&path).unwrap());
    for n in 0..100 {
        (if n % 3 == 0 { &one } else { &other }).room().await.unwrap().write(line(n));
        if n % 7 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    one.finish().await;
    other.finish().await;
    assert_eq!(verify(&path).unwrap().lines, 100);
}

/// On a disk without room.
#[tokio::test]
async fn while_nothing_can_be_written_nobody_gets_room() {
    let file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let writer = Writer { file, path: "/dev/full".into(), bytes: 0, seq: 0, prev: GENESIS.into() };
    let audit = Audit::start(writer).unwrap();
    audit.room().await.unwrap().write(line(1));
    let refused =
        async { while tokio::time::timeout(std::time::Duration::from_millis(50), audit.room()).await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), refused).await.unwrap();
}
