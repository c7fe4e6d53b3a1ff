//! Five fields of cron: which minutes of which days.
//!
//! As crontab(5) has them: `*`, numbers, ranges, steps behind `*` or a range, lists, and the first three
//! letters of months and weekdays; 0 and 7 are Sunday. Where both a day of the month and a weekday are
//! given, a day that is either counts.

use std::ops::Range;

use jiff::civil::Date;

use super::NotDue;

/// What a field is called, and what it may hold.
struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    /// Words for its numbers, from `min` on.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        words: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        words: &[],
    },
    Field {
        name: "day of the month",
        min: 1,
        max: 31,
        words: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        words: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        name: "weekday",
        min: 0,
        max: 7,
        words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

/// The numbers of a field, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// It begins with `*`: it does not restrict days by itself, and follows the clock.
    is_star: bool,
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number)
            .is_ok_and(|number| self.bits.checked_shr(number).unwrap_or(0) & 1 == 1)
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

impl Cron {
    /// Reads the five fields, or says which of them is wrong and where it stands.
    pub(super) fn parse(text: &str) -> Result<Cron, NotDue> {
        let parts = words_of(text);
        if parts.len() != FIELDS.len() {
            let more = match parts.len() {
                6 => ": seconds are not among them",
                _ => "",
            };
            let why = format!(
                "cron has five fields: minute, hour, day of the month, month, weekday; here are {}{more}",
                parts.len()
            );
            return Err(NotDue::new(why, 0..text.len()));
        }
        let mut sets = [Set {
            bits: 0,
            is_star: false,
        }; 5];
        for ((set, field), (part, span)) in sets.iter_mut().zip(&FIELDS).zip(parts) {
            *set = field
                .parse(part)
                .map_err(|why| NotDue::new(format!("{}: {why}", field.name), span))?;
        }
        let [minutes, hours, days, months, mut weekdays] = sets;
        // 7 is Sunday too.
        weekdays.bits |= weekdays.bits >> 7 & 1;
        Ok(Cron {
            minutes,
            hours,
            days,
            months,
            weekdays,
        })
    }

    /// Whether it means "whenever the clock shows this", rather than times of the day.
    pub(super) fn follows_clock(&self) -> bool {
        self.minutes.is_star || self.hours.is_star
    }

    /// Whether anything is due on a day.
    pub(super) fn is_on(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let is_day = if self.days.is_star || self.weekdays.is_star {
            day && weekday
        } else {
            day || weekday
        };
        self.months.has(date.month()) && is_day
    }

    /// The times of a day, in order: hour and minute.
    pub(super) fn times(&self) -> impl Iterator<Item = (i8, i8)> {
        let hours = (0..24).filter(|hour| self.hours.has(*hour));
        hours.flat_map(|hour| {
            let minutes = (0..60).filter(|minute| self.minutes.has(*minute));
            minutes.map(move |minute| (hour, minute))
        })
    }
}

/// Parts between spaces, and where they stand.
fn words_of(text: &str) -> Vec<(&str, Range<usize>)> {
    let mut at = 0;
    let mut words = Vec::new();
    for part in text.split(char::is_whitespace) {
        if !part.is_empty() {
            words.push((part, at..at + part.len()));
        }
        // Of one byte or more; what follows begins behind the character that was split at.
        let after = text.get(at + part.len()..).unwrap_or_default();
        at += part.len() + after.chars().next().map_or(0, char::len_utf8);
    }
    words
}

impl Field {
    fn parse(&self, text: &str) -> Result<Set, String> {
        let mut bits = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.min, self.max),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                None if step.is_some() => {
                    let end = self.max;
                    return Err(format!(
                        "a step goes behind `*` or a range, such as {range}-{end}"
                    ));
                }
                None => {
                    let number = self.number(range)?;
                    (number, number)
                }
            };
            if first > last {
                return Err(format!("{range} goes backwards"));
            }
            let step = match step.map(str::parse::<u8>) {
                None => 1,
                Some(Ok(step)) if (1..=self.max).contains(&step) => step,
                Some(_) => return Err(format!("a step is a number from 1 to {}", self.max)),
            };
            for number in (first..=last).step_by(usize::from(step)) {
                bits |= 1 << number;
            }
        }
        Ok(Set {
            bits,
            is_star: text.starts_with('*'),
        })
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.words.iter().position(|word| *word == lower) {
            return Ok(self.min + u8::try_from(at).unwrap_or(0));
        }
        let (min, max) = (self.min, self.max);
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            let words = match self.words {
                [first, .., last] => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            return Err(format!(
                "`{text}` is no number; {min} to {max}{words}, or `*`"
            ));
        }
        match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(format!("{text} is out of range, {min} to {max}")),
        }
    }
}
