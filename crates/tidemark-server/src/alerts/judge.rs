//! Whether a rule is met, and what is said of it: what is so, what it means for the data, what to do
//! first. What cannot be told is unknown, which is neither.

use tidemark_core::clock;
use tidemark_core::config::{AlertRule, AlertWhen, show_bytes};
use tidemark_core::status::{SlotStatus, Status, TableStatusState};
use tidemark_core::words::counted;

use crate::schedules::shown;
use crate::store::{Compared, DesiredState, ScheduleRun};
use crate::supervisor::{Member, View};

/// Tables that are named in a sentence.
const NAMED: usize = 3;

/// What a rule comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Met(Said),
    Over,
    Unknown,
}

/// The sentences of an alert.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// What is so.
    what: String,
    /// What it means, and what to do first.
    more: String,
}

impl Said {
    #[cfg(test)]
    pub(super) fn plain(what: &str) -> Said {
        Said {
            what: what.to_owned(),
            more: String::new(),
        }
    }

    /// All of it, for something that has been so since then.
    pub(super) fn text(&self, since_us: i64) -> String {
        let since = clock::rfc3339(since_us);
        let (day, clock) = since.split_once('T').unwrap_or_default();
        let clock = clock.get(..5).unwrap_or_default();
        let today = clock::now();
        let day = if today.starts_with(day) {
            String::new()
        } else {
            format!("{day} ")
        };
        format!("! {} since {day}{clock} UTC.{}", self.what, self.more)
    }
}

/// Judges one rule.
pub(super) fn judge(
    member: &Member,
    view: &View,
    missed: Option<&ScheduleRun>,
    rule: &AlertRule,
    now: i64,
) -> Verdict {
    let (status, name) = (&view.status, &member.key.id);
    let threshold = rule.above;
    match rule.when {
        AlertWhen::State => {
            let is_met = rule.is.contains(&view.state);
            met(
                is_met,
                || format!("{name} is {}", view.state),
                || first(status, name, "status"),
            )
        }
        AlertWhen::LagSeconds => with(status.latency_seconds, |latency| {
            let what = || {
                format!(
                    "{name} is {} behind (threshold {threshold} s)",
                    about(latency)
                )
            };
            met(latency > threshold as f64, what, || behind(status, name))
        }),
        AlertWhen::LagBytes => with(status.gap_bytes, |gap| {
            let what = || {
                let (gap, most) = (short(gap), show_bytes(threshold));
                format!("{name} is {gap} behind (threshold {most})")
            };
            met(gap > threshold, what, || behind(status, name))
        }),
        AlertWhen::LagUnknown => lag_unknown(member, view),
        AlertWhen::SlotTimeLeft => with(status.slot.as_ref(), |slot| {
            let left = time_left(slot);
            let is_met = left.is_some_and(|left| left < rule.below.as_secs_f64());
            let what = || {
                let (left, most) = (
                    about(left.unwrap_or_default()),
                    about(rule.below.as_secs_f64()),
                );
                format!(
                    "the source keeps the log that {name} needs for {left} more (threshold {most})"
                )
            };
            met(is_met, what, || {
                format!(" {}{}", kept(slot), first(status, name, "lag"))
            })
        }),
        AlertWhen::TableQuarantined => with_tables(status, |tables| {
            let is_aside = |state| state == TableStatusState::Quarantined;
            let aside: Vec<&str> = tables
                .iter()
                .filter(|table| is_aside(table.state))
                .map(|table| table.source.as_str())
                .collect();
            let what = || format!("{name} has {} in quarantine", named(&aside));
            met(!aside.is_empty(), what, || {
                let kept = " Its changes are kept in order, the other tables go on.";
                format!("{kept} First: tidemark tables {name}, then tidemark retry.")
            })
        }),
        AlertWhen::RowsQuarantined => with_tables(status, |tables| {
            let rows: u64 = tables.iter().map(|table| table.quarantined).sum();
            let what = || format!("{name} has {rows} rows in quarantine (threshold {threshold})");
            met(rows > threshold, what, || {
                let kept = " Their changes are kept in order, everything else is applied.";
                format!("{kept} First: tidemark quarantine list {name}.")
            })
        }),
        AlertWhen::LoadFailed => {
            let waits =
                |state| matches!(state, TableStatusState::Queued | TableStatusState::Loading);
            let is_unfinished = member.row().full_load_lsn.is_none()
                || status.tables.iter().any(|table| waits(table.state));
            let is_met = view.state == "failed" && is_unfinished;
            let what = || format!("the load of {name} failed");
            met(is_met, what, || {
                let kept = " Parts that are in stay in.";
                format!("{kept}{}", first(status, name, "status"))
            })
        }
        // Not a state: it is told when it happens.
        AlertWhen::LoadFinished => Verdict::Over,
        AlertWhen::VerificationDifferent => different(&member.compared(), name),
        AlertWhen::VerificationStale => stale(&member.compared(), member, status, rule, now),
        AlertWhen::ScheduleMissed => missed.map_or(Verdict::Over, |run| left_out(run, name)),
    }
}

