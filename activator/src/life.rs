//! The activator's own life: check, bind, serve, drain, end.
//!
//! On SIGTERM or SIGINT readiness fails first; then requests that run, wait or still arrive are served until none is left
//! or the drain timeout has passed; then connections are closed, and runtimes drained. A second signal ends it all at once. On SIGUSR2 a
//! successor takes the ports over first (`succession`).

mod error;
mod look;
mod signals;

use std::{
    ffi::OsString,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper_util::service::TowerToHyperService;
use protocol::deadline::TIMEOUT_MAX;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::Instrument;

pub use self::{error::ServeError, look::look_at};
use self::{
    look::{inventory, raise_descriptor_limit},
    signals::{Asked, Signals, asked},
};
use crate::{
    admin::{self, Admin},
    api::Api,
    audit::Audit,
    body::Bodies,
    config::Config,
    door::Door,
    front,
    hold::{COMMANDS_MAX, Gate},
    metrics::Metrics,
    playground,
    probes::Readiness,
    reload::{self, Intake, Source},
    scaler::{Command, Desk, Scaler},
    server::Server,
    slices,
    sockets::{self, Claimed, NoSocket},
    succession::{self, Legacy},
    timers::Timers,
    tls::Tls,
    traces::Traces,
};

/// Threads that serve. One could do; the second keeps probes fast while the first is busy.
const WORKER_THREADS: usize = 2;

/// Connections without a request are closed after this time, where another process accepts.
const LINGER: Duration = Duration::from_secs(5);

/// How long the audit's last lines may take.
const AUDIT_MAX: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, drains, and returns. Prints `admin on http://…` and `listening on http://…` (each `https` under TLS) on stderr
/// once it accepts. With a source, the configuration is read again when it changes.
pub fn serve(config: Config, source: Option<Source>) -> ExitCode {
    match serve_until_signal(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pilotlight: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve_until_signal(config: Config, source: Option<Source>) -> Result<(), ServeError> {
    // Before anything else is opened: what was inherited is known by its number alone.
    let claimed = sockets::claim(config.inherited.clone())?;
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
            let successor = config.successor.clone();
            let mut activator = Activator::with(config, source, claimed).await?;
            let [admin, api] = activator.schemes;
            eprintln!("admin on {admin}://{}", activator.admin());
            eprintln!("listening on {api}://{}", activator.api());
            if let Some(ready) = activator.ready.take() {
                succession::say_ready(ready);
            }
            let ending = activator.until_it_ends(&mut signals, &successor).await;
            if ending == Ending::Broken {
                finish_audit(activator.audit).await;
                return Err(ServeError::Broken);
            }
            // By a signal, or because somebody succeeds: then the first signal only says to hurry.
            let asked = u32::from(ending != Ending::Succeeded);
            activator.drain_unless(ending, signals.count(asked)).await
        }
        .instrument(span),
    )
}

/// Why this process ends, as far as clients are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nobody takes over: who still comes is served, too.
    Served,
    /// Who listens for us lets those who come wait for the next process.
    Managed,
    /// Another process accepts in its place. Nobody hurries.
    Succeeded,
    /// The scaler has failed, and nothing can be answered any more.
    Broken,
}

/// A running activator.
#[derive(Debug)]
pub struct Activator {
    api: Server,
    admin: Server,
    gate: Gate,
    scaler: JoinHandle<()>,
    draining: watch::Sender<bool>,
    drain_timeout: Duration,
    audit: Option<Audit>,
    traces: Traces,
    /// How the admin port and the API port are asked.
    schemes: [&'static str; 2],
    legacy: Legacy,
    managed: bool,
    ready: Option<OwnedFd>,
    /// Takes new configurations in, where they come from somewhere.
    reloads: Option<JoinHandle<()>>,
}

impl Activator {
    /// As [`Activator::begin`], for a configuration that stays.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        Self::begin(config, None).await
    }

    /// Checks the configuration, looks at the snapshots, binds both ports and accepts.
    pub async fn begin(config: Config, source: Option<Source>) -> Result<Self, ServeError> {
        Self::with(config, source, Claimed::default()).await
    }

