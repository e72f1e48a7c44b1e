//! Requests that have a connection of their own to their runtime: told from the first by the version that the double sees.

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    double::Start,
    house::{House, chat},
};

async fn seen(house: &House) -> Value {
    house.ask(&chat("", false)).await.json().await
}

/// Ready, and with one free connection.
async fn warm() -> (House, i64) {
    let house = House::new(&[Start::Ready]).await;
    let first = seen(&house).await;
    assert_eq!(first["version"], "HTTP/2.0", "a first request waits for no connection");
    for entry in ["launched", "asked", "dropped"] {
        house.files.read(entry).await;
    }
    (house, first["pid"].as_i64().unwrap())
}

#[tokio::test]
async fn what_a_runtime_sees_is_the_same_by_either_way() {
    let house = House::new(&[Start::Ready]).await;
    let (first, second) = (seen(&house).await, seen(&house).await);
    assert_eq!((&first["version"], &second["version"]), (&json!("HTTP/2.0"), &json!("HTTP/1.1")));
    for part in ["pid", "path", "body"] {
        assert_eq!(first[part], second[part]);
    }
    let names = |seen: &Value| seen["headers"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let without_length = |mut names: Vec<String>| {
        names.retain(|name| name != "content-length");
        names
    };
    assert_eq!(without_length(names(&first)), without_length(names(&second)));
    assert_eq!(seen(&house).await["version"], "HTTP/1.1", "it is used again");
}

#[tokio::test]
async fn a_client_that_leaves_a_connection_of_its_own_frees_its_sequence_and_nobody_elses() {
    let (house, pid) = warm().await;
    let mut other = house.ask(&chat("forever", true)).await;
    other.next().await.unwrap().unwrap();
    house.files.read("asked").await;
    for kind in ["hang", "forever"] {
        // A connection for the next.
        assert_eq!(seen(&house).await["pid"], pid);
        for entry in ["asked", "dropped"] {
            house.files.read(entry).await;
        }
        let body = chat(kind, kind == "forever");
        tokio::select! {
            () = async {
                let mut answer = house.ask(&body).await;
                while answer.next().await.is_some() {}
            } => panic!("it never ends"),
            _ = house.files.read("asked") => {}
        }
        house.files.read("dropped").await;
    }
    house.until("in_flight", 1).await;
    drop(other);
    house.files.read("dropped").await;
    assert_eq!(seen(&house).await["pid"], pid);
}

#[tokio::test]
async fn an_answer_that_breaks_on_its_own_connection_is_not_held_against_the_runtime() {
    let (house, pid) = warm().await;
    let broken = house.ask(&chat("reset", false)).await;
    assert_eq!(broken.status, 503, "its headers were there, but nothing of its body");
    for _ in 0..3 {
        assert_eq!(seen(&house).await["pid"], pid, "it lives, and is asked again");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_is_no_requests_matter() {
    let (house, pid) = warm().await;
    assert_eq!(house.ask(&chat("close", false)).await.text().await, "{}");
    for version in ["HTTP/2.0", "HTTP/1.1"] {
        let seen = seen(&house).await;
        assert_eq!((&seen["version"], &seen["pid"]), (&json!(version), &json!(pid)));
    }
}

#[tokio::test]
async fn a_death_on_a_connection_of_ones_own_is_a_death() {
    let (house, pid) = warm().await;
    let message = house.ask(&chat("die", false)).await.error(500).await;
    assert!(message.contains("died while it worked on this request, twice"), "{message}");
    assert_ne!(seen(&house).await["pid"], pid);
    let (house, pid) = warm().await;
    let mut stream = house.ask(&chat("forever", true)).await;
    stream.next().await.unwrap().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    let rest = stream.text().await;
    assert!(rest.contains("was lost") && rest.ends_with("data: [DONE]\n\n"), "it has no trail to go on from: {rest}");
    assert_ne!(seen(&house).await["pid"], pid);
}

#[tokio::test]
async fn more_requests_than_connections_are_all_answered() {
    let (house, pid) = warm().await;
    for _ in 0..3 {
        let bodies: Vec<_> = (0..200).map(|_| chat("", false)).collect();
        let answers = join_all(bodies.iter().map(|body| async { house.ask(body).await.json().await })).await;
        assert!(answers.iter().all(|answer| answer["pid"] == pid));
        let on_their_own = answers.iter().filter(|answer| answer["version"] == "HTTP/1.1").count();
        assert!(on_their_own > 0);
    }
}
