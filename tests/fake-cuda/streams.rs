//! Streams: each is a thread, which does what it is given one after the other.

use crate::{
    NOT_READY, SUCCESS, Status,
    copies::Copy,
    events::{self, Event},
    memory::{self, Kind},
};
use std::{
    collections::VecDeque,
    ffi::{c_int, c_uint, c_void},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread,
};

pub enum Work {
    Copy(Copy),
    Reach(Arc<Event>, u64),
    Await(Arc<Event>, u64),
    Free(usize),
    End,
}

pub struct Stream {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    given: u64,
    done: u64,
}

/// All that were ever made.
static STREAMS: Mutex<Vec<Arc<Stream>>> = Mutex::new(Vec::new());
static DEFAULT: OnceLock<Arc<Stream>> = OnceLock::new();

impl Stream {
    fn new() -> Arc<Self> {
        let stream = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        STREAMS.lock().unwrap().push(stream.clone());
        let at_work = stream.clone();
        thread::spawn(move || at_work.run());
        stream
    }

    pub fn push(&self, work: Work) {
        let mut state = self.state.lock().unwrap();
        state.given += 1;
        state.waiting.push_back(work);
        self.changed.notify_all();
    }

    /// Waits for what it has been given so far.
    pub fn synchronize(&self) {
        let mut state = self.state.lock().unwrap();
        let given = state.given;
        while state.done < given {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn run(&self) {
        loop {
            let mut state = self.state.lock().unwrap();
            let work = loop {
                match state.waiting.pop_front() {
                    Some(work) => break work,
                    None => state = self.changed.wait(state).unwrap(),
                }
            };
            drop(state);
            let is_end = matches!(work, Work::End);
            match work {
                Work::Copy(copy) => copy.run(),
                Work::Reach(event, number) => event.reach(number),
                Work::Await(event, number) => event.wait_for(number),
                Work::Free(start) => drop(memory::free(start, Kind::Device)),
                Work::End => {}
            }
            self.state.lock().unwrap().done += 1;
            self.changed.notify_all();
            if is_end {
                return;
            }
        }
    }
}

/// The stream of a handle; the null handle is the default stream.
pub fn of(handle: *mut c_void) -> Arc<Stream> {
    if handle.is_null() {
        return DEFAULT.get_or_init(Stream::new).clone();
    }
    let stream: *const Stream = handle.cast();
    unsafe {
        Arc::increment_strong_count(stream);
        Arc::from_raw(stream)
    }
}

pub fn synchronize_all() {
    let streams = STREAMS.lock().unwrap().clone();
    streams.iter().for_each(|stream| stream.synchronize());
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> Status {
    unsafe { stream.write(Arc::into_raw(Stream::new()).cast_mut().cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut *mut c_void,
    flags: c_uint,
    _priority: c_int,
) -> Status {
    unsafe { cuStreamCreate(stream, flags) }
}

/// What it was given goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> Status {
    let stream = unsafe { Arc::from_raw(stream.cast_const().cast::<Stream>()) };
    stream.push(Work::End);
    STREAMS.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &stream));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Status {
    of(stream).synchronize();
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: *mut c_void) -> Status {
    let stream = of(stream);
    let state = stream.state.lock().unwrap();
    if state.done < state.given { NOT_READY } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> Status {
    let event = events::of(event);
    let number = event.recorded();
    of(stream).push(Work::Await(event, number));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    synchronize_all();
    SUCCESS
}
