//! What `serve` is told, complete and checked before a port is bound. Nothing else in this crate reads the environment.

use std::{collections::HashSet, ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use crate::{
    placement::Rules,
    slices::{self, DeviceEnvironment, SliceEntry, SliceError},
    slot::{Policy, WEIGHT_MAX},
    sockets::Inherited,
    tenants::{
        TenantEntry,
        jwt::{self, IssuerEntry, KeySource},
        key::KeyHash,
    },
    tls::TlsEntry,
    traces::TracesEntry,
};

/// Ports that Knative's own containers use in the same pod.
pub const PORTS_RESERVED: [u16; 7] = [8012, 8013, 8112, 8022, 9090, 9091, 8008];

/// One model: the names clients ask for, its sealed file, and what is different for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// What `model` names in a request.
    pub name: String,
    /// The snapshot.
    pub snapshot: PathBuf,
    /// Other names that mean it.
    pub aliases: Vec<String>,
    /// In place of [`Config::idle`].
    pub idle: Option<Duration>,
    /// It is always there: started with `serve`, and again whenever it ends.
    pub keep: bool,
    /// Runtimes that are always there; `keep` is at least one.
    pub min_replicas: usize,
    /// Runtimes at most.
    pub max_replicas: usize,
    /// Requests at once that each runtime is to have, where there may be several; `None`: 70 % of `concurrency`, else of 64.
    pub target: Option<f64>,
    /// What each of its runtimes needs of a slice; `None`: its snapshot's size, and a quarter.
    pub memory: Option<u64>,
    /// Slices, by name, that it may be on; `None`: any.
    pub slices: Option<Vec<String>>,
    /// Requests that its runtime works on at the same time; further ones are held. `None`: the runtime sees to it.
    pub concurrency: Option<usize>,
    /// In place of [`Config::hold_max`].
    pub hold_max: Option<usize>,
    /// In place of [`Config::timeout`].
    pub timeout: Option<Duration>,
    /// In place of [`Config::start_timeout`].
    pub start_timeout: Option<Duration>,
    /// Fields of chat and completion requests that say nothing of them.
    pub sampling: Map<String, Value>,
}

impl ModelEntry {
    /// One with nothing different.
    pub fn new(name: impl Into<String>, snapshot: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            snapshot: snapshot.into(),
            aliases: Vec::new(),
            idle: None,
            keep: false,
            min_replicas: 0,
            max_replicas: 1,
            target: None,
            memory: None,
            slices: None,
            concurrency: None,
            hold_max: None,
            timeout: None,
            start_timeout: None,
            sampling: Map::new(),
        }
    }
}

/// Models that have to do with each other, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupEntry {
    /// Its own name, for errors.
    pub name: String,
    /// Its models.
    pub models: Vec<String>,
    /// They may be there at the same time.
    pub together: bool,
    /// While one of them is there, no model outside of the group is.
    pub alone: bool,
}

/// Who we are to Knative; labels of the metrics where set.
#[derive(Clone, Debug, Default)]
pub struct KnativeLabels {
    /// `K_SERVICE`
    pub service: Option<String>,
    /// `K_REVISION`
    pub revision: Option<String>,
    /// `K_CONFIGURATION`
    pub configuration: Option<String>,
}