fn met(is_met: bool, what: impl FnOnce() -> String, more: impl FnOnce() -> String) -> Verdict {
    if !is_met {
        return Verdict::Over;
    }
    Verdict::Met(Said {
        what: what(),
        more: more(),
    })
}

/// Nothing is said of what is not known.
fn with<T>(known: Option<T>, judge: impl FnOnce(T) -> Verdict) -> Verdict {
    known.map_or(Verdict::Unknown, judge)
}

/// Tables are not known before the target was read.
fn with_tables(
    status: &Status,
    judge: impl FnOnce(&[tidemark_core::status::TableStatus]) -> Verdict,
) -> Verdict {
    with(
        (!status.tables.is_empty()).then_some(status.tables.as_slice()),
        judge,
    )
}

/// Where a pipeline is to follow its source, and how far it has come cannot be told.
fn lag_unknown(member: &Member, view: &View) -> Verdict {
    let (status, name) = (&view.status, &member.key.id);
    let row = member.row();
    let is_wanted = row.desired.state == DesiredState::Running;
    let follows = row.mode != "full_load_only" && view.state != "loading";
    let is_met = is_wanted && follows && status.latency_seconds.is_none();
    let what = || format!("how far {name} is behind is unknown");
    met(is_met, what, || {
        let reason = status.unknown_reason.as_ref();
        let why = reason.map_or_else(String::new, |code| format!(" ({code})"));
        format!(" It is {}{why}.{}", view.state, first(status, name, "lag"))
    })
}

fn different(compared: &Compared, name: &str) -> Verdict {
    if compared.tables.is_empty() {
        return Verdict::Unknown;
    }
    let found = compared.tables.iter();
    let wrong: Vec<_> = found.filter(|(_, found)| found.is_different).collect();
    let tables: Vec<&str> = wrong.iter().map(|(table, _)| table.as_str()).collect();
    let lsn = wrong.first().map_or("", |(_, found)| found.lsn.as_str());
    let what = || {
        format!(
            "{name} differs from its source in {}, found at {lsn}",
            named(&tables)
        )
    };
    met(!wrong.is_empty(), what, || {
        format!(" First: tidemark verify {name} --repair copies the rows that differ.")
    })
}

/// A table that was never compared counts from when the pipeline was made.
fn stale(
    compared: &Compared,
    member: &Member,
    status: &Status,
    rule: &AlertRule,
    now: i64,
) -> Verdict {
    let name = &member.key.id;
    let made = member.row().created_at;
    let of = |table: &str| {
        compared
            .tables
            .get(table)
            .map_or(made.as_str(), |found| &found.at)
    };
    let known = status.tables.iter().map(|table| of(&table.source));
    let oldest = known.min().or_else(|| {
        let all = compared.tables.values().map(|found| found.at.as_str());
        all.min().or(Some(made.as_str()))
    });
    let limit = i64::try_from(rule.above)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    // Instants have one form, so that their texts have their order.
    let is_met =
        oldest.is_some_and(|at| at < clock::rfc3339(now.saturating_sub(limit).max(0)).as_str());
    let what = || {
        let (oldest, most) = (oldest.unwrap_or_default(), about(rule.above as f64));
        format!("not all of {name} was compared after {oldest} (threshold {most})")
    };
    met(is_met, what, || format!(" First: tidemark verify {name}."))
}

