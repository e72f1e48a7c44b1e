//! A counter-based generator: a number is a function of (seed, choice, position) alone.
//!
//! So a generation can be resumed anywhere from its tokens, and what else is in the batch changes nothing. The mixing
//! function is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The first output of a SplitMix64 generator in this state: a bijection that spreads every bit.
pub fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in `[0, 1)` with 53 random bits for the token at `position` of a sequence.
pub fn uniform(seed: u64, choice: u32, position: usize) -> f64 {
    let key = splitmix64(splitmix64(seed) ^ u64::from(choice));
    let bits = splitmix64(key ^ position as u64);
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_gives_the_published_values() {
        // The reference generator seeded with 1234567: its n-th output is the mix of seed + n * GOLDEN.
        let published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        for (n, value) in published.into_iter().enumerate() {
            assert_eq!(splitmix64(1234567u64.wrapping_add(GOLDEN.wrapping_mul(n as u64))), value);
        }
        assert_eq!(splitmix64(0), 0xE220_A839_7B1D_CDAF);
    }

    /// Chi-square over 64 equal bins; 63 degrees of freedom exceed 120 with a probability under 0.00002.
    fn check_uniform(numbers: impl Iterator<Item = f64>) {
        let mut bins = [0usize; 64];
        for x in numbers {
            assert!((0.0..1.0).contains(&x));
            bins[(x * 64.0) as usize] += 1;
        }
        let expected = bins.iter().sum::<usize>() as f64 / 64.0;
        let chi: f64 = bins.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
        assert!(chi < 120.0, "chi-square {chi}");
    }

    #[test]
    fn numbers_are_uniform_along_each_of_the_three_keys() {
        check_uniform((0..64_000).map(|p| uniform(42, 0, p)));
        check_uniform((0..64_000).map(|c| uniform(42, c, 7)));
        check_uniform((0..64_000).map(|s| uniform(s, 0, 7)));
    }

    #[test]
    fn neighbouring_keys_give_unrelated_numbers() {
        let (a, b, c, d) = (uniform(1, 0, 0), uniform(0, 1, 0), uniform(0, 0, 1), uniform(1, 1, 1));
        assert!(a != b && b != c && c != d && a != c && a != d);
    }
}
