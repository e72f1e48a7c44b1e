//! From zero and back: launch, hold, admit, idle, drain.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    client,
    double::Start,
    house::{Files, House, chat, open},
};

#[tokio::test]
async fn the_first_request_starts_the_runtime_and_gets_its_answer() {
    let house = House::new(&[Start::Ready]).await;
    assert_eq!(house.slot().await["state"], "cold");
    let body = chat("", false);
    let answer = house.ask_with(&[("x-forwarded-for", "1.2.3.4"), ("pilotlight-wake", "mine")], &body).await;
    assert_eq!(answer.status, 200);
    let seen = answer.json().await;
    assert_eq!(seen["path"], "/v1/chat/completions");
    assert_eq!(seen["body"], body.to_string(), "the original bytes");
    assert_eq!(
        (&seen["headers"]["host"], &seen["headers"]["x-forwarded-for"]),
        (&json!("test.example"), &json!("1.2.3.4"))
    );
    let wake: protocol::timings::Wake =
        serde_json::from_str(seen["headers"]["pilotlight-wake"].as_str().unwrap()).unwrap();
    assert!(wake.cold && wake.launch_ms > 0.0 && wake.restore_ms > 0.0, "{wake:?}");
    assert!(wake.launch_ms + wake.restore_ms <= wake.held_ms, "{wake:?}");
    let slot = house.slot().await;
    assert_eq!((&slot["state"], &slot["replicas"][0]["pid"]), (&json!("ready"), &seen["pid"]));
    assert!(slot["resident_bytes"].as_u64().unwrap() > 0 && slot["last_cold_start"]["launch_ms"].is_number(), "{slot}");

    let hot = house.ask(&chat("", false)).await.json().await;
    let wake: protocol::timings::Wake =
        serde_json::from_str(hot["headers"]["pilotlight-wake"].as_str().unwrap()).unwrap();
    assert_eq!((wake.cold, wake.launch_ms, wake.restore_ms, &hot["pid"]), (false, 0.0, 0.0, &seen["pid"]));
}

#[tokio::test]
async fn a_request_without_a_seed_is_given_one() {
    let house = House::new(&[Start::Ready]).await;
    let seed = async |extra: Value| {
        let mut body = chat("", false);
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let seen = house.ask_with(&[("pilotlight-seed", "7")], &body).await.json().await;
        seen["headers"]["pilotlight-seed"].as_str().map(|seed| seed.parse::<u64>().unwrap())
    };
    let (first, second) = (seed(json!({})).await.unwrap(), seed(json!({"seed": null})).await.unwrap());
    assert!(first != second && first != 7 && second != 7, "{first} {second}");
    assert_eq!(seed(json!({"seed": 7})).await, None, "the client's own is in the body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_first_requests_cause_exactly_one_launch() {
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate.clone())]));
    let house = Arc::new(House { activator: activator::Activator::start(files.config()).await.unwrap(), files });
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let house = Arc::clone(&house);
        clients.spawn(async move { house.ask(&chat("", false)).await.json().await["pid"].as_i64().unwrap() });
    }
    house.until("held", 64).await;
    let pid = house.files.read("launched").await;
    open(&gate).await;
    let pids = clients.join_all().await;
    assert_eq!(pids, vec![i64::from(pid); 64]);
    assert_eq!(house.files.lives(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_held_frees_its_place_and_the_restore_goes_on() {
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate.clone())]));
    let config = activator::Config { hold_max: 1, ..files.config() };
    let house = Arc::new(House { activator: activator::Activator::start(config).await.unwrap(), files });
    let first = tokio::spawn({
        let house = Arc::clone(&house);
        async move { house.ask(&chat("", false)).await.status }
    });
    house.until("held", 1).await;
    let second = house.ask(&chat("", false)).await;
    assert_eq!(second.headers["retry-after"], "1");
    second.error(429).await;
    first.abort();
    house.until("held", 0).await;
    assert_eq!(house.slot().await["state"], "starting");
    open(&gate).await;
    house.slot_when("ready").await;
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    assert_eq!(house.files.lives(), 1);
}

#[tokio::test]
async fn a_deadline_that_passes_while_held_is_504_and_frees_the_place() {
    let house = House::new(&[Start::Hang]).await;
    let message = house.ask_with(&[("X-Request-Timeout-Ms", "30")], &chat("", false)).await.error(504).await;
    assert!(message.contains("deadline"), "{message}");
    house.until("held", 0).await;
    for wrong in ["0", "-1", "soon"] {
        house.ask_with(&[("X-Request-Timeout-Ms", wrong)], &chat("", false)).await.error(400).await;
    }
}

