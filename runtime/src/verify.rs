//! What verifies a snapshot's bytes beside all else, and tells the [`Gate`] in the end.
//!
//! **Contract:** of an encrypted snapshot nothing is read on the CPU by who multiplies or gathers before it is decrypted: from before the model is put
//! together until all of it is there, [`kernels::watch`] says what is about to be read, and waits.

use crate::{
    Options,
    engine::{Gate, Verdict},
    failure::Failure,
};
use kernels::watch::{Watch, Watching};
use models::{ComputeDevice, ModelConfig, Uploading};
use snapshot::{Snapshot, Verification};
use std::{
    ops::Range,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// Threads that verify while others restore and compute.
const THREADS_MAX: usize = 8;
/// How long nothing is multiplied before they no longer leave it to who does.
const PATIENCE: Duration = Duration::from_millis(100);

/// How the bytes are verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Those of them that are not in memory.
    Again,
    /// Each chunk by the thread that is about to multiply it for the first time, and the rest behind.
    Beside,
    /// Beside the restore, or behind the device's own reading. Of what is decrypted so, who is about to multiply it waits until it is there, and decrypts some meanwhile.
    Apart,
}

impl How {
    /// `verified`: this very file was before, and seems to be in memory still. `decrypted`: it is not the file that is read.
    pub fn of(config: &ModelConfig, verified: bool, decrypted: bool, device: ComputeDevice) -> Self {
        // Of a mixture of experts a step reads a part. To decrypt is work that a processor can do before there is anything to multiply.
        let is_read_whole = config.variant.encoder.is_none() && config.variant.experts.is_none();
        match (verified, device) {
            (true, _) => Self::Again,
            (false, ComputeDevice::Cpu) if is_read_whole && !decrypted => Self::Beside,
            (false, _) => Self::Apart,
        }
    }
}

/// Tells the verification of what is about to be read.
struct Told {
    verification: Verification,
    /// It has to be there. Of a mapping a single row says little of what is read next.
    gathers: bool,
}

impl Watch for Told {
    fn about_to_read(&self, bytes: Range<*const u8>) {
        self.verification.look_at(bytes);
    }

    fn about_to_gather(&self, bytes: Range<*const u8>) {
        if self.gathers {
            self.verification.look_at(bytes);
        }
    }
}

/// Starts the verification and a thread that waits for it. What is brought to a device is verified on its way there, and the rest behind it.
pub fn verify(
    snapshot: &Arc<Snapshot>,
    how: How,
    options: &Options,
    uploads: mpsc::Receiver<Uploading>,
) -> Result<(Gate, Option<Verification>), Failure> {
    let (snapshot, threads, gathers) = (snapshot.clone(), threads(options), snapshot.is_decrypted());
    let start = move || match how {
        How::Again => snapshot.verify_again_in_background(threads),
        How::Beside => snapshot.verify_beside(threads, PATIENCE),
        How::Apart => snapshot.verify_in_background(threads),
    };
    let begun = (options.device == ComputeDevice::Cpu).then(&start);
    let beside = begun.clone().filter(|_| how == How::Beside);
    let told = begun.clone().filter(|_| how == How::Beside || gathers);
    let watching = told.map(|verification| Watching::begin(Arc::new(Told { verification, gathers })));
    let (verdict, gate) = Gate::new();
    let wait = move || {
        let uploaded = uploads.iter().try_for_each(|upload| upload.wait().map_err(|e| e.to_string()));
        let found = uploaded.and_then(|()| begun.unwrap_or_else(start).wait().map_err(|e| e.to_string()));
        match (&found, watching) {
            // Not all is there, so it stays announced to the end of the process, which is near.
            (Err(_), Some(watching)) if gathers => std::mem::forget(watching),
            (_, watching) => drop(watching),
        }
        verdict.send_replace(found.map_or_else(Verdict::Corrupt, |()| Verdict::Sound));
    };
    let started = thread::Builder::new().name("verdict".into()).spawn(wait);
    started.map_err(|e| Failure::internal(format!("starting a thread: {e}")))?;
    Ok((gate, beside))
}

fn threads(options: &Options) -> usize {
    let threads = options.threads.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    threads.clamp(1, THREADS_MAX)
}
