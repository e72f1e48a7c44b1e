//! Server-sent events: relayed as they come, waited for with comments, always ended by `[DONE]`.

use std::time::Duration;

use crate::{
    double::Start,
    house::{Files, House, chat, open},
};

/// A house whose first life becomes ready when the gate opens, and whose streams get their headers at once.
async fn gated() -> (House, std::path::PathBuf) {
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate.clone())]));
    let config = activator::Config { early_headers_after: Duration::ZERO, ..files.config() };
    (House { activator: activator::Activator::start(config).await.unwrap(), files }, gate)
}

#[tokio::test]
async fn a_stream_is_relayed_as_it_comes() {
    let house = House::new(&[Start::Ready]).await;
    let answer = house.ask(&chat("", true)).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.text().await, "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn a_held_stream_gets_early_headers_and_a_comment_and_then_its_answer() {
    let (house, gate) = gated().await;
    let mut answer = house.ask(&chat("", true)).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["content-type"]), (200, &"text/event-stream".parse().unwrap()));
    assert_eq!(answer.next().await.unwrap().unwrap(), ": waiting\n\n");
    open(&gate).await;
    assert_eq!(answer.text().await, "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn an_error_after_early_headers_is_an_event_and_done() {
    let (house, gate) = gated().await;
    let mut answer = house.ask(&chat("refuse", true)).await;
    assert_eq!(answer.next().await.unwrap().unwrap(), ": waiting\n\n");
    open(&gate).await;
    let expected = "data: {\"error\":{\"message\":\"refused\",\"type\":\"t\",\"code\":null}}\n\ndata: [DONE]\n\n";
    assert_eq!(answer.text().await, expected);
}

#[tokio::test]
async fn an_error_before_the_headers_keeps_its_status() {
    let house = House::new(&[Start::Ready]).await;
    assert_eq!(house.ask(&chat("refuse", true)).await.error(400).await, "refused");
}

#[tokio::test]
async fn a_deadline_after_early_headers_is_an_event_and_done() {
    let (house, _gate) = gated().await;
    let answer = house.ask_with(&[("x-request-timeout-ms", "50")], &chat("", true)).await;
    let text = answer.text().await;
    assert!(text.starts_with(": waiting\n\n") && text.contains("deadline_exceeded"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    house.until("held", 0).await;
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_stream_ends_it_and_frees_its_sequence() {
    let house = House::new(&[Start::Ready]).await;
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    let answer = house.ask_with(&[("x-request-timeout-ms", "500")], &chat("forever", true)).await;
    let text = answer.text().await;
    assert!(text.starts_with("data: 1\n\n") && text.contains("deadline_exceeded"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    for entry in ["launched", "asked", "dropped", "asked", "dropped"] {
        house.files.read(entry).await;
    }
    house.until("in_flight", 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_its_sequence() {
    let house = House::new(&[Start::Ready]).await;
    let body = chat("hang", false);
    tokio::select! {
        _ = house.ask(&body) => panic!("it never answers"),
        () = async {
            house.files.read("launched").await;
            house.files.read("asked").await;
        } => {}
    }
    house.files.read("dropped").await;
    house.until("in_flight", 0).await;
}

#[tokio::test]
async fn a_stream_that_ends_without_done_is_told_from_a_whole_one() {
    let house = House::new(&[Start::Ready]).await;
    let text = house.ask(&chat("unfinished", true)).await.text().await;
    assert!(text.starts_with("data: 1\n\ndata: {\"error\":{") && text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
}
