//! Snapshot → a service that can answer. The weights become tensors on the engine's thread while the tokenizer is built
//! on this one; the bytes are verified by who multiplies them first, and the rest, or all that are decrypted, on threads of their own. No token leaves before they are sound ([`Gate`]).
//! One of the six files of this crate with `unsafe`.

use crate::{
    Options, confine,
    embedder::Embedder,
    engine::{Compute, Engine, Gate, Keep, Limits, Loaded, Panicked},
    failure::Failure,
    guests::loader::{Keeping, Loader},
    guide::Guides,
    kv_store::{Folder, Identity, KvStore},
    process::program,
    ready::Ready,
    service::{Generator, Service, Work},
    verify::{How, verify},
};
use ::guests::Chain;
use kernels::{BLOCK_TOKENS, KvFormat};
use models::{
    Batch, ChatTemplate, ComputeDevice, Encoder, Generation, Kv, Logits, Model, ModelConfig, Prefix, Tokenizer,
    Uploading,
};
use protocol::control::{FailureKind, RestoreTimings};
use snapshot::{Header, SectionKind, Snapshot, Verification};
use std::{
    fs::File,
    sync::{Arc, mpsc},
    thread,
    time::{Instant, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// Default KV memory: what this many full contexts need …
const KV_CONTEXTS: usize = 16;
/// … but no more than this. Memory is touched only as it is used.
const KV_BYTES_MAX: u64 = 2 << 30;

/// What to restore.
pub struct Order {
    /// The snapshot.
    pub file: File,
    /// What clients call it; `None` for the name it was sealed under.
    pub model: Option<String>,
    /// KV memory; `None` for the default.
    pub kv_memory_bytes: Option<u64>,
    /// This very file has been verified before: what is still in memory need not be again.
    pub verified: bool,
    /// What lies beside an encrypted snapshot.
    pub wrapped_key: Option<String>,
    /// When it was ordered.
    pub ordered: Instant,
    /// Loads guests.
    pub guests: Loader,
    /// Guests in place of the snapshot's own.
    pub handed: Option<File>,
    /// Memory for an encrypted snapshot.
    pub ready: Option<Ready>,
}

/// A service, and what may still become of it.
pub struct Restored {
    /// Can answer.
    pub service: Service,
    /// Where the time went.
    pub timings: RestoreTimings,
    /// The verification's verdict.
    pub gate: Gate,
    /// As in the order.
    pub verified: bool,
    /// How the engine's thread ended, once it has.
    pub engine_ended: oneshot::Receiver<Result<(), Panicked>>,
}

/// Restores; blocks until a first token can be computed.
pub fn restore(order: Order, options: &Options) -> Result<Restored, Failure> {
    let opening = Instant::now();
    let created = order.file.metadata().and_then(|m| m.modified()).ok();
    let created = created.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    let snapshot = open(order.file, order.wrapped_key.as_deref(), order.ready, options)?;
    let (uploading, uploads) = mpsc::channel();
    let config = ModelConfig::from_snapshot(&snapshot).map_err(Failure::from)?;
    let is_there = order.verified && snapshot.seems_resident();
    let how = How::of(&config, is_there, snapshot.is_decrypted(), options.device);
    let (gate, beside) = verify(&snapshot, how, options, uploads)?;
    let open_us = micros(opening);

    let model = order.model.unwrap_or_else(|| snapshot.model().to_owned());
    let keeping = Keeping { folder: options.kv_folder.clone(), model: model.clone() };
    let guests = load_guests(&snapshot, order.guests, order.handed, keeping)?;

    let (ended, engine_ended) = oneshot::channel();
    let started = if config.variant.encoder.is_some() {
        drop(uploading);
        on_cpu(options).and_then(|()| start_encoder(&snapshot, ended))
    } else {
        let bound = order.kv_memory_bytes.or(options.kv_memory_bytes);
        start_engine(&snapshot, bound, options, (gate.clone(), uploading, beside), ended)
    };
    let Started { words, tokenizer_us, work, context, vocab, weights_us } = started?;
    let kv_format = options.kv_format.map_or("own", KvFormat::name);
    let computes = match options.device {
        ComputeDevice::Cpu => kernels::instruction_set().to_owned(),
        device => device.to_string(),
    };
    let guests = guests.join().map_err(|_| Failure::internal("loading guests panicked"))??;
    let service = Service {
        model,
        created,
        tokenizer: words,
        context,
        vocab,
        longest_token: Arc::default(),
        work: Arc::new(work),
        identity: [&snapshot.digest(), &computes, kv_format, &program()].join("/"),
        guests,
        gate: gate.clone(),
    };
    let timings = RestoreTimings { open_us, tokenizer_us, weights_us, total_us: micros(order.ordered) };
    Ok(Restored { service, timings, gate, verified: order.verified, engine_ended })
}

/// Guests become ready to be instantiated while the rest is restored.
fn load_guests(
    snapshot: &Arc<Snapshot>,
    loader: Loader,
    handed: Option<File>,
    keeping: Keeping,
) -> Result<thread::JoinHandle<Result<Chain, Failure>>, Failure> {
    let snapshot = snapshot.clone();
    let load = move || match &handed {
        Some(file) => loader.handed(file, &keeping),
        None => loader.sealed(&snapshot, &keeping),
    };
    let started = thread::Builder::new().name("guests".into()).spawn(load);
    started.map_err(|e| Failure::internal(format!("starting a thread: {e}")))
}

/// A model that computes on its own thread, and where the time went.
struct Started {
    words: Arc<Tokenizer>,
    tokenizer_us: u64,
    work: Work,
    context: usize,
    vocab: usize,
    weights_us: u64,
}

fn start_encoder(snapshot: &Arc<Snapshot>, ended: oneshot::Sender<Result<(), Panicked>>) -> Result<Started, Failure> {
    let start = Instant::now();
    let loading = snapshot.clone();
    let (embedder, facts) = Embedder::start(move || Encoder::restore(&loading).map_err(Failure::from), ended)?;
    let (weights_us, tokenizing) = (micros(start), Instant::now());
    let words = Arc::new(Tokenizer::from_snapshot(snapshot).map_err(Failure::from)?);
    let tokenizer_us = micros(tokenizing);
    let work = Work::Embed(embedder);
    Ok(Started { words, tokenizer_us, work, context: facts.context, vocab: facts.vocab, weights_us })
}

fn start_engine(
    snapshot: &Arc<Snapshot>,
    kv_memory_bytes: Option<u64>,
    options: &Options,
    (gate, uploading, beside): (Gate, mpsc::Sender<Uploading>, Option<Verification>),
    ended: oneshot::Sender<Result<(), Panicked>>,
) -> Result<Started, Failure> {
    let (loaded, facts) = mpsc::sync_channel(1);
    let limits = options.max_sequences.map_or_else(Limits::default, Limits::with_sequences);
    let load = {
        let snapshot = snapshot.clone();
        let (device, folder) = (options.device, options.kv_folder.clone());
        let room = options.memory_bytes.map_or(KV_BYTES_MAX, |bytes| KV_BYTES_MAX.min(bytes / 2));
        let kv = LoadOptions { device, memory_bytes: kv_memory_bytes, room, format: options.kv_format, folder };
        move || load(&snapshot, &kv, (&loaded, &uploading), beside)
    };
    let engine = Engine::start(limits, gate, load, ended);
    let engine = engine.map_err(|e| Failure::internal(format!("starting the engine's thread: {e}")))?;

    let tokenizing = Instant::now();
    let words = words(snapshot);
    let tokenizer_us = micros(tokenizing);
    // The engine's thread sends its facts or why it has none, or it panicked.
    let facts = facts.recv().map_err(|_| Failure::internal("restoring the model panicked"))??;
    let (words, template, generation) = words?;
    let Facts { context, vocab, weights_us } = facts;
    let words = Arc::new(words);
    let guides = Guides::new(words.clone(), vocab, generation.eos.first().copied());
    let work = Work::Generate(Generator { template, generation, guides, engine });
    Ok(Started { words, tokenizer_us, work, context, vocab, weights_us })
}

/// The snapshot, mapped; an encrypted one is decrypted as it is read, of which [`verify`] tells.
#[allow(unsafe_code)]
fn open(
    file: File,
    wrapped_key: Option<&str>,
    ready: Option<Ready>,
    options: &Options,
) -> Result<Arc<Snapshot>, Failure> {
    let header = Header::read(&file).map_err(|e| Failure::from(&e))?;
    if header.tags.is_none() {
        match (ready, options.memory_bytes) {
            // What it is held to is soon asked for by others.
            (Some(ready), Some(_)) => drop(ready.take()),
            (Some(ready), None) => ready.release(),
            (None, _) => {}
        }
        confine::once_unwrapped(options);
        return Snapshot::from_file(file).map_err(|e| Failure::from(&e));
    }
    let missing = |what: &str| Failure::new(FailureKind::BadSnapshot, format!("the snapshot is encrypted, and {what}"));
    let operator = options.decrypt_key.as_ref().ok_or_else(|| missing("no key was given: --decrypt-key FILE"))?;
    let wrapped = wrapped_key.ok_or_else(|| missing("its own key (FILE.key beside it) is not there any more"))?;
    let key = operator.unwrap(wrapped.as_bytes(), &header.digest).map_err(|e| Failure::from(&e))?;
    confine::once_unwrapped(options);
    let room = ready.and_then(Ready::take);
    // SAFETY: tensors in place are matrices on the CPU, of which `kernels::watch` announces every byte before it is read; and [`verify`] watches from before the model is
    // put together until all bytes are there.
    unsafe { Snapshot::decrypt_as_read(room, file, &key) }.map_err(|e| Failure::from(&e))
}

/// What computes here runs on the CPU alone.
fn on_cpu(options: &Options) -> Result<(), Failure> {
    match options.device {
        ComputeDevice::Cpu => Ok(()),
        device => {
            Err(Failure::new(FailureKind::Unsupported, format!("an encoder on {device}: it runs on the CPU alone")))
        }
    }
}

type Words = (Tokenizer, Option<ChatTemplate>, Generation);

fn words(snapshot: &Arc<Snapshot>) -> Result<Words, Failure> {
    let generation = match snapshot.section(SectionKind::Generation).map_err(|e| Failure::from(&e))? {
        Some(json) => serde_json::from_slice(json)
            .map_err(|e| Failure::new(FailureKind::BadSnapshot, format!("generation section: {e}")))?,
        None => Generation::default(),
    };
    Ok((Tokenizer::from_snapshot(snapshot)?, ChatTemplate::from_snapshot(snapshot)?, generation))
}

/// What the rest needs to know about the model on the engine's thread.
struct Facts {
    context: usize,
    vocab: usize,
    weights_us: u64,
}

/// What computes, and how keys and values are to be kept.
struct LoadOptions {
    device: ComputeDevice,
    memory_bytes: Option<u64>,
    /// For keys and values where nothing is said of them.
    room: u64,
    format: Option<KvFormat>,
    folder: Option<Arc<Folder>>,
}

/// The model and its KV pool, on the engine's thread. Tells its facts, or why there are none.
fn load(
    snapshot: &Arc<Snapshot>,
    options: &LoadOptions,
    (tell, uploading): (&mpsc::SyncSender<Result<Facts, Failure>>, &mpsc::Sender<Uploading>),
    beside: Option<Verification>,
) -> Option<Loaded<Computing>> {
    let start = Instant::now();
    let restored = options.device.open().and_then(|device| {
        models::adopt_kernels(snapshot, options.device)?;
        Model::restore_on(snapshot, device)
    });
    let made = restored.map_err(Failure::from).and_then(|model| {
        // Nobody waits for it any more: the restore has failed elsewhere.
        let _ = model.uploading().map(|upload| uploading.send(upload.clone()));
        let model = match options.format {
            Some(format) => model.with_kv_format(format),
            None => model,
        };
        let blocks = blocks(&model, options.memory_bytes, options.room)?;
        let kv = model.new_kv(blocks as usize);
        // Blocks are read and written on the CPU alone.
        let on_cpu = options.device == ComputeDevice::Cpu;
        let prefix = if on_cpu { Prefix::from_snapshot(snapshot, &model).map_err(Failure::from)? } else { None };
        let folder = options.folder.as_ref().filter(|_| on_cpu);
        let keep = folder.and_then(|folder| keep(folder, snapshot, &model));
        let config = model.config();
        let context = config.context_length.min(blocks as usize * BLOCK_TOKENS);
        let facts = Facts { context, vocab: config.vocab_size, weights_us: micros(start) };
        let compute = Computing { model, kv, logits: Logits::default(), prefix, beside };
        Ok((Loaded { compute, blocks, keep }, facts))
    });
    let (loaded, told) = match made {
        Ok((loaded, facts)) => (Some(loaded), Ok(facts)),
        Err(e) => (None, Err(e)),
    };
    // Nobody listens any more: the restore has failed elsewhere.
    tell.send(told).ok()?;
    if options.device == ComputeDevice::Cpu {
        advise(snapshot);
    }
    loaded
}

/// Says where the model would be faster sealed otherwise.
fn advise(snapshot: &Snapshot) {
    if let Some(target) = models::Target::faster(snapshot) {
        let (model, sealed, target) = (snapshot.model(), snapshot.target(), target.name());
        tracing::warn!(
            "{model} is sealed for {sealed} in rows, which this processor multiplies more slowly than tiles; seal it once more: pilotlight \
             seal MODEL --target {target}"
        );
    }
}

/// Where blocks are kept on disk. Without it the model answers as well, from the beginning of each prompt.
fn keep(folder: &Arc<Folder>, snapshot: &Snapshot, model: &Model) -> Option<Box<dyn Keep>> {
    let identity = Identity {
        digest: &snapshot.header().digest,
        instruction_set: kernels::instruction_set(),
        kv_format: model.kv_format().name(),
        block_bytes: model.kv_block_bytes(),
    };
    match KvStore::open(folder, &identity) {
        Ok(store) => Some(Box::new(store)),
        Err(error) => {
            tracing::warn!(model = snapshot.model(), %error, "keys and values on disk are not to be had, and none are kept");
            None
        }
    }
}

/// How many KV blocks: by formula, never by trying. Without a wish, they have `room` at most.
fn blocks(model: &Model, memory_bytes: Option<u64>, room: u64) -> Result<u32, Failure> {
    let block_bytes = model.kv_block_bytes() as u64;
    let contexts = (KV_CONTEXTS * model.config().context_length.div_ceil(BLOCK_TOKENS)) as u64;
    let blocks = match memory_bytes {
        Some(bytes) => bytes / block_bytes,
        None => contexts.min(room / block_bytes),
    };
    if blocks == 0 {
        let message = format!("the memory for keys and values does not hold one block of {block_bytes} bytes");
        return Err(Failure::new(FailureKind::OutOfMemory, message));
    }
    Ok(u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// A model and its pool, as the engine wants them.
struct Computing {
    model: Model,
    kv: Kv,
    logits: Logits,
    /// What many prompts begin with, computed when the model was sealed.
    prefix: Option<Prefix>,
    /// What sums the weights that the first step reads.
    beside: Option<Verification>,
}

impl Compute for Computing {
    fn forward(&mut self, batch: &Batch, row: &mut dyn FnMut(usize, &[f32])) {
        self.model.forward_into(&mut self.kv, batch, &mut self.logits);
        self.beside.take().inspect(Verification::go_on);
        (0..batch.wanted.len()).for_each(|i| row(i, self.logits.row(i)));
    }

    fn regime(&self, length: usize) -> u32 {
        u32::from(self.model.config().rope.is_long(length))
    }

    fn read_block(&mut self, block: u32, out: &mut [u8]) {
        self.kv.read_block(block, out);
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) {
        self.kv.write_block(block, bytes);
    }

    fn sealed(&self, tokens: &[u32], number: usize) -> usize {
        let Some(prefix) = &self.prefix else { return 0 };
        // Its keys are those of a short sequence.
        let is_alike = self.regime(tokens.len()) == self.regime(prefix.tokens().len());
        prefix.block(tokens, number).filter(|_| is_alike).map_or(0, |(positions, _)| positions)
    }

    fn write_sealed(&mut self, block: u32, tokens: &[u32], number: usize) {
        if let Some((_, bytes)) = self.prefix.as_ref().and_then(|prefix| prefix.block(tokens, number)) {
            self.kv.write_block(block, bytes);
        }
    }
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

/// Waits for a corrupt chunk, for ever where all are sound.
pub async fn corrupt(mut gate: Gate) -> Failure {
    match gate.passed().await {
        Ok(()) => std::future::pending().await,
        Err(what) => Failure::new(FailureKind::BadSnapshot, what),
    }
}

/// Waits for the engine's end and says why; a corrupt snapshot is the better explanation.
pub async fn broken(mut gate: Gate, ended: oneshot::Receiver<Result<(), Panicked>>) -> Failure {
    let panicked = match ended.await {
        Ok(Ok(())) => return std::future::pending().await,
        Ok(Err(e)) => Failure::internal(e.to_string()),
        Err(_) => Failure::internal("the engine's thread ended unexpectedly"),
    };
    match gate.passed().await {
        Ok(()) => panicked,
        Err(what) => Failure::new(FailureKind::BadSnapshot, what),
    }
}
