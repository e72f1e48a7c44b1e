//! What `serve` is told, complete and checked before a port is bound. Nothing else in this crate reads the environment.

mod check;
mod error;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

pub use self::error::ConfigError;
use crate::{
    placement::Rules,
    plugins::Plugins,
    slices::{DeviceEnvironment, SliceEntry},
    slot::Policy,
    sockets::Inherited,
    tenants::{TenantEntry, jwt::IssuerEntry, key::KeyHash},
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
    /// What its requests go through, in place of the guests that its snapshot carries.
    pub guests: Option<Plugins>,
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
            guests: None,
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
    /// Memory that each of them has ready for an encrypted snapshot; 0: none.
    pub standby_memory_bytes: u64,
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
            standby_memory_bytes: 0,
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

impl Config {
    /// Nobody has to show who they are, as nobody could.
    pub(crate) fn asks_nobody(&self) -> bool {
        self.tenants.is_empty() && self.issuers.is_empty()
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
