//! Deaths: before ready, after it, in the middle of an answer.

use std::time::Duration;

use protocol::control::FailureKind;
use rustix::process::Signal;
use serde_json::json;

use crate::{
    double::Start,
    house::{Files, House, Watched, chat},
};

#[tokio::test]
async fn a_death_before_ready_is_retried_while_the_request_is_held() {
    let house = House::new(&[Start::Die, Start::Ready]).await;
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    assert_eq!(house.files.lives(), 2);
}

#[tokio::test]
async fn three_deaths_in_a_row_before_ready_are_503_with_retry_after() {
    let house = House::new(&[Start::Die]).await;
    let answer = house.ask(&chat("", false)).await;
    assert_eq!(answer.headers["retry-after"], "1");
    let message = answer.error(503).await;
    assert!(message.contains("exited with code 9 before it was ready"), "{message}");
    assert_eq!(house.files.lives(), 3);
    let slot = house.slot().await;
    assert_eq!((&slot["state"], &slot["replicas"]), (&json!("failed"), &json!([])));
    house.ask(&chat("", false)).await.error(503).await;
    assert_eq!(house.files.lives(), 3, "answered from memory");
}

#[tokio::test]
async fn a_bad_snapshot_is_503_with_its_message_until_the_file_is_another() {
    let why = "section weights, offset 4096: checksum differs";
    let house = House::new(&[Start::Fail(FailureKind::BadSnapshot, why.into())]).await;
    let message = house.ask(&chat("", false)).await.error(503).await;
    assert!(message.ends_with(why), "{message}");
    assert_eq!(house.files.lives(), 1, "no retry can help");
    house.files.write(&house.files.script(&[Start::Ready]));
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
}

#[tokio::test]
async fn a_snapshot_that_is_gone_is_503_and_names_the_file() {
    let house = House::new(&[Start::Ready]).await;
    std::fs::remove_file(house.files.snapshot()).unwrap();
    let message = house.ask(&chat("", false)).await.error(503).await;
    assert!(message.contains("m.snapshot"), "{message}");
}

#[tokio::test]
async fn runtimes_that_hang_before_ready_are_killed_and_three_of_them_are_503() {
    let house = House::with(&[Start::Hang], |_, config| config.start_timeout = Duration::from_millis(50)).await;
    let message = house.ask(&chat("", false)).await.error(503).await;
    assert!(message.contains("not ready within 50ms"), "{message}");
    assert_eq!(house.slot().await["replicas"], json!([]), "seen to be gone");
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_503_and_named() {
    let house = House::with(&[], |_, config| config.runtime_command = vec!["/nowhere/pilotlight".into()]).await;
    let message = house.ask(&chat("", false)).await.error(503).await;
    assert!(message.contains("/nowhere/pilotlight"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_restoring_is_answered_by_the_next_life() {
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate), Start::Ready]));
    let house =
        std::sync::Arc::new(House { activator: activator::Activator::start(files.config()).await.unwrap(), files });
    let asked = tokio::spawn({
        let house = std::sync::Arc::clone(&house);
        async move { house.ask(&chat("", false)).await.json().await["pid"].as_i64().unwrap() }
    });
    let first = house.files.read("launched").await;
    // Only then has it chosen what to do in this life.
    while house.files.lives() == 0 {
        tokio::task::yield_now().await;
    }
    Watched::new(first).kill();
    assert_ne!(asked.await.unwrap(), i64::from(first));
    assert_eq!(house.files.lives(), 2);
}

#[tokio::test]
async fn death_in_the_middle_of_a_stream_is_an_error_event_and_done_and_the_next_request_gets_a_new_process() {
    for (user, last) in [("forever", "data: 1\n\n"), ("half", "data: 1\n\n")] {
        let house = House::new(&[Start::Ready]).await;
        let mut stream = house.ask(&chat(user, true)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), last);
        let first = house.files.read("launched").await;
        Watched::new(first).kill();
        let rest = stream.text().await;
        assert!(rest.starts_with("data: {\"error\":{"), "{rest}");
        assert!(rest.ends_with("}\n\ndata: [DONE]\n\n"), "{rest}");
        let next = house.ask(&chat("", false)).await.json().await;
        assert_ne!(next["pid"], first);
        assert_eq!(house.files.lives(), 2);
    }
}

#[tokio::test]
async fn death_before_the_answer_is_retried_once_on_a_new_runtime() {
    let house = House::new(&[Start::Ready]).await;
    let message = house.ask(&chat("die", false)).await.error(500).await;
    assert!(message.contains("twice"), "{message}");
    assert_eq!(house.files.lives(), 2);
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
}

#[tokio::test]
async fn what_somebody_outside_kills_is_no_requests_fault() {
    let house = House::new(&[Start::Ready]).await;
    let answer = async { house.ask(&chat("hang", false)).await.error(500).await };
    let deaths = async {
        for kill in 0..6 {
            house.files.read("launched").await;
            let pid = house.files.read("asked").await;
            // The last two are the kind of death that it might have brought about.
            Watched::new(pid).signal(if kill < 4 { Signal::KILL } else { Signal::ABORT });
        }
    };
    let (message, ()) = tokio::join!(answer, deaths);
    assert!(message.contains("twice"), "{message}");
    assert_eq!(house.files.lives(), 6);
}

#[tokio::test]
async fn one_request_that_the_runtime_gives_up_is_503_and_the_runtime_lives_on() {
    let house = House::new(&[Start::Ready]).await;
    house.ask(&chat("reset", false)).await.error(503).await;
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    assert_eq!(house.files.lives(), 1);
}
