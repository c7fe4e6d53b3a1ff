//! Wall-clock times as text, for people and for status. The engine's own timing is `tokio::time`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, microseconds since 1970 UTC.
pub fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    rfc3339(now_us())
}

/// Microseconds since 1970 UTC as RFC 3339 with milliseconds.
pub fn rfc3339(us: i64) -> String {
    let (seconds, millis) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000) / 1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// RFC 3339 as microseconds since 1970 UTC.
pub fn parse(text: &str) -> Option<i64> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    Some(instant.as_microsecond())
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar: the
/// year begins in March, so that the leap day is its last and months have a regular pattern.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_rfc_3339() {
        for (us, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_164_800_000_000, "2024-02-29T00:00:00.000Z"),
            (1_795_233_735_120_000, "2026-11-21T04:02:15.120Z"),
            (-1_000, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(us), text);
            assert_eq!(parse(text), Some(us));
        }
        assert_eq!(parse("yesterday"), None);
    }
}
