//! A runtime under an activator: launched without a model, told over the control socket what to do.
//!
//! `Launched → (Restore) → Ready → … → Drained | Failed`, and at the control socket's end the process's. On SIGTERM it leaves: what runs is
//! interrupted, its keys and values are kept where there is a place for them, and the activator lets it go on in another life.
//! **Invariant:** it never outlives its activator; nothing is opened by a path after launch, and nothing could be (the module `confine`).

use crate::{
    Options, code,
    control::{Control, Received},
    engine::{EngineStats, Gate},
    failure::Failure,
    guests::{loader::Keeping, swap::Swap},
    http::{App, Phase, serve_sockets},
    process::Launch,
    ready::Ready,
    restore::{Order, Restored, broken, corrupt, restore},
    service::Service,
};
use local_socket::LocalStream;
use protocol::{
    ApiError, ErrorKind,
    control::{FromRuntime, GuestId, Stats, ToRuntime},
};
use std::{
    os::fd::OwnedFd,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// Connections that wait for the server to take them.
const CONNECTIONS_MAX: usize = 64;

/// How long clients of a failed runtime may take to read their error before the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// How long keys and values may take to be kept by a process that was told to end.
const KEEPING_MAX: Duration = Duration::from_secs(10);

/// How long at least between two reports of what the engine holds.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Runs until drained, failed, or left alone. `control` is one end of a `SOCK_SEQPACKET` pair, `http` of a
/// `SOCK_STREAM` pair.
pub async fn run(control: OwnedFd, http: OwnedFd, options: Options, launch: Launch) -> ExitCode {
    let child = Child::start(control, http, options, launch);
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            tracing::error!(error = %e, "a runtime cannot start with these sockets");
            return ExitCode::from(70);
        }
    };
    child.say(&FromRuntime::Launched { launch_us: child.launch.age().as_micros() as u64 });
    let end = child.serve().await;
    child.swap.loader.close();
    match end {
        End::Drained => {
            child.say(&FromRuntime::Drained);
            ExitCode::SUCCESS
        }
        End::Alone => ExitCode::SUCCESS,
        End::Failed(failure) => child.fail(&failure).await,
    }
}

/// Why a runtime ends.
enum End {
    /// Told to, and all is finished.
    Drained,
    /// The activator is gone.
    Alone,
    /// It cannot go on.
    Failed(Failure),
}

struct Child {
    control: Control,
    /// To the server.
    connections: mpsc::Sender<LocalStream>,
    phase: watch::Sender<Phase>,
    /// Tells the server to finish what runs.
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    launch: Launch,
    terminate: Signal,
    options: Options,
    reports: Option<Reports>,
    /// What the activator does not know to be sound yet.
    verifying: Option<Gate>,
    /// A model was ordered.
    ordered: bool,
    /// Guests that come later.
    swap: Swap,
    /// For the model that will be ordered.
    ready: Option<Ready>,
}

type Restoring = oneshot::Receiver<Result<Restored, Failure>>;

