//! The local time zone: what a clock on the wall shows at an instant, and how far that is from UTC.
//!
//! Read once from `TZ` or `/etc/localtime`, in the two forms there are: a compiled zone (RFC 8536:
//! transitions, and a rule for the time after the last of them) or the rule itself (POSIX.1-2017,
//! 8.3). Whatever cannot be read is UTC: a log must not fail for its clock.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::surroundings::env;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    /// From this instant on (seconds since 1970), this offset from UTC in seconds; ascending.
    transitions: Vec<(i64, i32)>,
    /// Before the first of them.
    first: i32,
    /// After the last of them.
    rule: Option<Rule>,
}

/// Standard time, and what happens in summer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    standard: i32,
    summer: Option<Summer>,
}

/// Another offset for a part of each year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summer {
    offset: i32,
    begins: Change,
    ends: Change,
}

/// A day of each year, and seconds after its midnight (may be negative, or days away).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    day: Day,
    seconds: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Day {
    /// From 1; 29 February is never counted.
    Julian(i64),
    /// From 0; 29 February is counted.
    Zero(i64),
    /// Month, week (5 is the last), day of the week (0 is Sunday).
    Weekday(u32, i64, i64),
}

const DAY: i64 = 86_400;

impl Zone {
    /// The zone of this process.
    pub(crate) fn local() -> &'static Zone {
        static LOCAL: OnceLock<Zone> = OnceLock::new();
        LOCAL.get_or_init(|| Zone::named(env("TZ").as_deref()).unwrap_or_default())
    }

    /// As `TZ` names it; `None` for the machine's.
    pub(super) fn named(name: Option<&str>) -> Option<Zone> {
        let Some(name) = name.map(|name| name.trim_start_matches(':')) else {
            return Zone::compiled(&std::fs::read("/etc/localtime").ok()?);
        };
        let file: PathBuf = Path::new("/usr/share/zoneinfo").join(name);
        match std::fs::read(file) {
            Ok(bytes) => Zone::compiled(&bytes),
            Err(_) => Some(Zone {
                rule: Some(Rule::parse(name)?),
                ..Zone::default()
            }),
        }
    }

    /// Seconds that local time is ahead of UTC at an instant.
    pub(crate) fn offset(&self, unix: i64) -> i32 {
        let later = self.transitions.partition_point(|(from, _)| *from <= unix);
        let is_after_the_last = later == self.transitions.len();
        match (&self.rule, later.checked_sub(1)) {
            (Some(rule), _) if is_after_the_last => rule.offset(unix),
            (_, Some(last)) => self.transitions.get(last).map_or(0, |(_, offset)| *offset),
            (_, None) => self.first,
        }
    }

    /// Reads a compiled zone: the second block, of 64-bit times, and the line after it.
    fn compiled(bytes: &[u8]) -> Option<Zone> {
        let skipped = Header::read(bytes)?;
        let bytes = bytes.get(Header::SIZE + skipped.size(4)..)?;
        let header = Header::read(bytes)?;
        let body = bytes.get(Header::SIZE..)?;
        let (times, rest) = body.split_at_checked(header.times * 8)?;
        let (kinds, rest) = rest.split_at_checked(header.times)?;
        let (types, _) = rest.split_at_checked(header.types * 6)?;
        let offset = |kind: usize| -> Option<i32> {
            let offset = types.get(kind * 6..kind * 6 + 4)?;
            Some(i32::from_be_bytes(offset.try_into().ok()?))
        };
        let transitions = times
            .chunks_exact(8)
            .zip(kinds)
            .map(|(time, kind)| {
                let time = i64::from_be_bytes(time.try_into().ok()?);
                Some((time, offset(usize::from(*kind))?))
            })
            .collect::<Option<Vec<_>>>()?;
        let footer = bytes.get(Header::SIZE + header.size(8)..)?;
        let footer = std::str::from_utf8(footer).ok()?.trim();
        Some(Zone {
            transitions,
            first: offset(0)?,
            rule: Rule::parse(footer),
        })
    }
}

/// Counts of a block of a compiled zone.
struct Header {
    leaps: usize,
    times: usize,
    types: usize,
    letters: usize,
    standard_flags: usize,
    utc_flags: usize,
}

impl Header {
    const SIZE: usize = 44;

