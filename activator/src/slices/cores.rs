//! Cores of a processor as Linux numbers them, and as people write them: `0-3,8`.
//!
//! **Invariant:** cores are sorted, each once, and below [`CORES_MAX`]; what is printed is read as the same.

use std::{collections::BTreeSet, fmt, str::FromStr};

use rustix::thread::{CpuSet, sched_getaffinity};

/// Numbers of cores are below this, which is what the kernel is asked for at once.
pub const CORES_MAX: usize = CpuSet::MAX_CPU;

/// Some cores, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(BTreeSet<usize>);

impl Cores {
    /// Their numbers, sorted.
    pub fn numbers(&self) -> Vec<usize> {
        self.0.iter().copied().collect()
    }

    /// Of these numbers; `None` where there are none.
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Option<Self> {
        let numbers: BTreeSet<usize> = numbers.into_iter().filter(|number| *number < CORES_MAX).collect();
        (!numbers.is_empty()).then_some(Self(numbers))
    }
}

/// Those that this process, and so what it starts, may run on. Empty where the system does not say.
pub fn here() -> BTreeSet<usize> {
    let set = sched_getaffinity(None);
    set.map(|set| (0..CORES_MAX).filter(|number| set.is_set(*number)).collect()).unwrap_or_default()
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cores = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(text, first)?, number(text, last)?);
            if first > last {
                return Err(format!("{text:?} has a range that ends before it begins: {part}"));
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

fn number(text: &str, word: &str) -> Result<usize, String> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|_| digits);
    let number = number.ok_or_else(|| format!("{text:?} is no list of cores; write for example 0-3,8"))?;
    if number < CORES_MAX {
        Ok(number)
    } else {
        Err(format!("{text:?} names core {number}, and the last can be {}", CORES_MAX - 1))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for core in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *core => *last = *core,
                _ => ranges.push((*core, *core)),
            }
        }
        let word = |(first, last): &(usize, usize)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        f.write_str(&ranges.iter().map(word).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read_and_printed_shortest() {
        for (text, cores, shortest) in [
            ("0", vec![0], "0"),
            ("0-3,8", vec![0, 1, 2, 3, 8], "0-3,8"),
            ("8, 0-1,2", vec![0, 1, 2, 8], "0-2,8"),
            ("5-5", vec![5], "5"),
            ("1023", vec![1023], "1023"),
        ] {
            let read: Cores = text.parse().unwrap();
            assert_eq!((read.numbers(), read.to_string()), (cores, shortest.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_of_cores_is_said() {
        for (text, part) in [
            ("", "no list"),
            ("0,", "no list"),
            ("a", "no list"),
            ("-1", "no list"),
            ("+1", "no list"),
            ("0-1-2", "no list"),
            ("3-1", "ends before it begins"),
            ("0-99999999999", "core 99999999999"),
            ("99999999999999999999", "no list"),
            ("1024", "core 1024"),
        ] {
            let said = text.parse::<Cores>().unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(!here().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(numbers in proptest::collection::btree_set(0..CORES_MAX, 1..40)) {
            let cores = Cores::of(numbers.iter().copied()).unwrap();
            proptest::prop_assert_eq!(cores.to_string().parse::<Cores>(), Ok(cores));
        }

        #[test]
        fn whatever_is_read_is_sorted_and_within_bounds_or_told(text in "[0-9,\\- a]{0,12}|.{0,12}") {
            if let Ok(cores) = text.parse::<Cores>() {
                let numbers = cores.numbers();
                proptest::prop_assert!(!numbers.is_empty() && numbers.is_sorted() && numbers[numbers.len() - 1] < CORES_MAX);
            }
        }
    }
}
