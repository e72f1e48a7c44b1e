//! Whether a configuration can be: all that needs no I/O, and the names of slices once they are known.

use std::collections::HashSet;

use super::{Config, ConfigError, ModelEntry, PORTS_RESERVED};
use crate::{
    slices,
    slot::WEIGHT_MAX,
    tenants::jwt::{self, KeySource},
    traces::TracesEntry,
};

impl Config {
    /// Checks everything that needs no I/O.
    pub fn check(&self) -> Result<(), ConfigError> {
        for port in [self.listen.port(), self.admin.port()] {
            if PORTS_RESERVED.contains(&port) {
                return Err(ConfigError::ReservedPort(port));
            }
        }
        if self.standby == 0 && self.standby_memory_bytes > 0 {
            return Err(ConfigError::NoStandby);
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
        // Without any, what there is is known on the machine alone.
        if !self.slices.is_empty() {
            self.check_slices(&self.slices.iter().map(|slice| slice.name.clone()).collect::<Vec<_>>())?;
        }
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
}

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
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        slices::SliceEntry,
        tenants::{TenantEntry, key::KeyHash},
    };

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

        let slices: Vec<_> = there.into_iter().map(|name| SliceEntry { name, ..SliceEntry::default() }).collect();
        let configured = |config: Config| Config { slices: slices.clone(), ..config }.check();
        assert_eq!(configured(on(&["left"])), Ok(()));
        assert_eq!(
            configured(on(&["rigth"])),
            Err(ConfigError::NoSlice { model: "m".into(), slice: "rigth".into(), there: "left, right".into() })
        );
        assert_eq!(on(&["rigth"]).check(), Ok(()), "nothing is said of the machine");
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
