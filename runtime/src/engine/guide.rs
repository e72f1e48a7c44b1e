//! Generations that must follow a form: a [`Guide`] says which tokens may come next, on a thread of its own while the forward
//! pass runs.
//!
//! **Invariant:** a guide is in one place at a time, with its sequence or on that thread; what it says follows from the tokens
//! it has accepted alone.

use protocol::{ApiError, ErrorKind};
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Which tokens may come next: bit `id % 32` of word `id / 32`.
pub type Mask = Vec<u32>;

/// What is said of the next token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// Only these; `None`: any.
    pub mask: Option<Mask>,
    /// Added to these tokens' logits, before the mask.
    pub biases: Vec<(u32, f32)>,
    /// None may come.
    pub stop: bool,
}

impl From<Mask> for Next {
    fn from(mask: Mask) -> Self {
        Self { mask: Some(mask), ..Self::default() }
    }
}

/// The form of one generation.
pub trait Guide: Send {
    /// What may come next.
    ///
    /// # Errors
    /// It has become too complex to say; a guest refuses.
    fn next(&mut self) -> Result<Next, ApiError>;

    /// This came.
    ///
    /// # Errors
    /// It may not come here.
    fn accept(&mut self, id: u32) -> Result<(), ApiError>;

    /// Nothing may follow any more.
    fn is_over(&self) -> bool;
}

/// A guide with its sequence.
pub(super) struct Guided {
    place: Place,
}

enum Place {
    Here(Box<dyn Guide>),
    /// On the thread, under this number.
    Away(u64),
    /// Back, with what it said.
    Back(Box<dyn Guide>, Result<Next, ApiError>),
    /// Between two places.
    Nowhere,
}

/// The thread that computes masks; started by the first that needs one.
#[derive(Default)]
pub(super) struct Masks {
    thread: Option<Thread>,
    next: u64,
    /// Came back before somebody asked.
    early: Vec<Answer>,
}

type Question = (u64, Box<dyn Guide>);
type Answer = (u64, Box<dyn Guide>, Result<Next, ApiError>);

struct Thread {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
}

impl Masks {
    /// `most`: guides that are away at once.
    fn ask(&mut self, guide: Box<dyn Guide>, most: usize) -> Result<u64, String> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::start(most).map_err(|e| format!("starting a thread: {e}"))?),
        };
        self.next += 1;
        thread.questions.send((self.next, guide)).map_err(|_| "the thread of masks has ended".to_owned())?;
        Ok(self.next)
    }

    /// Waits for the answer to this question.
    fn answer(&mut self, number: u64) -> Option<Answer> {
        if let Some(at) = self.early.iter().position(|answer| answer.0 == number) {
            return Some(self.early.swap_remove(at));
        }
        loop {
            let answer = self.thread.as_ref()?.answers.recv().ok()?;
            if answer.0 == number {
                return Some(answer);
            }
            self.early.push(answer);
        }
    }
}

impl Thread {
    fn start(most: usize) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Question>(most);
        let (answered, answers) = sync_channel(most);
        let work = move || {
            for (number, mut guide) in asked {
                let next = guide.next();
                if answered.send((number, guide, next)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("masks".into()).spawn(work)?;
        Ok(Self { questions, answers })
    }
}

impl Guided {
    pub fn new(guide: Box<dyn Guide>) -> Self {
        Self { place: Place::Here(guide) }
    }

    /// Begins to compute what may come next. `most`: guides that are away at once.
    pub fn ask(&mut self, masks: &mut Masks, most: usize) {
        let place = std::mem::replace(&mut self.place, Place::Nowhere);
        self.place = match place {
            // Where the thread cannot be asked the guide is lost, and the sequence fails when it looks for it.
            Place::Here(guide) => masks.ask(guide, most).map_or(Place::Nowhere, Place::Away),
            other => other,
        };
    }

    /// What may come next, waited for.
    pub fn next(&mut self, masks: &mut Masks) -> Result<&Next, ApiError> {
        if let Place::Away(number) = self.place {
            self.place = match masks.answer(number) {
                Some((_, guide, next)) => Place::Back(guide, next),
                None => Place::Nowhere,
            };
        }
        match &self.place {
            Place::Back(_, Ok(next)) => Ok(next),
            Place::Back(_, Err(e)) => Err(e.clone()),
            Place::Here(_) | Place::Away(_) | Place::Nowhere => Err(broken("the thread of masks has ended")),
        }
    }

    /// This was sampled; true where nothing may follow.
    pub fn accept(&mut self, id: u32) -> Result<bool, ApiError> {
        match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Back(mut guide, _) | Place::Here(mut guide) => {
                let accepted = guide.accept(id).map(|()| guide.is_over());
                self.place = Place::Here(guide);
                accepted
            }
            Place::Away(_) | Place::Nowhere => Err(broken("a token was sampled before its mask was there")),
        }
    }
}

fn broken(why: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("the form of the answer cannot be followed: {why}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Counts up from its start; three in all.
    struct Counting(u32, u32);

    impl Guide for Counting {
        fn next(&mut self) -> Result<Next, ApiError> {
            Ok(vec![1 << self.0].into())
        }
        fn accept(&mut self, id: u32) -> Result<(), ApiError> {
            (self.1, self.0) = (self.1 + 1, self.0 + 1);
            if id + 1 == self.0 { Ok(()) } else { Err(broken(&format!("{id} came"))) }
        }
        fn is_over(&self) -> bool {
            self.1 == 3
        }
    }

    #[test]
    fn masks_come_back_to_whom_they_belong_in_any_order() {
        let mut masks = Masks::default();
        let mut guided: Vec<Guided> = (0..6).map(|start| Guided::new(Box::new(Counting(start, 0)))).collect();
        for step in 0..3 {
            guided.iter_mut().for_each(|guided| guided.ask(&mut masks, 6));
            for (start, guided) in guided.iter_mut().enumerate().rev() {
                assert_eq!(guided.next(&mut masks).unwrap().mask.as_deref(), Some(&[1 << (start + step)][..]));
                assert_eq!(guided.accept((start + step) as u32).unwrap(), step == 2);
            }
        }
        guided[0].ask(&mut masks, 6);
        guided[0].next(&mut masks).unwrap();
        assert!(guided[0].accept(31).is_err());
    }
}