    /// With sockets that came with the process.
    async fn with(mut config: Config, source: Option<Source>, claimed: Claimed) -> Result<Self, ServeError> {
        config.check()?;
        let slices = inventory(&config).await?;
        config.check_slices(&slices::names(&slices))?;
        raise_descriptor_limit();
        let managed = claimed.managed;
        let opened = sockets::open(claimed, config.listen, config.admin).await;
        let opened = opened.map_err(|NoSocket { address, error }| ServeError::Bind { address, error })?;
        let (api_port, admin_port) = (opened.api, opened.admin);
        let configured = [config.listen, config.admin];
        if config.inherited.is_some() {
            // Who may reach us is decided by where the sockets are, not by what the configuration would have bound.
            (config.listen, config.admin) = (api_port.local_addr()?, admin_port.local_addr()?);
            config.check()?;
        }
        let legacy =
            Legacy { api: api_port.as_fd().try_clone_to_owned()?, admin: admin_port.as_fd().try_clone_to_owned()? };
        let audit = config.audit.as_deref().map(Audit::open).transpose()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(ServeError::Tls)?;
        // The same, so that both have new certificates at once.
        let admin_tls = tls.clone().filter(|_| config.tls.as_ref().is_some_and(|tls| tls.admin));
        let hangup = source.is_some().then(reload::hangup).transpose()?;

        let metrics = Metrics::new(&config.knative);
        let traces = Traces::start(config.traces.as_ref(), &metrics).map_err(ServeError::Traces)?;
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (scaler, phases) = Scaler::new(&config, slices.clone(), metrics.clone());
        let desk = Arc::new(Desk::new(scaler));
        let gate = Gate::new(desk.clone(), commands.clone());
        let scaler = tokio::spawn(desk.run(orders).in_current_span());
        let (draining, readiness) = watch::channel(false);
        let readiness = Readiness::new(readiness);

        let mut intake = Intake::new(&config, configured, commands, tls.clone(), &slices);
        let settings = Arc::new(ArcSwap::from_pointee(intake.take(&config).await?));
        let door = Door::new(admin_port.local_addr()?, settings.clone());
        let admin = Admin {
            gate: gate.clone(),
            settings: settings.clone(),
            door: door.clone(),
            phases,
            metrics: metrics.clone(),
        };
        let api = Api {
            settings: settings.clone(),
            gate: gate.clone(),
            metrics,
            bodies: Bodies::new(config.body_bytes_max),
            timeout: config.timeout,
            timers: Timers::default(),
            audit: audit.clone(),
            traces: traces.clone(),
        };
        let watch = |(source, hangup)| tokio::spawn(reload::watch(intake, source, settings, hangup).in_current_span());
        let api = Arc::new(api);
        let playground = playground::router(api.clone(), readiness.clone(), door);
        let admin = TowerToHyperService::new(admin::router(admin, readiness.clone(), playground));
        Ok(Self {
            scaler,
            schemes: [&admin_tls, &tls].map(|tls| if tls.is_some() { "https" } else { "http" }),
            admin: Server::start(admin_port, admin, admin_tls)?,
            api: Server::start(api_port, front::service(api, readiness), tls)?,
            gate,
            draining,
            drain_timeout: config.drain_timeout,
            audit,
            traces,
            legacy,
            managed,
            ready: opened.ready,
            reloads: source.zip(hangup).map(watch),
        })
    }

    /// Serves until a signal, or until another process has taken over.
    async fn until_it_ends(&self, signals: &mut Signals, successor: &[OsString]) -> Ending {
        let by_signal = if self.managed { Ending::Managed } else { Ending::Served };
        loop {
            tokio::select! {
                asked = signals.next() => if asked == Asked::End {
                    return by_signal;
                },
                // Nobody has asked it to end.
                () = self.gate.commands().closed() => return Ending::Broken,
            }
            let handed = tokio::select! {
                handed = succession::hand_over(successor, &self.legacy) => handed,
                () = signals.ended() => return by_signal,
            };
            match handed {
                Ok(pid) => {
                    tracing::info!(pid, "another process accepts from now on; this one ends when it has answered");
                    return Ending::Succeeded;
                }
                Err(error) => tracing::error!(%error, "nothing succeeds this process, which goes on"),
            }
        }
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
        self.end(Ending::Served, std::future::pending()).await;
    }

    /// `hurry`: the drain timeout begins then at the latest.
    async fn end(self, ending: Ending, hurry: impl Future<Output = ()>) {
        let drain_timeout = self.drain_timeout;
        // One time for all of it, but where nobody hurries: then as long as any request may take.
        let deadline = Instant::now() + drain_timeout;
        let give_up = async {
            if ending == Ending::Succeeded {
                let _late = tokio::time::timeout(TIMEOUT_MAX, hurry).await;
                tokio::time::sleep(drain_timeout).await;
            } else {
                tokio::time::sleep_until(deadline).await;
            }
        };
        tokio::pin!(give_up);
        tracing::info!("draining");
        if let Some(reloads) = &self.reloads {
            reloads.abort();
        }
        self.draining.send_replace(true);
        // What nobody accepts any more must not be left in a queue of ours.
        drop(self.legacy);
        let commands = self.gate.commands();
        let finished = async {
            if ending == Ending::Served {
                let (reply, quiet) = oneshot::channel();
                send(commands, Command::WhenQuiet(reply)).await;
                // A scaler that has ended is quiet.
                let _ = quiet.await;
                self.api.stop(Duration::ZERO).await;
            } else {
                tokio::join!(self.api.stop(LINGER), self.admin.stop(LINGER));
            }
        };
        let give_up_at = tokio::select! {
            () = finished => if ending == Ending::Succeeded { Instant::now() + drain_timeout } else { deadline },
            () = &mut give_up => {
                tracing::warn!("requests and connections are cut at the end of the drain timeout");
                Instant::now()
            }
        };
        let give_up_at = give_up_at.into_std();
        send(commands, Command::Close { give_up_at }).await;
        finish(self.scaler).await;
        finish_audit(self.audit).await;
        self.traces.finish().await;
        tracing::info!("drained");
    }

    /// Drains, unless it is asked twice to end: then every runtime is killed, and that is the end.
    async fn drain_unless(self, ending: Ending, count: watch::Receiver<u32>) -> Result<(), ServeError> {
        let (commands, audit, traces) = (self.gate.commands().clone(), self.audit.clone(), self.traces.clone());
        tokio::select! {
            () = self.end(ending, asked(count.clone(), 1)) => Ok(()),
            () = asked(count, 2) => {
                send(&commands, Command::Kill).await;
                // Closed when the scaler has seen the last runtime's exit.
                commands.closed().await;
                finish_audit(audit).await;
                traces.finish().await;
                Err(ServeError::Interrupted)
            }
        }
    }
}

/// What was recorded so far is on disk, or it is told that it may not be.
async fn finish_audit(audit: Option<Audit>) {
    if let Some(audit) = audit
        && tokio::time::timeout(AUDIT_MAX, audit.finish()).await.is_err()
    {
        tracing::error!("the audit's last lines may be missing");
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
