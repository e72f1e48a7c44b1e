//! Guests from registries: `oci://REGISTRY/REPOSITORY@sha256:DIGEST` → a component on disk.
//!
//! ```text
//! ROOT/guests/DIGEST.json     the manifest, whose SHA-256 is its name
//! ROOT/guests/DIGEST.wasm     its one layer of application/wasm
//! ```
//! **Invariant:** what is handed out has the digest that its manifest says, and that has the digest that was asked for, whether it came now or lay
//! there. A component that is there needs no network. Registries on this machine are spoken to without TLS; others are not.

use crate::{
    Error, Progress, Store,
    folder::{Lock, remove_file_if_there},
};
use docker_credential::DockerCredential;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// How a guest's address begins.
pub const SCHEME: &str = "oci://";
/// The layer that is a component.
const COMPONENT_TYPES: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// A component at most, in bytes: what the host takes.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// A manifest at most, in bytes, where it lies on disk.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(10);
const READ_MAX: Duration = Duration::from_secs(30);
/// All that is asked of a registry for one answer may take so long.
const ANSWER_MAX: Duration = Duration::from_secs(300);
/// How long another process may take that is fetching the same, and how often it is looked whether it is done.
const OTHER_MAX: Duration = Duration::from_secs(300);
const OTHER_EVERY: Duration = Duration::from_millis(100);

/// A guest in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its address, pinned by the digest of its manifest.
    pub pinned: String,
    /// The component.
    pub component: PathBuf,
}

/// A guest's address, understood.
#[derive(Debug)]
struct Address {
    given: String,
    reference: Reference,
}

impl Address {
    fn parse(given: &str) -> Result<Self, Error> {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::bad(given, format!("is no guest's address ({why}): oci://REGISTRY/REPOSITORY@sha256:DIGEST"))
        };
        let rest = given.strip_prefix(SCHEME).ok_or_else(|| wrong(&"it does not begin with oci://"))?;
        let reference: Reference = rest.parse().map_err(|error| wrong(&error))?;
        match reference.digest() {
            Some(digest) if hex(digest).is_none() => Err(wrong(&"its digest is no SHA-256")),
            _ => Ok(Self { given: given.to_owned(), reference }),
        }
    }

    /// The same with the manifest's digest.
    fn pinned(&self, digest: &str) -> String {
        format!("{SCHEME}{}/{}@{digest}", self.reference.registry(), self.reference.repository())
    }
}

/// The 64 digits of `sha256:…`.
fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then_some(hex)
}

impl Store {
    /// The component of a guest that is pinned by the digest of its manifest, fetched if it is not here.
    ///
    /// # Errors
    /// An address that is none, or not pinned; no registry in reach; wrong bytes; a manifest that is no guest's.
    pub fn guest(&self, address: &str, progress: &mut dyn FnMut(Progress)) -> Result<Guest, Error> {
        let address = Address::parse(address)?;
        match address.reference.digest() {
            Some(digest) => self.guest_with(&address, digest, progress),
            None => Err(Error::Unpinned { given: address.given }),
        }
    }

    /// The same of a tag, which is looked up: what it means now.
    ///
    /// # Errors
    /// As [`Store::guest`].
    pub fn pull_guest(&self, address: &str, progress: &mut dyn FnMut(Progress)) -> Result<Guest, Error> {
        let address = Address::parse(address)?;
        let digest = match address.reference.digest() {
            Some(digest) => digest.to_owned(),
            None => apart(|registry| async move { registry.digest().await }, &address)?,
        };
        self.guest_with(&address, &digest, progress)
    }

