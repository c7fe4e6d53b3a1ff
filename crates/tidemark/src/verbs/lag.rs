//! `lag [NAME]`: positions, gap, latency, slot. Unknown stays unknown.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};
use tidemark_core::source::{Pin, PinKind};
use tidemark_core::status::{Health, SlotStatus, Status, Trend};

use crate::invocation::Invocation;
use crate::output::numbers::{bytes, duration, parse_duration, parse_rfc3339, seconds};
use crate::output::style::Tone;
use crate::output::wrap;
use crate::output::{Answer, Outcome, Verdict, put};
use crate::pipeline_file::Which;
use crate::seen::Seen;
use crate::standing::{Life, Standing};
use crate::watching::{self, Watch};

/// A transaction that has been open for so long is named.
const OLD_SECONDS: i64 = 60;

/// A slot that is so old is named.
const OLD_TRANSACTIONS: i64 = 100_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    which: Which,
    /// Exit 3 when the latency is above this (30s, 5m), or unknown; with --watch as soon as it is
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    max: Option<Duration>,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &LagArgs) -> Outcome {
    // With a limit a watch waits for the day when it is exceeded.
    let ends_at = arguments.max.map(|_| Verdict::Negative);
    watching::repeat(invocation, arguments.watch, ends_at, async || {
        let seen = Seen::open(invocation, &arguments.which)?;
        let standing = seen.look().await?;
        let answer = Answer::new(text(&standing, invocation), data(&standing));
        let verdict = verdict(&standing.status, arguments.max);
        Ok(match (verdict, arguments.max) {
            (Verdict::Negative, Some(max)) => {
                let latency = standing.status.latency_seconds;
                let latency = latency.map_or("unknown".to_owned(), seconds);
                answer.verdict(verdict).notice(format!(
                    "the latency is {latency}, the limit {}",
                    duration(max)
                ))
            }
            _ => answer,
        })
    })
    .await
}

/// An unknown latency may be any: it does not pass a limit.
fn verdict(status: &Status, max: Option<Duration>) -> Verdict {
    let Some(max) = max else {
        return Verdict::Positive;
    };
    match status.latency_seconds {
        Some(latency) if latency <= max.as_secs_f64() => Verdict::Positive,
        _ => Verdict::Negative,
    }
}

fn text(standing: &Standing, invocation: &Invocation) -> String {
    let style = invocation.talk.out;
    let status = &standing.status;
    let mut first = super::status::first_line(&status.pipeline, standing, style);
    match (status.health, &status.unknown_reason, &status.reason) {
        (Health::Unknown, Some(code), _) => {
            let ago = status
                .last_known
                .as_ref()
                .map(|last| seconds(last.seconds_ago));
            let ago = ago.map_or_else(String::new, |ago| format!(" for {ago}"));
            let side = match code.get(..3) {
                Some("TM2") => "target",
                _ => "source",
            };
            put!(first, "   {side} unreachable{ago} ({code})");
        }
        (Health::Unknown, None, Some(reason)) => put!(first, "   {reason}"),
        _ => first.push_str(match status.trend {
            Trend::CatchingUp => "   catching up",
            Trend::Holding => "   holding",
            Trend::FallingBehind => "   falling behind",
            Trend::Unknown => "",
        }),
    }
    let mut lines = vec![first];
    if standing.life == Life::Draft {
        lines.push("  never ran against this target".to_owned());
        return lines.join("\n");
    }
    let unknown = || style.paint(Tone::Caution, "unknown");
    let width = invocation.talk.out_width();
    let mut say = |label, body: String| lines.push(wrap::labelled(label, &body, 2, 12, width));
    let source = match (status.source_lsn, &status.last_known) {
        (Some(position), _) => position.to_string(),
        (None, Some(last)) => format!(
            "{}   last {}, {} ago",
            unknown(),
            last.source_lsn,
            seconds(last.seconds_ago)
        ),
        (None, None) => unknown(),
    };
    say("source", source);
    let processed = status
        .processed_lsn
        .map_or_else(unknown, |position| position.to_string());
    let gap = status.gap_bytes.map_or_else(unknown, bytes);
    let latency = latency(status).unwrap_or_else(unknown);
    let processed = format!("{processed}   gap {gap}    latency {latency}");
    say("processed", processed);
    if let Some(slot) = &status.slot {
        say("slot", slot_text(slot));
        let old: Vec<String> = slot
            .pins
            .iter()
            .filter(|pin| is_worth_a_word(pin))
            .map(ToString::to_string)
            .collect();
        if !old.is_empty() {
            say("held by", old.join("; "));
        }
        if let Some(relayed) = slot.relayed.as_ref().filter(|it| it.range.is_some()) {
            let (kept, most) = (bytes(relayed.bytes), bytes(relayed.bytes_max));
            let directory = &relayed.directory;
            say(
                "relay log",
                format!("keeps {kept} of {most} in {directory}"),
            );
        }
        let stopped = slot.relayed.as_ref().and_then(|it| it.stopped.as_ref());
        if let Some(why) = stopped {
            say("", format!("takes no more: {why}"));
        }
    }
    if let Some(verified) = &status.verified {
        let (lsn, result, ago) = (&verified.lsn, &verified.result, age(&verified.at));
        say("verified", format!("{lsn}   {result}, {ago} ago"));
    }
    if let Some(why) = &status.unverified {
        say("unverified", format!("not compared after its load: {why}"));
    }
    lines.push(format!("  measured {} ago", age(&status.measured_at)));
    lines.join("\n")
}

