//! Guests that say which token comes next, beside the form that a request asks for.
//!
//! **Contract:** a guest is asked once for each token that it does not force, while the forward pass runs, and told each token once, in order. Where
//! a sequence goes on behind tokens of another life, it is asked and told as it was then.

use super::Shared;
use crate::engine::{Guide, Next};
use guests::Steer;
use protocol::{ApiError, ErrorKind};
use std::collections::VecDeque;

/// One choice's.
pub struct Steered {
    guests: Shared,
    prompt: Vec<u32>,
    vocab: u32,
    form: Option<Box<dyn Guide>>,
    /// What was said last; `None` until they have been asked.
    said: Option<Steer>,
    /// Forced, and not come yet.
    forced: VecDeque<u32>,
    /// Came, and was not looked at yet.
    came: VecDeque<u32>,
    /// Was looked at, and told nobody.
    untold: Vec<u32>,
}

impl Steered {
    /// Before the first token. `vocab`: ids are below it.
    pub fn new(guests: Shared, prompt: Vec<u32>, vocab: usize, form: Option<Box<dyn Guide>>) -> Self {
        let vocab = u32::try_from(vocab).unwrap_or(u32::MAX);
        let (forced, came, untold) = (VecDeque::new(), VecDeque::new(), Vec::new());
        Self { guests, prompt, vocab, form, said: None, forced, came, untold }
    }

    /// Asks until all that came has been told.
    fn catch_up(&mut self) -> Result<&Steer, ApiError> {
        let vocab = self.vocab;
        if self.said.is_none() {
            let steer = self.guests.with(|session| session.start(&self.prompt, vocab))?;
            self.hear(steer);
            self.prompt = Vec::new();
        }
        while let Some(token) = self.came.pop_front() {
            self.untold.push(token);
            self.forced.pop_front();
            if self.forced.is_empty() {
                let untold = std::mem::take(&mut self.untold);
                let steer = self.guests.with(|session| session.next(&untold, vocab))?;
                self.hear(steer);
            }
        }
        Ok(self.said.get_or_insert_default())
    }

    fn hear(&mut self, mut steer: Steer) {
        self.forced.extend(steer.force.drain(..));
        self.said = Some(steer);
    }
}

impl Guide for Steered {
    fn next(&mut self) -> Result<Next, ApiError> {
        let steer = self.catch_up()?;
        let mut next = Next { mask: steer.mask.clone(), biases: steer.biases.clone(), stop: steer.stop };
        if let Some(token) = self.forced.front() {
            let mut only = vec![0; self.vocab.div_ceil(32) as usize];
            only[*token as usize / 32] = 1 << (token % 32);
            next.mask = Some(only);
        }
        let form = self.form.as_mut().map(|form| form.next()).transpose()?;
        if let (Some(form), false) = (form.and_then(|form| form.mask), next.stop) {
            let both = match next.mask {
                None => form,
                // Words that a mask does not have allow nothing.
                Some(mask) => mask.into_iter().zip(form).map(|(one, two)| one & two).collect(),
            };
            if both.iter().all(|word| *word == 0) {
                let message = "A guest and the form that the answer is to have allow no token together.";
                let error = ApiError::new(ErrorKind::Guest(502), message);
                return Err(ApiError { code: Some("guest_failed".into()), ..error });
            }
            next.mask = Some(both);
        }
        Ok(next)
    }

    fn accept(&mut self, id: u32) -> Result<(), ApiError> {
        self.came.push_back(id);
        self.form.as_mut().map_or(Ok(()), |form| form.accept(id))
    }

    fn is_over(&self) -> bool {
        self.form.as_ref().is_some_and(|form| form.is_over())
    }
}