    fn read(bytes: &[u8]) -> Option<Header> {
        if !bytes.starts_with(b"TZif") {
            return None;
        }
        let count = |index: usize| -> Option<usize> {
            let at = 20 + index * 4;
            let count = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
            usize::try_from(count).ok()
        };
        Some(Header {
            utc_flags: count(0)?,
            standard_flags: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            types: count(4)?,
            letters: count(5)?,
        })
    }

    /// Bytes of the block behind the header, with times of this many bytes.
    fn size(&self, time: usize) -> usize {
        self.times * (time + 1)
            + self.types * 6
            + self.letters
            + self.leaps * (time + 4)
            + self.standard_flags
            + self.utc_flags
    }
}

impl Rule {
    /// `CET-1CEST,M3.5.0,M10.5.0/3`. Offsets are written as what is missing to UTC.
    fn parse(text: &str) -> Option<Rule> {
        let mut rest = text;
        skip_name(&mut rest)?;
        let standard = -time(&mut rest)?;
        if rest.is_empty() {
            let summer = None;
            return Some(Rule { standard, summer });
        }
        skip_name(&mut rest)?;
        let offset = if rest.starts_with(',') {
            standard + 3_600
        } else {
            -time(&mut rest)?
        };
        let mut changes = rest.strip_prefix(',')?.split(',');
        let (begins, ends) = (
            Change::parse(changes.next()?)?,
            Change::parse(changes.next()?)?,
        );
        let summer = Some(Summer {
            offset,
            begins,
            ends,
        });
        Some(Rule { standard, summer })
    }

    fn offset(&self, unix: i64) -> i32 {
        let Some(summer) = &self.summer else {
            return self.standard;
        };
        let (year, ..) = civil(unix + i64::from(self.standard));
        let begins = summer.begins.at(year) - i64::from(self.standard);
        let ends = summer.ends.at(year) - i64::from(summer.offset);
        let is_summer = if begins <= ends {
            (begins..ends).contains(&unix)
        } else {
            !(ends..begins).contains(&unix)
        };
        if is_summer {
            summer.offset
        } else {
            self.standard
        }
    }
}

impl Change {
    /// `M3.5.0/2`, `J60`, `59`.
    fn parse(text: &str) -> Option<Change> {
        let (day, time_of_day) = text.split_once('/').unwrap_or((text, "2"));
        let day = if let Some(date) = day.strip_prefix('M') {
            let mut parts = date.split('.');
            let month = parts
                .next()?
                .parse()
                .ok()
                .filter(|m| (1..=12).contains(m))?;
            Day::Weekday(
                month,
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
            )
        } else if let Some(number) = day.strip_prefix('J') {
            Day::Julian(number.parse().ok()?)
        } else {
            Day::Zero(day.parse().ok()?)
        };
        let mut rest = time_of_day;
        let seconds = time(&mut rest)?;
        rest.is_empty().then_some(Change { day, seconds })
    }

    /// In a year, on the wall's clock, as seconds since 1970.
    fn at(self, year: i64) -> i64 {
        let day = match self.day {
            Day::Zero(number) => days(year, 1, 1) + number,
            Day::Julian(number) => {
                let leap = days(year, 3, 1) - days(year, 2, 28) == 2;
                days(year, 1, 1) + number - 1 + i64::from(leap && number >= 60)
            }
            Day::Weekday(month, week, weekday) => {
                let first = days(year, month, 1);
                let next = if month == 12 {
                    days(year + 1, 1, 1)
                } else {
                    days(year, month + 1, 1)
                };
                // 1970-01-01 was a Thursday, day 4 of the week.
                let first = first + (weekday - (first + 4)).rem_euclid(7);
                let wanted = first + (week - 1) * 7;
                if wanted < next { wanted } else { wanted - 7 }
            }
        };
        day * DAY + i64::from(self.seconds)
    }
}

/// Letters, or anything in angle brackets.
fn skip_name(rest: &mut &str) -> Option<()> {
    let (name, after) = if let Some(quoted) = rest.strip_prefix('<') {
        quoted.split_once('>')?
    } else {
        let end = rest.find(|c: char| !c.is_ascii_alphabetic());
        rest.split_at(end.unwrap_or(rest.len()))
    };
    *rest = after;
    (name.len() >= 3).then_some(())
}

