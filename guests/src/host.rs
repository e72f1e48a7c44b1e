//! The engine that guests run in, and the services that they may be granted. One for a process.
//!
//! **Invariants:** an instance has its own memory, of which nothing stays; at most [`INSTANCES_MAX`] live at once. Compiled code is taken from
//! this engine alone, or from a file of ours that says it is for one like it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use sha2::{Digest, Sha256};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourceLimiter, Store, StoreContextMut,
    UpdateDeadline,
    component::{Component, Linker},
};

use crate::{
    clock::{Clock, Running},
    keep::Keeper,
    overtime::Overtime,
    plugin::Plugin,
    spec::{Grant, Spec},
    state::{Scope, State},
    types::{Level, StateError},
};

/// Instances that live at once, over all requests.
pub(crate) const INSTANCES_MAX: u32 = 1000;
/// Modules that one component instantiates: itself and what adapts it; a whole Python is some forty.
const MODULES_MAX: u32 = 64;
/// Modules that live at once, over all requests: what most instances have, several times.
const ALL_MODULES_MAX: u32 = INSTANCES_MAX * 8;
/// Tables of one component.
const TABLES_MAX: u32 = 4;
/// Linear memory that an instance can be given at most, in bytes.
pub(crate) const MEMORY_BYTES_MAX: usize = 256 << 20;
/// Entries of one table.
const TABLE_ENTRIES_MAX: usize = 20_000;
/// What guests compute on, in bytes: deeper recursion traps.
const STACK_BYTES: usize = 512 << 10;
/// A component at most, in bytes.
pub(crate) const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// What one call may hand over, in bytes of the host's memory.
const RESULT_BYTES_MAX: usize = 8 << 20;
/// A log line at most, in bytes.
const LOG_BYTES_MAX: usize = 1024;

/// The interfaces of `world.wit` that a component may import, and what has to be granted for them.
const IMPORTS: [(&str, Option<Grant>); 3] = [
    ("inference:guest/types@0.1.0", None),
    ("inference:guest/host@0.1.0", Some(Grant::Host)),
    ("inference:guest/state@0.1.0", Some(Grant::State)),
];

/// Why a guest was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine cannot be made on this machine.
    #[error("guests cannot run here: {0}")]
    Engine(String),
    /// It is too large.
    #[error("the component has {bytes} bytes; the limit is {COMPONENT_BYTES_MAX}")]
    TooLarge {
        /// What it has.
        bytes: usize,
    },
    /// It is no WebAssembly component.
    #[error("it is no WebAssembly component that can run here: {0}")]
    Component(String),
    /// It wants what nobody has.
    #[error("it imports '{import}', which is no service of this host")]
    Unknown {
        /// The import.
        import: String,
    },
    /// It wants what it was not granted.
    #[error("it imports '{import}', which it was not granted: grant '{grant}' to allow it", grant = serde_json::to_value(grant).ok().and_then(|grant| grant.as_str().map(str::to_owned)).unwrap_or_default())]
    NotGranted {
        /// The import.
        import: String,
        /// What would allow it.
        grant: Grant,
    },
    /// It exports nothing that is ever called.
    #[error("it exports none of on-request, on-token, on-text, on-response")]
    NoHook,
    /// A hook has another type.
    #[error("its {hook} has another type than world.wit says: {error}")]
    Hook {
        /// Which.
        hook: &'static str,
        /// In the engine's words.
        error: String,
    },
    /// It cannot even begin.
    #[error("it cannot be instantiated: {0}")]
    Begin(String),
    /// A budget that nobody can have.
    #[error("its budget of {bytes} bytes of memory is above the limit of {MEMORY_BYTES_MAX}")]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub engine: Engine,
    pub linker: Linker<Context>,
    clock: Clock,
    state: Arc<State>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// What an instance's calls find on the host's side.
pub(crate) struct Context {
    spec: Arc<Spec>,
    scope: Scope,
    state: Arc<State>,
    /// Its linear memory, in bytes.
    pub memory_bytes: usize,
    /// Of the call that runs.
    pub overtime: Overtime,
    /// Its time.
    pub running: Running,
}

impl ResourceLimiter for Context {
    /// Of all its memories together.
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let fits = all <= self.spec.budgets.memory_bytes;
        self.memory_bytes = if fits { all } else { self.memory_bytes };
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ENTRIES_MAX)
    }
}

impl Host {
    /// An engine, and nothing in it.
    ///
    /// # Errors
    /// This machine's processor or address space does not allow it.
    pub fn new() -> Result<Self, LoadError> {
        let failed = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        services(&mut linker).map_err(failed)?;
        let clock = Clock::start(engine.weak()).map_err(|error| LoadError::Engine(error.to_string()))?;
        Ok(Self(Arc::new(Inner { engine, linker, clock, state: Arc::default() })))
    }

    /// What durable guests keep is there from what this keeper has, and outlives the process from now on.
    ///
    /// # Errors
    /// What was kept before cannot be read; for people.
    pub fn keep(&self, keeper: Box<dyn Keeper>) -> Result<(), String> {
        self.0.state.keep(keeper, Instant::now())
    }

    /// Nothing more is asked of guests: waits until all that they keep is kept.
    pub fn close(&self) {
        self.0.state.close(Instant::now());
    }

    /// Whether there is a keeper.
    pub fn keeps(&self) -> bool {
        self.0.state.is_kept()
    }

