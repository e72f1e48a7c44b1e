//! The environment, read once.
//!
//! **Invariant:** no other module of the command reads a variable; what it finds becomes part of a crate's `Config`.
//! (The store's own sources read the variables of their ecosystems, such as `HF_TOKEN`, as those define them, and the exporter of traces those of its headers.)

use crate::exit::{Error, Result};
use activator::{Inherited, KnativeLabels, slices::DeviceEnvironment};
use std::{
    env,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Where the API listens when neither a flag nor `PORT` says.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The first descriptor of those that systemd hands over (sd_listen_fds(3)).
const SYSTEMD_FIRST: i32 = 3;

/// Who we are in traces, where nobody says.
const SERVICE: &str = "pilotlight";

/// What OpenTelemetry's variables say.
#[derive(Clone, Debug, Default)]
pub struct OpenTelemetry {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: a collector, for all that it takes.
    pub endpoint: Option<String>,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`: for traces, path and all.
    pub traces: Option<String>,
    /// `OTEL_TRACES_SAMPLER_ARG`: the share of requests of which a trace is begun.
    pub sampler_arg: Option<String>,
    /// `OTEL_SERVICE_NAME`, else `K_SERVICE`, else `pilotlight`.
    pub service: String,
}

impl OpenTelemetry {
    /// The share of requests of which a trace is begun: all, where nobody says.
    ///
    /// # Errors
    /// It is no number.
    pub fn sample(&self) -> Result<f64> {
        let Some(share) = &self.sampler_arg else { return Ok(1.0) };
        let wrong = |_| Error::Usage(format!("OTEL_TRACES_SAMPLER_ARG is {share:?}, which is no number from 0 to 1"));
        share.trim().parse().map_err(wrong)
    }
}

/// What the variables say.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `PORT`: set by platforms that run containers.
    port: Option<String>,
    /// `K_SERVICE`, `K_REVISION`, `K_CONFIGURATION`: who we are to Knative.
    service: Option<String>,
    revision: Option<String>,
    configuration: Option<String>,
    /// `PILOTLIGHT_HOME`, `XDG_DATA_HOME`, `HOME`.
    home: Option<OsString>,
    data_home: Option<OsString>,
    user_home: Option<OsString>,
    /// `XDG_CACHE_HOME`.
    cache_home: Option<OsString>,
    /// What started this process: its program's file and its arguments.
    command: Vec<OsString>,
    /// `PILOTLIGHT_SUCCESSOR`: a process like this one hands its sockets over.
    succeeds: bool,
    /// `LISTEN_PID`, `LISTEN_FDS`: a service manager that listens for us (systemd's socket activation).
    listen_pid: Option<String>,
    listen_fds: Option<String>,
    /// OpenTelemetry's own.
    pub telemetry: OpenTelemetry,
    /// `NVIDIA_VISIBLE_DEVICES`, `CUDA_VISIBLE_DEVICES`: GPUs that this process was given. Empty is not the same as unset.
    pub devices: DeviceEnvironment,
    /// `PILOTLIGHT_NVML`: the file of NVIDIA's management library, in place of the loader's choice.
    pub nvml_library: Option<PathBuf>,
    /// `PILOTLIGHT_LOG`, else `RUST_LOG`: a filter in tracing-subscriber's syntax.
    pub log: Option<String>,
}

impl Environment {
    /// Reads all of them.
    pub fn read() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let as_it_is = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            port: text("PORT"),
            service: text("K_SERVICE"),
            revision: text("K_REVISION"),
            configuration: text("K_CONFIGURATION"),
            home: set("PILOTLIGHT_HOME"),
            data_home: set("XDG_DATA_HOME"),
            user_home: set("HOME"),
            cache_home: set("XDG_CACHE_HOME"),
            command: env::current_exe().map(OsString::from).into_iter().chain(env::args_os().skip(1)).collect(),
            succeeds: set(activator::SUCCESSOR).is_some(),
            listen_pid: text("LISTEN_PID"),
            listen_fds: text("LISTEN_FDS"),
            telemetry: OpenTelemetry {
                endpoint: text("OTEL_EXPORTER_OTLP_ENDPOINT"),
                traces: text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
                sampler_arg: text("OTEL_TRACES_SAMPLER_ARG"),
                service: text("OTEL_SERVICE_NAME").or_else(|| text("K_SERVICE")).unwrap_or_else(|| SERVICE.to_owned()),
            },
            devices: DeviceEnvironment {
                nvidia: as_it_is("NVIDIA_VISIBLE_DEVICES"),
                cuda: as_it_is("CUDA_VISIBLE_DEVICES"),
            },
            nvml_library: set("PILOTLIGHT_NVML").map(PathBuf::from),
            log: text("PILOTLIGHT_LOG").or_else(|| text("RUST_LOG")),
        }
    }

    /// Where the API listens by default: with `PORT` set a platform routes to us from outside the loopback interface.
    pub fn listen(&self) -> Result<SocketAddr> {
        let Some(port) = &self.port else { return Ok(LISTEN) };
        let port: u16 = port.parse().map_err(|_| Error::Usage(format!("PORT is {port:?}, which is no port number")))?;
        Ok((Ipv4Addr::UNSPECIFIED, port).into())
    }

    /// What starts another process like this one.
    pub fn command(&self) -> &[OsString] {
        &self.command
    }

    /// Listening sockets that came with the process: the API's, and the admin port's where there are two.
    pub fn inherited(&self) -> Option<Inherited> {
        if self.succeeds {
            return Some(Inherited::handed());
        }
        let ours = self.listen_pid.as_ref()?.parse() == Ok(std::process::id());
        let count: u32 = self.listen_fds.as_ref()?.parse().ok().filter(|count| ours && *count > 0)?;
        let count = i32::try_from(count).unwrap_or(i32::MAX - SYSTEMD_FIRST);
        let others = (SYSTEMD_FIRST + 2).min(SYSTEMD_FIRST + count)..SYSTEMD_FIRST + count;
        Some(Inherited { api: SYSTEMD_FIRST, admin: (count > 1).then_some(SYSTEMD_FIRST + 1), ready: None, others })
    }

    /// A platform says where we listen; its network decides who reaches that.
    pub fn has_platform(&self) -> bool {
        self.port.is_some()
    }

    /// Labels of logs and metrics.
    pub fn knative(&self) -> KnativeLabels {
        KnativeLabels {
            service: self.service.clone(),
            revision: self.revision.clone(),
            configuration: self.configuration.clone(),
        }
    }

    /// The store's folder.
    pub fn store(&self) -> Result<PathBuf> {
        if let Some(home) = &self.home {
            return Ok(home.into());
        }
        if let Some(data) = &self.data_home {
            return Ok(PathBuf::from(data).join("pilotlight"));
        }
        let home = self.user_home.as_ref().ok_or_else(|| {
            Error::Usage("no place for the store: set PILOTLIGHT_HOME to a folder (HOME is not set either)".into())
        })?;
        Ok(PathBuf::from(home).join(".local/share/pilotlight"))
    }

    /// The folder of what can be made again.
    pub fn cache(&self) -> Result<PathBuf> {
        let under = |home: &OsString| PathBuf::from(home).join(".cache");
        let cache = self.cache_home.as_ref().map(PathBuf::from).or_else(|| self.user_home.as_ref().map(under));
        let none = || Error::Usage("there is no cache folder: set XDG_CACHE_HOME or HOME".into());
        Ok(cache.ok_or_else(none)?.join("pilotlight"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_platforms_port_is_served_on_all_interfaces() {
        let port = |port: &str| Environment { port: Some(port.into()), ..Environment::default() }.listen();
        assert_eq!(Environment::default().listen().unwrap().to_string(), "127.0.0.1:8080");
        assert_eq!(port("9000").unwrap().to_string(), "0.0.0.0:9000");
        assert_eq!(port("http").unwrap_err().code(), 64);
        assert_eq!(port("70000").unwrap_err().code(), 64);
    }

    #[test]
    fn the_stores_folder_is_the_nearest_that_is_named() {
        let mut env = Environment::default();
        assert_eq!(env.store().unwrap_err().code(), 64);
        env.user_home = Some("/home/me".into());
        assert_eq!(env.store().unwrap().to_str(), Some("/home/me/.local/share/pilotlight"));
        env.data_home = Some("/data".into());
        assert_eq!(env.store().unwrap().to_str(), Some("/data/pilotlight"));
        assert_eq!(env.cache().unwrap().to_str(), Some("/home/me/.cache/pilotlight"));
        env.home = Some("/models".into());
        assert_eq!(env.store().unwrap().to_str(), Some("/models"));
    }
}
