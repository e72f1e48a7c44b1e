//! The burner: one process, one model.
//!
//! [`child`] runs under an activator, [`alone`] on a port of its own; both are the same engine behind the same HTTP.
//! **Invariant:** knows nothing of routes, scaling, tenants or Kubernetes, and keeps nothing when it ends but
//! keys and values, where it is given a folder for them.
//!
//! ```text
//! http      bytes ↔ protocol types, server-sent events
//! service   text ↔ token ids, defaults, limits; starts choices
//! guests    requests and answers ↔ what plug-ins see of them
//! text      token ids → text, stop strings, times            (on the HTTP side, per request)
//! embedder  token ids → vectors                              (one thread, owns the encoder)
//! engine    token ids → token ids: admit → step → sample     (one thread, owns the model)
//! restore   snapshot → service, verified beside it
//! verify    its bytes, while they are used
//! ready     memory for it, asked for before it is ordered
//! confine   what is given up before any of it
//! ```
#![deny(unsafe_code)]

mod alone;
pub mod child;
mod code;
mod confine;
mod control;
mod descriptors;
mod embedder;
mod engine;
mod failure;
mod fault;
mod guests;
pub mod guide;
mod http;
mod kv_store;
mod memory;
mod process;
mod ready;
mod restore;
mod service;
mod share;
mod text;
pub mod tools;
mod verify;

pub use confine::{Given, probe as confinement};
pub use engine::{SEQUENCES_DEFAULT, SEQUENCES_MAX};
pub use kv_store::Folder;
pub use memory::keep_what_is_freed;
pub use process::Launch;
pub use share::Share;

use std::{future::Future, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// How a runtime uses its machine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that compute; `None`: one for each core that the process may run on.
    pub threads: Option<usize>,
    /// Memory for keys and values; `None`: 16 full contexts, but at most 2 GiB, and half of the process's own. It is touched only as it is used.
    pub kv_memory_bytes: Option<u64>,
    /// Private memory that the process is held to ([`Share`]); `None`: it is not.
    pub memory_bytes: Option<u64>,
    /// Instructions that the kernels use at most; `None`: the best there are.
    pub instruction_set: Option<String>,
    /// What keys and values are kept in; `None`: float32 where the weights are sealed so, else float16.
    pub kv_format: Option<kernels::KvFormat>,
    /// Sequences computed at once, at most [`SEQUENCES_MAX`]; `None`: [`SEQUENCES_DEFAULT`].
    pub max_sequences: Option<usize>,
    /// The operator's key of encrypted snapshots.
    pub decrypt_key: Option<snapshot::OperatorKey>,
    /// What computes. Elsewhere than on the CPU no keys and values are kept on disk, and none come with the snapshot.
    pub device: models::ComputeDevice,
    /// Where keys and values are kept on disk, so that they outlive the process; `None`: nowhere.
    pub kv_folder: Option<Arc<Folder>>,
    /// Memory to have ready for an encrypted snapshot before one is ordered; 0: none. Under an activator only, and of use where the process waits.
    pub ready_memory_bytes: u64,
    /// It waits for a model: the program's code is brought to memory meanwhile. Under an activator only.
    pub waits: bool,
    /// Give up what an answer does not need, before anything foreign is read. Under an activator only: who has a port opens sockets.
    pub confined: bool,
}

/// Threads for tokenizing and templates; computing has its own.
const BLOCKING_THREADS_MAX: usize = 4;

/// `pilotlight runtime`: launched by an activator with the control socket on descriptor 3 and the HTTP/2 socket on 4.
pub fn child(options: Options) -> ExitCode {
    let begun = descriptors::inherited().and_then(|sockets| Ok((sockets, Launch::begun()?)));
    let ((control, http), launch) = match begun {
        Ok(begun) => begun,
        Err(e) => {
            eprintln!(
                "pilotlight runtime is started by `pilotlight serve`, with its sockets on descriptors 3 and 4: {e}"
            );
            return ExitCode::from(64);
        }
    };
    run(options, async move |options| {
        // A terminal signals its whole process group, a supervisor its whole control group: the activator decides when
        // this process ends. A stream that nobody reads replaces the signal's default action.
        let ignored =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::user_defined2()];
        let _ignored = ignored.map(signal);
        child::run(control, http, options, launch).await
    })
}

/// `pilotlight run FILE`: one runtime alone on a TCP port, same API, no activator. Prints `listening on http://ADDR:PORT`
/// on standard error once it accepts.
pub fn alone(snapshot: PathBuf, listen: SocketAddr, options: Options) -> ExitCode {
    let options = Options { confined: false, ready_memory_bytes: 0, waits: false, ..options };
    run(options, async move |options| alone::run(&snapshot, listen, options).await)
}

/// One thread for all that waits; the processors belong to the kernels.
fn run<F: Future<Output = ExitCode>>(mut options: Options, work: impl FnOnce(Options) -> F) -> ExitCode {
    if let Some(Err(error)) = options.instruction_set.as_deref().map(kernels::set_instruction_set) {
        eprintln!("pilotlight: --instruction-set: {error}");
        return ExitCode::from(64);
    }
    memory::keep_what_is_freed();
    fault::say_and_end();
    // Asked now, while the files that say it can be read.
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    options.threads = Some(threads.max(1));
    let mut builder = tokio::runtime::Builder::new_current_thread();
    match builder.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build() {
        Ok(runtime) => {
            // It has made its own sockets, and no thread is there yet that would not inherit this.
            if options.confined {
                confine::at_launch(&options);
            }
            // Starts the kernels' threads now, which a standby has done before it is needed.
            kernels::set_threads(threads.max(1));
            let code = runtime.block_on(work(options));
            // What still runs ends with the process.
            runtime.shutdown_background();
            code
        }
        Err(e) => {
            eprintln!("pilotlight: starting the runtime's event loop: {e}");
            ExitCode::from(70)
        }
    }
}
