//! The dashboard's files, and what its page is drawn from. A browser looks at it in `tests/dashboard.rs`.

use serde_json::json;

use crate::{
    double::Start,
    house::{House, chat},
};

/// Every attribute of the page's markup whose value is a path, or `data:`.
fn references(page: &str) -> Vec<String> {
    let parts = page.split(['<', '>']).filter(|part| part.starts_with("link") || part.starts_with("script "));
    let attributes = parts.flat_map(|part| part.split("href=\"").skip(1).chain(part.split("src=\"").skip(1)));
    attributes.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// What a script imports, beside the folder of `dashboard.js`.
fn imports(script: &str) -> Vec<String> {
    let paths = script.lines().filter_map(|line| line.strip_prefix("import ")?.split('"').nth(1));
    paths.map(|path| format!("/dashboard/{}", path.rsplit('/').next().unwrap())).collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_needs_come_from_here_with_strict_headers() {
    let house = House::new(&[Start::Ready]).await;
    let mut wanted = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let answer = house.admin(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        for directive in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.contains(directive) && !policy.contains("unsafe"), "{path}: {policy}");
        }
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-cache")]
        {
            assert_eq!(answer.headers[name], value, "{path}");
        }
        let text = answer.text().await;
        for unsafe_word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "https://",
            " style=",
            " onclick=",
        ] {
            assert!(!text.contains(unsafe_word), "{path} has {unsafe_word}");
        }
        let local = references(&text).into_iter().filter(|path| !path.starts_with("data:"));
        wanted.extend(local.map(|path| format!("/{path}")).chain(imports(&text)));
        seen.push(path);
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    assert_eq!(house.files.lives(), 0);
}

#[tokio::test]
async fn cold_starts_are_told_newest_first_and_a_hot_answer_is_none() {
    let house = House::new(&[Start::Die, Start::Ready]).await;
    assert_eq!(house.admin("/cold-starts").await.json().await, json!([]));
    let first = house.ask(&chat("", false)).await.json().await["pid"].as_i64().unwrap();
    house.ask(&chat("", false)).await.json().await;
    let after_first = house.admin("/cold-starts").await.json().await;
    let only = after_first.as_array().unwrap();
    assert_eq!((only.len(), &only[0]["model"]), (1, &json!("m")), "{after_first}");
    // The same numbers as the slot's own.
    let last = house.slot().await["last_cold_start"].clone();
    for (name, value) in last.as_object().unwrap() {
        assert_eq!(&only[0][name], value);
    }
    crate::house::Watched::new(first as i32).kill();
    house.slot_when("cold").await;
    house.ask(&chat("", false)).await.json().await;
    let both = house.admin("/cold-starts").await.json().await;
    assert_eq!((both.as_array().unwrap().len(), &both[1]), (2, &only[0]));
    let number = |start: &serde_json::Value, name: &str| start[name].as_u64().unwrap();
    assert!(number(&both[0], "launch") > number(&both[1], "launch"), "{both}");
    assert!(number(&both[0], "ready_unix_ms") >= number(&both[1], "ready_unix_ms"), "{both}");
}

#[tokio::test]
async fn the_machine_is_told_and_a_model_s_counters_begin_at_zero() {
    let house = House::new(&[Start::Ready]).await;
    let machine = house.admin("/machine").await.json().await;
    assert!(machine["cores"].as_u64().unwrap() > 0 && machine["memory_bytes"].as_u64().unwrap() > 0, "{machine}");
    let metrics = house.admin("/metrics").await.text().await;
    for line in [
        "pilotlight_cold_starts_total{model=\"m\",outcome=\"failed\"} 0",
        "pilotlight_requests_lost_total{model=\"m\",outcome=\"given_up\"} 0",
        "pilotlight_slot_state{model=\"m\",state=\"cold\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
