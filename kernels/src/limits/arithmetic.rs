//! How fast numbers are multiplied and added up, in the way of the matrix kernels: a small tile of sums that stays in registers.

use crate::cpu::dispatch::{Level, On};
use crate::cpu::linear::zero;
use crate::cpu::vector::{Vector, vectored};
use crate::{Format, Packing};
use std::hint::black_box;
use std::time::Instant;

/// Rows and columns of a tile: with as many sums no addition waits for the one before it, and they fit AVX2's registers.
const ROWS: usize = 4;
const COLUMNS: usize = 3;
/// Products of two tiles' vectors in a task.
const ROUNDS: usize = 1 << 18;
/// Tasks for each thread, so that one that starts late delays nobody.
const TASKS_PER_THREAD: usize = 8;
/// Of the portable code's vectors of 8-bit numbers: a block's.
const BYTES: usize = 32;

/// The numbers that a matrix is multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arithmetic {
    /// 8 bits, added up in 32, with AVX2 in 16 as far as that goes.
    Int8,
    /// bfloat16, added up in float32.
    Bf16,
    /// float32.
    F32,
}

impl Arithmetic {
    /// What the kernels multiply weights in that are packed so, on this processor.
    pub fn of(packing: Packing, format: Format) -> Self {
        match (packing, format) {
            (Packing::Tiles16, Format::BF16) if Level::best().multiplies_pairs() => Self::Bf16,
            (Packing::Tiles16, Format::BF16) => Self::F32,
            (Packing::Tiles16, _) => Self::Int8,
            (Packing::Rows, _) if zero(format, Level::best()).is_some() => Self::Int8,
            (Packing::Rows, _) => Self::F32,
        }
    }

    /// `int8`, `bf16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Multiplications and additions a second on all of the kernels' threads, two for each product, for some milliseconds.
    /// Where the kernels have no instructions for bfloat16 they widen it, so that is float32's.
    pub fn rate(self) -> f64 {
        self.rate_on(On::best(), ROUNDS)
    }

    fn rate_on(self, on: On, rounds: usize) -> f64 {
        let tasks = on.pool.threads() * TASKS_PER_THREAD;
        let (products, run) = self.at(on.level);
        let begun = Instant::now();
        on.pool.run(tasks, &|_| run(on.level, rounds));
        (2 * products * ROWS * COLUMNS * rounds * tasks) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Products of one vector by another, and what multiplies so many rounds of tiles.
    fn at(self, level: Level) -> (usize, fn(Level, usize)) {
        let float = |lanes| (lanes, floats as fn(Level, usize));
        match (self, level) {
            (Self::Int8, Level::Portable) => (BYTES, |_, rounds| bytes(rounds)),
            (_, Level::Portable) => float(8),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level exists only where the processor has it.
            (Self::Int8, Level::Avx2) => (32, |_, rounds| unsafe { x86::bytes_avx2(rounds) }),
            #[cfg(target_arch = "x86_64")]
            (_, Level::Avx2) => float(8),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above; the level has VNNI.
            (Self::Int8, Level::Avx512) => (64, |_, rounds| unsafe { x86::bytes_avx512(rounds) }),
            #[cfg(target_arch = "x86_64")]
            (Self::Bf16, Level::Avx512) if level.multiplies_pairs() => {
                // SAFETY: as above, with BF16.
                (32, |_, rounds| unsafe { x86::pairs_avx512(rounds) })
            }
            #[cfg(target_arch = "x86_64")]
            (_, Level::Avx512) => float(16),
        }
    }
}

vectored! { fn floats(rounds: usize) = float_tile }

#[inline(always)]
fn float_tile<V: Vector, const VECTORS: usize, const ROWS_AT_ONCE: usize>(rounds: usize) {
    let (x, w) = ([V::splat(0.5); ROWS], [V::splat(0.25); COLUMNS]);
    let mut sums = [[V::splat(0.0); COLUMNS]; ROWS];
    for _ in 0..rounds {
        let (x, w) = (black_box(&x), black_box(&w));
        for r in 0..ROWS {
            for c in 0..COLUMNS {
                sums[r][c] = sums[r][c].add_product(x[r], w[c]);
            }
        }
    }
    black_box(sums);
}

fn bytes(rounds: usize) {
    let (x, w) = ([[1_i8; BYTES]; ROWS], [[3_i8; BYTES]; COLUMNS]);
    let mut sums = [[0_i32; COLUMNS]; ROWS];
    for _ in 0..rounds {
        let (x, w) = (black_box(&x), black_box(&w));
        for (x, sums) in x.iter().zip(&mut sums) {
            for (w, sum) in w.iter().zip(sums) {
                for (x, w) in x.iter().zip(w) {
                    *sum = sum.wrapping_add(i32::from(*x) * i32::from(*w));
                }
            }
        }
    }
    black_box(sums);
}

/// The instructions of the kernels for x86-64.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLUMNS, ROWS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Defines a function that multiplies a tile of vectors so many times; each time they are others to the compiler, which has to
    /// load them and multiply again.
    macro_rules! tile {
        ($(#[$doc:meta])* $name:ident, $features:literal, $vector:ty, $one:expr, $sum:ty, $zero:expr, $step:ident) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// The processor has the instructions.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(rounds: usize) {
                let (x, w) = ([$one; ROWS], [$one; COLUMNS]);
                let mut sums = [[$zero; COLUMNS]; ROWS];
                for _ in 0..rounds {
                    let (x, w) = (black_box(&x), black_box(&w));
                    for r in 0..ROWS {
                        for c in 0..COLUMNS {
                            sums[r][c] = $step(sums[r][c], w[c], x[r]);
                        }
                    }
                }
                black_box(sums);
            }
        };
    }