    fn guest_with(&self, address: &Address, digest: &str, progress: &mut dyn FnMut(Progress)) -> Result<Guest, Error> {
        let name =
            hex(digest).ok_or_else(|| Error::bad(&address.given, format!("its digest {digest} is no SHA-256")))?;
        let folder = self.root.join("guests");
        fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
        let (manifest, component) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.wasm")));
        let guest = Guest { pinned: address.pinned(digest), component };
        if is_sound(&manifest, &guest.component, digest) {
            return Ok(guest);
        }
        let _lock = self.lock(name)?;
        // Another process may have fetched it meanwhile.
        if is_sound(&manifest, &guest.component, digest) {
            return Ok(guest);
        }
        let step = format!("downloading {}", guest.pinned);
        progress(Progress { step: step.clone(), done: 0, total: None });
        let (bytes, layer) = apart(
            |registry| {
                let digest = digest.to_owned();
                async move { registry.manifest(&digest).await }
            },
            address,
        )?;
        put(&manifest, |file| file.write_all(&bytes))?;
        let content = apart(|registry| async move { registry.component(&layer).await }, address)?;
        put(&guest.component, |file| file.write_all(&content))?;
        progress(Progress { step, done: content.len() as u64, total: Some(content.len() as u64) });
        Ok(guest)
    }
}

impl Store {
    /// Waits for another process that is fetching the same.
    fn lock(&self, name: &str) -> Result<Lock, Error> {
        let give_up = Instant::now() + OTHER_MAX;
        loop {
            match Lock::take(&self.root, &format!("{name}.guest")) {
                Err(Error::Busy { .. }) if Instant::now() < give_up => std::thread::sleep(OTHER_EVERY),
                other => return other,
            }
        }
    }
}

/// What lies there is what its name says.
fn is_sound(manifest: &Path, component: &Path, digest: &str) -> bool {
    let read = |path: &Path, most: u64| {
        fs::metadata(path).ok().filter(|file| file.len() <= most)?;
        fs::read(path).ok()
    };
    let Some(bytes) = read(manifest, MANIFEST_BYTES_MAX).filter(|bytes| sha256(bytes) == digest) else { return false };
    let Some(layer) = serde_json::from_slice(&bytes).ok().and_then(|manifest| layer(&manifest).ok().cloned()) else {
        return false;
    };
    read(component, COMPONENT_BYTES_MAX).is_some_and(|bytes| sha256(&bytes) == layer.digest)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |all, byte| all + &format!("{byte:02x}"))
}

/// The one layer that is a component.
fn layer(manifest: &OciImageManifest) -> Result<&OciDescriptor, String> {
    let is_component = |layer: &&OciDescriptor| COMPONENT_TYPES.contains(&layer.media_type.as_str());
    match manifest.layers.iter().filter(is_component).collect::<Vec<_>>()[..] {
        [one] => match u64::try_from(one.size) {
            Ok(size) if size <= COMPONENT_BYTES_MAX => Ok(one),
            _ => Err(format!("its component has {} bytes; the limit is {COMPONENT_BYTES_MAX}", one.size)),
        },
        ref other => Err(format!("it has {} layers of {}, and a guest has one", other.len(), COMPONENT_TYPES[0])),
    }
}

/// Beside its place first, so that nobody sees half of it.
fn put(path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), Error> {
    let beside = path.with_extension("part");
    remove_file_if_there(&beside).map_err(Error::io("removing", &beside))?;
    let mut file = fs::File::create(&beside).map_err(Error::io("making", &beside))?;
    write(&mut file).and_then(|()| file.sync_all()).map_err(Error::io("writing", &beside))?;
    fs::rename(&beside, path).map_err(Error::io("moving", &beside))
}

/// What a registry says of one address. Errors are for people.
struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

/// Asks on a thread and an event loop of their own: who wants a guest may be on one already.
fn apart<T: Send, F: Future<Output = Result<T, Problem>>>(
    ask: impl FnOnce(Registry) -> F + Send,
    address: &Address,
) -> Result<T, Error> {
    let work = || {
        let looped = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let looped = looped.map_err(|error| Problem::Unreachable(error.to_string()))?;
        let registry = Registry::new(address.reference.clone())?;
        let late = |_| Problem::Unreachable(format!("took longer than {} s", ANSWER_MAX.as_secs()));
        looped.block_on(async { tokio::time::timeout(ANSWER_MAX, ask(registry)).await.map_err(late)? })
    };
    let answered = std::thread::scope(|scope| scope.spawn(work).join());
    let answered = answered.unwrap_or_else(|_| Err(Problem::Unreachable("the client panicked".into())));
    answered.map_err(|problem| match problem {
        Problem::Unreachable(problem) => Error::unavailable(&address.given, problem),
        Problem::Bad(problem) => Error::bad(&address.given, problem),
    })
}

