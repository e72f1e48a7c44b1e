//! `strftime_now`: the date as templates ask for it. UTC: a server's own zone is no business of a prompt.

use minijinja::{Error, ErrorKind};
use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_A_DAY: u64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// C's `strftime` of a moment, in the C locale.
pub(super) fn format(format: &str, moment: SystemTime) -> Result<String, Error> {
    let date = Date::of(moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut word = rest.next();
        // glibc's flag: no padding.
        let bare = word == Some('-');
        if bare {
            word = rest.next();
        }
        let text = word.and_then(|word| date.field(word)).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now: %{} is not known", word.unwrap_or(' ')))
        })?;
        out.push_str(if bare && text.len() > 1 { text.trim_start_matches(['0', ' ']) } else { &text });
    }
    Ok(out)
}

struct Date {
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    /// From 0.
    day_of_year: u64,
    /// From Sunday, 0.
    weekday: usize,
    second_of_day: u64,
}

impl Date {
    fn of(seconds: u64) -> Self {
        let days = seconds / SECONDS_A_DAY;
        let weekday = ((days + 4) % 7) as usize;
        let (mut year, mut left) = (1970, days);
        while left >= days_of(year) {
            left -= days_of(year);
            year += 1;
        }
        let day_of_year = left;
        let mut month = 0;
        while left >= days_in(year, month) {
            left -= days_in(year, month);
            month += 1;
        }
        Self { year, month, day: left + 1, day_of_year, weekday, second_of_day: seconds % SECONDS_A_DAY }
    }

    fn field(&self, word: char) -> Option<String> {
        let (hour, minute, second) = (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let (month, day) = (self.month as u64 + 1, self.day);
        Some(match word {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'B' => MONTHS[self.month].into(),
            'b' | 'h' => MONTHS[self.month][..3].into(),
            'A' => DAYS[self.weekday].into(),
            'a' => DAYS[self.weekday][..3].into(),
            'j' => format!("{:03}", self.day_of_year + 1),
            'H' => format!("{hour:02}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'w' => self.weekday.to_string(),
            'F' => format!("{}-{month:02}-{day:02}", self.year),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            'n' => "\n".into(),
            _ => return None,
        })
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in(year: u64, month: usize) -> u64 {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    DAYS[month] + u64::from(month == 1 && is_leap(year))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Expected texts are CPython's `datetime.fromtimestamp(…, UTC).strftime(…)`.
    #[test]
    fn writes_what_strftime_writes() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |seconds, format, expected: &str| assert_eq!(super::format(format, at(seconds)).unwrap(), expected);
        check(0, "%A %d %B %Y %H:%M:%S", "Thursday 01 January 1970 00:00:00");
        check(1_709_208_000, "%d %b %Y", "29 Feb 2024");
        check(1_709_208_000, "%-d %B %y, %I:%M %p, day %j", "29 February 24, 12:00 PM, day 060");
        check(4_102_444_799, "%F %T %a", "2099-12-31 23:59:59 Thu");
        assert!(super::format("%Q", at(0)).is_err());
    }
}
