//! The shape of `pilotlight.toml`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value, json};

use crate::cli::values;

/// The configuration of `pilotlight serve`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Where the OpenAI API listens: ADDR:PORT
    pub listen: Option<Address>,
    /// Where metrics, slots and the operators' calls are: ADDR:PORT
    pub admin: Option<Address>,
    /// Who shows no key is served although there are tenants, or although `listen` can be reached from other machines
    pub anonymous: Option<bool>,
    /// How long a model stays after its last request
    pub idle: Option<Time>,
    /// Processes that wait without a model, to save the launch
    pub standby: Option<usize>,
    /// Memory that each of these has ready for an encrypted snapshot to be decrypted into
    pub standby_memory: Option<Size>,
    /// Requests held for one cold model at most
    pub hold_max: Option<usize>,
    /// When a held stream gets its headers
    pub early_headers_after: Option<Time>,
    /// How long a model may take to become ready
    pub start_timeout: Option<Time>,
    /// How long a drain may take
    pub drain_timeout: Option<Time>,
    /// A request's deadline where neither it nor its model names one
    pub timeout: Option<Time>,
    /// The largest request body that is read
    pub body_max: Option<Size>,
    /// A file that records who asked which model when, and what came of it; never what was said
    pub audit: Option<PathBuf>,
    /// Traces of requests, by OpenTelemetry
    pub traces: Traces,
    /// The API port speaks TLS, and the admin port if that is said
    pub tls: Option<Tls>,
    /// Operators
    pub operators: Operators,
    /// What is served: the name clients ask for, and what is different for it. Without any, all sealed models of the store
    pub models: BTreeMap<String, Model>,
    /// Pieces of devices that runtimes are put on: all of the CPU, or all of GPUs. Without any, the whole machine; with --device cuda, every MIG
    /// instance and every other GPU that there is
    pub slices: Vec<Slice>,
    /// Models that have to do with each other, where they share slices
    pub groups: BTreeMap<String, Group>,
    /// How models that share slices make room for each other
    pub placement: Placement,
    /// Who may ask. Without any, and without issuers, everybody may
    pub tenants: BTreeMap<String, Tenant>,
    /// Whose tokens (JWT) are taken
    pub issuers: Vec<Issuer>,
}

/// Where traces go, and of how many requests there are some. Without an endpoint there are none
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// A collector that takes OTLP over HTTP, such as `http://collector:4318`; `/v1/traces` is put behind it
    /// [default: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, which has its path, or OTEL_EXPORTER_OTLP_ENDPOINT]
    pub endpoint: Option<String>,
    /// The share of requests, from 0 to 1, of which a trace is begun here; where a client has begun one, it decides
    /// [default: OTEL_TRACES_SAMPLER_ARG, or 1]
    pub sample: Option<f64>,
}

/// Certificates, in PEM; read again when they change
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate, and those between it and an authority that clients know
    pub certificate: PathBuf,
    /// Its private key
    pub key: PathBuf,
    /// Who signs clients' certificates; they need not have one
    pub client_ca: Option<PathBuf>,
    /// The admin port speaks TLS, too, its probes and metrics included; a client's certificate makes nobody an operator [default: false]
    #[serde(default)]
    pub admin: bool,
}

/// Who may change something on the admin port
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Operators {
    /// Hashes of keys, from `pilotlight key new`; without any, changes are made from this machine alone
    pub keys: Vec<String>,
}

/// A model
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Its sealed file, or a model of the store [default: the store's model of this name]
    pub snapshot: Option<PathBuf>,
    /// Other names that mean it
    pub aliases: Vec<String>,
    /// In place of the general one
    pub idle: Option<Time>,
    /// It is always there: started with `serve`, and again whenever it ends
    pub keep: bool,
    /// Requests that one runtime answers at the same time; further ones are held, fairly between tenants [default with tenants:
    /// --max-sequences]
    pub concurrency: Option<usize>,
    /// So many runtimes are always there; `keep` is at least one [default: 0]
    pub min_replicas: Option<usize>,
    /// No more runtimes than this, however many ask [default: 1]
    pub max_replicas: Option<usize>,
    /// Requests at once that each runtime is to have, where there may be several: more start, and go again, by the mean of a minute, and in a
    /// burst by that of six seconds [default: 70 % of `concurrency`]
    pub target: Option<f64>,
    /// What each runtime may take of its slice, for weights, keys and values [default: the snapshot's size and a quarter]
    pub memory: Option<Size>,
    /// Names of slices that it may be on [default: any]
    pub slices: Option<Vec<String>>,
    /// In place of the general one
    pub hold_max: Option<usize>,
    /// In place of the general one
    pub timeout: Option<Time>,
    /// In place of the general one
    pub start_timeout: Option<Time>,
    /// Where a chat or completion request says nothing of it
    pub sampling: Option<Sampling>,
    /// What its requests go through, in this order: guests' manifests, or components that are granted nothing. In place of those that its snapshot
    /// was sealed with; read again when they change [default: the snapshot's own]
    pub guests: Option<Vec<PathBuf>>,
}