/// What came of asking.
enum Problem {
    /// Nothing.
    Unreachable(String),
    /// What cannot be a guest.
    Bad(String),
}

impl From<OciDistributionError> for Problem {
    fn from(error: OciDistributionError) -> Self {
        match &error {
            OciDistributionError::DigestError(_)
            | OciDistributionError::ManifestParsingError(_)
            | OciDistributionError::ManifestEncodingError(_)
            | OciDistributionError::JsonError(_) => Self::Bad(error.to_string()),
            OciDistributionError::IoError(error) => Self::Bad(error.to_string()),
            OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
                Self::Unreachable(format!("access denied ({error}): log in with docker or oras first"))
            }
            _ => Self::Unreachable(words(&error)),
        }
    }
}

/// An error with what it comes from.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

impl Registry {
    fn new(reference: Reference) -> Result<Self, Problem> {
        // One that is chosen already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = reference.resolve_registry().to_owned();
        let host = registry.rsplit_once(':').map_or(registry.as_str(), |(host, _)| host);
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let protocol = if is_here { ClientProtocol::Http } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_MAX),
            read_timeout: Some(READ_MAX),
            user_agent: concat!("pilotlight/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(Problem::from)?;
        Ok(Self { client, auth: auth(&registry)?, reference })
    }

    async fn digest(self) -> Result<String, Problem> {
        Ok(self.client.fetch_manifest_digest(&self.reference, &self.auth).await?)
    }

    /// The manifest with this digest, and its component's layer.
    async fn manifest(self, digest: &str) -> Result<(Vec<u8>, OciDescriptor), Problem> {
        let pinned = self.reference.clone_with_digest(digest.to_owned());
        let (bytes, _) = self.client.pull_manifest_raw(&pinned, &self.auth, &[OCI_IMAGE_MEDIA_TYPE]).await?;
        // Whatever the library has compared.
        if sha256(&bytes) != digest || bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(Problem::Bad(format!("what came is not the manifest {digest}")));
        }
        let manifest =
            serde_json::from_slice(&bytes).map_err(|error| Problem::Bad(format!("its manifest: {error}")))?;
        let layer = layer(&manifest).map_err(Problem::Bad)?.clone();
        // From this registry, and nowhere else.
        Ok((bytes.to_vec(), OciDescriptor { urls: None, ..layer }))
    }

    async fn component(self, layer: &OciDescriptor) -> Result<Vec<u8>, Problem> {
        self.client.store_auth_if_needed(self.reference.resolve_registry(), &self.auth).await;
        let mut bytes = Bounded { bytes: Vec::new(), most: layer.size as usize };
        self.client.pull_blob(&self.reference, layer, &mut bytes).await?;
        match sha256(&bytes.bytes) == layer.digest {
            true => Ok(bytes.bytes),
            false => Err(Problem::Bad(format!("what came is not the layer {}", layer.digest))),
        }
    }
}

/// What docker's configuration says of a registry (`docker login`, `oras login`); nothing, where it says nothing.
fn auth(registry: &str) -> Result<RegistryAuth, Problem> {
    Ok(match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => RegistryAuth::Basic(user, password),
        Ok(DockerCredential::IdentityToken(_)) => {
            let why = format!(
                "docker's login for {registry} is an identity token, which cannot be used here: log in with a user and a password or access token"
            );
            return Err(Problem::Unreachable(why));
        }
        Err(_) => RegistryAuth::Anonymous,
    })
}

/// Takes no more than was said to come.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl tokio::io::AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() + more.len() > self.most {
            let why = format!("more came than the {} bytes that its manifest says", self.most);
            return Poll::Ready(Err(io::Error::other(why)));
        }
        self.bytes.extend_from_slice(more);
        Poll::Ready(Ok(more.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
