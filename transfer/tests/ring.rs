//! The ring over a device made of a thread: what arrives, in whatever sizes, and how it ends where something fails.

#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};
use transfer::{Error, Flight, Link, Part, Piece, Ring, start};

/// Memory of the device, by name.
type Memory = Arc<Mutex<HashMap<u32, Vec<u8>>>>;

type Copying = (Vec<u8>, Vec<Part<u32>>, mpsc::SyncSender<Result<Vec<u8>, Error>>);

/// Copies on a thread of its own, one after the other.
struct ThreadLink {
    copies: mpsc::Sender<Copying>,
    /// Buffers that were given out.
    buffers: Arc<AtomicUsize>,
}

impl ThreadLink {
    /// The copy with the number `fails_at`, from 0, fails.
    fn new(memory: Memory, fails_at: Option<usize>) -> Self {
        let (copies, given) = mpsc::channel::<Copying>();
        thread::spawn(move || {
            for (number, (from, parts, done)) in given.into_iter().enumerate() {
                thread::yield_now();
                if fails_at == Some(number) {
                    let _ = done.send(Err(Error::Device("worn out".into())));
                    continue;
                }
                let mut memory = memory.lock().unwrap();
                for part in parts {
                    let to = memory.get_mut(&part.to).unwrap();
                    to[part.at..part.at + part.from.len()].copy_from_slice(&from[part.from]);
                }
                let _ = done.send(Ok(from));
            }
        });
        Self { copies, buffers: Arc::default() }
    }
}

struct Copied(mpsc::Receiver<Result<Vec<u8>, Error>>);

impl Flight for Copied {
    type Staging = Vec<u8>;

    fn land(self) -> Result<Vec<u8>, Error> {
        self.0.recv().unwrap()
    }
}

impl Link for ThreadLink {
    type Staging = Vec<u8>;
    type Memory = u32;
    type Flight = Copied;

    fn staging(&mut self, bytes: usize) -> Result<Vec<u8>, Error> {
        self.buffers.fetch_add(1, Ordering::Relaxed);
        Ok(vec![0; bytes])
    }

    fn send(&mut self, from: Vec<u8>, parts: Vec<Part<u32>>) -> Result<Copied, Error> {
        let (done, landing) = mpsc::sync_channel(1);
        self.copies.send((from, parts, done)).unwrap();
        Ok(Copied(landing))
    }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn source(range: Range<u64>, to: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    to.iter_mut().zip(range).for_each(|(to, at)| *to = byte(at));
    Ok(())
}

/// One allocation for each piece.
fn plan(sizes: &[usize]) -> (Vec<Piece<u32>>, Memory) {
    let mut at = 0;
    let pieces = sizes.iter().zip(0..).map(|(&bytes, number)| {
        let range = at..at + bytes as u64;
        at = range.end;
        Piece { range, parts: vec![Part { from: 0..bytes, to: number, at: 0 }] }
    });
    let pieces = pieces.collect();
    let memory = sizes.iter().zip(0..).map(|(&bytes, number)| (number, vec![0; bytes])).collect();
    (pieces, Arc::new(Mutex::new(memory)))
}

proptest! {
    #[test]
    fn everything_arrives(sizes in prop::collection::vec(0usize..3000, 0..40), buffers in 1usize..5, threads in 1usize..5) {
        let (pieces, memory) = plan(&sizes);
        let ranges: Vec<_> = pieces.iter().map(|piece| piece.range.clone()).collect();
        let link = ThreadLink::new(memory.clone(), None);
        let given_out = link.buffers.clone();
        let arrivals = start(link, pieces, source, Ring { buffers, buffer_bytes: 3000, threads }).unwrap();
        for (number, range) in ranges.into_iter().enumerate() {
            arrivals.wait(number..number + 1).unwrap();
            let want: Vec<u8> = range.map(byte).collect();
            prop_assert_eq!(&memory.lock().unwrap()[&(number as u32)], &want);
        }
        arrivals.wait_all().unwrap();
        prop_assert!(arrivals.are_complete());
        prop_assert!(given_out.load(Ordering::Relaxed) <= buffers);
    }

    #[test]
    fn the_first_failure_ends_every_wait(at in 0usize..20, of_device: bool, buffers in 1usize..4, threads in 1usize..4) {
        let (pieces, memory) = plan(&[1000; 20]);
        let failing = move |range: Range<u64>, to: &mut [u8]| match !of_device && range.start == 1000 * at as u64 {
            true => Err("cannot be read".into()),
            false => source(range, to),
        };
        let link = ThreadLink::new(memory, of_device.then_some(at));
        let arrivals = start(link, pieces, failing, Ring { buffers, buffer_bytes: 1000, threads }).unwrap();
        let error = arrivals.wait_all().unwrap_err().to_string();
        prop_assert_eq!(error.as_str(), if of_device { "the device: worn out" } else { "cannot be read" });
        (0..20).for_each(|number| assert!(arrivals.wait(number..number + 1).is_err()));
        prop_assert!(!arrivals.are_complete());
    }
}

#[test]
fn a_panic_of_the_source_is_a_failure() {
    let (pieces, memory) = plan(&[10; 5]);
    let panics = |_: Range<u64>, _: &mut [u8]| panic!("on purpose");
    let ring = Ring { buffers: 2, buffer_bytes: 10, threads: 2 };
    let arrivals = start(ThreadLink::new(memory, None), pieces, panics, ring).unwrap();
    assert!(matches!(*arrivals.wait(3..4).unwrap_err(), Error::Thread(_)));
}

#[test]
fn a_plan_that_does_not_fit_is_refused() {
    let ring = Ring { buffers: 2, buffer_bytes: 10, threads: 2 };
    let refused = |range, from| {
        let (_, memory) = plan(&[10]);
        let piece = Piece { range, parts: vec![Part { from, to: 0, at: 0 }] };
        start(ThreadLink::new(memory, None), vec![piece], source, ring).unwrap_err().to_string()
    };
    assert_eq!(refused(0..11, 0..1), "a transfer's plan: bytes 0..11 in a buffer of 10");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = refused(5..4, 0..0);
    assert_eq!(backwards, "a transfer's plan: bytes 5..4 in a buffer of 10");
    assert_eq!(refused(0..10, 5..11), "a transfer's plan: part 5..11 of a piece of 10 bytes");
}
