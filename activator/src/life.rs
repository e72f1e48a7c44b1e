//! The activator's own life: check, bind, serve, drain, end.
//!
//! On SIGTERM or SIGINT readiness fails first; then requests that run, wait or still arrive are served until none is left
//! or the drain timeout has passed; then connections are closed, and runtimes drained. A second signal ends it all at once.

use std::{fs::File, io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::UNIX_EPOCH};

use protocol::answer::ModelCard;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::Instrument;

use crate::{
    admin::{self, Admin},
    api::{self, Api},
    body::Bodies,
    config::{Config, ConfigError, ModelEntry},
    hold::{COMMANDS_MAX, Gate},
    metrics::Metrics,
    playground::{self, Door},
    probes::Readiness,
    scaler::{Command, Scaler},
    server::Server,
};

/// Threads that serve. One could do; the second keeps probes fast while the first is busy.
const WORKER_THREADS: usize = 2;

/// Why `serve` did not begin, or how it was cut short.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A snapshot that is not there.
    #[error("the snapshot of the model '{model}', {path}, cannot be read: {error}", path = path.display())]
    NoSnapshot {
        /// Whose.
        model: String,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A port.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Threads, signals.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A second signal.
    #[error("ended at once by a second signal")]
    Interrupted,
}

impl ServeError {
    /// As sysexits has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 64,
            Self::NoSnapshot { .. } => 66,
            Self::Bind { error, .. } if error.kind() == io::ErrorKind::AddrInUse => 69,
            Self::Bind { .. } | Self::System(_) => 74,
            Self::Interrupted => 130,
        }
    }
}

/// Serves until SIGTERM or SIGINT, drains, and returns. Prints `admin on http://…` and `listening on http://…` on stderr
/// once it accepts.
pub fn serve(config: Config) -> ExitCode {
    match serve_until_signal(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pilotlight: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve_until_signal(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKER_THREADS).enable_all().build()?;
    let knative = config.knative.clone();
    let span = tracing::info_span!(
        "serve",
        service = knative.service,
        revision = knative.revision,
        configuration = knative.configuration
    );
    runtime.block_on(
        async {
            // Before anything is said to listen, so that no signal is missed.
            let mut signals = Signals::new()?;
            let activator = Activator::start(config).await?;
            eprintln!("admin on http://{}", activator.admin());
            eprintln!("listening on http://{}", activator.api());
            signals.next().await;
            activator.drain_unless(signals.next()).await
        }
        .instrument(span),
    )
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running activator.
#[derive(Debug)]
pub struct Activator {
    api: Server,
    admin: Server,
    gate: Gate,
    scaler: JoinHandle<()>,
    draining: watch::Sender<bool>,
    drain_timeout: std::time::Duration,
}

impl Activator {
    /// Checks the configuration, looks at the snapshots, binds both ports and accepts.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        config.check()?;
        let models = config.models.iter().map(look_at).collect::<Result<Vec<_>, _>>()?;
        let (cards, digests): (Vec<_>, Vec<_>) = models.into_iter().unzip();
        raise_descriptor_limit();
        let (admin_port, api_port) = (bind(config.admin).await?, bind(config.listen).await?);

        let metrics = Metrics::new(&config.knative);
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let gate = Gate::new(commands);
        let (scaler, phases) = Scaler::new(&config, digests, orders, metrics.clone());
        let (draining, readiness) = watch::channel(false);
        let readiness = Readiness::new(readiness);

        config.models.iter().for_each(|model| metrics.model(&model.name));
        let names: Arc<[String]> = config.models.iter().map(|model| model.name.clone()).collect();
        let admin = Admin { gate: gate.clone(), models: names, phases, metrics: metrics.clone() };
        let api = Api {
            models: cards,
            gate: gate.clone(),
            metrics,
            bodies: Bodies::new(config.body_bytes_max),
            timeout: config.timeout,
            early_headers_after: config.early_headers_after,
        };
        let api = Arc::new(api);
        let door = Door::at(admin_port.local_addr()?);
        let playground = playground::router(api.clone(), readiness.clone(), door);
        Ok(Self {
            scaler: tokio::spawn(scaler.run().in_current_span()),
            admin: Server::start(admin_port, admin::router(admin, readiness.clone(), playground))?,
            api: Server::start(api_port, api::router(api, readiness))?,
            gate,
            draining,
            drain_timeout: config.drain_timeout,
        })
    }

    /// Where clients ask.
    pub fn api(&self) -> SocketAddr {
        self.api.address
    }

    /// Where operators look.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address
    }

    /// Serves what is under way and what still comes, bounded by the drain timeout, and ends.
    pub async fn drain(self) {
        let deadline = Instant::now() + self.drain_timeout;
        tracing::info!("draining");
        self.draining.send_replace(true);
        let commands = self.gate.commands();
        let (reply, quiet) = oneshot::channel();
        send(commands, Command::WhenQuiet(reply)).await;
        if tokio::time::timeout_at(deadline, quiet).await.is_err() {
            tracing::warn!("requests are still running at the end of the drain timeout");
        }
        if tokio::time::timeout_at(deadline, self.api.stop()).await.is_err() {
            tracing::warn!("connections are cut at the end of the drain timeout");
        }
        send(commands, Command::Close { give_up_at: deadline.into_std() }).await;
        finish(self.scaler).await;
        tracing::info!("drained");
    }

    /// Drains, unless the other future is done earlier: then every runtime is killed, and that is the end.
    async fn drain_unless(self, interrupted: impl Future<Output = ()>) -> Result<(), ServeError> {
        let commands = self.gate.commands().clone();
        tokio::select! {
            () = self.drain() => Ok(()),
            () = interrupted => {
                send(&commands, Command::Kill).await;
                // Closed when the scaler has seen the last runtime's exit.
                commands.closed().await;
                Err(ServeError::Interrupted)
            }
        }
    }
}

/// A scaler that has ended needs no orders.
async fn send(commands: &mpsc::Sender<Command>, command: Command) {
    if commands.send(command).await.is_err() {
        tracing::debug!("the scaler has ended already");
    }
}

async fn finish(scaler: JoinHandle<()>) {
    if let Err(error) = scaler.await {
        tracing::error!(%error, "the scaler failed");
    }
}

/// The model's card and its snapshot's digest. A file that is there and wrong is found out when it is asked for.
fn look_at(model: &ModelEntry) -> Result<(ModelCard, Option<String>), ServeError> {
    let open = || {
        let file = File::open(&model.snapshot)?;
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no regular file")) }
    };
    let (file, metadata) = open().map_err(|error| ServeError::NoSnapshot {
        model: model.name.clone(),
        path: model.snapshot.clone(),
        error,
    })?;
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let digest = match snapshot::Header::read(&file) {
        Ok(header) => Some(header.digest_hex()),
        Err(error) => {
            tracing::error!(model = model.name, %error, "this snapshot cannot be served");
            None
        }
    };
    Ok((ModelCard::new(&model.name, modified.map_or(0, |since| since.as_secs())), digest))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Bind { address, error })
}

/// One descriptor per client: as many as the system lets us have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
