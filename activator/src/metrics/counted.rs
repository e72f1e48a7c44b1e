//! What is counted with every request, so that counting it looks up nothing.
//!
//! **Invariant:** a counter is looked up, and thereby exposed, when it is first counted, and never before. Two of these for one model count as one.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use protocol::usage::Used;

use super::{Billed, Class, Metrics, Model, Start};
use crate::{slot::TenantId, tenants::Caller};

type Count = Counter<u64, AtomicU64>;

/// Classes of status, as labels.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// One counter for each class of status.
#[derive(Debug, Default)]
pub struct Classes([OnceLock<Count>; CLASSES.len()]);

impl Classes {
    /// The counter of this status' class; `find` looks it up by its label.
    pub fn of(&self, status: u16, find: impl FnOnce(&'static str) -> Count) -> &Count {
        let class = match status / 100 {
            2 => 0,
            3 => 1,
            4 => 2,
            _ => 3,
        };
        self.0[class].get_or_init(|| find(CLASSES[class]))
    }
}

/// Tokens that one tenant is billed for.
#[derive(Debug, Default)]
struct Tokens {
    prompt: OnceLock<Count>,
    completion: OnceLock<Count>,
}

/// What is counted with every request for one model.
#[derive(Debug)]
pub struct ModelCounts {
    metrics: Metrics,
    model: String,
    held: OnceLock<Histogram>,
    hot: OnceLock<Histogram>,
    cold: OnceLock<Histogram>,
    inter_token: OnceLock<Histogram>,
    answered: Classes,
    /// By tenant; 0 is nobody.
    tokens: RwLock<BTreeMap<TenantId, Arc<Tokens>>>,
}

impl ModelCounts {
    pub(super) fn new(metrics: Metrics, model: &str) -> Self {
        Self {
            metrics,
            model: model.to_owned(),
            held: OnceLock::new(),
            hot: OnceLock::new(),
            cold: OnceLock::new(),
            inter_token: OnceLock::new(),
            answered: Classes::default(),
            tokens: RwLock::default(),
        }
    }

    fn label(&self) -> Model {
        Model { model: self.model.clone() }
    }

    /// A request was let through after this time.
    pub fn held(&self, took: Duration) {
        let held = self.held.get_or_init(|| self.metrics.held_for.get_or_create_owned(&self.label()));
        held.observe(took.as_secs_f64());
    }

    /// An answer began after this time.
    pub fn first_token(&self, cold: bool, took: Duration) {
        let (known, start) = if cold { (&self.cold, "cold") } else { (&self.hot, "hot") };
        let find = || self.metrics.first_token.get_or_create_owned(&Start { model: self.model.clone(), start });
        known.get_or_init(find).observe(took.as_secs_f64());
    }

    /// Where a stream of this model observes its pace; to be asked for once a stream.
    pub fn inter_token(&self) -> Histogram {
        self.inter_token.get_or_init(|| self.metrics.inter_token.get_or_create_owned(&self.label())).clone()
    }

    /// A request was answered.
    pub fn answered(&self, status: http::StatusCode) {
        let find = |class| self.metrics.requests.get_or_create_owned(&Class { model: self.model.clone(), class });
        self.answered.of(status.as_u16(), find).inc();
    }

    /// A request lost its runtime: `died`, `interrupted`, or `given_up`, which ends it. Clients see nothing of the first two.
    pub fn lost(&self, outcome: &'static str) {
        self.metrics.lost(&self.model, outcome);
    }

    /// A request has used so many tokens.
    pub fn used(&self, caller: &Caller, used: Used) {
        if used == Used::default() {
            return;
        }
        let tokens = self.tokens_of(caller.tenant.as_ref().map_or(TenantId(0), |tenant| tenant.id));
        for (kind, known, used) in
            [("prompt", &tokens.prompt, used.prompt), ("completion", &tokens.completion, used.completion)]
        {
            let billed = || Billed { model: self.model.clone(), tenant: caller.name().to_owned(), kind };
            if used > 0 {
                known.get_or_init(|| self.metrics.tokens.get_or_create_owned(&billed())).inc_by(used.into());
            }
        }
    }

    fn tokens_of(&self, tenant: TenantId) -> Arc<Tokens> {
        // Whole at all times.
        if let Some(known) = self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(&tenant) {
            return known.clone();
        }
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KnativeLabels;

    fn caller() -> Caller {
        Caller { tenant: None, by: "anonymous".into() }
    }

    #[test]
    fn nothing_is_exposed_before_it_is_counted_and_two_count_as_one() {
        let metrics = Metrics::new(&KnativeLabels::default());
        let (one, other) = (metrics.counts("m"), metrics.counts("m"));
        let line = |name: &str| metrics.text().lines().find(|line| line.starts_with(name)).map(str::to_owned);
        assert_eq!(line("pilotlight_requests_total"), None);
        one.answered(http::StatusCode::OK);
        other.answered(http::StatusCode::CREATED);
        assert_eq!(
            line("pilotlight_requests_total").as_deref(),
            Some("pilotlight_requests_total{model=\"m\",class=\"2xx\"} 2")
        );
        one.used(&caller(), Used { prompt: 0, completion: 3 });
        other.used(&caller(), Used { prompt: 0, completion: 4 });
        assert_eq!(
            line("pilotlight_tokens_total").as_deref(),
            Some("pilotlight_tokens_total{model=\"m\",tenant=\"\",kind=\"completion\"} 7")
        );
        assert!(!metrics.text().contains("kind=\"prompt\""));
    }

    #[test]
    fn every_status_has_its_class() {
        let metrics = Metrics::new(&KnativeLabels::default());
        let counts = metrics.counts("m");
        [200, 304, 429, 499, 503].into_iter().for_each(|status| {
            counts.answered(http::StatusCode::from_u16(status).expect("a status"));
        });
        let text = metrics.text();
        for (class, count) in [("2xx", 1), ("3xx", 1), ("4xx", 2), ("5xx", 1)] {
            let line = format!("pilotlight_requests_total{{model=\"m\",class=\"{class}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
