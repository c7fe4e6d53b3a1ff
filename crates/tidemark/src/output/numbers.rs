//! Numbers as a person reads them: grouped rows, bytes in powers of ten, durations, instants.
//!
//! One place, so that a quantity looks the same in every verb. Units are those of the documents:
//! `MB` is 10^6 bytes and binary units do not occur; durations are `4m 10s`; instants are RFC 3339
//! in UTC for programs, and for a person the time of day where they are. What was not measured has no
//! form here: callers show `unknown`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::zone::{Zone, civil, days};

/// `823 417`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `1 table`, `6 tables`, `1 200 rows`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", grouped(number))
}

/// `823k`, `1.2M`: for places where seven characters must do.
pub(crate) fn short(number: u64) -> String {
    match number {
        0..10_000 => grouped(number),
        10_000..1_000_000 => format!("{}k", number / 1_000),
        1_000_000..10_000_000 => {
            format!("{}.{}M", number / 1_000_000, number / 100_000 % 10)
        }
        10_000_000..1_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!(
            "{}.{}G",
            grouped(number / 1_000_000_000),
            number / 100_000_000 % 10
        ),
    }
}

/// `444 kB`, `41 MB`, `19.98 GB`.
pub(crate) fn bytes(number: u64) -> String {
    let (unit, name) = match number {
        0..1_000 => return format!("{number} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        1_000_000_000..1_000_000_000_000 => (1_000_000_000, "GB"),
        _ => (1_000_000_000_000, "TB"),
    };
    // Large units lose much by rounding: two places there, one for a single digit, else none.
    let hundredths = number / (unit / 100);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match (whole, name) {
        (_, "GB" | "TB") if whole < 100 => format!("{whole}.{part:02} {name}"),
        (0..10, _) if part >= 10 => format!("{whole}.{} {name}", part / 10),
        _ => format!("{} {name}", grouped(whole)),
    }
}

/// `3 ms`, `2.2 s`, `42 s`, `4m 10s`, `2h 05m`, `3d 4h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.subsec_millis() < 100 => format!("{} ms", time.as_millis()),
        0..10 => format!("{:.1} s", (time.as_secs_f64() * 10.0).floor() / 10.0),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// An estimate in whole seconds, at least one: `3 s`, `4m 10s`.
pub(crate) fn about(time: Duration) -> String {
    match time.as_secs().max(1) {
        seconds @ 1..60 => format!("{seconds} s"),
        _ => duration(time),
    }
}

/// [`duration`] of a number of seconds; what is negative (clocks differ) counts as none.
pub(crate) fn seconds(number: f64) -> String {
    duration(Duration::try_from_secs_f64(number).unwrap_or_default())
}

/// Reads `500ms`, `30s`, `5m`, `1h30m`, `2d`, also with spaces; for flags.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is not a duration; write it with units, for example 500ms, 30s or 1h30m")
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// `2026-11-21T14:02:15.120Z`.
pub(crate) fn rfc3339(instant: SystemTime) -> String {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    let of_day = since.as_secs() % 86_400;
    let (year, month, day) = civil(i64::try_from(since.as_secs()).unwrap_or_default());
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The time of day of an instant with its distance from UTC: `14:02:15+01`, `14:02:15Z`.
pub(crate) fn time_of_day(instant: SystemTime, zone: &Zone) -> String {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix = i64::try_from(since.as_secs()).unwrap_or_default();
    let offset = zone.offset(unix);
    let of_day = (unix + i64::from(offset)).rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let sign = if offset < 0 { '-' } else { '+' };
    let ahead = match (offset.abs() / 3_600, offset.abs() / 60 % 60) {
        (0, 0) => "Z".to_owned(),
        (hours, 0) => format!("{sign}{hours:02}"),
        (hours, minutes) => format!("{sign}{hours:02}:{minutes:02}"),
    };
    format!("{hour:02}:{minute:02}:{second:02}{ahead}")
}

/// Reads an RFC 3339 instant with `Z` or an offset; `None` for anything else.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let fraction: f64 = match fraction {
        "" => 0.0,
        _ => format!("0{fraction}").parse().ok()?,
    };
    let offset_s = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
            if zone.starts_with('-') {
                -offset
            } else {
                offset
            }
        }
    };
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let of_day = i64::try_from(hour * 3_600 + minute * 60 + second).ok()?;
    let (month, day) = (u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    let seconds = days(i64::try_from(year).ok()?, month, day) * 86_400 + of_day;
    let whole = u64::try_from(seconds - offset_s).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(whole) + Duration::from_secs_f64(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_in_the_documents() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1 000"),
            (823_417, "823 417"),
            (8_660_000, "8 660 000"),
        ] {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(
            (counted(1, "row").as_str(), counted(1_200, "row").as_str()),
            ("1 row", "1 200 rows")
        );
        for (number, expected) in [
            (9_999, "9 999"),
            (148_000, "148k"),
            (1_250_000, "1.2M"),
            (12_500_000, "12M"),
            (2_340_000_000, "2.3G"),
        ] {
            assert_eq!(short(number), expected);
        }
        for (number, expected) in [
            (0, "0 B"),
            (444_488, "444 kB"),
            (1_500, "1.5 kB"),
            (1_000, "1 kB"),
            (41_300_000, "41 MB"),
            (19_980_808_120, "19.98 GB"),
            (2_500_000_000_000, "2.50 TB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
    }

    #[test]
    fn durations_read_and_are_read() {
        for (millis, expected) in [
            (0, "0 ms"),
            (3, "3 ms"),
            (100, "0.1 s"),
            (2_260, "2.2 s"),
            (42_900, "42 s"),
            (250_000, "4m 10s"),
            (7_500_000, "2h 05m"),
            (273_600_000, "3d 4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("2 m", 120_000),
            ("1.5s", 1_500),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "30", "s", "1x", "-1s", "1e99d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_time_of_day_is_local_and_says_so() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_269_735);
        assert_eq!(time_of_day(at, &Zone::default()), "14:02:15Z");
        for (rule, expected) in [
            ("CET-1CEST,M3.5.0,M10.5.0/3", "15:02:15+01"),
            ("<-0930>9:30", "04:32:15-09:30"),
        ] {
            assert_eq!(time_of_day(at, &Zone::named(Some(rule)).unwrap()), expected);
        }
    }

    #[test]
    fn instants_round_trip() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T12:00:00.000Z", 951_825_600),
            ("2026-11-21T14:02:15.000Z", 1_795_269_735),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400),
        ] {
            let instant = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(instant), text);
            assert_eq!(parse_rfc3339(text), Some(instant));
        }
        assert_eq!(
            parse_rfc3339("2026-11-21T15:02:15+01:00"),
            parse_rfc3339("2026-11-21T14:02:15Z")
        );
        for text in [
            "",
            "2026-11-21",
            "2026-13-21T14:02:15Z",
            "yesterday",
            "2026-11-21T14:02:15",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
