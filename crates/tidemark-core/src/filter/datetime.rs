//! Dates and times in text form as numbers that have their order.
//!
//! What the server prints with `DateStyle = ISO` is read (years before Christ, infinities and
//! offsets included); of what it accepts as input, only the unambiguous ISO forms are, since the
//! rest depends on settings.

/// Comes before everything and after everything: `-infinity` and `infinity`.
const BEFORE_ALL: i64 = i64::MIN;
const AFTER_ALL: i64 = i64::MAX;

const DAY_US: i64 = 86_400_000_000;

/// A date as days since 2000-01-01.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    if let Some(infinite) = infinity(text) {
        return Some(infinite);
    }
    let mut reader = Reader { rest: text };
    let civil = reader.civil()?;
    let days = reader.era(civil)?;
    reader.rest.is_empty().then_some(days)
}

/// A timestamp as microseconds since 2000-01-01 00:00:00 in its own zone.
pub(super) fn timestamp(text: &[u8]) -> Option<i64> {
    instant(text, Zone::None)
}

/// An instant as microseconds since 2000-01-01 00:00:00 UTC; the text must have an offset.
pub(super) fn timestamp_tz(text: &[u8]) -> Option<i64> {
    instant(text, Zone::Required)
}

/// Whether a text has an offset behind it.
#[derive(Clone, Copy, PartialEq)]
enum Zone {
    None,
    Required,
}

fn instant(text: &[u8], zone: Zone) -> Option<i64> {
    if let Some(infinite) = infinity(text) {
        return Some(infinite);
    }
    let mut reader = Reader { rest: text };
    let civil = reader.civil()?;
    reader.literal(b' ')?;
    let time = reader.time()?;
    let offset = match zone {
        Zone::None => 0,
        Zone::Required => reader.offset()?,
    };
    let days = reader.era(civil)?;
    let at = days
        .checked_mul(DAY_US)?
        .checked_add(time)?
        .checked_sub(offset)?;
    (reader.rest.is_empty() && at != BEFORE_ALL && at != AFTER_ALL).then_some(at)
}

fn infinity(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => Some(AFTER_ALL),
        b"-infinity" => Some(BEFORE_ALL),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// Digits, at least `min` and at most `max` of them.
    fn digits(&mut self, min: usize, max: usize) -> Option<i64> {
        let count = self
            .rest
            .iter()
            .take(max)
            .take_while(|b| b.is_ascii_digit())
            .count();
        if count < min {
            return None;
        }
        let (digits, rest) = self.rest.split_at(count);
        self.rest = rest;
        Some(
            digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')),
        )
    }

    fn literal(&mut self, byte: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[byte])?;
        Some(())
    }

    /// Year, month and day, the year as written.
    fn civil(&mut self) -> Option<(i64, i64, i64)> {
        let year = self.digits(4, 7)?;
        self.literal(b'-')?;
        let month = self.digits(2, 2)?;
        self.literal(b'-')?;
        let day = self.digits(2, 2)?;
        Some((year, month, day))
    }

    /// What stands behind it all: ` BC` or nothing. There is no year 0.
    fn era(&mut self, (year, month, day): (i64, i64, i64)) -> Option<i64> {
        if year == 0 {
            return None;
        }
        let year = match self.rest.strip_prefix(b" BC") {
            Some(rest) => {
                self.rest = rest;
                1 - year
            }
            None => year,
        };
        days_from_civil(year, month, day)
    }

    /// Microseconds of the day.
    fn time(&mut self) -> Option<i64> {
        let hour = self.digits(2, 2)?;
        self.literal(b':')?;
        let minute = self.digits(2, 2)?;
        self.literal(b':')?;
        let second = self.digits(2, 2)?;
        let mut fraction_us = 0;
        if self.literal(b'.').is_some() {
            let before = self.rest.len();
            let digits = self.digits(1, 6)?;
            let count = u32::try_from(before - self.rest.len()).ok()?;
            fraction_us = digits * 10_i64.pow(6 - count);
        }
        let is_time = hour < 24 && minute < 60 && second < 60;
        is_time.then_some(((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction_us)
    }

    /// `+00`, `-03:30`, `+05:53:28`, in microseconds east of Greenwich.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.rest.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        self.rest = &self.rest[1..];
        let mut seconds = self.digits(2, 2)? * 3600;
        for unit in [60, 1] {
            if self.literal(b':').is_none() {
                break;
            }
            let part = self.digits(2, 2)?;
            if part > 59 {
                return None;
            }
            seconds += part * unit;
        }
        (seconds < 16 * 3600).then_some(sign * seconds * 1_000_000)
    }
}

