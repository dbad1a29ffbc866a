//! Times as arguments: RFC 3339, or milliseconds since 1970.

use stele_proof::UnixMillis;

/// Reads a time.
///
/// # Errors
/// What is wrong with it.
pub(super) fn time(text: &str) -> Result<UnixMillis, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(UnixMillis::new).map_err(|_overflow| format!("`{text}` milliseconds are too many"));
    }
    let wrong = || format!("`{text}` is no time: give RFC 3339, as 2026-01-31T08:30:00Z, or milliseconds since 1970");
    rfc3339(text).ok_or_else(wrong)
}

/// RFC 3339 5.6, no earlier than 1970; digits behind the milliseconds are cut off.
fn rfc3339(text: &str) -> Option<UnixMillis> {
    let digits = |at: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(at)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let sign =
        |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|byte| wanted.contains(byte)).then_some(());
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    for (at, wanted) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
        sign(at, wanted)?;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (fraction, behind) = fraction.split_at(count);
        millis = format!("{fraction:0<3}").get(..3).filter(|_| count > 0)?.parse().ok()?;
        rest = behind;
    }
    let offset = match rest.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h @ (b'0'..=b'9'), hh @ (b'0'..=b'9'), b':', m @ (b'0'..=b'9'), mm @ (b'0'..=b'9')] => {
            let number = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let (hours, minutes) = (number(*h, *hh), number(*m, *mm));
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second counts as the second after it.
    if day < 1 || day > days || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    u64::try_from(seconds * 1000 + millis).ok().map(UnixMillis::new)
}

/// Days from 1970-01-01 in the Gregorian calendar; years begin in March, so that a leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5 + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_read_as_others_read_them() {
        // From `date -u -d TEXT +%s%3N`.
        for (text, millis) in [
            ("0", 0),
            ("1767225600123", 1_767_225_600_123),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2026-01-01T00:00:00.123Z", 1_767_225_600_123),
            ("2026-01-01T00:00:00.1239999Z", 1_767_225_600_123),
            ("2026-01-01T00:00:00.5Z", 1_767_225_600_500),
            ("2026-01-01T01:30:00+01:30", 1_767_225_600_000),
            ("2025-12-31T19:00:00-05:00", 1_767_225_600_000),
            ("2024-12-31 23:59:59z", 1_735_689_599_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ] {
            assert_eq!(time(text).map(|time| time.get()), Ok(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00Zx",
            "99999999999999999999",
            "-5",
            "2026-1-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
