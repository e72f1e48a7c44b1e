//! A host as small as one can be: instantiates a guest with nothing granted and speaks the hold-back protocol of `on-text`.

use std::path::Path;
use wasmtime::component::{Component, ComponentType, Func, Instance, Lift, Linker};
use wasmtime::{Config, Engine, Store};

/// The bytes that a host holds back by default.
const HELD_BYTES_MAX: usize = 4096;

pub struct Guest {
    engine: Engine,
    component: Component,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Edit {
    consumed: u32,
    emit: Option<String>,
    stop: bool,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
#[allow(dead_code, reason = "shown in failures")]
struct Rejection {
    status: u16,
    code: String,
    message: String,
}

impl Guest {
    pub fn load(path: &Path) -> Self {
        let mut config = Config::new();
        config.concurrency_support(false);
        let engine = Engine::new(&config).unwrap();
        let component = Component::from_file(&engine, path).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
        Self { engine, component }
    }

    /// The import list, which is the permission request.
    pub fn imports(&self) -> Vec<String> {
        self.component.component_type().imports(&self.engine).map(|(name, _)| name.to_owned()).collect()
    }

    pub fn exports(&self) -> Vec<String> {
        self.component.component_type().exports(&self.engine).map(|(name, _)| name.to_owned()).collect()
    }

    /// A new instance, as each request gets one.
    pub fn start(&self) -> Request {
        let mut store = Store::new(&self.engine, ());
        let linker = Linker::new(&self.engine);
        let instance: Instance = linker.instantiate(&mut store, &self.component).unwrap();
        let hook = instance.get_export_index(&mut store, None, "inference:guest/on-text@0.1.0").unwrap();
        let handle = instance.get_export_index(&mut store, Some(&hook), "handle").unwrap();
        let handle = instance.get_func(&mut store, handle).unwrap();
        Request { store, handle, held: String::new() }
    }
}

/// One request's instance and the text that is held back for it.
pub struct Request {
    store: Store<()>,
    handle: Func,
    held: String,
}

impl Request {
    /// Hands over what arrived and returns what the client gets now.
    ///
    /// # Panics
    /// Where the guest breaks the protocol: consumes what is not there, cuts a character, holds back too much, or at the end anything.
    pub fn push(&mut self, text: &str, end: bool) -> String {
        self.held.push_str(text);
        let typed = self.handle.typed::<(&str, bool), (Result<Edit, Rejection>,)>(&self.store).unwrap();
        let (edit,) = typed.call(&mut self.store, (&self.held, end)).unwrap();
        let edit = edit.unwrap_or_else(|rejection| panic!("{rejection:?}"));
        assert!(!edit.stop, "redaction never ends a generation");
        let consumed = edit.consumed as usize;
        assert!(self.held.is_char_boundary(consumed), "{consumed} is no boundary of {:?}", self.held);
        let settled: String = self.held.drain(..consumed).collect();
        assert!(self.held.len() <= HELD_BYTES_MAX, "{} bytes held back", self.held.len());
        assert!(!end || self.held.is_empty(), "held back at the end: {:?}", self.held);
        edit.emit.unwrap_or(settled)
    }
}
