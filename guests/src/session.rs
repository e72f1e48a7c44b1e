//! The guests of one choice of one request, in their stated order.
//!
//! **Contract:** request → any number of tokens and texts, the last text with the end → response. A guest that has failed and is left out is called no more. Blocks
//! while a guest runs, for its budget at most.

use std::{sync::Arc, time::Instant};

use sha2::{Digest, Sha256};
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, ComponentType, Lift, Lower};

use crate::{
    failure::{Failure, Refused, judge},
    host::hex,
    plugin::{Hooks, Live, Plugin, allow},
    spec::{Grant, OnFailure, Spec},
    state::Scope,
    steer::{Steer, allows_any},
    types::{Constraint, Edit, Rejection, Request, Response, Said},
    window::Window,
};

/// Guests, one behind the other. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chain(Arc<[Arc<Plugin>]>);

impl Chain {
    /// In this order.
    pub fn new(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        Self(plugins.into_iter().collect())
    }

    /// Whether there is no guest.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its guests.
    pub fn plugins(&self) -> &[Arc<Plugin>] {
        &self.0
    }

    /// Whether a request may be shown to them once alone: one keeps something, and what it does to that may not happen twice.
    pub fn is_once(&self) -> bool {
        let is = |spec: &Spec| spec.grants.contains(&Grant::State) && !spec.replayable;
        self.0.iter().any(|plugin| is(plugin.spec()))
    }

    /// Whether any of them keeps what is to outlive the process.
    pub fn is_durable(&self) -> bool {
        self.0.iter().any(|plugin| plugin.spec().durable && plugin.spec().grants.contains(&Grant::State))
    }

    /// A word for what they do: of components, order and how they are deployed. Empty where there is none.
    pub fn identity(&self) -> String {
        let mut hash = Sha256::new();
        for plugin in self.0.iter() {
            let spec = serde_json::to_vec(plugin.spec()).expect("strings and numbers serialise");
            hash.update((spec.len() as u64).to_le_bytes());
            hash.update(spec);
            hash.update(plugin.digest());
        }
        if self.is_empty() { String::new() } else { hex(&hash.finalize()[..16]) }
    }

    /// What any of them subscribes to.
    pub fn hooks(&self) -> Hooks {
        self.0.iter().map(|plugin| plugin.hooks()).fold(Hooks::default(), |all, one| Hooks {
            request: all.request | one.request,
            token: all.token | one.token,
            text: all.text | one.text,
            response: all.response | one.response,
        })
    }

    /// Whether what they did can be done again, elsewhere: not where one may have been left out, nor where one sees tokens and texts, which come in
    /// no fixed order.
    pub fn is_replayable(&self) -> bool {
        let is = |plugin: &Arc<Plugin>| {
            let (spec, hooks) = (plugin.spec(), plugin.hooks());
            spec.replayable && spec.on_failure == OnFailure::Closed && !(hooks.token && (hooks.text || hooks.response))
        };
        self.0.iter().all(is)
    }

    /// For one choice of a request of this scope. Nothing is instantiated before it is needed.
    pub fn begin(&self, scope: Scope) -> Session {
        let guest = |plugin: &Arc<Plugin>| Guest {
            plugin: plugin.clone(),
            scope,
            part: Part::Waits,
            window: Window::default(),
        };
        Session { guests: self.0.iter().map(guest).collect(), stopped: false }
    }
}

/// See the module.
pub struct Session {
    guests: Vec<Guest>,
    /// A guest has ended the generation.
    stopped: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("guests", &self.guests.len()).finish_non_exhaustive()
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is as it was.
    Pass,
    /// It is another.
    Replace(Request),
    /// It is answered with this text, and the model is not asked. The guests behind have not seen the request; texts and the response they will.
    Answer(String),
}

/// What becomes of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// What the client gets.
    pub text: String,
    /// The generation is over.
    pub stop: bool,
}

impl Session {
    /// Instantiates those that nobody has called yet; else their first call does.
    ///
    /// # Errors
    /// One cannot be, and is closed.
    pub fn instantiate(&mut self) -> Result<(), Refused> {
        self.guests.iter_mut().try_for_each(Guest::instantiate)
    }

