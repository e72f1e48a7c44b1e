//! `pilotlight.toml`: what `serve` serves, to whom, and within which bounds.
//!
//! **Invariant:** the shape of the file is the types of [`file`] and nothing else (`pilotlight config schema` prints it); a word that is not
//! in it is refused with its place. What a flag says counts more than the file. Paths are relative to the file.

pub mod file;

use std::{
    fs,
    path::{Path, PathBuf},
};

use activator::{
    GroupEntry, ModelEntry,
    slices::SliceEntry,
    tenants::{
        TenantEntry,
        jwt::{IssuerEntry, KeySource},
        key::KeyHash,
        quota::Limits,
    },
    tls::TlsEntry,
    traces::TracesEntry,
};

use crate::{
    environment::OpenTelemetry,
    exit::{Error, Result},
};
pub use file::File;

/// No configuration is larger.
const BYTES_MAX: u64 = 16 << 20;

/// Reads a file.
///
/// # Errors
/// It is not there, or says what it may not, with the place.
pub fn read(path: &Path) -> Result<File> {
    let doing = || format!("reading {}", path.display());
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NoFile(path.into()),
        _ => Error::file(doing(), error),
    })?;
    if metadata.len() > BYTES_MAX {
        return Err(Error::Usage(format!("{}: larger than {BYTES_MAX} bytes", path.display())));
    }
    let text = fs::read_to_string(path).map_err(|error| Error::file(doing(), error))?;
    parse(&text).map_err(|why| Error::Usage(format!("{}: {why}", path.display())))
}

/// The same of a text.
///
/// # Errors
/// As for people, with line and column.
pub fn parse(text: &str) -> std::result::Result<File, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

