//! The configuration while we serve: read again on SIGHUP, and when its file changes, or one of TLS or of guests.
//!
//! **Invariant:** all or nothing. A configuration that is wrong, or names a file that is not there, changes nothing and is told in the log; one
//! that is right is taken in whole, slots before names. No request is dropped: who is held or answered goes on with what it came in with, models
//! that are gone end when they have answered, and models whose snapshot is another answer what runs before they start anew. Other guests are handed to the runtimes that are there: requests that have come
//! keep theirs.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::fs::inotify;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use crate::{
    config::Config,
    life::{ServeError, look_at},
    scaler::Command,
    settings::{Ledger, Seen, Settings},
    slices::{self, Slice, SliceEntry},
    tenants::jwt::Issuer,
    tls::{Tls, TlsEntry},
    traces::TracesEntry,
    watched,
};

/// Editors and Kubernetes need several steps to put a file in place; after this long they are done.
const SETTLED: Duration = Duration::from_millis(100);

/// Reads the configuration anew. Errors are for people.
pub type Reader = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Where the configuration comes from.
#[derive(Clone)]
pub struct Source {
    /// The file to watch.
    pub file: PathBuf,
    /// Reads it.
    pub read: Reader,
    /// Other files that it names, as far as it can be understood.
    beside: Beside,
    /// All of them as they were before they were read first.
    seen: Vec<(PathBuf, Stamp)>,
}

type Beside = Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>;

impl Source {
    /// To be made before the configuration is read for the first time, so that no change is missed.
    pub fn new(file: PathBuf, read: Reader) -> Self {
        let beside: Beside = Arc::new(Vec::new);
        Self { seen: vec![(file.clone(), stamp(&file))], file, read, beside }
    }

    /// With other files whose change is a reason to read it again: as it names them now, whether or not what it says is right.
    #[must_use]
    pub fn beside(self, files: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static) -> Self {
        let with = Self { beside: Arc::new(files), ..self };
        Self { seen: with.look(), ..with }
    }

    /// All files as they are. The configuration's own first: what it names after that may be of a later one, which is seen then.
    fn look(&self) -> Vec<(PathBuf, Stamp)> {
        let own = (self.file.clone(), stamp(&self.file));
        let named = (self.beside)().into_iter().map(|file| (file.clone(), stamp(&file)));
        std::iter::once(own).chain(named).collect()
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Takes configurations in. One owner of what outlives them.
#[derive(Debug)]
pub struct Intake {
    ledger: Ledger,
    issuers: Vec<Arc<Issuer>>,
    commands: mpsc::Sender<Command>,
    tls: Option<Tls>,
    /// Files whose change is a reason to read everything again.
    files: Vec<PathBuf>,
    /// Somebody has to show who they are.
    asks: bool,
    /// Where the ports are.
    bound: [std::net::SocketAddr; 2],
    /// What cannot change while we serve, as it was configured.
    fixed: Fixed,
}

#[derive(Clone, Debug, PartialEq)]
struct Fixed {
    ports: [std::net::SocketAddr; 2],
    standby: usize,
    standby_memory_bytes: u64,
    body_bytes_max: usize,
    drain_timeout: Duration,
    audit: Option<PathBuf>,
    traces: Option<TracesEntry>,
    /// Whether the API port speaks TLS, and the admin port.
    speak_tls: [bool; 2],
    slices: Vec<SliceEntry>,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        Self {
            ports: [config.listen, config.admin],
            standby: config.standby,
            standby_memory_bytes: config.standby_memory_bytes,
            body_bytes_max: config.body_bytes_max,
            drain_timeout: config.drain_timeout,
            audit: config.audit.clone(),
            traces: config.traces.clone(),
            speak_tls: [config.tls.is_some(), config.tls.as_ref().is_some_and(|tls| tls.admin)],
            slices: config.slices.clone(),
        }
    }
}

impl Intake {
    /// Of a scaler without a slot. `configured`: where the ports were to be, had none been inherited.
    pub fn new(
        config: &Config,
        configured: [std::net::SocketAddr; 2],
        commands: mpsc::Sender<Command>,
        tls: Option<Tls>,
        slices: &[Slice],
    ) -> Self {
        let ledger = Ledger::new(slices::names(slices));
        let fixed = Fixed { ports: configured, ..Fixed::of(config) };
        let (bound, asks) = ([config.listen, config.admin], !config.asks_nobody());
        Self { ledger, issuers: Vec::new(), commands, tls, files: Vec::new(), asks, bound, fixed }
    }

    /// Looks at all files, then tells the scaler; the settings are to be used from now on.
    ///
    /// # Errors
    /// Something that it names is not there. Nothing has changed.
    pub async fn take(&mut self, config: &Config) -> Result<Settings, ServeError> {
        config.check()?;
        self.ledger.check(config)?;
        // Also of one that is refused because they are not there yet.
        self.files = config.tls.iter().flat_map(TlsEntry::files).collect();
        let entries = config.models.clone();
        let looked = tokio::task::spawn_blocking(move || entries.iter().map(look_at).collect::<Result<Vec<Seen>, _>>());
        let seen = looked.await.map_err(std::io::Error::other)??;
        self.issuers = self.issuers(config).await?;
        if let (Some(tls), Some(entry)) = (&self.tls, &config.tls) {
            tls.reload(entry).map_err(ServeError::Tls)?;
        }
        let (settings, slots, rules) = self.ledger.enter(config, seen, self.issuers.clone());
        let (done, told) = oneshot::channel();
        let gone = |_| ServeError::System(std::io::Error::other("the scaler has ended"));
        self.commands.send(Command::Reconfigure(slots, rules, done)).await.map_err(|_| gone(()))?;
        told.await.map_err(|_| gone(()))?;
        Ok(settings)
    }