/// Everything `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin: SocketAddr,
    /// At least one, each name once.
    pub models: Vec<ModelEntry>,
    /// Who may ask; with none and no issuers, everybody may.
    pub tenants: Vec<TenantEntry>,
    /// Whose tokens are taken.
    pub issuers: Vec<IssuerEntry>,
    /// Who shows nothing is served although there are tenants, or although [`Config::listen`] is no loopback address.
    pub anonymous: bool,
    /// A platform said where to listen, and its network decides who reaches that: without tenants everybody may ask.
    pub platform: bool,
    /// Good for what changes something on the admin port. Without any, only a loopback address has that.
    pub admin_keys: Vec<KeyHash>,
    /// Pieces of devices that runtimes are put on; none: what there is.
    pub slices: Vec<SliceEntry>,
    /// What the environment says of GPUs.
    pub devices: DeviceEnvironment,
    /// NVIDIA's management library, in place of the loader's choice.
    pub nvml_library: Option<PathBuf>,
    /// Runtimes compute on GPUs.
    pub wants_gpu: bool,
    /// Who may be there with whom.
    pub groups: Vec<GroupEntry>,
    /// No model has to go for another that has not been ready for so long.
    pub residence: Duration,
    /// Runtimes that have to go for others' in a minute, at most.
    pub swaps_per_minute: u32,
    /// Where requests are recorded.
    pub audit: Option<PathBuf>,
    /// Where traces go.
    pub traces: Option<TracesEntry>,
    /// The API port speaks TLS, and the admin port if that is said.
    pub tls: Option<TlsEntry>,
    /// A runtime that nobody asked for so long is drained.
    pub idle: Duration,
    /// Launched runtimes without a model to keep ready.
    pub standby: usize,
    /// Requests held at most, per model.
    pub hold_max: usize,
    /// A held streaming request gets its headers after this time.
    pub early_headers_after: Duration,
    /// From launch to ready; a slower runtime is killed.
    pub start_timeout: Duration,
    /// From the wish to end to the end, for one runtime and for `serve` as a whole.
    pub drain_timeout: Duration,
    /// A request's deadline where it names none.
    pub timeout: Duration,
    /// Larger bodies are refused.
    pub body_bytes_max: usize,
    /// Listening sockets that came with the process, in place of [`Config::listen`] and [`Config::admin`].
    pub inherited: Option<Inherited>,
    /// What starts the process that succeeds this one (SIGUSR2): a program and its arguments. Empty: nothing does.
    pub successor: Vec<OsString>,
    /// The program to launch a runtime with, and its arguments (`pilotlight runtime …`).
    pub runtime_command: Vec<OsString>,
    /// Labels of the metrics.
    pub knative: KnativeLabels,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9464)),
            models: Vec::new(),
            tenants: Vec::new(),
            issuers: Vec::new(),
            anonymous: false,
            platform: false,
            admin_keys: Vec::new(),
            slices: Vec::new(),
            devices: DeviceEnvironment::default(),
            nvml_library: None,
            wants_gpu: false,
            groups: Vec::new(),
            residence: Rules::default().residence,
            swaps_per_minute: Rules::default().swaps_per_minute,
            audit: None,
            traces: None,
            tls: None,
            idle: Duration::from_secs(30),
            standby: 0,
            hold_max: 10_000,
            early_headers_after: Duration::from_secs(2),
            start_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(300),
            body_bytes_max: protocol::BODY_BYTES_MAX,
            inherited: None,
            successor: Vec::new(),
            runtime_command: Vec::new(),
            knative: KnativeLabels::default(),
        }
    }
}