/// Days since 2000-01-01 (the server's epoch, from which all its timestamps fit into 64 bits) in the
/// proleptic Gregorian calendar that PostgreSQL uses (documentation
/// 15, B.6); `None` where there is no such day.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap =
        year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let month_days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    if day < 1 || day > month_days {
        return None;
    }
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 730_425)
}

/// What a literal of a filter is read as: its value, and the text by which it goes into SQL.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) at: i64,
    pub(super) text: String,
}

/// A date literal. PostgreSQL has dates from 4713 BC to 5874897 AD (documentation 15, table 8.9).
pub(super) fn date_literal(text: &str) -> Option<Moment> {
    let at = date(text.as_bytes())?;
    let is_in_range = is_infinite(at)
        || (days_from_civil(-4712, 1, 1)?..=days_from_civil(5_874_897, 12, 31)?).contains(&at);
    is_in_range.then(|| Moment {
        at,
        text: text.to_owned(),
    })
}

/// A timestamp literal without offset; a date alone is its midnight.
pub(super) fn timestamp_literal(text: &str) -> Option<Moment> {
    let text = completed(text);
    let at = timestamp(text.as_bytes())?;
    within_timestamps(at).then_some(Moment { at, text })
}

/// An instant's literal; one without offset is taken as UTC, which is the zone of all our sessions.
pub(super) fn timestamp_tz_literal(text: &str) -> Option<Moment> {
    let (plain, bc) = match text.strip_suffix(" BC") {
        Some(plain) => (plain, " BC"),
        None => (text, ""),
    };
    let text = if infinity(text.as_bytes()).is_some() {
        text.to_owned()
    } else if let Some(plain) = plain.strip_suffix('Z') {
        format!("{}+00{bc}", completed(plain))
    } else if plain.len() > 11 && plain.get(11..)?.contains(['+', '-']) {
        format!("{}{bc}", with_offset(plain)?)
    } else {
        format!("{}+00{bc}", completed(plain))
    };
    let at = timestamp_tz(text.as_bytes())?;
    within_timestamps(at).then_some(Moment { at, text })
}

/// `time+offset` with the time completed.
fn with_offset(text: &str) -> Option<String> {
    let at = text.get(11..)?.find(['+', '-'])? + 11;
    let (plain, offset) = text.split_at_checked(at)?;
    Some(format!("{}{offset}", completed(plain)))
}

/// `2024-01-01`, `2024-01-01 10:00` and `2024-01-01T10:00:00` as `2024-01-01 10:00:00`.
fn completed(text: &str) -> String {
    if infinity(text.as_bytes()).is_some() {
        return text.to_owned();
    }
    let (plain, bc) = match text.strip_suffix(" BC") {
        Some(plain) => (plain, " BC"),
        None => (text, ""),
    };
    let (day, time) = match plain.split_once([' ', 'T']) {
        Some((day, time)) => (day, time),
        None => (plain, "00:00:00"),
    };
    let seconds = if time.len() == 5 { ":00" } else { "" };
    format!("{day} {time}{seconds}{bc}")
}

fn is_infinite(at: i64) -> bool {
    at == BEFORE_ALL || at == AFTER_ALL
}

