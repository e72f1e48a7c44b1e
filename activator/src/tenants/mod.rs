//! Who asks: tenants, how they show who they are, and what they may.
//!
//! ```text
//! Authorization: Bearer pl_…   ─► key    ─┐
//! Authorization: Bearer eyJ…   ─► jwt    ─┼─► Caller{tenant} ─► quota ─► (body, route, hold)
//! a client's certificate       ─► its names┘
//! ```
//!
//! **Invariant:** it comes before everything else: who is not known, or has used up what it may, has read no body into memory, changed no slot
//! and woken no model. What tells who somebody is never reaches a runtime. A Kubernetes service account's token would be one more way
//! (TokenReview): another arm of [`Tenants::identify`], with the same answer.

pub mod jwt;
pub mod key;
pub mod quota;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use http::{HeaderMap, header::AUTHORIZATION};
use protocol::{ApiError, ErrorKind};
use sha2::{Digest, Sha256};

use self::{
    jwt::Issuer,
    key::{KeyHash, Keys},
    quota::{BodyMemory, Limits, Place, Usage},
};
use crate::{
    headers,
    metrics::Classes,
    slot::{Claim, TenantId},
};

/// A tenant of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantEntry {
    /// Unique; a label of metrics.
    pub name: String,
    /// Good for it.
    pub keys: Vec<KeyHash>,
    /// Names in clients' certificates that are good for it.
    pub client_names: Vec<String>,
    /// Models it may use; `None`: all.
    pub models: Option<Vec<String>>,
    /// What it may use of them.
    pub limits: Limits,
    /// Its share where requests wait.
    pub weight: u32,
    /// Higher goes first.
    pub priority: u8,
    /// Requests of its that may wait for one model; `None`: its share, by weight, of all that may.
    pub hold_max: Option<usize>,
}

impl TenantEntry {
    /// One without keys and bounds.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            keys: Vec::new(),
            client_names: Vec::new(),
            models: None,
            limits: Limits::default(),
            weight: 1,
            priority: 0,
            hold_max: None,
        }
    }
}

/// A tenant at work.
#[derive(Debug)]
pub struct Tenant {
    /// Its number in all slots.
    pub id: TenantId,
    /// What is configured.
    pub entry: TenantEntry,
    /// Its requests that are over.
    pub answered: Classes,
    models: Option<BTreeSet<String>>,
    usage: Arc<Usage>,
    /// Of all tenants, nobody's requests included where there may be any.
    weights: u64,
}

impl Tenant {
    /// Its part of something that all share, so that no tenant can take the others' room.
    fn share(&self, all: usize) -> usize {
        let share = all as u128 * u128::from(self.entry.weight) / u128::from(self.weights.max(1));
        usize::try_from(share).unwrap_or(all).max(1)
    }
}

/// The names in a client's certificate, which was checked: an extension of its requests.
#[derive(Clone, Debug, Default)]
pub struct ClientNames(pub Arc<[String]>);

/// Somebody who is known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose requests these are; `None` where nobody needs to say who they are.
    pub tenant: Option<Arc<Tenant>>,
    /// How that is known: `key:pl_…`, `jwt:SUBJECT`, `certificate:NAME`, or `anonymous`.
    pub by: Cow<'static, str>,
}

impl Caller {
    fn anonymous() -> Self {
        Self { tenant: None, by: Cow::Borrowed("anonymous") }
    }

    /// The tenant's name; empty for nobody's.
    pub fn name(&self) -> &str {
        self.tenant.as_ref().map_or("", |tenant| &tenant.entry.name)
    }

    /// Whether it may use the model of this name.
    pub fn may_use(&self, model: &str) -> bool {
        let models = self.tenant.as_ref().and_then(|tenant| tenant.models.as_ref());
        models.is_none_or(|models| models.contains(model))
    }

    /// One more request. Nobody's are not bounded.
    ///
    /// # Errors
    /// 429.
    pub fn enter(&self, now: Instant) -> Result<Option<Place>, ApiError> {
        let enter = |tenant: &Arc<Tenant>| tenant.usage.enter(&tenant.entry.name, &tenant.entry.limits, now);
        self.tenant.as_ref().map(enter).transpose()
    }

    /// Room for one more body. Nobody's have the memory for all.
    /// `all`: what there is for the bodies of all tenants, in KiB. `largest`: what a tenant has at least, as one body may need it.
    pub fn body(&self, all: usize, largest: usize) -> Option<BodyMemory> {
        self.tenant.as_ref().map(|tenant| tenant.usage.body(tenant.share(all).max(largest)))
    }

    /// An answer has used so many.
    pub fn used(&self, tokens: u64) {
        if let Some(tenant) = &self.tenant {
            tenant.usage.used(tokens);
        }
    }

    /// Its place among those who wait.
    /// `hold_max`: as many requests may wait for the model.
    pub fn claim(&self, hold_max: usize, deadline: Instant) -> Claim {
        match &self.tenant {
            None => Claim { tenant: TenantId(0), weight: 1, priority: 0, hold_max, deadline, prefixes: Vec::new() },
            Some(tenant) => Claim {
                tenant: tenant.id,
                weight: tenant.entry.weight,
                priority: tenant.entry.priority,
                hold_max: tenant.entry.hold_max.unwrap_or_else(|| tenant.share(hold_max)),
                deadline,
                prefixes: Vec::new(),
            },
        }
    }