    /// Those that were there before keep their keys.
    async fn issuers(&self, config: &Config) -> Result<Vec<Arc<Issuer>>, ServeError> {
        let mut issuers = Vec::new();
        for entry in &config.issuers {
            match self.issuers.iter().find(|issuer| issuer.entry == *entry) {
                Some(known) => issuers.push(known.clone()),
                None => {
                    let issuer = Issuer::new(entry.clone()).await.map_err(ServeError::Issuer)?;
                    issuer.keep_fresh();
                    issuers.push(issuer);
                }
            }
        }
        Ok(issuers)
    }

    async fn again(&mut self, source: &Source, settings: &ArcSwap<Settings>) {
        let read = source.read.clone();
        let mut config = match tokio::task::spawn_blocking(move || read()).await {
            Ok(Ok(config)) => config,
            Ok(Err(error)) => return tracing::error!(error, "the new configuration is wrong; the old one stays"),
            Err(error) => return tracing::error!(%error, "the configuration could not be read"),
        };
        if Fixed::of(&config) != self.fixed {
            tracing::warn!(
                "listen, admin, standby, standby_memory, body_max, drain_timeout, audit, traces, slices, and on which ports TLS is spoken, change only with a restart"
            );
        }
        // Whoever reaches the port reaches where it was bound, whatever the file says now.
        [config.listen, config.admin] = self.bound;
        if self.asks && config.asks_nobody() && !config.anonymous {
            return tracing::error!(
                "the new configuration has no tenants and would serve everybody; the old one stays, unless it says anonymous = true"
            );
        }
        match self.take(&config).await {
            Ok(new) => {
                self.asks = !config.asks_nobody();
                settings.store(Arc::new(new));
                tracing::info!(
                    models = config.models.len(),
                    tenants = config.tenants.len(),
                    "the configuration was read anew"
                );
            }
            Err(error) => tracing::error!(%error, "the new configuration cannot be used; the old one stays"),
        }
    }
}

/// Until the process ends.
pub async fn watch(mut intake: Intake, source: Source, settings: Arc<ArcSwap<Settings>>, mut hangup: Signal) {
    let mut watch = Watch::new(source.seen.clone(), &intake.files);
    loop {
        if let Err(error) = &watch {
            tracing::warn!(%error, "the configuration's files cannot be watched; SIGHUP still has them read");
        }
        tokio::select! {
            _ = hangup.recv() => {}
            () = changed(watch.as_mut().ok()) => {}
        }
        // As they are before they are read, so that no change is missed meanwhile.
        let looking = source.clone();
        // Without a thread to look on, changes after those that were seen first are a reason to read it again.
        let seen = tokio::task::spawn_blocking(move || looking.look()).await.unwrap_or_else(|_| source.seen.clone());
        watch = Watch::new(seen, &intake.files);
        intake.again(&source, &settings).await;
        watch = watch
            .and_then(|watch| if watch.has(&intake.files) { Ok(watch) } else { Watch::new(watch.seen, &intake.files) });
    }
}

/// SIGHUP, from now on: without this it would end the process.
pub fn hangup() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Tells one version of a file from another without reading it.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let of = |metadata: fs::Metadata| {
        (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size())
    };
    fs::metadata(path).ok().map(of)
}

/// Files that may be replaced as a whole, or be links that are: their folders are watched.
struct Watch {
    events: AsyncFd<std::os::fd::OwnedFd>,
    /// As they were when the watch began.
    seen: Vec<(PathBuf, Stamp)>,
}

impl Watch {
    /// Of files as they were seen, and of more as they are now.
    fn new(mut seen: Vec<(PathBuf, Stamp)>, more: &[PathBuf]) -> std::io::Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let new = |file: &&PathBuf| !seen.iter().any(|(known, _)| known == *file);
        let new: Vec<_> = more.iter().filter(new).map(|file| (file.clone(), stamp(file))).collect();
        seen.extend(new);
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        for (i, (file, _)) in seen.iter().enumerate() {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match inotify::add_watch(&events, folder, what) {
                // Of the folders of what the configuration names, those that are there.
                Err(error) if i == 0 => return Err(error.into()),
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "a folder cannot be watched"),
                Ok(_) => {}
            }
        }
        Ok(Self { events: watched::readable(events)?, seen })
    }

    fn has(&self, files: &[PathBuf]) -> bool {
        files.iter().all(|file| self.seen.iter().any(|(seen, _)| seen == file))
    }

    /// Waits until a file is another.
    async fn changed(&mut self) {
        loop {
            let another = |(file, seen): &(PathBuf, Stamp)| stamp(file).is_some_and(|now| Some(now) != *seen);
            if self.seen.iter().any(another) {
                return;
            }
            if let Err(error) = self.something().await {
                tracing::error!(%error, "the configuration's files cannot be watched any more; SIGHUP still has them read");
                return std::future::pending().await;
            }
            tokio::time::sleep(SETTLED).await;
        }
    }

    /// Something has happened in the folder.
    async fn something(&self) -> std::io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.events.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