impl Child {
    fn start(control: OwnedFd, http: OwnedFd, options: Options, launch: Launch) -> std::io::Result<Self> {
        let socket = LocalStream::new(http)?;
        let (connections, later) = mpsc::channel(CONNECTIONS_MAX);
        let (phase, phases) = watch::channel(Phase::Starting);
        let (stop, mut stopped) = watch::channel(false);
        let app = App::behind_activator(phases);
        let server = tokio::spawn(serve_sockets(app, socket, later, async move {
            // An error is the end of this runtime, too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        let control = Control::start(control)?;
        let terminate = signal(SignalKind::terminate())?;
        let (reports, verifying, ordered, swap) = (None, None, false, Swap::default());
        if options.waits {
            code::bring();
        }
        let ready = Some(options.ready_memory_bytes).filter(|bytes| *bytes > 0).and_then(Ready::begin);
        Ok(Self {
            control,
            connections,
            phase,
            stop,
            server,
            launch,
            terminate,
            options,
            reports,
            verifying,
            ordered,
            swap,
            ready,
        })
    }

    async fn serve(&mut self) -> End {
        let mut restoring: Option<Restoring> = None;
        // Nothing can fail before a model is there.
        let (never, mut failing) = oneshot::channel::<Failure>();
        let mut never = Some(never);
        loop {
            tokio::select! {
                received = self.control.next() => match received {
                    None => return End::Alone,
                    Some(Err(e)) => return End::Failed(Failure::internal(e)),
                    Some(Ok(message)) => match self.handle(message) {
                        Ok(started) => restoring = started.or(restoring),
                        Err(failure) => return End::Failed(failure),
                    },
                },
                restored = wait(&mut restoring) => match restored {
                    Ok(restored) => {
                        restoring = None;
                        self.ready(restored, never.take());
                    }
                    Err(failure) => return End::Failed(failure),
                },
                guests = self.swap.loaded() => self.exchange(guests),
                () = sound(&mut self.verifying) => self.say(&FromRuntime::Verified),
                engine = changed(&mut self.reports) => self.say(&FromRuntime::Stats(self.stats(engine))),
                Ok(failure) = &mut failing, if never.is_none() => return End::Failed(failure),
                _ = &mut self.server, if *self.stop.borrow() => return End::Drained,
                _ = self.terminate.recv() => return self.leave().await,
            }
        }
    }

    /// Interrupts what runs and keeps what can be kept of it.
    async fn leave(&mut self) -> End {
        self.say(&FromRuntime::Leaving);
        let service = match &*self.phase.borrow() {
            Phase::Ready(service) => Some(service.clone()),
            Phase::Starting | Phase::Failed(_) => None,
        };
        let Some(service) = service else {
            let message = "the runtime was told to end before it had a model";
            self.phase.send_replace(Phase::Failed(ApiError::new(ErrorKind::Interrupted, message)));
            self.stop.send_replace(true);
            let _ = tokio::time::timeout(FLUSH_MAX, &mut self.server).await;
            return End::Drained;
        };
        if let Ok(generator) = service.generator() {
            generator.engine.leave();
            let mut stats = generator.engine.watch();
            let ended = async { while stats.changed().await.is_ok() {} };
            tokio::select! {
                ended = tokio::time::timeout(KEEPING_MAX, ended) => if ended.is_err() {
                    tracing::warn!("not all keys and values could be kept in time");
                },
                () = self.control.gone() => return End::Alone,
            }
            let last = *stats.borrow();
            self.say(&FromRuntime::Stats(self.stats(last)));
        }
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(FLUSH_MAX, &mut self.server).await;
        End::Drained
    }

    /// Does as told; a restore that was started, if any.
    fn handle(&mut self, (message, file): Received) -> Result<Option<Restoring>, Failure> {
        match message {
            ToRuntime::Restore { model, kv_memory_bytes, verified, wrapped_key } => {
                let file = file.ok_or_else(|| Failure::internal("Restore came without the snapshot's descriptor"))?;
                if std::mem::replace(&mut self.ordered, true) {
                    return Err(Failure::internal("Restore came twice"));
                }
                let ordered = Instant::now();
                let (guests, handed) = (self.swap.loader.clone(), self.swap.take());
                let (model, ready) = (Some(model), self.ready.take());
                let order =
                    Order { file, model, kv_memory_bytes, verified, wrapped_key, ordered, guests, handed, ready };
                return self.restore(order).map(Some);
            }
            ToRuntime::Guests => {
                self.swap.hand(file.ok_or_else(|| Failure::internal("Guests came without their descriptor"))?);
                self.begin_swap();
            }
            // Whatever becomes of it: one that is not taken is closed, and its request asks by the first.
            ToRuntime::Connection => match file.map(|socket| LocalStream::new(socket.into())) {
                Some(Ok(socket)) => drop(self.connections.try_send(socket)),
                Some(Err(error)) => tracing::warn!(%error, "a connection cannot be taken"),
                None => tracing::warn!("a connection came without its socket: are there too few descriptors?"),
            },
            ToRuntime::Drain => {
                if !self.ordered {
                    let message = "the runtime was drained before it had a model";
                    self.phase.send_replace(Phase::Failed(ApiError::new(ErrorKind::Unavailable, message)));
                }
                self.stop.send_replace(true);
            }
            ToRuntime::Stats => {
                let engine = self.reports.as_ref().map(|reports| *reports.stats.borrow()).unwrap_or_default();
                self.say(&FromRuntime::Stats(self.stats(engine)));
            }
        }
        Ok(None)
    }

    fn restore(&self, order: Order) -> Result<Restoring, Failure> {
        let (sender, restoring) = oneshot::channel();
        let options = self.options.clone();
        let work = move || {
            // Where nobody waits any more the process is about to end.
            let _ = sender.send(restore(order, &options));
        };
        let started = std::thread::Builder::new().name("restore".into()).spawn(work);
        started.map_err(|e| Failure::internal(format!("starting a thread: {e}")))?;
        Ok(restoring)
    }

    fn ready(&mut self, restored: Restored, failing: Option<oneshot::Sender<Failure>>) {
        let Restored { service, timings, gate, engine_ended, verified } = restored;
        self.verifying = (!verified).then(|| gate.clone());
        tracing::info!(model = service.model, total_us = timings.total_us, "restored");
        self.reports = service
            .generator()
            .ok()
            .map(|generator| Reports { stats: generator.engine.watch(), not_before: Instant::now().into() });
        if !service.guests.is_empty() {
            self.say(&guests_of(&service));
        }
        self.phase.send_replace(Phase::Ready(Arc::new(service)));
        self.say(&FromRuntime::Ready { restore: timings });
        self.begin_swap();
        tokio::spawn(async move {
            let failure = tokio::select! {
                failure = corrupt(gate.clone()) => failure,
                failure = broken(gate, engine_ended) => failure,
            };
            let _ = failing.map(|f| f.send(failure));
        });
    }

    /// Loads guests that were handed over; those that come before the model is ready wait for it.
    fn begin_swap(&mut self) {
        let Phase::Ready(service) = &*self.phase.borrow() else { return };
        let keeping = Keeping { folder: self.options.kv_folder.clone(), model: service.model.clone() };
        self.swap.begin(keeping);
    }

    /// Requests that come from now on go through these, if they could be loaded; others keep theirs.
    fn exchange(&mut self, guests: Option<guests::Chain>) {
        let service = match (&*self.phase.borrow(), guests) {
            (Phase::Ready(service), Some(guests)) => Some(Arc::new(service.with_guests(guests))),
            _ => None,
        };
        if let Some(service) = service {
            tracing::info!(model = service.model, guests = service.guests.plugins().len(), "other guests");
            self.say(&guests_of(&service));
            self.phase.send_replace(Phase::Ready(service));
        }
        // Others may have been handed over meanwhile.
        self.begin_swap();
    }

    /// Answers those that wait, lets all errors out, and says why.
    async fn fail(&mut self, failure: &Failure) -> ExitCode {
        tracing::error!(kind = ?failure.kind, message = failure.message, "the runtime failed");
        self.phase.send_replace(Phase::Failed(failure.refusal()));
        self.stop.send_replace(true);
        // Past the bound the clients' connections break, which is an answer, too.
        let _ = tokio::time::timeout(FLUSH_MAX, &mut self.server).await;
        self.say(&FromRuntime::Failed { kind: failure.kind, message: failure.message.clone() });
        failure.exit_code()
    }

    fn stats(&self, engine: EngineStats) -> Stats {
        Stats {
            running: engine.running as u32,
            waiting: engine.waiting as u32,
            kv_blocks_used: engine.blocks_used as u32,
            kv_blocks_idle: engine.blocks_idle as u32,
            kv_blocks_total: engine.blocks_total as u32,
            preempted: engine.preempted,
            reused_tokens: engine.reused_tokens,
            guessed: engine.guessed,
            guessed_right: engine.guessed_right,
            resident_bytes: self.launch.resident.bytes(),
        }
    }

    /// A message that cannot be sent needs no answer: the end of the control socket follows.
    fn say(&self, message: &FromRuntime) {
        if let Err(e) = self.control.send(message) {
            tracing::warn!(error = %e, "a control message was not sent");
        }
    }
}

fn guests_of(service: &Service) -> FromRuntime {
    let id =
        |plugin: &Arc<guests::Plugin>| GuestId { name: plugin.spec().name.clone(), digest: plugin.digest().to_owned() };
    FromRuntime::Guests { guests: service.guests.plugins().iter().map(id).collect(), once: service.guests.is_once() }
}

/// The engine's numbers, on their way to the activator.
struct Reports {
    stats: watch::Receiver<EngineStats>,
    not_before: tokio::time::Instant,
}

/// Once all is sound, and never again.
async fn sound(verifying: &mut Option<Gate>) {
    let is_sound = match verifying {
        Some(gate) => gate.passed().await.is_ok(),
        None => false,
    };
    *verifying = None;
    if !is_sound {
        std::future::pending().await
    }
}

/// The engine's numbers once they have changed, but not too often; never, where there is no engine. Nothing is lost where
/// this is dropped before it is done.
async fn changed(reports: &mut Option<Reports>) -> EngineStats {
    if let Some(Reports { stats, not_before }) = reports {
        tokio::time::sleep_until(*not_before).await;
        if stats.changed().await.is_ok() {
            *not_before = tokio::time::Instant::now() + REPORT_EVERY;
            return *stats.borrow_and_update();
        }
    }
    // The engine's end has its own way to be told.
    std::future::pending().await
}

/// The restore's result; never, where there is none.
async fn wait(restoring: &mut Option<Restoring>) -> Result<Restored, Failure> {
    match restoring {
        Some(r) => r.await.unwrap_or_else(|_| Err(Failure::internal("the restore panicked"))),
        None => std::future::pending().await,
    }
}