    /// Whose keys and values its requests may share: nobody else's. `None`: those of all who are nobody's.
    pub fn scope(&self) -> Option<u128> {
        let name = &self.tenant.as_ref()?.entry.name;
        let digest = Sha256::new().chain_update(b"pilotlight scope\0").chain_update(name).finalize();
        Some(u128::from_be_bytes(digest[..16].try_into().expect("SHA-256 has 32 bytes")))
    }
}

/// All who are known.
#[derive(Debug, Default)]
pub struct Tenants {
    by_name: HashMap<String, Arc<Tenant>>,
    keys: Keys<Arc<Tenant>>,
    client_names: HashMap<String, Arc<Tenant>>,
    issuers: Vec<Arc<Issuer>>,
    anonymous: bool,
}

/// Numbers of tenants. A name keeps its number and its usage for as long as the process lives.
#[derive(Debug, Default)]
pub struct Book(HashMap<String, (TenantId, Arc<Usage>)>);

impl Book {
    fn of(&mut self, name: &str) -> (TenantId, Arc<Usage>) {
        // 0 is nobody's.
        let next = TenantId(self.0.len() as u32 + 1);
        self.0.entry(name.to_owned()).or_insert_with(|| (next, Arc::default())).clone()
    }
}

impl Tenants {
    /// `anonymous`: who shows nothing is served, too. The entries have been checked ([`crate::Config::check`]).
    pub fn new(entries: &[TenantEntry], issuers: Vec<Arc<Issuer>>, anonymous: bool, book: &mut Book) -> Self {
        let mut tenants = Self { issuers, anonymous, ..Self::default() };
        let weights = entries.iter().map(|entry| u64::from(entry.weight)).sum::<u64>() + u64::from(anonymous);
        for entry in entries {
            let (id, usage) = book.of(&entry.name);
            let models = entry.models.as_ref().map(|models| models.iter().cloned().collect());
            let tenant =
                Arc::new(Tenant { id, entry: entry.clone(), answered: Classes::default(), models, usage, weights });
            tenants.by_name.insert(entry.name.clone(), tenant.clone());
            for key in &entry.keys {
                tenants.keys.add(key.clone(), tenant.clone());
            }
            for name in &entry.client_names {
                tenants.client_names.insert(name.clone(), tenant.clone());
            }
        }
        tenants
    }

    /// Who asks. `client_names` are those of a certificate that was checked.
    ///
    /// # Errors
    /// 401, and 403 for a good token of a tenant that there is not.
    pub async fn identify(&self, headers: &HeaderMap, client_names: &[String]) -> Result<Caller, ApiError> {
        let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
        match shown {
            Some(token) if token.starts_with(key::PREFIX) => return self.by_key(token),
            Some(token) if !self.issuers.is_empty() && token.matches('.').count() == 2 => {
                // Boxed, so that requests without one do not have its size.
                return Box::pin(self.by_token(token)).await;
            }
            // Clients that cannot but send something send anything.
            Some(_) | None => {}
        }
        let known = client_names.iter().find_map(|name| Some((name, self.client_names.get(name)?)));
        if let Some((name, tenant)) = known {
            return Ok(Caller { tenant: Some(tenant.clone()), by: format!("certificate:{name}").into() });
        }
        match headers.contains_key(AUTHORIZATION) {
            _ if self.anonymous => Ok(Caller::anonymous()),
            true => Err(unauthorized("This is no API key of this server.")),
            false => Err(unauthorized("An API key is required.")),
        }
    }

    fn by_key(&self, key: &str) -> Result<Caller, ApiError> {
        match self.keys.find(key) {
            Some((id, tenant)) => Ok(Caller { tenant: Some(tenant.clone()), by: format!("key:{id}").into() }),
            None if self.anonymous && self.keys.is_empty() => Ok(Caller::anonymous()),
            None => Err(unauthorized("This is no API key of this server.")),
        }
    }

    async fn by_token(&self, token: &str) -> Result<Caller, ApiError> {
        let mut why = jwt::BadToken("the token is another issuer's");
        // Said and not proven yet: it only chooses who is asked to prove it.
        let said = jwt::issuer(token);
        for issuer in self.issuers.iter().filter(|issuer| said.as_ref() == Some(&issuer.entry.issuer)) {
            match issuer.check(token).await {
                Ok(said) => {
                    let tenant = self.by_name.get(&said.tenant).filter(|_| issuer.may_speak_for(&said.tenant));
                    let tenant = tenant.ok_or_else(|| {
                        let message = "The token is good, but its tenant is not known to this server.";
                        ApiError::new(ErrorKind::Forbidden, message)
                    })?;
                    return Ok(Caller { tenant: Some(tenant.clone()), by: format!("jwt:{}", said.subject).into() });
                }
                Err(bad) => why = bad,
            }
        }
        tracing::info!(why = why.0, "a token is refused");
        Err(unauthorized(&format!("This token is refused: {why}.")))
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorized(message: &str) -> ApiError {
    let how = "Send it as the header Authorization: Bearer KEY.";
    ApiError::new(ErrorKind::Unauthorized, format!("{message} {how}"))
}

/// A client's headers as text, for whoever must show an admin's key.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    headers::text(headers, AUTHORIZATION).and_then(bearer)
}
