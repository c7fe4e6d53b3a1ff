//! Sizes and durations as people write them: `"20 GB"`, `"1.5 MiB"`, `"200 ms"`, `"1h 30m"`.

use std::fmt::Write as _;
use std::time::Duration;

const SIZES: [(&str, u64); 10] = [
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// In microseconds.
const TIMES: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// Reads a size; the error says what is wrong with it.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let help = "write a number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)";
    let (value, rest) = amount(text.trim(), &SIZES, help)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(help.to_owned())
    }
}

/// Reads a duration of one or more parts.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let help = "write a number and one of ms, s, m, h, d, such as \"200 ms\" or \"1h 30m\"";
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(help.to_owned());
    }
    while !rest.is_empty() {
        let (value, after) = amount(rest, &TIMES, help)?;
        total = total.checked_add(value).ok_or("it is too long")?;
        rest = after;
    }
    Ok(Duration::from_micros(total))
}

/// One number with its unit, and what follows it.
fn amount<'a>(text: &'a str, units: &[(&str, u64)], help: &str) -> Result<(u64, &'a str), String> {
    if text.starts_with('-') {
        return Err("it cannot be negative".to_owned());
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end).ok_or(help)?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end).ok_or(help)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(help.to_owned());
    }
    if unit.is_empty() {
        return Err(format!("a unit is missing: {help}"));
    }
    let (_, factor) = units
        .iter()
        .find(|(known, _)| *known == unit)
        .ok_or_else(|| format!("`{unit}` is not a unit: {help}"))?;
    let too_large = || "it is too large".to_owned();
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let value = whole.checked_mul(*factor).ok_or_else(too_large)?;
    let part = part_of(fraction, *factor)
        .ok_or_else(|| "it has more digits than the unit can hold".to_owned())?;
    Ok((
        value.checked_add(part).ok_or_else(too_large)?,
        rest.trim_start(),
    ))
}

/// `factor` times `0.fraction`, `None` unless it is whole.
fn part_of(fraction: &str, factor: u64) -> Option<u64> {
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(0);
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = fraction
        .parse::<u128>()
        .ok()?
        .checked_mul(u128::from(factor))?;
    (product % scale == 0).then(|| u64::try_from(product / scale).ok())?
}

/// A size as [`bytes`] reads it, in the largest unit that holds it whole.
pub fn show_bytes(value: u64) -> String {
    let unit = SIZES
        .iter()
        .filter(|(name, factor)| {
            !matches!(*name, "KB") && value >= *factor && value.is_multiple_of(*factor)
        })
        .max_by_key(|(_, factor)| *factor);
    match unit {
        Some((name, factor)) => format!("{} {name}", value / factor),
        None => format!("{value} B"),
    }
}

/// A duration as [`duration`] reads it.
pub fn show_duration(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0 s".to_owned();
    }
    let mut shown = String::new();
    for name in ["d", "h", "m", "s", "ms", "us"] {
        let factor = TIMES
            .iter()
            .find(|(unit, _)| *unit == name)
            .map_or(1, |(_, factor)| *factor);
        let count = rest / factor;
        rest %= factor;
        if count > 0 {
            let space = if shown.is_empty() { "" } else { " " };
            write!(shown, "{space}{count}{name}").expect("a String can be written to");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, expected) in [
            ("20 GB", 20_000_000_000),
            ("20GB", 20_000_000_000),
            ("1.5 MiB", 1_572_864),
            ("0.5kB", 500),
            ("0 B", 0),
            (" 7 B ", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for (text, why) in [
            ("1GBB", "`GBB` is not a unit"),
            ("5", "a unit is missing"),
            ("", "write a number"),
            ("GB", "write a number"),
            ("-1 GB", "negative"),
            ("1 GB 2", "write a number"),
            ("1. GB", "write a number"),
            ("0.0001 B", "more digits"),
            ("99999999999 TB", "too large"),
            ("1e12 B", "`e` is not a unit"),
            ("١ GB", "write a number"),
        ] {
            let message = bytes(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn durations_may_have_several_parts() {
        for (text, ms) in [
            ("200 ms", 200),
            ("2m", 120_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("0 s", 0),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, why) in [
            ("5", "a unit is missing"),
            ("5x", "`x` is not a unit"),
            ("-3s", "negative"),
            ("", "write a number"),
            ("99999999999999999999d", "too large"),
            ("300000000d", "too large"),
        ] {
            let message = duration(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(value in 0_u64..=u64::MAX / 2, micros in 0_u64..=u64::MAX / 2) {
            prop_assert_eq!(bytes(&show_bytes(value)), Ok(value));
            let time = Duration::from_micros(micros);
            prop_assert_eq!(duration(&show_duration(time)), Ok(time));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let is_refused = bytes(&text).is_err();
            prop_assert!(is_refused || text.trim().starts_with(|c: char| c.is_ascii_digit()));
            let is_refused = duration(&text).is_err();
            prop_assert!(is_refused || text.trim().starts_with(|c: char| c.is_ascii_digit()));
        }
    }
}