    /// Linear memory that their instances have now, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let of = |guest: &Guest| match &guest.part {
            Part::Lives(live) => live.store.data().memory_bytes,
            Part::Waits | Part::LeftOut | Part::Failed(_) => 0,
        };
        self.guests.iter().map(of).sum()
    }

    /// Shows them the request.
    ///
    /// # Errors
    /// One refuses it, or fails and is closed.
    pub fn request(&mut self, request: &Request) -> Result<Verdict, Refused> {
        let mut replaced: Option<Request> = None;
        for guest in &mut self.guests {
            match guest.request(replaced.as_ref().unwrap_or(request))? {
                Said::Pass => {}
                Said::Replace(request) => replaced = Some(request),
                Said::Answer(text) => return Ok(Verdict::Answer(text)),
            }
        }
        Ok(replaced.map_or(Verdict::Pass, Verdict::Replace))
    }

    /// What may come first after this prompt, of a vocabulary of so many tokens.
    ///
    /// # Errors
    /// One refuses, or fails and is closed; or what they say together leaves no token.
    pub fn start(&mut self, prompt: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.steer(vocab, |guest| guest.start(prompt, vocab))
    }

    /// What may come next, after these tokens that came since the last call.
    ///
    /// # Errors
    /// As [`Session::start`].
    pub fn next(&mut self, accepted: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.steer(vocab, |guest| guest.next(accepted, vocab))
    }

    fn steer(
        &mut self,
        vocab: u32,
        mut turn: impl FnMut(&mut Guest) -> Result<Steer, Refused>,
    ) -> Result<Steer, Refused> {
        let mut all = Steer::default();
        for guest in &mut self.guests {
            all = all.and(turn(guest)?);
        }
        if all.mask.as_ref().is_some_and(|mask| !allows_any(mask, vocab)) {
            return Err(Refused::no_token());
        }
        Ok(all)
    }

    /// Passes text through them; with `end` it was the last. After a stop nothing more may come.
    ///
    /// # Errors
    /// One refuses, or fails and is closed.
    pub fn text(&mut self, text: &str, end: bool) -> Result<Edited, Refused> {
        let mut edited = Edited { text: text.to_owned(), stop: self.stopped };
        for guest in &mut self.guests {
            let (text, stop) = guest.text(&edited.text, end || edited.stop)?;
            edited = Edited { text, stop: edited.stop || stop };
        }
        self.stopped = edited.stop;
        Ok(edited)
    }

    /// Shows them the whole answer; the text that the client gets instead, if any of them wants another.
    ///
    /// # Errors
    /// One refuses, or fails and is closed.
    pub fn response(&mut self, mut response: Response) -> Result<Option<String>, Refused> {
        let mut changed = false;
        for guest in &mut self.guests {
            if let Some(text) = guest.response(&response)? {
                response.text = text;
                changed = true;
            }
        }
        Ok(changed.then_some(response.text))
    }
}

/// One of them.
struct Guest {
    plugin: Arc<Plugin>,
    scope: Scope,
    part: Part,
    window: Window,
}

/// Whether it takes part.
enum Part {
    /// Nobody has called it yet.
    Waits,
    Lives(Box<Live>),
    /// It has failed, and the request goes on without it.
    LeftOut,
    /// It has failed, and so has all that would go through it.
    Failed(Refused),
}

impl Guest {
    fn instantiate(&mut self) -> Result<(), Refused> {
        if matches!(self.part, Part::Waits) {
            match self.plugin.begin(self.scope) {
                Ok(live) => self.part = Part::Lives(Box::new(live)),
                Err(failure) => drop(self.outcome::<()>(Err(failure))?),
            }
        }
        Ok(())
    }

    fn request(&mut self, request: &Request) -> Result<Said, Refused> {
        self.check()?;
        let plugin = self.plugin.clone();
        let Some(hook) = &plugin.exports.request else { return Ok(Said::Pass) };
        let said = self.call(hook, plugin.spec.budgets.request_ms, (request,));
        Ok(self.outcome(said)?.unwrap_or(Said::Pass))
    }

    fn start(&mut self, prompt: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.check()?;
        let plugin = self.plugin.clone();
        let Some((hook, _)) = &plugin.exports.token else { return Ok(Steer::default()) };
        let said = self.call(hook, plugin.spec.budgets.token_ms, (prompt, vocab));
        self.constraint(said, vocab)
    }