/// `-1`, `5:30`, `3:00:00`, with a sign; in seconds.
fn time(rest: &mut &str) -> Option<i32> {
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | ':')))
        .unwrap_or(rest.len());
    let (text, after) = rest.split_at(end);
    *rest = after;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.trim_start_matches('+')),
    };
    let mut seconds = 0;
    for (part, unit) in digits.split(':').zip([3_600, 60, 1]) {
        seconds += part.parse::<i32>().ok().filter(|part| *part <= 167)? * unit;
    }
    Some(sign * seconds)
}

/// Year, month and day of an instant in UTC (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
pub(crate) fn civil(unix: i64) -> (i64, u32, u32) {
    let shifted = unix.div_euclid(DAY) + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |number: i64| u32::try_from(number).unwrap_or(1);
    (year, small(month), small(day))
}

/// The way back, `days_from_civil` of the same text.
pub(crate) fn days(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let month_index = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_index + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-15, 2026-07-15 and both changes of that year in central Europe, in UTC.
    const WINTER: i64 = 1_768_435_200;
    const SUMMER: i64 = 1_784_073_600;
    const SPRING_FORWARD: i64 = 1_774_746_000;
    const FALL_BACK: i64 = 1_792_890_000;

    #[test]
    fn a_rule_gives_summer_and_winter_on_both_sides_of_the_equator() {
        let berlin = Zone::named(Some("CET-1CEST,M3.5.0,M10.5.0/3")).unwrap();
        for (at, hours) in [
            (WINTER, 1),
            (SPRING_FORWARD - 1, 1),
            (SPRING_FORWARD, 2),
            (SUMMER, 2),
            (FALL_BACK - 1, 2),
            (FALL_BACK, 1),
        ] {
            assert_eq!(berlin.offset(at), hours * 3_600, "{at}");
        }
        for (rule, winter, summer) in [
            ("UTC0", 0, 0),
            ("<+0530>-5:30", 19_800, 19_800),
            ("EST5EDT,M3.2.0,M11.1.0", -18_000, -14_400),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", 39_600, 36_000),
            ("XXX3YYY,J60/0,J300/0", -10_800, -7_200),
            ("XXX3YYY2,59/0,300/0", -10_800, -7_200),
        ] {
            let zone = Zone::named(Some(rule)).unwrap();
            assert_eq!(
                (zone.offset(WINTER), zone.offset(SUMMER)),
                (winter, summer),
                "{rule}"
            );
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "X",
            "CET",
            "CET-1CEST",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M10.5.0",
        ] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }

    /// A compiled zone with two transitions and, after them, a rule.
    #[test]
    fn a_compiled_zone_has_transitions_and_then_a_rule() {
        let header = |times: u32| {
            let mut bytes = b"TZif2".to_vec();
            bytes.resize(20, 0);
            for count in [0, 0, 0, times, 2, 4] {
                bytes.extend(u32::to_be_bytes(count));
            }
            bytes
        };
        let kinds = |bytes: &mut Vec<u8>| {
            for offset in [0_i32, 7_200] {
                bytes.extend(offset.to_be_bytes());
                bytes.extend([0, 0]);
            }
            bytes.extend(b"ABC\0");
        };
        let mut bytes = header(0);
        kinds(&mut bytes);
        bytes.extend(header(2));
        for time in [1_000_i64, 2_000] {
            bytes.extend(time.to_be_bytes());
        }
        bytes.extend([1, 0]);
        kinds(&mut bytes);
        bytes.extend(b"\nCET-1CEST,M3.5.0,M10.5.0/3\n");
        let zone = Zone::compiled(&bytes).unwrap();
        for (at, offset) in [
            (0, 0),
            (1_000, 7_200),
            (1_999, 7_200),
            (SUMMER, 7_200),
            (WINTER, 3_600),
        ] {
            assert_eq!(zone.offset(at), offset, "{at}");
        }
        for cut in [0, 30, 60, bytes.len() / 2] {
            assert_eq!(Zone::compiled(&bytes[..cut]), None);
        }
    }

    #[test]
    fn days_and_dates_go_both_ways() {
        for (unix, date) in [
            (0, (1970, 1, 1)),
            (951_825_600, (2000, 2, 29)),
            (-1, (1969, 12, 31)),
        ] {
            assert_eq!(civil(unix), date);
            assert_eq!(days(date.0, date.1, date.2), unix.div_euclid(DAY));
        }
    }
}