#[tokio::test]
async fn an_idle_runtime_is_drained_and_its_process_gone_and_the_next_life_is_another() {
    let house = House::with(&[Start::Ready], |_, config| config.idle = Duration::from_millis(50)).await;
    let first = house.ask(&chat("", false)).await.json().await["pid"].clone();
    let slot = house.slot_when("cold").await;
    assert_eq!(slot["replicas"], json!([]));
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "reaped");
    let second = house.ask(&chat("", false)).await.json().await["pid"].clone();
    assert_ne!(first, second);
}

#[tokio::test]
async fn the_idle_clock_does_not_run_while_an_answer_does() {
    let house = House::with(&[Start::Ready], |_, config| config.idle = Duration::from_millis(1)).await;
    let mut stream = house.ask(&chat("forever", true)).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    assert_eq!(
        (house.slot().await["state"].clone(), house.slot().await["in_flight"].clone()),
        (json!("ready"), json!(1))
    );
    house.files.read("launched").await;
    house.files.read("asked").await;
    drop(stream);
    // The stream's end and the drain travel over two sockets: either may be heard first.
    house.files.read_in_any_order(["draining", "dropped"]).await;
    house.slot_when("cold").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_arrives_while_draining_is_served_by_the_next_life() {
    let files = Files::new();
    let gate = files.gate("gate");
    let script = crate::double::Script { drain_gate: Some(gate.clone()), ..files.script(&[Start::Ready]) };
    files.write(&script);
    let config = activator::Config { idle: Duration::from_millis(1), ..files.config() };
    let house = Arc::new(House { activator: activator::Activator::start(config).await.unwrap(), files });
    let first = house.ask(&chat("", false)).await.json().await["pid"].clone();
    house.slot_when("draining").await;
    let second = tokio::spawn({
        let house = Arc::clone(&house);
        async move { house.ask(&chat("", false)).await.json().await["pid"].clone() }
    });
    house.until("held", 1).await;
    open(&gate).await;
    assert_ne!(first, second.await.unwrap());
    open(&gate).await;
}

#[tokio::test]
async fn a_runtime_that_ignores_its_drain_is_killed_and_seen_to_be_gone() {
    let house = House::with(&[Start::Ready], |script, config| {
        script.ignores_drain = true;
        config.idle = Duration::from_millis(1);
        config.drain_timeout = Duration::from_millis(20);
    })
    .await;
    let pid = house.ask(&chat("", false)).await.json().await["pid"].clone();
    house.slot_when("cold").await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "reaped");
}

#[tokio::test]
async fn a_standby_is_taken_by_the_next_cold_slot_and_replaced_once_that_has_had_time_to_compute() {
    let house = House::with(&[Start::Ready], |_, config| (config.standby, config.idle) = (1, Duration::ZERO)).await;
    let asked = std::time::Instant::now();
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    let slot = house.slot().await;
    assert_eq!(slot["last_cold_start"]["standby"], true);
    // Cold starts one after another do not put it off for ever.
    let next = async {
        loop {
            house.slot_when("cold").await;
            assert_eq!(house.ask(&chat("", false)).await.status, 200);
            if house.slot().await["last_cold_start"]["standby"] == true {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), next).await.expect("another standby");
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn many_lives_leave_nothing_behind() {
    let house = House::with(&[Start::Ready], |_, config| config.idle = Duration::ZERO).await;
    for _ in 0..20 {
        client::send(
            house.activator.api(),
            client::request("POST", "/v1/chat/completions", &[], chat("", false).to_string()),
        )
        .await
        .json()
        .await;
        house.slot_when("cold").await;
    }
    assert_eq!(house.files.lives(), 20);
    let metrics = house.admin("/metrics").await.text().await;
    assert!(metrics.contains("pilotlight_cold_starts_total{model=\"m\",outcome=\"ready\"} 20"), "{metrics}");
    assert!(metrics.contains("pilotlight_requests_total{model=\"m\",class=\"2xx\"} 20"), "{metrics}");
    assert!(metrics.contains("pilotlight_slot_state{model=\"m\",state=\"cold\"} 1"), "{metrics}");
}
