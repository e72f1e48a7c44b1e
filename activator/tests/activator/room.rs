//! Several runtimes of a model, and models that make room for each other.

use std::time::Duration;

use activator::{GroupEntry, ModelEntry};
use serde_json::{Value, json};

use crate::{
    double::Start,
    house::{House, chat},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `/slots` shows this of the model.
async fn until(house: &House, model: &str, what: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let slots = house.admin("/slots").await.json().await;
            let slot = slots.as_array().unwrap().iter().find(|slot| slot["name"] == model).unwrap().clone();
            if what(&slot) {
                return slot;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{model} never came to that"))
}

fn of(model: &str) -> Value {
    let mut asked = chat("", false);
    asked["model"] = model.into();
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_take_turns_make_room_for_each_other() {
    let house = House::with(&[Start::Ready], |_, config| {
        config.models.push(ModelEntry::new("n", &config.models[0].snapshot));
        config.residence = Duration::ZERO;
        config.groups =
            vec![GroupEntry { name: "turns".into(), models: vec!["m".into(), "n".into()], ..GroupEntry::default() }];
    })
    .await;
    for round in 1..=3 {
        for (model, other) in [("m", "n"), ("n", "m")] {
            assert_eq!(house.ask(&of(model)).await.status, 200);
            until(&house, other, |slot| slot["state"] == "cold").await;
            until(&house, model, |slot| slot["state"] == "ready").await;
        }
        let metrics = house.admin("/metrics").await.text().await;
        assert!(metrics.contains(&format!("pilotlight_evictions_total{{model=\"m\"}} {round}")), "{metrics}");
    }
    assert_eq!(house.files.lives(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_busy_goes_when_somebody_has_waited_long_enough_and_nobody_loses_anything() {
    let house = House::with(&[Start::Ready], |_, config| {
        config.models.push(ModelEntry::new("n", &config.models[0].snapshot));
        config.residence = Duration::from_millis(300);
        config.groups =
            vec![GroupEntry { name: "turns".into(), models: vec!["m".into(), "n".into()], ..GroupEntry::default() }];
    })
    .await;
    // Four always ask for `m`, for as long as the other waits.
    let asked = chat("", false);
    let busy = futures_util::future::join_all((0..4).map(|_| async {
        loop {
            assert_eq!(house.ask(&asked).await.status, 200);
        }
    }));
    let other = async {
        until(&house, "m", |slot| slot["state"] == "ready").await;
        assert_eq!(house.ask(&of("n")).await.status, 200);
    };
    tokio::select! {
        _ = busy => unreachable!("they ask for ever"),
        () = other => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_gets_more_runtimes_and_each_has_its_share() {
    let house = House::with(&[Start::Ready], |_, config| {
        let model = &mut config.models[0];
        (model.max_replicas, model.concurrency, model.target) = (3, Some(2), Some(1.0));
    })
    .await;
    let hang = chat("hang", false);
    let crowd = futures_util::future::join_all((0..7).map(|_| house.ask(&hang)));
    let full = async {
        let slot = until(&house, "m", |slot| slot["in_flight"] == 6).await;
        let shares: Vec<_> = slot["replicas"].as_array().unwrap().iter().map(|one| one["in_flight"].clone()).collect();
        assert_eq!((shares, &slot["held"]), (vec![json!(2), json!(2), json!(2)], &json!(1)));
        assert!(slot["replicas"].as_array().unwrap().iter().all(|one| one["slice"] == "cpu"), "{slot}");
        let metrics = house.admin("/metrics").await.text().await;
        assert!(metrics.contains("pilotlight_replicas{model=\"m\"} 3"), "{metrics}");
    };
    tokio::select! {
        _ = crowd => panic!("they hang"),
        () = full => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_started_once() {
    let house = House::with(&[Start::Ready], |_, config| {
        (config.models[0].min_replicas, config.models[0].max_replicas) = (1, 2);
    })
    .await;
    until(&house, "m", |slot| slot["state"] == "ready").await;
    let starts = house.admin("/cold-starts").await.json().await;
    let launches: Vec<_> = starts.as_array().unwrap().iter().map(|start| start["launch"].clone()).collect();
    assert_eq!(launches, [json!(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_where_it_began() {
    let house = House::with(&[Start::Ready], |_, config| {
        (config.models[0].min_replicas, config.models[0].max_replicas) = (2, 2);
    })
    .await;
    let ready =
        |slot: &Value| slot["replicas"].as_array().unwrap().iter().filter(|one| one["state"] == "ready").count();
    until(&house, "m", |slot| ready(slot) == 2).await;
    let conversation = |turns: usize| {
        let messages = vec![json!({"role": "user", "content": "once upon a time ".repeat(40)}); turns];
        json!({"model": "m", "messages": messages})
    };
    let pid = async |body: &Value| house.ask(body).await.json().await["pid"].clone();
    let first = pid(&chat("", false)).await;
    let begun = {
        // While the first is busy, the conversation begins at the other.
        let mut busy = house.ask(&chat("forever", true)).await;
        busy.next().await.unwrap().unwrap();
        pid(&conversation(1)).await
    };
    assert_ne!(begun, first);
    until(&house, "m", |slot| slot["in_flight"] == 0).await;
    assert_eq!(pid(&chat("", false)).await, first, "the least busy one, of those that came first");
    assert_eq!(pid(&conversation(2)).await, begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fits_nowhere_is_told_so() {
    let house = House::with(&[Start::Ready], |_, config| config.models[0].memory = Some(u64::MAX / 2)).await;
    let said = house.ask(&chat("", false)).await.error(503).await;
    assert!(said.contains("memory") && said.contains("largest slice"), "{said}");
    assert_eq!(house.files.lives(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_say_who_has_how_much_of_them() {
    let house = House::with(&[Start::Ready], |_, config| {
        (config.models[0].memory, config.models[0].min_replicas, config.models[0].max_replicas) =
            (Some(100 << 20), 2, 2);
        let other = ModelEntry { memory: Some(70 << 20), ..ModelEntry::new("n", &config.models[0].snapshot) };
        config.models.push(other);
    })
    .await;
    until(&house, "m", |slot| slot["replicas"].as_array().is_some_and(|replicas| replicas.len() == 2)).await;
    let slices = async || house.admin("/slices").await.json().await;
    let m = json!({"name": "m", "bytes": 200 << 20, "replicas": 2});
    let before = slices().await;
    assert_eq!((&before[0]["name"], &before[0]["kind"]), (&json!("cpu"), &json!("cpu")), "{before}");
    assert!(before[0]["bytes"].as_u64().unwrap() > 200 << 20, "{before}");
    assert_eq!((&before[0]["used_bytes"], &before[0]["models"]), (&json!(200 << 20), &json!([m])), "{before}");
    assert_eq!(house.ask(&of("n")).await.status, 200);
    let after = slices().await;
    let n = json!({"name": "n", "bytes": 70 << 20, "replicas": 1});
    assert_eq!((&after[0]["used_bytes"], &after[0]["models"]), (&json!(270 << 20), &json!([m, n])), "{after}");
}