    tile!(
        /// Unsigned by signed bytes, pairs in 16 bits, where they are added up: two instructions. Widening them now and
        /// then is not counted, nor that weights of 8 bits are multiplied nibble by nibble, which takes twice as many.
        bytes_avx2, "avx2", __m256i, _mm256_set1_epi8(1), __m256i, _mm256_setzero_si256(), twos
    );
    tile!(
        /// Unsigned by signed bytes, fours in 32 bits.
        bytes_avx512, "avx512f,avx512bw,avx512vnni", __m512i, _mm512_set1_epi8(1), __m512i, _mm512_setzero_si512(),
        _mm512_dpbusd_epi32
    );
    tile!(
        /// Pairs of bfloat16 in float32.
        pairs_avx512, "avx512f,avx512bw,avx512bf16", __m512bh, pair(), __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps
    );

    #[inline]
    #[target_feature(enable = "avx2")]
    fn twos(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pair() -> __m512bh {
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::pool;

    #[test]
    fn every_kind_has_a_rate_at_every_level() {
        for level in Level::available() {
            for kind in [Arithmetic::Int8, Arithmetic::Bf16, Arithmetic::F32] {
                let rate = kind.rate_on(On { level, pool: pool() }, 1);
                assert!(rate.is_finite() && rate > 0.0, "{kind:?} at {level:?}: {rate}");
            }
        }
    }

    #[test]
    fn blocks_are_multiplied_in_bytes_and_what_has_no_kernel_in_floats() {
        assert_eq!(Arithmetic::of(Packing::Rows, Format::Q4_1), Arithmetic::Int8);
        assert_eq!(Arithmetic::of(Packing::Tiles16, Format::Q6_K), Arithmetic::Int8);
        let pairs = if Level::best().multiplies_pairs() { Arithmetic::Bf16 } else { Arithmetic::F32 };
        assert_eq!(Arithmetic::of(Packing::Tiles16, Format::BF16), pairs);
        assert_eq!(Arithmetic::of(Packing::Rows, Format::BF16), Arithmetic::F32);
        assert_eq!(Arithmetic::of(Packing::Rows, Format::Q2_K), Arithmetic::F32);
    }
}
