//! Events: a number that is asked for, and one that the device has come to.

use crate::{
    NOT_READY, SUCCESS, Status,
    streams::{self, Work},
};
use std::{
    ffi::{c_uint, c_void},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

pub struct Event {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    recorded: u64,
    reached: u64,
    at: Instant,
}

impl Event {
    pub fn reach(&self, number: u64) {
        let mut state = self.state.lock().unwrap();
        state.reached = state.reached.max(number);
        state.at = Instant::now();
        self.changed.notify_all();
    }

    pub fn wait_for(&self, number: u64) {
        let mut state = self.state.lock().unwrap();
        while state.reached < number {
            state = self.changed.wait(state).unwrap();
        }
    }

    pub fn recorded(&self) -> u64 {
        self.state.lock().unwrap().recorded
    }
}

/// The event of a handle that [`cuEventCreate`] gave.
pub fn of(handle: *mut c_void) -> Arc<Event> {
    let event: *const Event = handle.cast();
    unsafe {
        Arc::increment_strong_count(event);
        Arc::from_raw(event)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> Status {
    let state = State { recorded: 0, reached: 0, at: Instant::now() };
    let made = Arc::new(Event { state: Mutex::new(state), changed: Condvar::new() });
    unsafe { event.write(Arc::into_raw(made).cast_mut().cast()) };
    SUCCESS
}

/// What was recorded goes on; the event is gone when that is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Status {
    drop(unsafe { Arc::from_raw(event.cast_const().cast::<Event>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> Status {
    let event = of(event);
    let number = {
        let mut state = event.state.lock().unwrap();
        state.recorded += 1;
        state.recorded
    };
    streams::of(stream).push(Work::Reach(event, number));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: *mut c_void) -> Status {
    let event = of(event);
    let state = event.state.lock().unwrap();
    if state.reached < state.recorded { NOT_READY } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> Status {
    let event = of(event);
    event.wait_for(event.recorded());
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, from: *mut c_void, to: *mut c_void) -> Status {
    let at = |event| of(event).state.lock().unwrap().at;
    let elapsed = at(to).saturating_duration_since(at(from));
    unsafe { ms.write(elapsed.as_secs_f32() * 1000.0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, from: *mut c_void, to: *mut c_void) -> Status {
    unsafe { cuEventElapsedTime(ms, from, to) }
}
