//! `[[alert]]`: what a person wants to be told of, as the pipeline file says it.
//!
//! A rule is read here and judged by the server. One that could never be met, or that says something
//! which its condition does not look at, is a problem with a place.

use std::time::Duration;

use super::choice::{AlertSeverity, AlertWhen};
use super::problem::{Place, Problem, Problems, suggestion};
use super::settings::{Origin, Setting, Settings};
use crate::catalogue::codes;
use crate::config::choice::Choice;
use crate::pipeline::plan::Mode;
use crate::status::STATES;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// What it looks at.
    pub when: AlertWhen,
    /// States that count, for [`AlertWhen::State`].
    pub is: Vec<String>,
    /// Met above this number of seconds, bytes or rows.
    pub above: u64,
    /// Met below this time, for [`AlertWhen::SlotTimeLeft`].
    pub below: Duration,
    /// How long it must be so before it fires.
    pub hold: Duration,
    /// How long it must be over before it counts as resolved.
    pub resolve_after: Duration,
    /// How much it matters.
    pub severity: AlertSeverity,
    /// Who is told, by name.
    pub notify: Vec<String>,
}

impl AlertRule {
    /// By what it is known: two rules that are judged alike are one.
    pub fn id(&self) -> String {
        let looked = match self.when {
            AlertWhen::State => format!(" is {}", self.is.join(",")),
            AlertWhen::SlotTimeLeft => format!(" below {}", super::show_duration(self.below)),
            when if needs_above(when) || self.above > 0 => format!(" above {}", self.above),
            _ => String::new(),
        };
        let mut id = format!("{}{looked}", self.when.word());
        if self.hold > Duration::ZERO {
            id = format!("{id} for {}", super::show_duration(self.hold));
        }
        id
    }
}

/// Without a number these would be met always or never.
fn needs_above(when: AlertWhen) -> bool {
    matches!(
        when,
        AlertWhen::LagSeconds | AlertWhen::LagBytes | AlertWhen::VerificationStale
    )
}

/// All rules of a file.
pub(super) fn alerts(
    settings: &Settings,
    mode: Option<Mode>,
    problems: &mut Problems,
) -> Vec<AlertRule> {
    let mut rules: Vec<AlertRule> = Vec::new();
    for index in 0..settings.count("alert") {
        let Some(rule) = rule(settings, index, mode, problems) else {
            continue;
        };
        if rules.iter().any(|other| other.id() == rule.id()) {
            let message = format!("there are two [[alert]] for {}", rule.id());
            let problem = Problem::new(codes::CONFIG_CONFLICT, message);
            let label = "one is enough";
            problems.push(problem.at(place_of(settings, index)).label(label));
        } else {
            rules.push(rule);
        }
    }
    rules
}

fn place_of(settings: &Settings, index: usize) -> Option<Place> {
    let when = settings.get(&format!("alert[{index}].when"))?;
    when.place.clone()
}

fn rule(
    settings: &Settings,
    index: usize,
    mode: Option<Mode>,
    problems: &mut Problems,
) -> Option<AlertRule> {
    let at = |name: &str| format!("alert[{index}].{name}");
    let when = AlertWhen::from_word(&settings.text(&at("when"))?.value)?;
    let place = place_of(settings, index);
    let before = problems.len();
    let mut missing = |key: &str, label: &str| {
        // A value that could not be read was complained about.
        if settings.misread.contains(&at(key)) {
            return;
        }
        let message = format!("an alert for \"{}\" needs `{key}`", when.word());
        let problem = Problem::new(codes::CONFIG_MISSING, message);
        problems.push(problem.at(place.clone()).label(label));
    };
    let is = settings.list(&at("is"));
    match when {
        AlertWhen::State if is.is_empty() => missing("is", "such as `is = [\"failed\"]`"),
        AlertWhen::SlotTimeLeft if !settings.has(&at("below")) => {
            missing("below", "such as `below = \"6h\"`");
        }
        when if needs_above(when) && !settings.has(&at("above")) => {
            let label = match when {
                AlertWhen::LagBytes => "such as `above = 1_000_000_000`, in bytes",
                AlertWhen::VerificationStale => "such as `above = 86_400`, in seconds",
                _ => "such as `above = 60`, in seconds",
            };
            missing("above", label);
        }
        _ => {}
    }
    let uses = |key: &str| match key {
        "is" => when == AlertWhen::State,
        "below" => when == AlertWhen::SlotTimeLeft,
        // What happens once does not last.
        "for" | "resolve_after" => when != AlertWhen::LoadFinished,
        _ => needs_above(when) || when == AlertWhen::RowsQuarantined,
    };
    for key in ["is", "above", "below", "for", "resolve_after"] {
        let said = |setting: &&Setting| setting.origin != Origin::Default;
        if let (Some(setting), false) = (settings.get(&at(key)).filter(said), uses(key)) {
            let message = format!("an alert for \"{}\" does not look at `{key}`", when.word());
            let problem = Problem::new(codes::CONFIG_CONFLICT, message);
            problems.push(problem.at(setting.key_place.clone()).label("take it away"));
        }
    }
    // A draft is not judged.
    let states = &STATES[1..];
    for state in &is {
        if !states.contains(&state.value.as_str()) {
            let message = format!("`{}` is no state of a pipeline", state.value);
            let label = match suggestion(&state.value, states.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known: {}", states.join(", ")),
            };
            let problem = Problem::new(codes::CONFIG_VALUE, message);
            problems.push(problem.at(state.place.clone()).label(label));
        }
    }
    let has_schedule =
        settings.has("schedule.full_load") || settings.sections.contains_key("schedule");
    if let Some(label) = never_met(when, mode, has_schedule) {
        let message = format!("an alert for \"{}\" is never met here", when.word());
        let problem = Problem::new(codes::CONFIG_CONFLICT, message);
        problems.push(problem.at(place.clone()).label(label));
    }
    if problems.len() > before {
        return None;
    }
    let mut notify: Vec<String> = Vec::new();
    for name in settings.list(&at("notify")) {
        if !notify.contains(&name.value) {
            notify.push(name.value);
        }
    }
    let mut is: Vec<String> = is.into_iter().map(|state| state.value).collect();
    is.sort();
    is.dedup();
    Some(AlertRule {
        when,
        is,
        above: settings.number(&at("above")).unwrap_or(0),
        below: settings.time(&at("below")).unwrap_or_default(),
        hold: settings.time(&at("for")).unwrap_or_default(),
        resolve_after: settings.time(&at("resolve_after"))?,
        severity: AlertSeverity::from_word(&settings.text(&at("severity"))?.value)?,
        notify,
    })
}

/// Why there is nothing that such a rule could look at.
fn never_met(when: AlertWhen, mode: Option<Mode>, has_schedule: bool) -> Option<&'static str> {
    match when {
        AlertWhen::LagSeconds
        | AlertWhen::LagBytes
        | AlertWhen::LagUnknown
        | AlertWhen::SlotTimeLeft => mode
            .is_some_and(|mode| !mode.streams())
            .then_some("a full load alone follows nothing"),
        AlertWhen::LoadFailed | AlertWhen::LoadFinished => mode
            .is_some_and(|mode| !mode.loads())
            .then_some("changes alone load nothing"),
        AlertWhen::ScheduleMissed => (!has_schedule).then_some("there is no [schedule]"),
        _ => None,
    }
}