/// Told until a load begins.
fn left_out(run: &ScheduleRun, name: &str) -> Verdict {
    let why = run.reason.as_deref().unwrap_or("nobody was there");
    Verdict::Met(Said {
        what: format!(
            "the load of {name} that was due {} did not begin",
            shown(run.due_us)
        ),
        more: format!(" {why}. What is in the target stays. First: tidemark status {name}."),
    })
}

/// Whether the load that was begun last is in, all tables of it that could be loaded.
pub(super) fn is_loaded(view: &View) -> bool {
    let waits = |state| matches!(state, TableStatusState::Queued | TableStatusState::Loading);
    let tables = &view.status.tables;
    match view.state.as_str() {
        "completed" => true,
        "catching_up" | "streaming" => {
            !tables.is_empty() && !tables.iter().any(|table| waits(table.state))
        }
        _ => false,
    }
}

/// What is said of a load that is in.
pub(super) fn loaded(status: &Status, name: &str) -> String {
    let is_aside = |state| state == TableStatusState::Quarantined;
    let (aside, tables): (Vec<_>, Vec<_>) = status
        .tables
        .iter()
        .partition(|table| is_aside(table.state));
    let rows: u64 = tables.iter().map(|table| table.rows_loaded).sum();
    let position = status
        .full_load_lsn
        .map_or_else(String::new, |position| format!(" at {position}"));
    let what = match tables.len() {
        0 => String::new(),
        count => format!(": {rows} rows of {}", counted(count, "table")),
    };
    let names: Vec<&str> = aside.iter().map(|table| table.source.as_str()).collect();
    let more = if names.is_empty() {
        String::new()
    } else {
        format!(" Not in: {}. First: tidemark tables {name}.", named(&names))
    };
    format!("✓ the load of {name} is in{what}{position}.{more}")
}

/// What is said of a pipeline that is behind.
fn behind(status: &Status, name: &str) -> String {
    let stage = status.latency_by_stage_seconds.map(|stages| {
        let all = [
            ("read", stages.read),
            ("queue", stages.queue),
            ("apply", stages.apply),
        ];
        let slow = all.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        slow.map_or_else(String::new, |(word, _)| {
            format!(" {word} is the slow stage.")
        })
    });
    let slot = status.slot.as_ref().map(|slot| format!(" {}", kept(slot)));
    let (stage, slot) = (stage.unwrap_or_default(), slot.unwrap_or_default());
    format!("{stage}{slot}{}", first(status, name, "lag"))
}

/// Whether what is not applied yet is still there.
fn kept(slot: &SlotStatus) -> String {
    if slot.wal_status == "lost" {
        return "The slot is lost: what was not read cannot be read any more.".to_owned();
    }
    match time_left(slot) {
        Some(left) => format!(
            "Data is not lost: the slot keeps it for about {}.",
            about(left)
        ),
        None => "Data is not lost: the slot keeps it.".to_owned(),
    }
}

/// The first action: that of the error, where there is one.
fn first(status: &Status, name: &str, verb: &str) -> String {
    match &status.error {
        Some(error) => format!(
            " {}: {} First: {}.",
            error.code, error.message, error.action
        ),
        None => format!(" First: tidemark {verb} {name}."),
    }
}

/// How long until the source gives up what is needed, or the pipeline's own budget is used up.
fn time_left(slot: &SlotStatus) -> Option<f64> {
    if slot.wal_status == "lost" {
        return Some(0.0);
    }
    let rate = slot.retained_bytes_per_second.filter(|rate| *rate > 0.0)?;
    let retained = slot.retained_bytes;
    let until_lost = slot.predicted_loss_at.as_ref().and(slot.safe_bytes);
    let until_over = slot
        .max_retained_bytes
        .map(|most| most.saturating_sub(retained) as f64);
    let bytes = [until_lost.map(|safe| safe.max(0) as f64), until_over];
    let least = bytes.into_iter().flatten().min_by(f64::total_cmp)?;
    Some(least / rate)
}

fn named(tables: &[&str]) -> String {
    let shown = tables.iter().take(NAMED).copied().collect::<Vec<_>>();
    let more = tables.len().saturating_sub(NAMED);
    let shown = shown.join(", ");
    match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A size in three digits or so.
fn short(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    format!("{value:.0} {unit}")
}

/// A length of time as people say it.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}