    /// Which compiled code this engine takes: version, processor and settings, as a hash.
    pub fn compatibility(&self) -> String {
        struct Hashing(Sha256);
        impl Hasher for Hashing {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }

            fn finish(&self) -> u64 {
                0
            }
        }
        let mut hashing = Hashing(Sha256::new());
        self.0.engine.precompile_compatibility_hash().hash(&mut hashing);
        hex(&hashing.0.finalize())
    }

    /// A component as this engine's machine code, for [`Host::load_compiled`].
    ///
    /// # Errors
    /// It is no component.
    pub fn compile(&self, component: &[u8]) -> Result<Vec<u8>, LoadError> {
        check_size(component)?;
        self.0.engine.precompile_component(component).map_err(|error| LoadError::Component(format!("{error:#}")))
    }

    /// Compiles a component, checks what it wants, and begins an instance to see that it can.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&self, spec: Spec, component: &[u8]) -> Result<Plugin, LoadError> {
        check_size(component)?;
        let loaded =
            Component::new(&self.0.engine, component).map_err(|error| LoadError::Component(format!("{error:#}")))?;
        self.plug_in(spec, loaded, digest(component))
    }

    /// As [`Host::load`], from what [`Host::compile`] made of the component with this digest.
    ///
    /// # Errors
    /// See [`LoadError`].
    ///
    /// # Safety
    /// `code` is machine code that will run: it is, byte for byte, what [`Host::compile`] returned.
    pub unsafe fn load_compiled(&self, spec: Spec, code: &[u8], digest: String) -> Result<Plugin, LoadError> {
        // SAFETY: the caller's promise. That it is for this version and these settings is checked by the engine itself.
        let loaded = unsafe { Component::deserialize(&self.0.engine, code) };
        self.plug_in(spec, loaded.map_err(|error| LoadError::Component(format!("{error:#}")))?, digest)
    }

    fn plug_in(&self, spec: Spec, component: Component, digest: String) -> Result<Plugin, LoadError> {
        if spec.budgets.memory_bytes > MEMORY_BYTES_MAX {
            return Err(LoadError::Memory { bytes: spec.budgets.memory_bytes });
        }
        for (import, _) in component.component_type().imports(&self.0.engine) {
            permitted(import, &spec)?;
        }
        Plugin::new(self.0.clone(), spec, &component, digest)
    }
}

fn check_size(component: &[u8]) -> Result<(), LoadError> {
    match component.len() {
        bytes if bytes > COMPONENT_BYTES_MAX => Err(LoadError::TooLarge { bytes }),
        _ => Ok(()),
    }
}

fn permitted(import: &str, spec: &Spec) -> Result<(), LoadError> {
    let (_, needed) = IMPORTS
        .iter()
        .find(|(known, _)| *known == import)
        .ok_or_else(|| LoadError::Unknown { import: import.to_owned() })?;
    match needed {
        Some(grant) if !spec.grants.contains(grant) => {
            Err(LoadError::NotGranted { import: import.to_owned(), grant: *grant })
        }
        _ => Ok(()),
    }
}

impl Inner {
    /// A store for one instance.
    pub fn store(&self, spec: &Arc<Spec>, scope: Scope) -> Store<Context> {
        let context = Context {
            spec: spec.clone(),
            scope,
            state: self.state.clone(),
            memory_bytes: 0,
            overtime: Overtime::new(0),
            running: self.clock.run(),
        };
        let mut store = Store::new(&self.engine, context);
        store.limiter(|context| context);
        store.set_hostcall_fuel(RESULT_BYTES_MAX);
        store.epoch_deadline_callback(|mut store| {
            let more = store.data_mut().overtime.more();
            Ok(more.map_or(UpdateDeadline::Interrupt, UpdateDeadline::Continue))
        });
        store
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(ALL_MODULES_MAX)
        .max_core_instances_per_component(MODULES_MAX)
        .total_memories(INSTANCES_MAX)
        .total_tables(INSTANCES_MAX * TABLES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .table_elements(TABLE_ENTRIES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .linear_memory_keep_resident(0)
        .table_keep_resident(0);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES);
    config
}

fn services(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    let mut host = linker.instance("inference:guest/host@0.1.0")?;
    host.func_wrap("log", |store: StoreContextMut<'_, Context>, (level, message): (Level, String)| {
        log(&store.data().spec.name, level, &message);
        Ok(())
    })?;
    host.func_wrap("config", |store: StoreContextMut<'_, Context>, (key,): (String,)| {
        Ok((store.data().spec.config.get(&key).cloned(),))
    })?;
    let mut state = linker.instance("inference:guest/state@0.1.0")?;
    state.func_wrap("get", |store: StoreContextMut<'_, Context>, (key,): (String,)| {
        let Context { spec, scope, state, .. } = store.data();
        Ok((Ok::<_, StateError>(state.get(spec, *scope, &key, Instant::now())),))
    })?;
    state.func_wrap("set", |store: StoreContextMut<'_, Context>, (key, value, ttl): (String, Vec<u8>, u64)| {
        let Context { spec, scope, state, .. } = store.data();
        Ok((state.set(spec, *scope, (&key, value), ttl, Instant::now()),))
    })?;
    state.func_wrap("add", |store: StoreContextMut<'_, Context>, (key, delta, ttl): (String, i64, u64)| {
        let Context { spec, scope, state, .. } = store.data();
        Ok((state.add(spec, *scope, (&key, delta), ttl, Instant::now()),))
    })?;
    Ok(())
}

fn log(guest: &str, level: Level, message: &str) {
    let message = &message[..message.floor_char_boundary(LOG_BYTES_MAX)];
    match level {
        Level::Trace => tracing::trace!(guest, message),
        Level::Debug => tracing::debug!(guest, message),
        Level::Info => tracing::info!(guest, message),
        Level::Warn => tracing::warn!(guest, message),
        Level::Error => tracing::error!(guest, message),
    }
}

/// `sha256:…` of a component's bytes.
pub(crate) fn digest(component: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(component)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