    fn next(&mut self, accepted: &[u32], vocab: u32) -> Result<Steer, Refused> {
        self.check()?;
        let plugin = self.plugin.clone();
        let Some((_, hook)) = &plugin.exports.token else { return Ok(Steer::default()) };
        let said = self.call(hook, plugin.spec.budgets.token_ms, (accepted,));
        self.constraint(said, vocab)
    }

    fn constraint(
        &mut self,
        said: Result<Option<Result<Constraint, Rejection>>, Failure>,
        vocab: u32,
    ) -> Result<Steer, Refused> {
        let checked = said.and_then(|said| match said.transpose() {
            Ok(said) => said.map(|said| Steer::of(said, vocab)).transpose().map(|steer| steer.map(Ok)),
            Err(rejection) => Ok(Some(Err(rejection))),
        });
        Ok(self.outcome(checked)?.unwrap_or_default())
    }

    /// What becomes of a text, and whether the generation is over.
    fn text(&mut self, text: &str, end: bool) -> Result<(String, bool), Refused> {
        self.check()?;
        let plugin = self.plugin.clone();
        let Some(hook) = plugin.exports.text.as_ref().filter(|_| !matches!(self.part, Part::LeftOut)) else {
            return Ok((text.to_owned(), false));
        };
        if text.is_empty() && !end {
            return Ok((String::new(), false));
        }
        let budgets = &plugin.spec.budgets;
        let mut window = std::mem::take(&mut self.window);
        let said = self.call(hook, budgets.text_ms, (window.push(text), end));
        let settle = |said: Option<Result<Edit, Rejection>>| match said.transpose() {
            Ok(Some(edit)) => {
                let stop = edit.stop;
                window.settle(edit, end, budgets, Instant::now()).map(|text| Some(Ok((text, stop))))
            }
            Ok(None) => Ok(None),
            Err(rejection) => Ok(Some(Err(rejection))),
        };
        let settled = said.and_then(settle);
        let settled = self.outcome(settled)?.unwrap_or_else(|| (window.flush(), false));
        self.window = window;
        Ok(settled)
    }

    fn response(&mut self, response: &Response) -> Result<Option<String>, Refused> {
        self.check()?;
        let plugin = self.plugin.clone();
        let Some(hook) = &plugin.exports.response else { return Ok(None) };
        let said = self.call::<_, Option<String>>(hook, plugin.spec.budgets.response_ms, (response,));
        Ok(self.outcome(said)?.flatten())
    }

    /// What everybody is told after its failure, where it is closed.
    fn check(&self) -> Result<(), Refused> {
        match &self.part {
            Part::Failed(refused) => Err(refused.clone()),
            Part::Waits | Part::Lives(_) | Part::LeftOut => Ok(()),
        }
    }

    /// Calls a hook; `None` where the guest is left out.
    fn call<P, T>(
        &mut self,
        hook: &ComponentExportIndex,
        budget_ms: u64,
        given: P,
    ) -> Result<Option<Result<T, Rejection>>, Failure>
    where
        P: ComponentNamedList + Lower,
        T: ComponentType + Lift,
    {
        if matches!(self.part, Part::Waits) {
            self.part = Part::Lives(Box::new(self.plugin.begin(self.scope)?));
        }
        let Part::Lives(live) = &mut self.part else { return Ok(None) };
        let Live { store, instance } = &mut **live;
        allow(store, budget_ms);
        let _call = store.data().running.call();
        let called = instance
            .get_typed_func::<P, (Result<T, Rejection>,)>(&mut *store, hook)
            .and_then(|hook| hook.call(&mut *store, given));
        called.map(|(said,)| Some(said)).map_err(|error| Failure::of(&error, budget_ms))
    }

    /// What a call came to. Nobody calls a guest that has failed.
    fn outcome<T>(&mut self, said: Result<Option<Result<T, Rejection>>, Failure>) -> Result<Option<T>, Refused> {
        match said {
            Ok(said) => said.transpose().map_err(Refused::rejected),
            Err(failure) => {
                let judged = judge(&self.plugin.spec.name, self.plugin.spec.on_failure, failure);
                self.part = judged.as_ref().err().map_or(Part::LeftOut, |refused| Part::Failed(refused.clone()));
                judged.map(|()| None)
            }
        }
    }
}