/// Where paths of a file begin.
pub fn folder(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

impl file::Model {
    /// The model of this name with this snapshot, without guests: those are files, and looked at elsewhere.
    pub fn entry(&self, name: &str, snapshot: PathBuf) -> Result<ModelEntry> {
        Ok(ModelEntry {
            name: name.to_owned(),
            snapshot,
            aliases: self.aliases.clone(),
            idle: self.idle.map(|time| time.0),
            keep: self.keep,
            min_replicas: self.min_replicas.unwrap_or(0),
            max_replicas: self.max_replicas.unwrap_or(self.min_replicas.unwrap_or(1).max(1)),
            target: self.target,
            memory: self.memory.map(|size| size.0),
            slices: self.slices.clone(),
            concurrency: self.concurrency,
            hold_max: self.hold_max,
            timeout: self.timeout.map(|time| time.0),
            start_timeout: self.start_timeout.map(|time| time.0),
            sampling: self.sampling.as_ref().map(file::Sampling::fields).unwrap_or_default(),
            guests: None,
        })
    }
}

impl file::Slice {
    /// The same for the activator.
    pub fn entry(&self) -> SliceEntry {
        let memory = self.memory.map(|size| size.0);
        SliceEntry { name: self.name.clone(), cores: self.cores.clone(), memory, device: self.device.clone() }
    }
}

impl file::Group {
    /// The group of this name.
    pub fn entry(&self, name: &str) -> GroupEntry {
        GroupEntry { name: name.to_owned(), models: self.models.clone(), together: self.together, alone: self.alone }
    }
}

impl file::Tenant {
    /// The tenant of this name.
    pub fn entry(&self, name: &str) -> Result<TenantEntry> {
        Ok(TenantEntry {
            name: name.to_owned(),
            keys: keys(&format!("tenants.{name}.keys"), &self.keys)?,
            client_names: self.client_names.clone(),
            models: self.models.clone(),
            limits: Limits {
                concurrency: self.concurrency,
                requests_per_minute: self.requests_per_minute,
                tokens_per_minute: self.tokens_per_minute,
            },
            weight: self.weight.unwrap_or(1),
            priority: self.priority.unwrap_or(0),
            hold_max: self.hold_max,
        })
    }
}

impl file::Issuer {
    /// The issuer, with paths from this folder.
    pub fn entry(&self, folder: &Path) -> IssuerEntry {
        let keys = match self.jwks.contains("://") {
            true => KeySource::Url(self.jwks.clone()),
            false => KeySource::File(folder.join(&self.jwks)),
        };
        IssuerEntry {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            keys,
            tenant_claim: self.tenant_claim.clone().unwrap_or_else(|| "tenant".into()),
            tenants: self.tenants.clone(),
        }
    }
}

impl file::Traces {
    /// Where the environment says what the file does not; `None` where neither names a collector.
    ///
    /// # Errors
    /// The environment's share is no number.
    pub fn entry(&self, environment: &OpenTelemetry) -> Result<Option<TracesEntry>> {
        let under = |base: &String| format!("{}/v1/traces", base.trim_end_matches('/'));
        let of_environment = || environment.traces.clone().or(environment.endpoint.as_ref().map(under));
        let Some(url) = self.endpoint.as_ref().map(under).or_else(of_environment) else { return Ok(None) };
        let sample = self.sample.map_or_else(|| environment.sample(), Ok)?;
        Ok(Some(TracesEntry { url, sample, service: environment.service.clone() }))
    }
}

impl file::Tls {
    /// With paths from this folder.
    pub fn entry(&self, folder: &Path) -> TlsEntry {
        let client_ca = self.client_ca.as_ref().map(|path| folder.join(path));
        let (certificate, key) = (folder.join(&self.certificate), folder.join(&self.key));
        TlsEntry { certificate, key, client_ca, admin: self.admin }
    }
}

/// Hashes of keys, with the field's name where one is none.
pub fn keys(field: &str, texts: &[String]) -> Result<Vec<KeyHash>> {
    let parse = |text: &String| text.parse().map_err(|error| Error::Usage(format!("{field}: {error}")));
    texts.iter().map(parse).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ALL: &str = include_str!("example.toml");

    #[test]
    fn the_example_says_everything_and_is_right() {
        let file = parse(ALL).unwrap();
        let model = file.models["chat"].entry("chat", "x".into()).unwrap();
        assert_eq!(
            (model.aliases.as_slice(), model.idle),
            (&["gpt-4o-mini".to_owned()][..], Some(Duration::from_secs(300)))
        );
        assert_eq!(model.sampling["temperature"], 0.7);
        let tenant = file.tenants["acme"].entry("acme").unwrap();
        assert_eq!((tenant.keys.len(), tenant.weight, tenant.limits.tokens_per_minute), (1, 3, Some(200_000)));
        let issuer = file.issuers[0].entry(Path::new("/etc/pilotlight"));
        assert_eq!(issuer.keys, KeySource::Url("https://id.example.com/jwks".into()));
        // Every field of the schema stands in it, so that it stays an example of everything.
        let schema = serde_json::to_value(schemars::schema_for!(File)).unwrap();
        let mut fields = Vec::new();
        collect(&schema, &mut fields);
        for field in fields {
            assert!(
                ALL.contains(&format!("{field} ="))
                    || ALL.contains(&format!("{field}]"))
                    || ALL.contains(&format!("[{field}.")),
                "{field}"
            );
        }
    }

    fn collect(schema: &serde_json::Value, fields: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(|it| it.as_object()) {
            fields.extend(properties.keys().cloned());
        }
        match schema {
            serde_json::Value::Object(map) => map.values().for_each(|value| collect(value, fields)),
            serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, fields)),
            _ => {}
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_into_it_is_right_or_told(at in 0..ALL.len(), removed in 0..40usize, put in ".{0,20}") {
            let mut bytes = ALL.as_bytes().to_vec();
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, put.into_bytes());
            let text = String::from_utf8_lossy(&bytes);
            if let Err(why) = parse(&text) {
                proptest::prop_assert!(why.contains("line"), "{}", why);
            }
        }
    }

    #[test]
    fn traces_go_where_the_file_says_else_where_the_environment_does() {
        let said = |text: &str, environment: &OpenTelemetry| {
            let entry = parse(text).unwrap().traces.entry(environment);
            entry.map(|entry| entry.map(|entry| (entry.url, entry.sample))).map_err(|error| error.code())
        };
        let none = OpenTelemetry::default();
        assert_eq!(said("", &none), Ok(None));
        assert_eq!(said("[traces]\nsample = 0.5", &none), Ok(None), "without a collector there are none");
        let file = "[traces]\nendpoint = \"http://a:4318/\"\nsample = 0.5";
        let all = OpenTelemetry {
            endpoint: Some("http://b:4318".into()),
            traces: Some("http://c/spans".into()),
            sampler_arg: Some("0.25".into()),
            service: "s".into(),
        };
        assert_eq!(said(file, &all), Ok(Some(("http://a:4318/v1/traces".into(), 0.5))));
        assert_eq!(said("", &all), Ok(Some(("http://c/spans".into(), 0.25))));
        let base = OpenTelemetry { traces: None, sampler_arg: None, ..all };
        assert_eq!(said("", &base), Ok(Some(("http://b:4318/v1/traces".into(), 1.0))));
        let wrong = OpenTelemetry { sampler_arg: Some("half".into()), ..base };
        assert_eq!(said("", &wrong), Err(64));
        assert_eq!(said("[traces]\nsample = 0.5", &wrong), Ok(Some(("http://b:4318/v1/traces".into(), 0.5))));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, parts) in [
            ("lissten = \"127.0.0.1:1\"", &["line 1", "lissten"][..]),
            ("[models.a]\nsnapshot = \"a\"\nidel = \"3s\"", &["line 3", "idel"]),
            ("[models.a]\nidle = \"3 fortnights\"", &["line 2", "no duration"]),
            ("idle = 30", &["line 1", "duration"]),
            ("body_max = \"x\"", &["no size"]),
            ("[models.a.sampling]\ntemprature = 1", &["temprature"]),
            ("[tenants.a]\nweight = -1", &["line 2"]),
            ("listen = \"nowhere\"", &["no address"]),
            ("[[issuers]]\nissuer = \"x\"", &["audience"]),
            ("[[slices]]\ncores = \"0\"", &["name"]),
            ("[[slices]]\nname = \"a\"\ncores = 1", &["line 3"]),
            ("[[slices]]\nname = \"a\"\nmemory = \"1 GB or so\"", &["line 3", "no size"]),
            ("a = [", &["line 1"]),
        ] {
            let said = parse(text).unwrap_err();
            assert!(parts.iter().all(|part| said.contains(part)), "{text}: {said}");
        }
        let said = keys("tenants.a.keys", &["secret".into()]).unwrap_err().to_string();
        assert!(said.contains("tenants.a.keys"), "{said}");
    }
}
