//! Vectors of f32, one type for each instruction set, so that a kernel is written once.
//!
//! **Invariant:** a type's functions are called only below a function that [`vectored`] defines,
//! at the level that has the instructions. All are inlined there, because only there the compiler
//! may use the instructions: so no closure may hold arithmetic of vectors.

use half::f16;

/// Several f32 side by side.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    fn splat(x: f32) -> Self;
    /// The first elements of `from`.
    fn load(from: &[f32]) -> Self;
    /// The first elements of `from`, widened.
    fn load_halves(from: &[f16]) -> Self;
    /// The first elements of `from`, widened.
    fn load_bytes(from: &[i8]) -> Self;
    /// Writes the first elements of `to`.
    fn store(self, to: &mut [f32]);
    /// Writes the first elements of `to` as binary16, to nearest. What is beyond its range becomes the end of it; what is no number stays none.
    fn store_halves(self, to: &mut [f16]);
    /// `self + a * b`, rounded once where the instruction set has it.
    fn add_product(self, a: Self, b: Self) -> Self;
    /// The greater in each lane.
    fn max(self, other: Self) -> Self;
    /// [`Vector::add_product`] for one number.
    fn add_product_of_one(sum: f32, a: f32, b: f32) -> f32;
    /// Whether a product and its sum are rounded once.
    const FMA: bool;
    /// The sum of the lanes, halves first.
    fn fold(self) -> f32;
}

/// The nearest number that binary16 has room for.
#[inline(always)]
pub(super) fn within_halves(x: f32) -> f32 {
    x.clamp(f16::MIN.to_f32_const(), f16::MAX.to_f32_const())
}

