//! A runtime alone on a TCP port: the same engine and API, no activator.

use crate::{
    Options,
    failure::Failure,
    guests::loader::Loader,
    http::{App, CONNECTIONS_MAX, Phase, serve_tcp},
    restore::{Order, Restored, broken, corrupt, restore},
};
use protocol::control::FailureKind;
use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How long clients of a failed runtime may take to read their error before the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, finishes what runs, and returns; a second signal does not wait.
pub async fn run(snapshot: &Path, listen: SocketAddr, options: Options) -> ExitCode {
    match serve(snapshot, listen, options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Io(e)) => {
            eprintln!("pilotlight: {e}");
            ExitCode::from(74)
        }
        Err(Stop::Failed(failure)) => {
            eprintln!("pilotlight: {}: {failure}", snapshot.display());
            failure.exit_code()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Failed(#[from] Failure),
}

async fn serve(snapshot: &Path, listen: SocketAddr, options: Options) -> Result<(), Stop> {
    let name = |e: io::Error, what: &str| io::Error::new(e.kind(), format!("{what}: {e}"));
    let file = File::open(snapshot).map_err(|e| name(e, &format!("opening {}", snapshot.display())))?;
    let listener = TcpListener::bind(listen).await.map_err(|e| name(e, &format!("listening on {listen}")))?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    eprintln!("listening on http://{}", listener.local_addr()?);

    let (phase, phases) = watch::channel(Phase::Starting);
    let (stop, mut stopped) = watch::channel(false);
    let stopping = async move {
        // An error is the end of this runtime, too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let mut server = tokio::spawn(serve_tcp(App::alone(phases), listener, CONNECTIONS_MAX, stopping));
    let wrapped_key = snapshot::wrapped_key(snapshot).ok();
    let guests = Loader::default();
    let mut model = std::pin::pin!(model(file, wrapped_key, options, guests.clone(), &phase));
    tokio::select! {
        failure = &mut model => {
            phase.send_replace(Phase::Failed(failure.refusal()));
            stop.send_replace(true);
            let _ = tokio::time::timeout(FLUSH_MAX, &mut server).await;
            return Err(failure.into());
        }
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.send_replace(true);
    let ended = tokio::select! {
        failure = &mut model => Err(failure.into()),
        _ = &mut server => Ok(()),
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    };
    guests.close();
    ended
}

/// Restores, publishes that, and then only returns where it fails.
async fn model(
    file: File,
    wrapped_key: Option<String>,
    options: Options,
    guests: Loader,
    phase: &watch::Sender<Phase>,
) -> Failure {
    let ordered = Instant::now();
    let handed = None;
    let order = Order {
        file,
        model: None,
        kv_memory_bytes: None,
        verified: false,
        wrapped_key,
        ordered,
        guests,
        handed,
        ready: None,
    };
    let restored = tokio::task::spawn_blocking(move || restore(order, &options)).await;
    let Restored { service, timings, gate, engine_ended, .. } = match restored {
        Ok(Ok(restored)) => restored,
        Ok(Err(failure)) => return failure,
        Err(_) => return Failure::new(FailureKind::Internal, "the restore panicked"),
    };
    tracing::info!(model = service.model, total_us = timings.total_us, "restored");
    phase.send_replace(Phase::Ready(Arc::new(service)));
    tokio::select! {
        failure = corrupt(gate.clone()) => failure,
        failure = broken(gate, engine_ended) => failure,
    }
}
