//! A loaded guest: its hooks found and typed, ready to be instantiated in microseconds.

use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, Func, Instance, InstancePre};

use crate::{
    failure::Failure,
    host::{Context, Inner, LoadError},
    overtime::Overtime,
    spec::Spec,
    state::Scope,
    types::{Constraint, Edit, Rejection, Request, Response, Said},
};

/// See the module.
pub struct Plugin {
    pub(crate) spec: Arc<Spec>,
    digest: String,
    memory_bytes: usize,
    pre: InstancePre<Context>,
    pub(crate) exports: Exports,
    host: Arc<Inner>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("spec", &self.spec).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Where the hooks that it exports are.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    pub request: Option<ComponentExportIndex>,
    /// `start`, `next`.
    pub token: Option<(ComponentExportIndex, ComponentExportIndex)>,
    pub text: Option<ComponentExportIndex>,
    pub response: Option<ComponentExportIndex>,
}

/// What a guest subscribes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `on-request`.
    pub request: bool,
    /// `on-token`.
    pub token: bool,
    /// `on-text`.
    pub text: bool,
    /// `on-response`.
    pub response: bool,
}

/// A new instance, and its store.
pub(crate) struct Live {
    pub store: wasmtime::Store<Context>,
    pub instance: Instance,
}

impl Plugin {
    pub(crate) fn new(host: Arc<Inner>, spec: Spec, component: &Component, digest: String) -> Result<Self, LoadError> {
        let function = |interface: &str, name: &str| {
            let interface = component.get_export_index(None, format!("inference:guest/{interface}@0.1.0").as_str())?;
            component.get_export_index(Some(&interface), name)
        };
        let exports = Exports {
            request: function("on-request", "handle"),
            token: function("on-token", "start").zip(function("on-token", "next")),
            text: function("on-text", "handle"),
            response: function("on-response", "handle"),
        };
        let pre = host.linker.instantiate_pre(component);
        let pre = pre.map_err(|error| LoadError::Component(format!("{error:#}")))?;
        let mut plugin = Self { spec: Arc::new(spec), digest, memory_bytes: 0, pre, exports, host };
        if plugin.hooks() == Hooks::default() {
            return Err(LoadError::NoHook);
        }
        plugin.memory_bytes = plugin.try_out()?;
        Ok(plugin)
    }

    /// How it was deployed.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// `sha256:…` of the component.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Linear memory of an instance when it begins, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// What it subscribes to.
    pub fn hooks(&self) -> Hooks {
        let Exports { request, token, text, response } = &self.exports;
        Hooks { request: request.is_some(), token: token.is_some(), text: text.is_some(), response: response.is_some() }
    }

    /// An instance for one choice of a request of this scope.
    pub(crate) fn begin(&self, scope: Scope) -> Result<Live, Failure> {
        let mut store = self.host.store(&self.spec, scope);
        // What runs before the first call has that call's time.
        let budget_ms = self.spec.budgets.request_ms;
        allow(&mut store, budget_ms);
        let _call = store.data().running.call();
        let instance = self.pre.instantiate(&mut store);
        let instance = instance.map_err(|error| match Failure::of(&error, budget_ms) {
            Failure::Trapped(why) if error.downcast_ref::<wasmtime::Trap>().is_none() => Failure::NoInstance(why),
            failure => failure,
        })?;
        Ok(Live { store, instance })
    }

    /// Types are those of the contract; its linear memory when it begins, in bytes.
    fn try_out(&self) -> Result<usize, LoadError> {
        let Live { mut store, instance } =
            self.begin(Scope::default()).map_err(|failure| LoadError::Begin(failure.to_string()))?;
        let (start, next) = self.exports.token.as_ref().map(|(start, next)| (start, next)).unzip();
        let mut of = |hook: Option<&ComponentExportIndex>| -> Option<Func> { instance.get_func(&mut store, hook?) };
        let (request, text) = (of(self.exports.request.as_ref()), of(self.exports.text.as_ref()));
        let (start, next, response) = (of(start), of(next), of(self.exports.response.as_ref()));
        let wrong = |hook| move |error: wasmtime::Error| LoadError::Hook { hook, error: format!("{error:#}") };
        if let Some(hook) = request {
            hook.typed::<(&Request,), (Result<Said, Rejection>,)>(&store).map_err(wrong("on-request"))?;
        }
        if let Some(hook) = start {
            hook.typed::<(&[u32], u32), (Result<Constraint, Rejection>,)>(&store).map_err(wrong("on-token"))?;
        }
        if let Some(hook) = next {
            hook.typed::<(&[u32],), (Result<Constraint, Rejection>,)>(&store).map_err(wrong("on-token"))?;
        }
        if let Some(hook) = text {
            hook.typed::<(&str, bool), (Result<Edit, Rejection>,)>(&store).map_err(wrong("on-text"))?;
        }
        if let Some(hook) = response {
            hook.typed::<(&Response,), (Result<Option<String>, Rejection>,)>(&store).map_err(wrong("on-response"))?;
        }
        Ok(store.data().memory_bytes)
    }
}

/// The next call has so long.
pub(crate) fn allow(store: &mut wasmtime::Store<Context>, budget_ms: u64) {
    store.data_mut().overtime = Overtime::new(budget_ms);
    // Whole ticks that begin after the call does.
    store.set_epoch_deadline(budget_ms.saturating_add(1));
}

/// The engine's words for it, at most so long.
const WORDS_BYTES_MAX: usize = 300;

impl Failure {
    /// Of a call that had so long.
    pub(crate) fn of(error: &wasmtime::Error, budget_ms: u64) -> Self {
        match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => Self::TooSlow { budget_ms },
            Some(trap) => Self::Trapped(trap.to_string()),
            None => {
                let mut words = error.root_cause().to_string();
                words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
                Self::Trapped(words)
            }
        }
    }
}
