//! The instruction set, chosen once at run time.
//!
//! **Invariant:** a [`Level`] other than `Portable` exists only on a processor that has it: they
//! come from [`Level::available`] alone. Every call into a function that is compiled for an
//! instruction set is made by [`leveled`], by `vectored`, or where a level is matched on, and stands on that.

use super::pool::Pool;
use std::sync::OnceLock;

/// An instruction set the kernels are written for. Results of different levels differ in the last
/// bits; those of one level never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI. A processor without VNNI is better off with AVX2's kernels.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What this processor has, the best last.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq");
            if avx2 {
                levels.push(Self::Avx2);
            }
            if avx2 && avx512 && has!("avx512vl") && has!("avx512vnni") {
                levels.push(Self::Avx512);
            }
        }
        levels
    }

    /// The best this processor has, or what was [configured](Level::configure).
    pub fn best() -> Self {
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Portable))
    }

    /// Makes the level called `name` the best.
    pub fn configure(name: &str) -> Result<(), String> {
        let all = Self::available();
        let names = || all.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|level| level.name() == name);
        let level = *found.ok_or_else(|| format!("this processor has the instruction sets {}", names()))?;
        if *BEST.get_or_init(|| level) == level { Ok(()) } else { Err("the kernels are in use already".into()) }
    }

    /// Packed weights are multiplied at this level.
    pub fn takes_tiles(self) -> bool {
        self != Self::Portable
    }

    /// bfloat16 is multiplied as it is, two columns at a time; elsewhere in float32.
    pub fn multiplies_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::arch::is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512-vnni",
        }
    }
}

static BEST: OnceLock<Level> = OnceLock::new();

/// What a kernel runs on.
#[derive(Clone, Copy)]
pub(crate) struct On<'a> {
    pub level: Level,
    pub pool: &'a Pool,
}

impl On<'static> {
    /// The best instruction set and the pool of the process.
    pub fn best() -> Self {
        Self { level: Level::best(), pool: super::pool::pool() }
    }
}

/// Whether multiply-and-add is one instruction even at the portable level.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// Compiles a generic function, `generic::<LANES, FMA>(…)`, once for each level and defines a
/// function that takes the level first and calls the right one.
macro_rules! leveled {
    ($visible:vis fn $name:ident $(<$t:ident: $bound:ident>)? ($($arg:ident: $type:ty),* $(,)?) = $generic:ident) => {
        #[allow(clippy::too_many_arguments)]
        $visible fn $name$(<$t: $bound>)?(level: $crate::cpu::dispatch::Level, $($arg: $type),*) {
            use $crate::cpu::dispatch::{Level, PORTABLE_FMA};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2$(<$t: $bound>)?($($arg: $type),*) {
                $generic::<8, true $(, $t)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            fn avx512$(<$t: $bound>)?($($arg: $type),*) {
                $generic::<16, true $(, $t)?>($($arg),*)
            }
            match level {
                Level::Portable => $generic::<8, PORTABLE_FMA $(, $t)?>($($arg),*),
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
pub(crate) use leveled;
