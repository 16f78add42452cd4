//! Durations and sizes as people write them: `"500ms"`, `"15m"`, `"256 KiB"`.
//!
//! Knows no keys and no ranges.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// `"500ms"`, `"30s"`, `"15m"`, `"2h"`, `"7d"`; a bare number is seconds. `None` if it is nothing of that.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let unit = if unit.is_empty() { "s" } else { unit };
    let (_, millis) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.checked_mul(*millis)?))
}

/// The shortest text that [`parse_duration`] reads back to the same value (in whole milliseconds).
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    format_in(millis, &DURATION_UNITS, "")
}

/// `"256 KiB"`, `"8 GiB"`, `"10 MB"`; a bare number is bytes. `None` if it is nothing of that.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*bytes)
}

/// The size in the largest binary unit that divides it: `"8 GiB"`.
pub fn format_size(bytes: u64) -> String {
    let binary: Vec<_> =
        SIZE_UNITS.into_iter().filter(|(name, _)| *name == "B" || name.contains('i')).collect();
    format_in(bytes, &binary, " ")
}

fn format_in(amount: u64, units: &[(&str, u64)], gap: &str) -> String {
    let largest = units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor));
    match largest {
        Some((unit, factor)) => format!("{}{gap}{unit}", amount / factor),
        None => amount.to_string(),
    }
}

/// A whole number and the unit behind it, white space between them allowed.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        let cases = [
            ("500ms", 500),
            ("30s", 30_000),
            ("15m", 900_000),
            ("2 h", 7_200_000),
            ("7d", 604_800_000),
            ("90", 90_000),
            (" 0s ", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_or_size_is_refused() {
        for text in ["", "s", "-1s", "1.5h", "1h30m", "5 minutes", "1M", "18446744073709551615d", "٣s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["", "KiB", "-1", "1.5 MiB", "1 KiBs", "18446744073709551615 KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for millis in [0, 1, 500, 1_000, 1_500, 60_000, 90 * 60_000, 86_400_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1_000, 1 << 10, 256 << 10, 8 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        assert_eq!(format_size(8 << 30), "8 GiB");
        assert_eq!(format_duration(Duration::from_secs(5400)), "90m");
    }
}
