//! `[schedule]`: when a server loads everything anew, as the pipeline file says it.

use super::choice::{Choice, Missed, Overlap};
use super::problem::{Located, Place, Problem, Problems};
use super::settings::{Origin, Setting, Settings, Value};
use crate::catalogue::codes;
use crate::pipeline::plan::Mode;
use crate::schedule::{Due, Schedule, parse_due, zone};
use crate::target::Existing;

const FULL_LOAD: &str = "schedule.full_load";
const ZONE: &str = "schedule.timezone";
const EXISTING: &str = "target.existing";

/// What is loaded again and again takes the place of what is there, unless the file says otherwise.
pub(super) fn add_defaults(settings: &mut Settings) {
    let loads_alone = choice(settings, "pipeline.mode") == Some(Mode::FullLoadOnly);
    if settings.has(FULL_LOAD) && loads_alone && !settings.has(EXISTING) {
        let swap = Setting {
            value: Value::Text(word_of(Existing::Swap).to_owned()),
            place: None,
            key_place: None,
            origin: Origin::Default,
        };
        settings.by_path.insert(EXISTING.to_owned(), swap);
    }
}

fn choice<T: Choice>(settings: &Settings, path: &str) -> Option<T> {
    T::from_word(&settings.text(path)?.value)
}

fn word_of<T: Choice>(value: T) -> &'static str {
    let known = T::WORDS.iter().find(|(_, known)| *known == value);
    known.map_or("", |(word, _)| *word)
}

/// The schedule, where there is one.
pub(super) fn schedule(
    settings: &Settings,
    mode: Option<Mode>,
    problems: &mut Problems,
) -> Option<Schedule> {
    let Some(written) = settings.text(FULL_LOAD) else {
        missing(settings, problems);
        return None;
    };
    let due = due(&written, problems);
    let zone = zone_of(settings, due.as_ref(), problems);
    fits(settings, mode, problems);
    Some(Schedule::new(
        written.value,
        due?,
        zone?,
        choice::<Overlap>(settings, "schedule.overlap")?,
        choice::<Missed>(settings, "schedule.missed")?,
    ))
}

/// A section that says nothing of when is none.
fn missing(settings: &Settings, problems: &mut Problems) {
    let said = |setting: &&Setting| setting.origin != Origin::Default;
    let other = ["schedule.timezone", "schedule.overlap", "schedule.missed"]
        .iter()
        .find_map(|path| settings.get(path).filter(said));
    let place = match (settings.sections.get("schedule"), other) {
        (Some(place), _) => Some(place.clone()),
        (None, Some(other)) => other.key_place.clone(),
        (None, None) => return,
    };
    if !settings.misread.iter().any(|path| path == FULL_LOAD) {
        let problem = Problem::new(codes::CONFIG_MISSING, "`full_load` is missing");
        problems.push(problem.at(place).label("such as `full_load = \"daily\"`"));
    }
}

fn due(written: &Located<String>, problems: &mut Problems) -> Option<Due> {
    match parse_due(&written.value) {
        Ok(due) => Some(due),
        Err(not_due) => {
            let message = "`schedule.full_load` does not say when";
            let problem = Problem::new(codes::CONFIG_VALUE, message);
            let place = written.within(&not_due.span);
            problems.push(problem.at(place).label(not_due.message));
            None
        }
    }
}

fn zone_of(
    settings: &Settings,
    due: Option<&Due>,
    problems: &mut Problems,
) -> Option<jiff::tz::TimeZone> {
    let name = settings.text(ZONE)?;
    let setting = settings.get(ZONE)?;
    if matches!(due, Some(Due::Every(_))) && setting.origin != Origin::Default {
        let message = "`timezone` means nothing with `every`";
        let problem = Problem::new(codes::CONFIG_CONFLICT, message);
        let label = "an interval is the same everywhere, and counts from midnight UTC; for hours of the day write cron";
        problems.push(problem.at(setting.key_place.clone()).label(label));
    }
    match zone(&name.value) {
        Ok(zone) => Some(zone),
        Err(near) => {
            let message = format!("`{}` is no time zone", name.value);
            let label = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    "a name of the IANA database, such as \"Europe/Berlin\" or \"UTC\"".to_owned()
                }
            };
            let problem = Problem::new(codes::CONFIG_VALUE, message);
            problems.push(problem.at(name.place).label(label));
            None
        }
    }
}

/// Whether there is a load that can be run again, and readers never see it halfway.
fn fits(settings: &Settings, mode: Option<Mode>, problems: &mut Problems) {
    let conflict = |place: Option<Place>, message: &str, label: &str| {
        let problem = Problem::new(codes::CONFIG_CONFLICT, message);
        problem.at(place).label(label)
    };
    if mode == Some(Mode::CdcOnly) {
        let place = settings
            .get(FULL_LOAD)
            .and_then(|key| key.key_place.clone());
        let message = "`cdc_only` has no full load that could be scheduled";
        problems.push(conflict(
            place,
            message,
            "take the section away, or load too",
        ));
    }
    if mode == Some(Mode::FullLoadOnly)
        && choice(settings, EXISTING) != Some(Existing::Swap)
        && let Some(setting) = settings.get(EXISTING)
    {
        let message = "a scheduled load goes with `existing = \"swap\"`";
        let label =
            "the next load would fail at what this one has left, or empty it for its readers";
        problems.push(conflict(setting.place.clone(), message, label));
    }
}
