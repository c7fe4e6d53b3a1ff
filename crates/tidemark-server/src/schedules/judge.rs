//! What becomes of a time at which a run is due: a function of the schedule, of what was judged, and of
//! how the pipeline stands.

use tidemark_core::clock;
use tidemark_core::config::{Missed, Overlap};
use tidemark_core::schedule::Schedule;

use crate::store::RunState;

/// A run that begins later than this was missed: nobody was there at its time.
const IN_TIME_US: i64 = 60_000_000;
/// How far earlier times are counted.
const COUNTED: usize = 100;

/// How a pipeline stands when a run of it is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Situation {
    /// A run can begin.
    Free,
    /// Another goes on.
    Busy(String),
    /// Another goes on, and one waits for its end.
    Full(String),
    /// It is not to run.
    Off(String),
}

/// A time that is to be claimed, and what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    pub(super) due_us: i64,
    /// `queued`, `skipped` or `missed`.
    pub(super) state: RunState,
    pub(super) reason: Option<String>,
    /// Whether its time, or that of one before it, passed without anybody.
    pub(super) is_late: bool,
}

/// Whether something is due. Of several times that have passed the last one stands for all.
pub(super) fn judge(
    schedule: &Schedule,
    judged_us: i64,
    now_us: i64,
    situation: &Situation,
) -> Option<Judged> {
    let due_us = schedule.last(now_us).filter(|due| *due > judged_us)?;
    let is_late = now_us - due_us > IN_TIME_US;
    let earlier = schedule.next(judged_us, COUNTED);
    let earlier = earlier.iter().filter(|time| **time < due_us).count();
    let passed = match earlier {
        0 => String::new(),
        1 => " (and one before it)".to_owned(),
        many if many == COUNTED => " (and many before it)".to_owned(),
        many => format!(" (and {many} before it)"),
    };
    let nobody = format!("no server was there at its time{passed}");
    let (state, reason) = match situation {
        Situation::Off(why) => (RunState::Skipped, Some(why.clone())),
        _ if is_late && schedule.missed == Missed::Skip => (RunState::Missed, Some(nobody)),
        Situation::Busy(why) if schedule.overlap == Overlap::Skip => {
            (RunState::Skipped, Some(why.clone()))
        }
        Situation::Full(why) => (RunState::Skipped, Some(why.clone())),
        Situation::Free | Situation::Busy(_) => {
            let late = is_late.then(|| format!("late: {nobody}"));
            (RunState::Queued, late)
        }
    };
    Some(Judged {
        due_us,
        state,
        reason,
        is_late,
    })
}

/// A time as sentences have it: `2026-11-30 01:30 UTC`.
pub(crate) fn shown(us: i64) -> String {
    let text = clock::rfc3339(us);
    let (day, time) = text.split_once('T').unwrap_or_default();
    let seconds = if us % 60_000_000 == 0 { 5 } else { 8 };
    format!("{day} {} UTC", time.get(..seconds).unwrap_or_default())
}