/// PostgreSQL has timestamps from 4713 BC to 294276 AD (documentation 15, table 8.9).
fn within_timestamps(at: i64) -> bool {
    let day = |year, month, day| days_from_civil(year, month, day).unwrap_or_default() * DAY_US;
    is_infinite(at) || (day(-4712, 1, 1)..day(294_277, 1, 1)).contains(&at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_count_days() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-02-29", 59),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("4713-01-01 BC", -2_451_507),
            ("5874897-12-31", 2_145_031_948),
        ] {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
        for bad in [
            "",
            "2024-02-30",
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-1-1",
            "today",
            "0000-01-01",
            "2024-01-01 ",
            "2024-01-01 10:00:00",
            "2024-01-00",
            "-2024-01-01",
        ] {
            assert_eq!(date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_have_their_order() {
        let ascending = [
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "0044-03-15 12:00:00 BC",
            "0001-01-01 00:00:00",
            "1969-12-31 23:59:59.999999",
            "1970-01-01 00:00:00",
            "1970-01-01 00:00:00.5",
            "294276-12-31 23:59:59.999999",
            "infinity",
        ];
        let numbers: Vec<i64> = ascending
            .iter()
            .map(|t| timestamp(t.as_bytes()).unwrap())
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(timestamp(b"2000-01-01 00:00:00.5"), Some(500_000));
    }

    #[test]
    fn offsets_are_taken_off() {
        for (text, seconds) in [
            ("2000-01-01 00:00:00+00", 0),
            ("2000-01-01 01:00:00+01", 0),
            ("1999-12-31 20:30:00-03:30", 0),
            ("2000-01-01 00:00:00+05:53:28", -21_208),
            ("2000-01-01 00:00:01.000000+00", 1),
        ] {
            assert_eq!(
                timestamp_tz(text.as_bytes()),
                Some(seconds * 1_000_000),
                "{text}"
            );
        }
        assert!(
            timestamp_tz(b"0044-03-15 12:00:00+00 BC") < timestamp_tz(b"0043-03-15 12:00:00+00 BC")
        );
        assert_eq!(timestamp_tz(b"2000-01-01 00:00:00"), None);
        assert_eq!(timestamp_tz(b"2000-01-01 00:00:00+20"), None);
    }

    #[test]
    fn literals_are_completed() {
        for (literal, text) in [
            ("2024-01-01", "2024-01-01 00:00:00"),
            ("2024-01-01 10:30", "2024-01-01 10:30:00"),
            ("2024-01-01T10:30:15.25", "2024-01-01 10:30:15.25"),
            ("0044-03-15 BC", "0044-03-15 00:00:00 BC"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(timestamp_literal(literal).unwrap().text, text);
        }
        for (literal, text) in [
            ("2024-01-01", "2024-01-01 00:00:00+00"),
            ("2024-01-01 10:30", "2024-01-01 10:30:00+00"),
            ("2024-01-01T10:30:00Z", "2024-01-01 10:30:00+00"),
            ("2024-01-01 10:30:00-03:30", "2024-01-01 10:30:00-03:30"),
            ("2024-01-01 10:30+02", "2024-01-01 10:30:00+02"),
            ("0044-03-15 BC", "0044-03-15 00:00:00+00 BC"),
        ] {
            assert_eq!(timestamp_tz_literal(literal).unwrap().text, text);
        }
        for bad in [
            "now",
            "2024-01-01 24:00:00",
            "2024-01-01 10:00:60",
            "2024-01-01 10",
            "1/2/2024",
            "2024-01-01 10:00:00.1234567",
            "294277-01-01",
            "4714-12-31 BC",
            "",
        ] {
            assert_eq!(timestamp_literal(bad), None, "{bad}");
            assert_eq!(timestamp_tz_literal(bad), None, "{bad}");
        }
        assert_eq!(timestamp_literal("2024-01-01 10:00:00+00"), None);
        assert_eq!(date_literal("5874898-01-01"), None);
        assert_eq!(date_literal("2024-01-01 10:00"), None);
    }

    proptest! {
        #[test]
        fn days_follow_each_other(year in -4000_i64..9000, month in 1_i64..=12, day in 1_i64..=31) {
            if let Some(at) = days_from_civil(year, month, day) {
                let next = days_from_civil(year, month, day + 1)
                    .or_else(|| days_from_civil(year, month + 1, 1))
                    .or_else(|| days_from_civil(year + 1, 1, 1));
                prop_assert_eq!(next, Some(at + 1));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, text: String) {
            std::hint::black_box((date(&bytes), timestamp(&bytes), timestamp_tz(&bytes)));
            std::hint::black_box((date_literal(&text), timestamp_literal(&text)));
            std::hint::black_box(timestamp_tz_literal(&text));
        }
    }
}
