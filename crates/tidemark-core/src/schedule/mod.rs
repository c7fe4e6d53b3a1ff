//! When a full load is due: by an interval, or by five fields of cron in a time zone.
//!
//! All here is a function of the schedule and of an instant that is given: nobody reads a clock. Instants
//! are microseconds since 1970 UTC. An interval counts from then, so that it knows neither zones nor
//! starts of a server. Cron means the clock on the wall of its zone, which jumps twice a year:
//!
//! | | times of the day (`30 2 * * *`) | whenever the clock shows it (`*` in minute or hour) |
//! |--|--|--|
//! | the clock leaves a time out | once, at the jump | not at a time that is left out |
//! | the clock shows a time twice | the first time | both times |
//!
//! Zones are those of the IANA database within the binary, so that a file means the same on every machine.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use crate::config::{Missed, Overlap, show_duration};
use cron::Cron;

mod cron;

#[cfg(test)]
mod tests;

/// The same weekday on a leap day comes back after forty years at most (2096 to 2136).
const DAYS_AHEAD_MAX: usize = 366 * 41;
/// From where on it is looked whether something is ever due.
const SOME_DAY_US: i64 = 946_684_800_000_000;
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_hours(24 * 366);

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Why a text is no schedule, and which bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDue {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
}

impl NotDue {
    fn new(message: impl Into<String>, span: Range<usize>) -> NotDue {
        NotDue {
            message: message.into(),
            span,
        }
    }
}

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Every so many microseconds since 1970.
    Every(i64),
    /// By the clock on the wall.
    Cron(CronDue),
}

/// See the table of the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronDue(Cron);

/// `[schedule]`: when a full load is due, and what of it where it cannot be in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// As it was written.
    pub text: String,
    due: Due,
    zone: TimeZone,
    /// What becomes of a run that is due while another goes on.
    pub overlap: Overlap,
    /// What becomes of a run whose time has passed.
    pub missed: Missed,
}

/// Reads when something is due: `hourly`, `daily`, `every 6h`, or five fields of cron.
pub fn parse_due(text: &str) -> Result<Due, NotDue> {
    let whole = 0..text.len();
    let wrong = |message: String| Err(NotDue::new(message, whole.clone()));
    let word = text.trim();
    let fields = match word {
        "" => return wrong("write \"daily\", \"every 6h\", or five fields of cron".to_owned()),
        "hourly" => "0 * * * *",
        "daily" => "0 0 * * *",
        _ if word.starts_with("every") => {
            let interval = word.strip_prefix("every").unwrap_or(word);
            return match crate::config::duration(interval) {
                Ok(interval) if interval.subsec_micros() > 0 => {
                    wrong("an interval is whole seconds".to_owned())
                }
                Ok(interval) if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) => {
                    Ok(Due::Every(micros(interval)))
                }
                Ok(_) => wrong(format!(
                    "from \"every {}\" to \"every {}\"",
                    show_duration(INTERVAL_MIN),
                    show_duration(INTERVAL_MAX)
                )),
                Err(why) => wrong(why),
            };
        }
        _ if !word.contains(char::is_whitespace) && word.starts_with(char::is_alphabetic) => {
            let near = crate::config::problem::suggestion(word, ["hourly", "daily", "every 6h"]);
            return wrong(match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write hourly, daily, every 6h, or five fields of cron".to_owned(),
            });
        }
        _ => text,
    };
    let cron = Cron::parse(fields)?;
    let due = Due::Cron(CronDue(cron));
    if next(&due, &TimeZone::UTC, SOME_DAY_US, 1).is_empty() {
        return wrong("there is no such day: it is never due".to_owned());
    }
    Ok(due)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// A time zone by its name; else names that look like it.
pub fn zone(name: &str) -> Result<TimeZone, Option<String>> {
    let known = |zone: &TimeZone| zone.iana_name().is_some();
    match ZONES.get(name) {
        Ok(zone) if known(&zone) || name == "UTC" => Ok(zone),
        _ => {
            let names: Vec<String> = ZONES.available().map(|name| name.to_string()).collect();
            // Most people leave the region out: the last part alone finds the whole.
            let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
            let same = |known: &&String| known.contains('/') && last(known) == last(name);
            let near = names.iter().find(same).map(String::as_str);
            let near = near.or_else(|| {
                crate::config::problem::suggestion(name, names.iter().map(String::as_str))
            });
            Err(near.map(str::to_owned))
        }
    }
}

