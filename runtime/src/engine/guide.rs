//! Generations that must follow a form: a [`Guide`] says which tokens may come next, on a thread of its own while the forward
//! pass runs.
//!
//! **Invariant:** a guide is in one place at a time, with its sequence or on that thread; what it says follows from the tokens
//! it has accepted alone.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

/// Which tokens may come next: bit `id % 32` of word `id / 32`.
pub type Mask = Vec<u32>;

/// The form of one generation.
pub trait Guide: Send {
    /// What may come next.
    ///
    /// # Errors
    /// It has become too complex to say.
    fn mask(&mut self) -> Result<Mask, String>;

    /// This came.
    ///
    /// # Errors
    /// It may not come here.
    fn accept(&mut self, id: u32) -> Result<(), String>;

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
    Back(Box<dyn Guide>, Result<Mask, String>),
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
type Answer = (u64, Box<dyn Guide>, Result<Mask, String>);

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
                let mask = guide.mask();
                if answered.send((number, guide, mask)).is_err() {
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
    pub fn mask(&mut self, masks: &mut Masks) -> Result<&Mask, String> {
        if let Place::Away(number) = self.place {
            self.place = match masks.answer(number) {
                Some((_, guide, mask)) => Place::Back(guide, mask),
                None => Place::Nowhere,
            };
        }
        match &self.place {
            Place::Back(_, Ok(mask)) => Ok(mask),
            Place::Back(_, Err(e)) => Err(e.clone()),
            Place::Here(_) | Place::Away(_) | Place::Nowhere => Err("the thread of masks has ended".into()),
        }
    }

    /// This was sampled; true where nothing may follow.
    pub fn accept(&mut self, id: u32) -> Result<bool, String> {
        match std::mem::replace(&mut self.place, Place::Nowhere) {
            Place::Back(mut guide, _) | Place::Here(mut guide) => {
                let accepted = guide.accept(id).map(|()| guide.is_over());
                self.place = Place::Here(guide);
                accepted
            }
            Place::Away(_) | Place::Nowhere => Err("a token was sampled before its mask was there".into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Counts up from its start; three in all.
    struct Counting(u32, u32);

    impl Guide for Counting {
        fn mask(&mut self) -> Result<Mask, String> {
            Ok(vec![1 << self.0])
        }
        fn accept(&mut self, id: u32) -> Result<(), String> {
            (self.1, self.0) = (self.1 + 1, self.0 + 1);
            if id + 1 == self.0 { Ok(()) } else { Err(format!("{id} came")) }
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
                assert_eq!(guided.mask(&mut masks).unwrap(), &[1 << (start + step)]);
                assert_eq!(guided.accept((start + step) as u32).unwrap(), step == 2);
            }
        }
        guided[0].ask(&mut masks, 6);
        guided[0].mask(&mut masks).unwrap();
        assert!(guided[0].accept(31).is_err());
    }
}
