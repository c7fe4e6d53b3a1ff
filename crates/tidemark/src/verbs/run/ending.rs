//! What a run says at its end: where it stands, and what is not part of that.
//!
//! A table that was set aside has its changes kept in order in the target, and they are not in the
//! table. So "everything before P is in the target" is said with its name, and a run that was to end
//! with everything in (a full load, `--until caught-up`, `--until lsn:…`) ends with exit code 3.

use std::time::Duration;

use serde_json::json;
use tidemark_core::pipeline::Outcome as Ended;
use tidemark_core::status::{PipelineState, Status, TableStatus, TableStatusState};

use super::UntilArg;
use crate::output::{Answer, Verdict};
use crate::pipeline_file::Opened;

/// Tables that are named in one sentence.
const NAMED_MAX: usize = 5;

pub(super) fn answer(
    opened: &Opened,
    ended: &Ended,
    status: &Status,
    until: Option<&UntilArg>,
    took: Duration,
) -> Answer {
    let (time, word) = (crate::output::numbers::duration(took), opened.word());
    let aside: Vec<&TableStatus> = status.tables.iter().filter(|t| is_aside(t)).collect();
    let but_for = but_for(&aside);
    let wants_all = ended.state == PipelineState::Completed
        || matches!(until, Some(UntilArg::CaughtUp | UntilArg::Position(_)));
    let is_wanting = wants_all && !aside.is_empty();
    let glyph = if is_wanting { "✗" } else { "✓" };
    let text = match (ended.state, &ended.position) {
        (PipelineState::Completed, Some(position)) => {
            format!("{glyph} completed in {time}, at {position}{but_for}")
        }
        (_, Some(position)) => format!(
            "{glyph} stopped after {time}; everything before {position} is in the target{but_for}, \
             and tidemark run {word} goes on there"
        ),
        (_, None) => format!(
            "{glyph} stopped after {time}, while it waited for a side; tidemark run {word} tries \
             again"
        ),
    };
    let tables: Vec<_> = aside
        .iter()
        .map(
            |table| json!({ "source": table.source, "state": table.state, "reason": table.reason }),
        )
        .collect();
    let data = json!({
        "pipeline": opened.name(),
        "state": ended.state,
        "position": ended.position,
        "aside": tables,
        "seconds": took.as_secs_f64(),
        "status": status,
    });
    let answer = Answer::new(text, data);
    if aside.is_empty() {
        return answer;
    }
    let answer = answer.notice(format!("why: tidemark tables {word}"));
    if is_wanting {
        answer.verdict(Verdict::Negative)
    } else {
        answer
    }
}

/// Whether a table's changes are kept beside it instead of being in it.
fn is_aside(table: &TableStatus) -> bool {
    matches!(
        table.state,
        TableStatusState::Quarantined | TableStatusState::Paused | TableStatusState::Resyncing
    )
}

/// `, but for public.a (quarantined) and 3 more`.
fn but_for(aside: &[&TableStatus]) -> String {
    if aside.is_empty() {
        return String::new();
    }
    let named: Vec<String> = aside
        .iter()
        .take(NAMED_MAX)
        .map(|table| {
            let state = crate::output::style::of_table(table.state).1;
            format!("{} ({state})", table.source)
        })
        .collect();
    let more = match aside.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(", but for {}{more}", named.join(", "))
}
