//! A configuration that changes while requests run.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use activator::{
    Activator, Config, ModelEntry, Source,
    tenants::{TenantEntry, key::KeyHash},
};
use protocol::control::FailureKind;
use serde_json::json;

use crate::{
    client,
    double::Start,
    house::{Files, House, chat, open},
};

/// An activator whose configuration is what `now` holds whenever its "file" changes.
struct Changing {
    house: House,
    now: Arc<Mutex<Result<Config, String>>>,
    version: u32,
    /// How often it was read.
    reads: Arc<AtomicUsize>,
}

impl Changing {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let files = Files::new();
        files.write(&files.script(&[Start::Ready]));
        let file = files.folder.path().join("pilotlight.toml");
        std::fs::write(&file, "").unwrap();
        let mut config = files.config();
        change(&mut config);
        let now = Arc::new(Mutex::new(Ok(config.clone())));
        let reads = Arc::new(AtomicUsize::new(0));
        let read = {
            let (now, reads) = (now.clone(), reads.clone());
            Arc::new(move || {
                reads.fetch_add(1, Ordering::Relaxed);
                now.lock().unwrap().clone()
            })
        };
        let activator = Activator::begin(config, Some(Source::new(file, read))).await.unwrap();
        Self { house: House { activator, files }, now, version: 0, reads }
    }

    fn change(&mut self, config: Result<Config, String>) {
        *self.now.lock().unwrap() = config;
        self.version += 1;
        // Replaced as editors and Kubernetes do it.
        let folder = self.house.files.folder.path();
        std::fs::write(folder.join("new"), self.version.to_string()).unwrap();
        std::fs::rename(folder.join("new"), folder.join("pilotlight.toml")).unwrap();
    }

    /// Changes it and waits until that was taken in or refused: one reading begins only when the one before is over.
    async fn settle(&mut self, config: Result<Config, String>) {
        for _ in 0..2 {
            let before = self.reads.load(Ordering::Relaxed);
            self.change(config.clone());
            let read = async {
                while self.reads.load(Ordering::Relaxed) == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), read).await.expect("it was never read");
        }
    }

    /// Its model has another snapshot, of which the first lives were those before it.
    fn replace(&mut self, name: &str, starts: &[Start]) {
        let mut config = self.config();
        config.models[0].snapshot = self.house.files.folder.path().join(name);
        let script = serde_json::to_vec(&self.house.files.script(starts)).unwrap();
        std::fs::write(&config.models[0].snapshot, script).unwrap();
        self.change(Ok(config));
    }

    fn config(&self) -> Config {
        self.now.lock().unwrap().clone().unwrap()
    }

    async fn models(&self) -> Vec<String> {
        let listed = self.house.get("/v1/models").await.json().await;
        listed["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_models(&self, expected: &[&str]) {
        let seen = async { while self.models().await != expected {} };
        tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("never {expected:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_come_and_go_and_what_runs_is_answered() {
    let mut changing = Changing::new(|_| ()).await;
    let mut running = changing.house.ask(&chat("forever", true)).await;
    assert_eq!(running.next().await.unwrap().unwrap(), "data: 1\n\n");
    let mut config = changing.config();
    let snapshot = config.models[0].snapshot.clone();
    config.models = vec![ModelEntry { keep: true, ..ModelEntry::new("n", snapshot.clone()) }];
    changing.change(Ok(config));
    changing.until_models(&["n"]).await;
    let gone = changing.house.ask(&chat("", false)).await.error(404).await;
    assert!(gone.contains("'m'"), "{gone}");
    // The stream goes on as long as its client wants, and the model ends with it.
    let slots = changing.house.admin("/slots").await.json().await;
    assert_eq!((&slots[0]["name"], &slots[0]["in_flight"]), (&json!("m"), &json!(1)), "{slots}");
    drop(running);
    let alone = async { while changing.house.admin("/slots").await.json().await.as_array().unwrap().len() != 1 {} };
    tokio::time::timeout(Duration::from_secs(20), alone).await.unwrap();
    // What is kept is there without being asked for.
    assert_eq!(changing.house.admin("/slots/ready/n").await.status, 200);

    let mut config = changing.config();
    config.models = vec![ModelEntry::new("m", snapshot)];
    changing.change(Ok(config));
    changing.until_models(&["m"]).await;
    assert_eq!(changing.house.ask(&chat("", false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_snapshot_is_served_once_what_runs_has_been_answered() {
    let mut changing = Changing::new(|_| ()).await;
    let pid = changing.house.ask(&chat("", false)).await.json().await["pid"].clone();
    // The same configuration read again changes nothing.
    changing.settle(Ok(changing.config())).await;
    assert_eq!(changing.house.ask(&chat("", false)).await.json().await["pid"], pid);
    let mut config = changing.config();
    let other = changing.house.files.folder.path().join("other.snapshot");
    std::fs::copy(&config.models[0].snapshot, &other).unwrap();
    config.models[0].snapshot = other;
    changing.change(Ok(config));
    let renewed = async { while changing.house.ask(&chat("", false)).await.json().await["pid"] == pid {} };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_snapshot_answers_until_the_new_one_is_warm() {
    let mut changing = Changing::new(|_| ()).await;
    let pid = async |changing: &Changing| changing.house.ask(&chat("", false)).await.json().await["pid"].clone();
    let first = pid(&changing).await;
    let gate = changing.house.files.gate("warm");
    changing.replace("second.snapshot", &[Start::Ready, Start::Gate(gate.clone())]);
    changing.house.until_lives(2).await;
    assert_eq!(pid(&changing).await, first, "the new one is not warm yet");
    let slot = changing.house.slot().await;
    let states: Vec<_> = slot["replicas"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!((states, &slot["state"]), (vec![json!("ready"), json!("starting")], &json!("ready")));
    open(&gate).await;
    changing.house.until_replicas(1).await;
    assert_ne!(pid(&changing).await, first);
    assert_eq!(changing.house.files.lives(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_snapshot_that_does_not_start_leaves_the_old_one_where_it_is() {
    let mut changing = Changing::new(|_| ()).await;
    let pid = async |changing: &Changing| changing.house.ask(&chat("", false)).await.json().await["pid"].clone();
    let first = pid(&changing).await;
    let bad = Start::Fail(FailureKind::BadSnapshot, "no".into());
    changing.replace("second.snapshot", &[Start::Ready, bad.clone(), bad, Start::Ready]);
    changing.house.until_lives(3).await;
    assert_eq!(pid(&changing).await, first);
    // It is tried again, less and less often, and succeeds.
    changing.house.until_lives(4).await;
    let renewed = async { while pid(&changing).await == first {} };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_changes_nothing_and_a_right_one_locks_tenants_out() {
    let (key, hash) = KeyHash::new().unwrap();
    let acme = TenantEntry { keys: vec![hash], ..TenantEntry::new("acme") };
    let mut changing = Changing::new(|config| config.tenants = vec![acme]).await;
    let header = format!("Bearer {key}");
    let ask = async |changing: &Changing| {
        changing.house.ask_with(&[("authorization", &header)], &chat("", false)).await.status.as_u16()
    };
    assert_eq!(ask(&changing).await, 200);
    let right = changing.config();
    let mut nowhere = right.clone();
    nowhere.models.push(ModelEntry::new("n", "/nowhere/n.snapshot"));
    let mut twice = right.clone();
    twice.models.push(right.models[0].clone());
    for wrong in [Err("line 3: no".to_owned()), Ok(nowhere), Ok(twice)] {
        changing.settle(wrong).await;
        assert_eq!(ask(&changing).await, 200);
    }
    let mut locked = right;
    locked.tenants[0].keys.clear();
    changing.change(Ok(locked));
    let out = async { while ask(&changing).await != 401 {} };
    tokio::time::timeout(Duration::from_secs(20), out).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_wake_end_and_pin_models() {
    let house = House::with(&[Start::Ready], |_, config| config.idle = Duration::from_millis(1)).await;
    let wish = async |what: &str, kind: &str, body: &'static str| {
        let admin = house.activator.admin();
        let request = http::Request::post(format!("/admin/{what}")).header("host", admin.to_string());
        client::send(admin, request.header("content-type", kind).body(bytes::Bytes::from(body).into()).unwrap()).await
    };
    const JSON: &str = "application/json";
    assert!(wish("load", "text/plain", r#"{"model":"m"}"#).await.error(400).await.contains("application/json"));
    assert!(wish("load", JSON, r#"{"model":"x"}"#).await.error(404).await.contains("'x'"));
    assert!(wish("load", JSON, r#"{"model":"m","now":1}"#).await.error(400).await.contains("now"));
    assert_eq!(house.slot().await["state"], "cold");
    assert_eq!(wish("pin", JSON, r#"{"model":"m"}"#).await.status, 200);
    let pinned = house.slot_when("ready").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(house.slot().await["replicas"], pinned["replicas"], "it stays, though nobody asks");
    // Drained it comes again, unloaded it does not.
    assert_eq!(wish("drain", JSON, r#"{"model":"m"}"#).await.status, 200);
    let again = async { while house.slot_when("ready").await["replicas"] == pinned["replicas"] {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    assert_eq!(wish("unload", JSON, r#"{"model":"m"}"#).await.status, 200);
    house.slot_when("cold").await;
    assert_eq!(wish("load", JSON, r#"{"model":"m"}"#).await.status, 200);
    // Woken without being kept it is soon gone again.
    let once_more = async {
        while house.files.lives() != 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), once_more).await.unwrap();
    house.slot_when("cold").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_that_there_is_not_is_said_and_changes_nothing() {
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let mut wrong = files.config();
    wrong.models[0].slices = Some(vec!["gpu7".into()]);
    let error = Activator::start(wrong).await.unwrap_err();
    let said = error.to_string();
    assert_eq!(error.exit_code(), 64, "{said}");
    assert!(["'m'", "'gpu7'", "there are: cpu"].iter().all(|part| said.contains(part)), "{said}");

    let mut changing = Changing::new(|_| ()).await;
    let mut config = changing.config();
    config.models.push(ModelEntry { slices: Some(vec!["gpu7".into()]), ..config.models[0].clone() });
    config.models[1].name = "n".into();
    changing.settle(Ok(config.clone())).await;
    assert_eq!(changing.models().await, ["m"], "the old one stays");
    config.models[1].slices = Some(vec!["cpu".into()]);
    changing.change(Ok(config));
    changing.until_models(&["m", "n"]).await;
}