/// What is wrong with a [`Config`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Knative uses the port.
    #[error("port {0} is one of those that Knative's own containers use ({PORTS_RESERVED:?}); choose another")]
    ReservedPort(u16),
    /// Nothing to serve.
    #[error("no model to serve; name one with --model NAME=FILE")]
    NoModel,
    /// Two models of one name.
    #[error("the model name '{0}' is given twice")]
    NameTwice(String),
    /// Names are labels and path segments.
    #[error("the model name '{0}' must have 1 to 200 printable characters without blanks")]
    BadName(String),
    /// No program to launch a runtime with.
    #[error("the command to launch a runtime with is empty")]
    NoRuntimeCommand,
    /// A bound that would refuse everything.
    #[error("{0} must be above 0")]
    Zero(&'static str),
    /// Anybody who reaches the port could ask.
    #[error(
        "{0} can be reached from other machines, and nobody would have to show who they are: name tenants in the configuration, listen on \
         127.0.0.1, or say --anonymous"
    )]
    Open(SocketAddr),
    /// A tenant that cannot be.
    #[error("tenant '{0}': {1}")]
    Tenant(String, String),
    /// A key that is good for two.
    #[error("the key {0} is given twice")]
    KeyTwice(String),
    /// Numbers and places of runtimes that cannot be.
    #[error("model '{0}': {1}")]
    Replicas(String, &'static str),
    /// Not enough for the weights.
    #[error(
        "model '{model}': memory is {memory} bytes, and its snapshot with what a runtime needs besides takes {least}, without keys and values"
    )]
    Memory {
        /// Whose.
        model: String,
        /// As configured.
        memory: u64,
        /// Keys and values need more than this.
        least: u64,
    },
    /// A slice that there is not.
    #[error(
        "model '{model}': slices names '{slice}', and there is no such slice; there are: {there} (changed [[slices]] take a restart)"
    )]
    NoSlice {
        /// Whose.
        model: String,
        /// As it is called.
        slice: String,
        /// Those that there are.
        there: String,
    },
    /// Slices that cannot be.
    #[error("{0}")]
    Slices(#[from] SliceError),
    /// A group that cannot be.
    #[error("group '{0}': {1}")]
    Group(String, String),
    /// Fields that a request could not have.
    #[error("model '{0}', sampling: {1}")]
    Sampling(String, String),
    /// An issuer that cannot be.
    #[error("issuer '{0}': {1}")]
    Issuer(String, &'static str),
    /// A collector that cannot be.
    #[error("traces: {0}")]
    Traces(&'static str),
}

impl Config {
    /// Checks everything that needs no I/O.
    pub fn check(&self) -> Result<(), ConfigError> {
        for port in [self.listen.port(), self.admin.port()] {
            if PORTS_RESERVED.contains(&port) {
                return Err(ConfigError::ReservedPort(port));
            }
        }
        if self.runtime_command.is_empty() {
            return Err(ConfigError::NoRuntimeCommand);
        }
        for (name, zero) in [
            ("hold-max", self.hold_max == 0),
            ("timeout", self.timeout.is_zero()),
            ("start timeout", self.start_timeout.is_zero()),
            ("the body limit", self.body_bytes_max == 0),
            ("placement.swaps_per_minute", self.swaps_per_minute == 0),
        ] {
            if zero {
                return Err(ConfigError::Zero(name));
            }
        }
        slices::check(&self.slices)?;
        self.check_models()?;
        self.check_groups()?;
        self.check_tenants()?;
        self.check_issuers()?;
        self.traces.as_ref().map_or(Ok(()), TracesEntry::check).map_err(ConfigError::Traces)?;
        let said = self.anonymous || self.platform || self.listen.ip().is_loopback();
        if self.asks_nobody() && !said { Err(ConfigError::Open(self.listen)) } else { Ok(()) }
    }

    /// Checks that the slices that models are to be on are among those of this machine, by name.
    pub(crate) fn check_slices(&self, there: &[String]) -> Result<(), ConfigError> {
        for model in &self.models {
            if let Some(unknown) = model.slices.iter().flatten().find(|name| !there.contains(name)) {
                let (model, slice) = (model.name.clone(), unknown.clone());
                return Err(ConfigError::NoSlice { model, slice, there: there.join(", ") });
            }
        }
        Ok(())
    }

    /// Nobody has to show who they are, as nobody could.
    pub(crate) fn asks_nobody(&self) -> bool {
        self.tenants.is_empty() && self.issuers.is_empty()
    }

    fn check_models(&self) -> Result<(), ConfigError> {
        if self.models.is_empty() {
            return Err(ConfigError::NoModel);
        }
        let mut names = HashSet::new();
        for model in &self.models {
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                let printable = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
                if name.is_empty() || name.len() > 200 || !printable {
                    return Err(ConfigError::BadName(name.clone()));
                }
                if !names.insert(name) {
                    return Err(ConfigError::NameTwice(name.clone()));
                }
            }
            let zero = [
                ("concurrency", model.concurrency == Some(0)),
                ("hold_max", model.hold_max == Some(0)),
                ("timeout", model.timeout.is_some_and(|time| time.is_zero())),
                ("start_timeout", model.start_timeout.is_some_and(|time| time.is_zero())),
            ];
            if let Some((name, _)) = zero.into_iter().find(|(_, zero)| *zero) {
                return Err(ConfigError::Zero(name));
            }
            check_replicas(model)?;
            check_sampling(model)?;
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), ConfigError> {
        let models: HashSet<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        for group in &self.groups {
            let wrong = |why: String| Err(ConfigError::Group(group.name.clone(), why));
            if let Some(unknown) = group.models.iter().find(|name| !models.contains(name.as_str())) {
                return wrong(format!("models names '{unknown}', which is no model of this configuration"));
            }
            if group.models.is_empty() {
                return wrong("it names no models".into());
            }
        }
        Ok(())
    }

    fn check_tenants(&self) -> Result<(), ConfigError> {
        let models: HashSet<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
        let (mut names, mut keys, mut client_names) = (HashSet::new(), HashSet::new(), HashSet::new());
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        for tenant in &self.tenants {
            let wrong = |why: String| Err(ConfigError::Tenant(tenant.name.clone(), why));
            let named = !tenant.name.is_empty() && tenant.name.len() <= 200;
            if !named || tenant.name.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return wrong("its name must have 1 to 200 printable characters without blanks".into());
            }
            if !names.insert(&tenant.name) {
                return wrong("it is given twice".into());
            }
            if !(1..=WEIGHT_MAX).contains(&tenant.weight) {
                return wrong(format!("weight must be from 1 to {WEIGHT_MAX}"));
            }
            let limits = &tenant.limits;
            let zero = [
                limits.concurrency == Some(0),
                limits.requests_per_minute == Some(0),
                limits.tokens_per_minute == Some(0),
            ];
            if zero.contains(&true) || tenant.hold_max == Some(0) {
                return wrong("a bound of 0 would refuse everything; to lock a tenant out, remove its keys".into());
            }
            if let Some(unknown) = tenant.models.iter().flatten().find(|name| !models.contains(name.as_str())) {
                return wrong(format!("models names '{unknown}', which is no model of this configuration"));
            }
            if let Some(twice) = tenant.client_names.iter().find(|name| !client_names.insert(name.as_str())) {
                return wrong(format!("the certificate name '{twice}' is good for two tenants"));
            }
            if !certificates && !tenant.client_names.is_empty() {
                return wrong("client_names needs tls.client_ca, which signs clients' certificates".into());
            }
            for key in &tenant.keys {
                if !keys.insert(&key.id) {
                    return Err(ConfigError::KeyTwice(key.id.clone()));
                }
            }
        }
        let twice = self.admin_keys.iter().find(|key| !keys.insert(&key.id));
        twice.map_or(Ok(()), |key| Err(ConfigError::KeyTwice(key.id.clone())))
    }

    fn check_issuers(&self) -> Result<(), ConfigError> {
        for entry in &self.issuers {
            let wrong = |why| Err(ConfigError::Issuer(entry.issuer.clone(), why));
            if entry.issuer.is_empty() || entry.audience.is_empty() || entry.tenant_claim.is_empty() {
                return wrong("issuer, audience and tenant_claim are required");
            }
            let known = |name: &String| self.tenants.iter().any(|tenant| tenant.name == *name);
            match &entry.tenants {
                None if self.issuers.len() > 1 => {
                    return wrong("with several issuers each must say in tenants for whom it may speak");
                }
                Some(names) if !names.iter().all(known) => return wrong("tenants names one that is not configured"),
                Some(_) | None => {}
            }
            if matches!(&entry.keys, KeySource::Url(url) if !jwt::is_allowed(url)) {
                return wrong("jwks must be a file, an https URL, or an http URL on this machine");
            }
        }
        Ok(())
    }

    /// A model's times and bounds.
    pub(crate) fn policy(&self, model: &ModelEntry) -> Policy {
        Policy {
            idle: model.idle.unwrap_or(self.idle),
            start_timeout: model.start_timeout.unwrap_or(self.start_timeout),
            drain_timeout: self.drain_timeout,
            renew_timeout: self.drain_timeout.max(model.timeout.unwrap_or(self.timeout)),
            hold_max: model.hold_max.unwrap_or(self.hold_max),
            concurrency: model.concurrency.unwrap_or(usize::MAX),
            min: model.min_replicas.max(usize::from(model.keep)),
            max: model.max_replicas.max(1),
            target: model
                .target
                .unwrap_or_else(|| model.concurrency.unwrap_or(CONCURRENCY_DEFAULT) as f64 * UTILIZATION),
        }
    }
}

/// Where nothing else is said, a runtime is full at so many requests: its engine's default.
const CONCURRENCY_DEFAULT: usize = 64;

/// So much of what a runtime can take it is to have: Knative's default.
const UTILIZATION: f64 = 0.7;

fn check_replicas(model: &ModelEntry) -> Result<(), ConfigError> {
    let wrong = |why| Err(ConfigError::Replicas(model.name.clone(), why));
    if model.max_replicas == 0 {
        return wrong("max_replicas must be above 0");
    }
    if model.min_replicas.max(usize::from(model.keep)) > model.max_replicas {
        return wrong("min_replicas is above max_replicas");
    }
    if model.max_replicas > REPLICAS_MAX {
        return wrong("max_replicas is at most 1000");
    }
    if model.target.is_some_and(|target| !(target > 0.0 && target.is_finite())) {
        return wrong("target must be a number above 0");
    }
    if model.memory == Some(0) {
        return wrong("memory must be above 0");
    }
    if model.slices.as_ref().is_some_and(Vec::is_empty) {
        return wrong("slices names none, so that it could be nowhere; leave it out for any");
    }
    Ok(())
}

/// More runtimes of one model are a slip of the pen.
const REPLICAS_MAX: usize = 1000;

/// As a request would be read that says the same.
fn check_sampling(model: &ModelEntry) -> Result<(), ConfigError> {
    let mut request = model.sampling.clone();
    request.insert("model".into(), "m".into());
    request.insert("prompt".into(), "x".into());
    let text = serde_json::to_vec(&request).expect("JSON values serialise");
    let wrong = |error: protocol::ApiError| ConfigError::Sampling(model.name.clone(), error.message);
    protocol::parse_completion(&text).map(drop).map_err(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn good() -> Config {
        Config {
            models: vec![ModelEntry::new("m", "m.snapshot")],
            runtime_command: vec!["pilotlight".into(), "runtime".into()],
            ..Config::default()
        }
    }

    fn check(change: impl FnOnce(&mut Config), expected: Result<(), ConfigError>) {
        let mut config = good();
        change(&mut config);
        assert_eq!(config.check(), expected);
    }

    #[test]
    fn knatives_ports_are_never_bound() {
        for port in PORTS_RESERVED {
            check(|c| c.listen.set_port(port), Err(ConfigError::ReservedPort(port)));
            check(|c| c.admin.set_port(port), Err(ConfigError::ReservedPort(port)));
        }
        check(|c| c.listen.set_port(0), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_starts() {
        check(|c| c.models.clear(), Err(ConfigError::NoModel));
        check(|c| c.models.push(c.models[0].clone()), Err(ConfigError::NameTwice("m".into())));
        check(|c| c.models[0].name = "a b".into(), Err(ConfigError::BadName("a b".into())));
        check(|c| c.runtime_command.clear(), Err(ConfigError::NoRuntimeCommand));
        check(|c| c.hold_max = 0, Err(ConfigError::Zero("hold-max")));
        check(|c| c.models[0].aliases = vec!["m".into()], Err(ConfigError::NameTwice("m".into())));
        check(|c| c.models[0].concurrency = Some(0), Err(ConfigError::Zero("concurrency")));
        let mut hot = good();
        hot.models[0].sampling.insert("temperature".into(), 5.into());
        let said = hot.check().unwrap_err().to_string();
        assert!(said.contains("'m'") && said.contains("temperature"), "{said}");
    }

    #[test]
    fn a_port_that_others_reach_is_not_open_to_everybody_unless_that_was_said() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 8080));
        check(|c| c.listen = everywhere, Err(ConfigError::Open(everywhere)));
        check(|c| (c.listen, c.anonymous) = (everywhere, true), Ok(()));
        check(|c| (c.listen, c.tenants) = (everywhere, vec![TenantEntry::new("t")]), Ok(()));
        check(|c| c.listen = SocketAddr::from(([127, 9, 9, 9], 1)), Ok(()));
    }

    #[test]
    fn a_model_is_on_slices_that_there_are() {
        let on = |names: &[&str]| {
            let mut config = good();
            config.models[0].slices = Some(names.iter().map(|name| (*name).to_owned()).collect());
            config
        };
        let there = ["left".to_owned(), "right".to_owned()];
        assert_eq!(good().check_slices(&there), Ok(()));
        assert_eq!(on(&["right", "left"]).check_slices(&there), Ok(()));
        let said = on(&["left", "rigth"]).check_slices(&there).unwrap_err().to_string();
        assert!(["'m'", "'rigth'", "left, right"].iter().all(|part| said.contains(part)), "{said}");
        let said = on(&[]).check().unwrap_err().to_string();
        assert!(said.contains("'m'") && said.contains("slices names none"), "{said}");
    }

    #[test]
    fn what_is_wrong_with_a_tenant_is_said_with_its_name() {
        let wrong = |change: fn(&mut TenantEntry), part: &str| {
            let mut config = good();
            config.tenants = vec![TenantEntry::new("acme")];
            change(&mut config.tenants[0]);
            let said = config.check().unwrap_err().to_string();
            assert!(said.contains("acme") && said.contains(part), "{said}");
        };
        wrong(|t| t.weight = 0, "weight");
        wrong(|t| t.limits.concurrency = Some(0), "a bound of 0");
        wrong(|t| t.models = Some(vec!["x".into()]), "'x'");
        wrong(|t| t.name = "acme corp".into(), "blanks");
        let (_, key) = KeyHash::new().unwrap();
        let mut twice = good();
        twice.tenants = ["a", "b"].map(|name| TenantEntry { keys: vec![key.clone()], ..TenantEntry::new(name) }).into();
        assert_eq!(twice.check(), Err(ConfigError::KeyTwice(key.id)));
    }
}
