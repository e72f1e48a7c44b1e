//! How fast this machine decrypts, to set a restore against.

use crate::{
    CHUNK_BYTES, Error,
    encrypt::{open_piece, seal_piece},
    keys::DataKey,
};
use ring::aead::LessSafeKey;
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// How long each thread decrypts at least.
const TIME_MIN: Duration = Duration::from_millis(20);

/// Bytes a second that `threads` threads decrypt together as a restore does it, of pieces that are in their caches: what is left where neither file
/// nor memory has to be waited for.
///
/// # Errors
/// There is no entropy for a key, or a thread panicked.
pub fn decryption_rate(threads: usize) -> Result<f64, Error> {
    let key = DataKey::random()?.cipher();
    let rates = thread::scope(|scope| {
        let work = || rate(&key);
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let failed = |_| io::Error::other("a thread panicked");
        threads.into_iter().map(|thread| thread.join().map_err(failed)?).collect::<io::Result<Vec<f64>>>()
    });
    Ok(rates.map_err(Error::io("decrypting"))?.iter().sum())
}

/// Of one thread: sealing, which makes what is opened next, is not counted.
fn rate(key: &LessSafeKey) -> io::Result<f64> {
    let mut piece = vec![1; CHUNK_BYTES as usize];
    let (mut time, mut bytes) = (Duration::ZERO, 0);
    while time < TIME_MIN {
        let tag = seal_piece(key, 0, &[], &mut piece)?;
        let begun = Instant::now();
        let is_sound = open_piece(key, 0, &[], &mut piece, tag);
        time += begun.elapsed();
        bytes += piece.len();
        assert!(is_sound, "what was sealed with a key is opened with it");
    }
    Ok(bytes as f64 / time.as_secs_f64())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn a_rate_is_a_number_whatever_the_threads() {
        for threads in [0, 1, 2] {
            let rate = super::decryption_rate(threads).unwrap();
            assert!(rate.is_finite() && rate > 0.0, "{threads}: {rate}");
        }
    }
}
