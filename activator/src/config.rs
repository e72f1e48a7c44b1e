//! What `serve` is told, complete and checked before a port is bound. Nothing else in this crate reads the environment.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use crate::slot::Policy;

/// Ports that Knative's own containers use in the same pod.
pub const PORTS_RESERVED: [u16; 7] = [8012, 8013, 8112, 8022, 9090, 9091, 8008];

/// One model: the name clients ask for, and its sealed file.
#[derive(Clone, Debug)]
pub struct ModelEntry {
    /// What `model` names in a request.
    pub name: String,
    /// The snapshot.
    pub snapshot: PathBuf,
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
            idle: Duration::from_secs(30),
            standby: 0,
            hold_max: 10_000,
            early_headers_after: Duration::from_secs(2),
            start_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(300),
            body_bytes_max: protocol::BODY_BYTES_MAX,
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
        ] {
            if zero {
                return Err(ConfigError::Zero(name));
            }
        }
        self.check_models()
    }

    fn check_models(&self) -> Result<(), ConfigError> {
        if self.models.is_empty() {
            return Err(ConfigError::NoModel);
        }
        for (i, model) in self.models.iter().enumerate() {
            let name = &model.name;
            let printable = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
            if name.is_empty() || name.len() > 200 || !printable {
                return Err(ConfigError::BadName(name.clone()));
            }
            if self.models[..i].iter().any(|other| other.name == *name) {
                return Err(ConfigError::NameTwice(name.clone()));
            }
        }
        Ok(())
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy {
            idle: self.idle,
            start_timeout: self.start_timeout,
            drain_timeout: self.drain_timeout,
            hold_max: self.hold_max,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn good() -> Config {
        Config {
            models: vec![ModelEntry { name: "m".into(), snapshot: "m.snapshot".into() }],
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
    }
}