/// Plain code; eight lanes, so that the order of sums does not depend on the architecture.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;
    const FMA: bool = super::dispatch::PORTABLE_FMA;
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(*from.first_chunk().expect("a whole vector"))
    }
    #[inline(always)]
    fn load_halves(from: &[f16]) -> Self {
        let mut to = [0.0; 8];
        for (to, from) in to.iter_mut().zip(&from[..8]) {
            *to = from.to_f32();
        }
        Self(to)
    }
    #[inline(always)]
    fn load_bytes(from: &[i8]) -> Self {
        let mut to = [0.0; 8];
        for (to, from) in to.iter_mut().zip(&from[..8]) {
            *to = f32::from(*from);
        }
        Self(to)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..8].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn store_halves(self, to: &mut [f16]) {
        for (to, from) in to[..8].iter_mut().zip(self.0) {
            *to = f16::from_f32(within_halves(from));
        }
    }
    #[inline(always)]
    fn add_product(mut self, a: Self, b: Self) -> Self {
        for l in 0..8 {
            self.0[l] = Self::add_product_of_one(self.0[l], a.0[l], b.0[l]);
        }
        self
    }
    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for l in 0..8 {
            self.0[l] = self.0[l].max(other.0[l]);
        }
        self
    }
    #[inline(always)]
    fn add_product_of_one(sum: f32, a: f32, b: f32) -> f32 {
        super::lanes::add::<{ super::dispatch::PORTABLE_FMA }>(a, b, sum)
    }
    #[inline(always)]
    fn fold(self) -> f32 {
        super::lanes::fold(self.0)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use crate::cpu::lanes::fold;
    use half::f16;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($name:ident, $lanes:literal, $inner:ty, $splat:ident, $load:ident, $store:ident, $fma:ident, $max:ident,
         $min:ident, $halves:ty, $load_halves:ident, $store_halves:ident, $widen:ident, $shorten:ident, $load_bytes:ident,
         $sign_extend:ident, $to_floats:ident) => {
            #[derive(Clone, Copy)]
            pub(crate) struct $name($inner);

            impl Vector for $name {
                const LANES: usize = $lanes;
                const FMA: bool = true;
                #[inline(always)]
                fn splat(x: f32) -> Self {
                    // SAFETY: called only where the processor has it, as the module says.
                    Self(unsafe { $splat(x) })
                }
                #[inline(always)]
                fn load(from: &[f32]) -> Self {
                    let from: &[f32; $lanes] = from.first_chunk().expect("a whole vector");
                    // SAFETY: as many elements as lanes; the instruction as above.
                    Self(unsafe { $load(from.as_ptr()) })
                }
                #[inline(always)]
                fn load_halves(from: &[f16]) -> Self {
                    let from: &[f16; $lanes] = from.first_chunk().expect("a whole vector");
                    // SAFETY: as many elements as lanes; the instructions as above.
                    Self(unsafe { $widen($load_halves(from.as_ptr().cast::<$halves>())) })
                }
                #[inline(always)]
                fn load_bytes(from: &[i8]) -> Self {
                    let from: &[i8; $lanes] = from.first_chunk().expect("a whole vector");
                    // SAFETY: as many bytes are read as there are lanes; the instructions as above.
                    Self(unsafe { $to_floats($sign_extend($load_bytes(from.as_ptr().cast::<__m128i>()))) })
                }
                #[inline(always)]
                fn store(self, to: &mut [f32]) {
                    let to: &mut [f32; $lanes] = to.first_chunk_mut().expect("a whole vector");
                    // SAFETY: as many elements as lanes; the instruction as above.
                    unsafe { $store(to.as_mut_ptr(), self.0) }
                }
                #[inline(always)]
                fn store_halves(self, to: &mut [f16]) {
                    let to: &mut [f16; $lanes] = to.first_chunk_mut().expect("a whole vector");
                    let (least, most) = (Self::splat(f16::MIN.to_f32_const()), Self::splat(f16::MAX.to_f32_const()));
                    // SAFETY: as many elements as lanes; the instructions as above. Of two numbers, one of which is none, the second is taken.
                    unsafe {
                        let within = $min(most.0, $max(least.0, self.0));
                        let halves = $shorten::<_MM_FROUND_TO_NEAREST_INT>(within);
                        $store_halves(to.as_mut_ptr().cast::<$halves>(), halves);
                    }
                }
                #[inline(always)]
                fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: called only where the processor has it, as the module says.
                    Self(unsafe { $fma(a.0, b.0, self.0) })
                }
                #[inline(always)]
                fn max(self, other: Self) -> Self {
                    // SAFETY: called only where the processor has it, as the module says.
                    Self(unsafe { $max(self.0, other.0) })
                }
                #[inline(always)]
                fn add_product_of_one(sum: f32, a: f32, b: f32) -> f32 {
                    a.mul_add(b, sum)
                }
                #[inline(always)]
                fn fold(self) -> f32 {
                    let mut lanes = [0.0; $lanes];
                    self.store(&mut lanes);
                    fold(lanes)
                }
            }
        };
    }
    vector!(
        Avx2,
        8,
        __m256,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        __m128i,
        _mm_loadu_si128,
        _mm_storeu_si128,
        _mm256_cvtph_ps,
        _mm256_cvtps_ph,
        _mm_loadl_epi64,
        _mm256_cvtepi8_epi32,
        _mm256_cvtepi32_ps
    );
    vector!(
        Avx512,
        16,
        __m512,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        __m256i,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm512_cvtph_ps,
        _mm512_cvtps_ph,
        _mm_loadu_si128,
        _mm512_cvtepi8_epi32,
        _mm512_cvtepi32_ps
    );
}
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Compiles `generic::<Vector, VECTORS, ROWS, …>(…)` once for each level, where `VECTORS` hold 32
/// elements and `ROWS` can be worked on at once with the registers there are, and defines a
/// function that takes the level first and calls the right one.
macro_rules! vectored {
    (fn $name:ident $(<$t:ident: $bound:ident>)? ($($arg:ident: $type:ty),* $(,)?) = $generic:ident) => {
        #[allow(clippy::too_many_arguments)]
        fn $name$(<$t: $bound>)?(level: $crate::cpu::dispatch::Level, $($arg: $type),*) {
            use $crate::cpu::{dispatch::Level, vector};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2$(<$t: $bound>)?($($arg: $type),*) {
                $generic::<vector::Avx2, 4, 2 $(, $t)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512$(<$t: $bound>)?($($arg: $type),*) {
                $generic::<vector::Avx512, 2, 4 $(, $t)?>($($arg),*)
            }
            match level {
                Level::Portable => $generic::<vector::Plain, 4, 2 $(, $t)?>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level exists only where the processor has it.
                Level::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use vectored;