/// `0.8 s   (read 0.1 s · queue 0.2 s · apply 0.5 s)`, or the bounds that are known.
fn latency(status: &Status) -> Option<String> {
    let Some(latency) = status.latency_seconds else {
        let at_most = status.last_known.as_ref()?.seconds_ago;
        return Some(format!("unknown, between 0 s and {}", seconds(at_most)));
    };
    let mut text = seconds(latency);
    if let Some(stages) = status.latency_by_stage_seconds {
        put!(
            text,
            "   (read {} · queue {} · apply {})",
            seconds(stages.read),
            seconds(stages.queue),
            seconds(stages.apply)
        );
    }
    Some(text)
}

/// A short transaction is nobody's trouble, and a slot that keeps up neither.
fn is_worth_a_word(pin: &Pin) -> bool {
    match pin.open_seconds {
        Some(seconds) => seconds >= OLD_SECONDS,
        None => pin.kind == PinKind::Prepared || pin.age_transactions >= OLD_TRANSACTIONS,
    }
}

/// `tidemark_shop, active, keeps 19 MB of 20 GB allowed, 19.98 GB left before it would be lost, in about
/// 5 h at this rate`.
pub(crate) fn slot_text(slot: &SlotStatus) -> String {
    let active = if slot.active {
        "active"
    } else {
        "nobody reads it"
    };
    let safe = match slot.safe_bytes {
        Some(left) => format!(
            "{} left before it would be lost{}",
            bytes(u64::try_from(left).unwrap_or(0)),
            at_this_rate(slot.predicted_loss_at.as_deref())
        ),
        None => "the server sets no limit".to_owned(),
    };
    let budget = slot.max_retained_bytes.map_or_else(String::new, |budget| {
        let when = at_this_rate(slot.predicted_over_at.as_deref());
        format!(" of {} allowed{when}", bytes(budget))
    });
    let state = match slot.wal_status.as_str() {
        "reserved" | "extended" => String::new(),
        other => format!(", {other}"),
    };
    format!(
        "{}, {active}{state}, keeps {}{budget}, {safe}",
        slot.name,
        bytes(slot.retained_bytes)
    )
}

/// `, in about 5 h at this rate`; nothing where nothing is foretold.
fn at_this_rate(at: Option<&str>) -> String {
    let left = at
        .and_then(parse_rfc3339)
        .and_then(|at| at.duration_since(SystemTime::now()).ok());
    left.map_or_else(String::new, |left| {
        format!(", in about {} at this rate", duration(left))
    })
}

fn age(instant: &str) -> String {
    let age = parse_rfc3339(instant).and_then(|at| at.elapsed().ok());
    duration(age.unwrap_or_default())
}

/// The body of the API's lag route.
fn data(standing: &Standing) -> Value {
    let status = &standing.status;
    json!({
        "pipeline_id": status.pipeline,
        "state": standing.state(),
        "health": status.health,
        "trend": status.trend,
        "position_type": status.position_type,
        "full_load_lsn": status.full_load_lsn,
        "source_lsn": status.source_lsn,
        "received_lsn": status.received_lsn,
        "processed_lsn": status.processed_lsn,
        "confirmed_lsn": status.confirmed_lsn,
        "restart_lsn": status.restart_lsn,
        "gap_bytes": status.gap_bytes,
        "latency_seconds": status.latency_seconds,
        "latency_by_stage_seconds": status.latency_by_stage_seconds,
        "slot": status.slot,
        "verified": status.verified,
        "measured_at": status.measured_at,
        "stale": standing.is_stale(),
        "last_known": status.last_known,
        "unknown_reason": status.unknown_reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_above_the_limit_or_unknown_does_not_pass() {
        let max = Some(Duration::from_secs(30));
        for (latency, max, expected) in [
            (Some(29.9), max, Verdict::Positive),
            (Some(30.1), max, Verdict::Negative),
            (None, max, Verdict::Negative),
            (None, None, Verdict::Positive),
        ] {
            let mut status = Status::unknown("shop", "cdc_only");
            status.latency_seconds = latency;
            assert_eq!(verdict(&status, max), expected, "{latency:?} {max:?}");
        }
    }

    #[test]
    fn a_slots_loss_is_foretold_only_where_something_is_known() {
        let mut slot = SlotStatus {
            name: "tidemark_shop".into(),
            active: true,
            wal_status: "extended".into(),
            retained_bytes: 19_000_000,
            safe_bytes: None,
            max_retained_bytes: None,
            retained_bytes_per_second: None,
            predicted_loss_at: None,
            predicted_over_at: None,
            pins: Vec::new(),
            relayed: None,
        };
        let text = slot_text(&slot);
        assert!(
            text.contains("keeps 19 MB, the server sets no limit"),
            "{text}"
        );
        assert!(!text.contains("at this rate"), "{text}");
        slot.safe_bytes = Some(2_000_000_000);
        slot.max_retained_bytes = Some(1_000_000_000);
        let in_five_hours = tidemark_core::clock::now_us() + (5 * 3600 + 30 * 60 + 20) * 1_000_000;
        slot.predicted_loss_at = Some(tidemark_core::clock::rfc3339(in_five_hours));
        let text = slot_text(&slot);
        assert!(text.contains("of 1.00 GB allowed, 2.00 GB left"), "{text}");
        assert!(text.contains("lost, in about 5h 30m"), "{text}");
    }

    #[test]
    fn what_is_unknown_is_between_bounds_where_there_are_any() {
        let mut status = Status::unknown("shop", "cdc_only");
        assert_eq!(latency(&status), None);
        let source_lsn = tidemark_core::position::Position::PgLsn(tidemark_core::position::Lsn(1));
        status.last_known = Some(tidemark_core::status::LastKnown {
            source_lsn,
            seconds_ago: 42.0,
        });
        assert_eq!(
            latency(&status).as_deref(),
            Some("unknown, between 0 s and 42 s")
        );
    }
}
