//! Numbers as every request's headers say them. The formatter would take most of the time in which a head is written.
//!
//! **Contract:** whole numbers are what [`std::fmt`] writes.

use std::fmt::{self, Write};

/// Nanoseconds of a millisecond.
const NANOSECONDS: u64 = 1_000_000;

/// `{number}`.
///
/// # Errors
/// Those of `out`; so, too, of all that follow.
pub fn decimal(number: u64, out: &mut impl Write) -> fmt::Result {
    out.write_str(itoa::Buffer::new().format(number))
}

/// `{number:032x}`.
pub fn hexadecimal(number: u128, out: &mut impl Write) -> fmt::Result {
    let mut digits = [0; 32];
    for (digits, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    out.write_str(str::from_utf8(&digits).expect("digits are ASCII"))
}

/// Milliseconds to the nanosecond: `0.0`, or with six digits behind the point. What is no time is none.
pub fn milliseconds(time: f64, out: &mut impl Write) -> fmt::Result {
    let nanoseconds = (time * NANOSECONDS as f64 + 0.5) as u64;
    if nanoseconds == 0 {
        return out.write_str("0.0");
    }
    decimal(nanoseconds / NANOSECONDS, out)?;
    // With a digit in front, so that there are as many as there should be.
    let mut buffer = itoa::Buffer::new();
    let fraction = buffer.format(NANOSECONDS + nanoseconds % NANOSECONDS);
    out.write_str(".")?;
    out.write_str(&fraction[1..])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut out = String::new();
        write(&mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn they_are_as_the_formatter_writes_them(number: u64, wide: u128, nanoseconds in 1..1_u64 << 48) {
            prop_assert_eq!(written(|out| decimal(number, out)), number.to_string());
            prop_assert_eq!(written(|out| hexadecimal(wide, out)), format!("{wide:032x}"));
            let time = nanoseconds as f64 / 1e6;
            let expected = format!("{}.{:06}", nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS);
            prop_assert_eq!(written(|out| milliseconds(time, out)), expected);
        }
    }

    #[test]
    fn the_least_and_the_most() {
        for number in [0, u128::MAX, 1, 16] {
            assert_eq!(written(|out| hexadecimal(number, out)), format!("{number:032x}"));
        }
        for (time, expected) in [(0.0, "0.0"), (-1.0, "0.0"), (f64::NAN, "0.0"), (1e-6, "0.000001"), (2.0, "2.000000")]
        {
            assert_eq!(written(|out| milliseconds(time, out)), expected);
        }
    }
}