impl Schedule {
    /// A schedule.
    pub fn new(
        text: impl Into<String>,
        due: Due,
        zone: TimeZone,
        overlap: Overlap,
        missed: Missed,
    ) -> Schedule {
        Schedule {
            text: text.into(),
            due,
            zone,
            overlap,
            missed,
        }
    }

    /// The name of the zone whose clock counts; none with an interval, which is the same everywhere.
    pub fn zone(&self) -> Option<&str> {
        match self.due {
            Due::Every(_) => None,
            Due::Cron(_) => Some(self.zone.iana_name().unwrap_or("UTC")),
        }
    }

    /// The first times behind an instant, in order, at most so many.
    pub fn next(&self, after_us: i64, count: usize) -> Vec<i64> {
        next(&self.due, &self.zone, after_us, count)
    }

    /// The last time that is not behind an instant.
    pub fn last(&self, until_us: i64) -> Option<i64> {
        last(&self.due, &self.zone, until_us)
    }

    /// An instant as the clock of its zone shows it: `2026-11-30T02:00:00+01:00`.
    pub fn show(&self, at_us: i64) -> String {
        let Ok(at) = Timestamp::from_microsecond(at_us) else {
            return at_us.to_string();
        };
        let offset = self.zone.to_offset(at);
        at.display_with_offset(offset).to_string()
    }
}

fn next(due: &Due, zone: &TimeZone, after_us: i64, count: usize) -> Vec<i64> {
    let cron = match due {
        Due::Every(interval) => {
            let first = after_us.div_euclid(*interval) + 1;
            let times = first..first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
            return times
                .map(|number| number.saturating_mul(*interval))
                .collect();
        }
        Due::Cron(CronDue(cron)) => cron,
    };
    let Some(mut date) = date_of(zone, after_us).and_then(|date| date.yesterday().ok()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut is_last = false;
    for _ in 0..DAYS_AHEAD_MAX {
        let times = times_of(cron, zone, date);
        found.extend(times.into_iter().filter(|time| *time > after_us));
        // A clock that turns back over midnight shows times of two days in turn: one more day has all.
        if is_last {
            break;
        }
        is_last = found.len() >= count;
        match date.tomorrow() {
            Ok(tomorrow) => date = tomorrow,
            Err(_) => break,
        }
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(count);
    found
}

fn last(due: &Due, zone: &TimeZone, until_us: i64) -> Option<i64> {
    let cron = match due {
        Due::Every(interval) => return Some(until_us.div_euclid(*interval) * interval),
        Due::Cron(CronDue(cron)) => cron,
    };
    let mut date = date_of(zone, until_us)?.tomorrow().ok()?;
    let mut found: Option<i64> = None;
    for _ in 0..DAYS_AHEAD_MAX {
        let is_last = found.is_some();
        let times = times_of(cron, zone, date);
        found = found.max(times.into_iter().filter(|time| *time <= until_us).max());
        if is_last {
            break;
        }
        date = date.yesterday().ok()?;
    }
    found
}

fn date_of(zone: &TimeZone, at_us: i64) -> Option<Date> {
    let at = Timestamp::from_microsecond(at_us).ok()?;
    Some(zone.to_datetime(at).date())
}

/// The instants at which it is due on a day of its zone.
fn times_of(cron: &Cron, zone: &TimeZone, date: Date) -> Vec<i64> {
    if !cron.is_on(date) {
        return Vec::new();
    }
    let mut times = Vec::new();
    for (hour, minute) in cron.times() {
        let shown = date.at(hour, minute, 0, 0);
        let at = zone.to_ambiguous_timestamp(shown);
        match at.offset() {
            AmbiguousOffset::Unambiguous { offset } => times.push(offset.to_timestamp(shown).ok()),
            AmbiguousOffset::Fold { before, after } => {
                times.push(before.to_timestamp(shown).ok());
                if cron.follows_clock() {
                    times.push(after.to_timestamp(shown).ok());
                }
            }
            AmbiguousOffset::Gap { before, .. } if !cron.follows_clock() => {
                times.push(jump(zone, before.to_timestamp(shown).ok()));
            }
            AmbiguousOffset::Gap { .. } => {}
        }
    }
    times
        .into_iter()
        .flatten()
        .map(Timestamp::as_microsecond)
        .collect()
}

/// When the clock jumped over a time: the last jump until what the clock would show without it.
fn jump(zone: &TimeZone, without: Option<Timestamp>) -> Option<Timestamp> {
    let behind = without?
        .checked_add(jiff::SignedDuration::from_secs(1))
        .ok()?;
    let jumps = zone.preceding(behind).next();
    jumps.map(|jump| jump.timestamp())
}