/// A piece of a device
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// What models call it in their `slices`
    pub name: String,
    /// Cores of the CPU, like "0-3,8": for its runtimes alone, which compute with as many threads [default: all]
    pub cores: Option<String>,
    /// Its memory. Of a slice of the CPU each runtime has no more to itself [default: an equal part of what other slices leave; a GPU's own]
    pub memory: Option<Size>,
    /// A GPU or MIG instance: its UUID (GPU-…, MIG-…) or index, as `nvidia-smi -L` lists them. Several slices of one share it
    pub device: Option<String>,
}

/// A group of models
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Their names
    pub models: Vec<String>,
    /// They may be there at the same time; else they take turns
    pub together: bool,
    /// While one of them is there, no model outside of the group is
    pub alone: bool,
}

/// Who has to go for whom
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// No model has to go for another before it has been there for so long [default: 10s]
    pub residence: Option<Time>,
    /// So many runtimes have to go for others in a minute, at most [default: 30]
    pub swaps_per_minute: Option<u32>,
}

/// Fields of requests, as OpenAI has them
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// From 0 to 2
    pub temperature: Option<f64>,
    /// From 0 to 1
    pub top_p: Option<f64>,
    /// Tokens considered at most
    pub top_k: Option<u32>,
    /// From 0 to 1
    pub min_p: Option<f64>,
    /// Tokens generated at most
    pub max_tokens: Option<u32>,
    /// Above 0; 1 is none
    pub repetition_penalty: Option<f64>,
    /// From -2 to 2
    pub presence_penalty: Option<f64>,
    /// From -2 to 2
    pub frequency_penalty: Option<f64>,
    /// Texts that end an answer
    pub stop: Option<Vec<String>>,
}

impl Sampling {
    /// As fields of a request.
    pub fn fields(&self) -> Map<String, Value> {
        let fields = [
            ("temperature", json!(self.temperature)),
            ("top_p", json!(self.top_p)),
            ("top_k", json!(self.top_k)),
            ("min_p", json!(self.min_p)),
            ("max_tokens", json!(self.max_tokens)),
            ("repetition_penalty", json!(self.repetition_penalty)),
            ("presence_penalty", json!(self.presence_penalty)),
            ("frequency_penalty", json!(self.frequency_penalty)),
            ("stop", json!(self.stop)),
        ];
        fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A tenant
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// Hashes of its API keys, from `pilotlight key new`
    pub keys: Vec<String>,
    /// Names in clients' certificates that are good for it
    pub client_names: Vec<String>,
    /// Models it may use [default: all]
    pub models: Option<Vec<String>>,
    /// Requests at the same time, held ones included
    pub concurrency: Option<usize>,
    /// Requests a minute
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, those of prompts included
    pub tokens_per_minute: Option<u64>,
    /// Its share where requests wait: with 2 it gets twice what a tenant with 1 gets [default: 1]
    pub weight: Option<u32>,
    /// Where requests wait, higher goes first; every 5 s of waiting count as 1 [default: 0]
    pub priority: Option<u8>,
    /// Requests of its that may wait for one model [default: its share, by weight, of the model's hold_max]
    pub hold_max: Option<usize>,
}

/// An identity provider
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The token's `iss`
    pub issuer: String,
    /// The token's `aud`
    pub audience: String,
    /// Its keys: a file, or an https URL (or http on this machine)
    pub jwks: String,
    /// The claim that names the tenant, as a path with dots [default: tenant]
    pub tenant_claim: Option<String>,
    /// Tenants that it may speak for; required where there are several issuers [default: all]
    pub tenants: Option<Vec<String>>,
}

/// `30s`, `500ms`, `2m`, `1h`.
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

/// `16MiB`, `500kB`.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

/// `127.0.0.1:8080`.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub SocketAddr);

/// A type that is written as a text which the command line takes, too.
macro_rules! text {
    ($name:ident, $parse:path, $what:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)
                    .map_err(|_| D::Error::custom(concat!("a ", $what, " is a text, for example \"", $example, "\"")))?;
                $parse(&text).map(Self).map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $what.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    };
}

text!(Time, values::duration, "duration", "30s");
text!(Size, values::size, "size", "16MiB");
text!(Address, values::address, "address", "127.0.0.1:8080");
