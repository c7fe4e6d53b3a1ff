//! Protection of the source: how much of its log the slot may keep, and what is done when that is
//! used up.
//!
//! A slot keeps the source's log until we have what is in it. A target that stands still therefore
//! fills the source's disk, and a full disk stops the source's own users: for them the copy is the
//! smaller loss. So the user may set a budget (`source.postgres.max_retained`). Above a half and
//! above four fifths of it the run warns; above all of it the run ends as the policy says:
//!
//! | `on_max_retained` | the slot | the copy |
//! |--|--|--|
//! | `fail` | stays, and keeps the log | goes on where it was |
//! | `release_slot` | is removed, on purpose | has a gap, which is recorded and never crossed |
//!
//! The position up to which the target is right is in its checkpoint already, committed with the
//! data. What a release adds is *why* the slot is not there ([`Release`]): it is written first, the
//! slot is removed then. A target that does not answer cannot keep the source waiting: after
//! [`RECORD_PATIENCE`] the slot goes all the same. The next start then finds no slot, which is a gap
//! whatever the reason, and is refused; only the reason is missing.
//!
//! A run that begins above its budget, after a weekend without one, is not ended for that: it is
//! what makes the log shorter. It ends when there is more than it began with.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, RelayHome, Release};
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::source::{LogState, Slot};

use super::observe::PipelineEvent;
use super::options::OnMaxRetained;
use super::plan::gap;
use super::{Engine, Run};

/// How long a release waits for the target to record it.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);

/// Shares of the budget, in percent, at which the run warns, each once until it is below the first.
const WARN_AT: [u64; 2] = [50, 80];

/// How much of what it may keep a slot keeps: the budget, or what the server keeps for a slot at
/// most, whichever is less. In percent, `None` without a limit.
pub(crate) fn used_percent(slot: &Slot, budget: Option<u64>) -> Option<u64> {
    let safe = slot.safe_bytes.map(|safe| {
        let left = u64::try_from(safe).unwrap_or(0);
        slot.retained_bytes.saturating_add(left)
    });
    let limit = budget.into_iter().chain(safe).min()?.max(1);
    Some(slot.retained_bytes.saturating_mul(100) / limit)
}

/// What a look at the slot asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing.
    Fine,
    /// A word: this many percent of what it may keep.
    Warn(u64),
    /// The run's end.
    Over(Over),
}

/// The budget is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    slot: String,
    retained_bytes: u64,
    budget_bytes: u64,
}

/// One run's view of the budget.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: Option<u64>,
    /// What was kept when the run began.
    began_with: Option<u64>,
    /// The highest share that was warned of.
    warned_at: u64,
}

impl Budget {
    pub(super) fn new(bytes: Option<u64>) -> Budget {
        Budget {
            bytes,
            began_with: None,
            warned_at: 0,
        }
    }

    pub(super) fn look(&mut self, log: &LogState) -> Look {
        let Some(slot) = log.slot.as_ref().filter(|slot| slot.lost.is_none()) else {
            return Look::Fine;
        };
        let retained_bytes = slot.retained_bytes;
        let began_with = *self.began_with.get_or_insert(retained_bytes);
        if let Some(budget_bytes) = self.bytes
            && retained_bytes > budget_bytes.max(began_with)
        {
            let slot = slot.name.clone();
            return Look::Over(Over {
                slot,
                retained_bytes,
                budget_bytes,
            });
        }
        let percent = used_percent(slot, self.bytes).unwrap_or(0);
        let reached = WARN_AT.into_iter().rev().find(|at| percent >= *at);
        let reached = reached.unwrap_or(0);
        if reached > self.warned_at {
            self.warned_at = reached;
            return Look::Warn(percent);
        }
        if reached == 0 {
            self.warned_at = 0;
        }
        Look::Fine
    }
}

impl Engine {
    /// Says that the slot keeps much.
    pub(super) fn warn_of_retained(&self, log: &LogState, percent: u64) {
        let Some(slot) = &log.slot else { return };
        let pin = log.pins.iter().find(|pin| pin.holds_log);
        let pin = pin.map_or_else(String::new, |pin| format!("; oldest on the source: {pin}"));
        self.observer.say(PipelineEvent::Warning {
            code: codes::RETAINED_HIGH,
            text: format!(
                "slot {} keeps {} bytes of log, {percent} % of what it may{pin}",
                slot.name, slot.retained_bytes
            ),
        });
    }

    /// Carries out what the policy says, and gives the error that ends the run. A source that cannot
    /// be reached is asked again.
    pub(super) async fn end_over(self: &Arc<Self>, over: Over) -> Error {
        let Over {
            slot,
            retained_bytes,
            budget_bytes,
        } = &over;
        let what = format!(
            "slot {slot} keeps {retained_bytes} bytes of log on the source, more than \
             source.postgres.max_retained ({budget_bytes})"
        );
        match self.options.on_max_retained {
            OnMaxRetained::Fail => Error::definite(codes::MAX_RETAINED, what),
            OnMaxRetained::ReleaseSlot => match self.release(&what).await {
                Ok(recorded) => {
                    let message = format!("{what}: the slot is released{recorded}");
                    Error::definite(codes::SLOT_RELEASED, message)
                }
                Err(err) => err,
            },
        }
    }

    async fn release(&self, what: &str) -> Result<String> {
        let recording = async {
            let checkpoint = self.target.checkpoint().await?;
            let Some(checkpoint) = checkpoint else {
                return Ok::<_, Error>(None);
            };
            let release = Release {
                position: checkpoint.position,
                at: clock::now(),
                reason: what.to_owned(),
                is_to_begin_anew: false,
                is_history_lost: false,
            };
            self.target.record_release(&release).await?;
            Ok(Some(checkpoint.position))
        };
        let recorded = timeout(RECORD_PATIENCE, recording).await;
        let recorded = match recorded {
            Ok(Ok(Some(position))) => format!("; the target is right up to {position}"),
            Ok(Ok(None)) => String::new(),
            Ok(Err(err)) => not_recorded(&self.name, &err),
            Err(_) => not_recorded(&self.name, &"the target does not answer"),
        };
        let removed = self.source.release_slot().await;
        removed.context(|| "release the slot")?;
        Ok(recorded)
    }
}

/// A release that was recorded at another position is an older one, healed since.
pub(super) fn without_slot(checkpoint: &Checkpoint) -> Error {
    let release = checkpoint.release.as_ref();
    match release.filter(|release| release.position == checkpoint.position) {
        Some(release) => gap(
            codes::SLOT_RELEASED,
            checkpoint,
            &format!(
                "the slot was released on purpose at {}: {}",
                release.at, release.reason
            ),
        ),
        None => gap(
            codes::SLOT_MISSING,
            checkpoint,
            "the slot is gone from the source",
        ),
    }
}

/// The source was told to forget what was kept elsewhere, and that is not here, or not whole.
pub(super) fn not_here(
    checkpoint: &Checkpoint,
    home: &RelayHome,
    slot: &Slot,
    log: &LogState,
) -> Error {
    let RelayHome {
        id,
        host,
        directory,
    } = home;
    let what = match &log.relayed {
        None => "no relay log is configured here".to_owned(),
        Some(here) if here.id != *id => {
            format!("the one here, in {}, is another", here.directory)
        }
        Some(here) => match &here.damage {
            Some(damage) => format!("it is damaged: {damage}"),
            None => "it does not hold all of that".to_owned(),
        },
    };
    let cause = format!(
        "the source was told to forget what commits before {}, which was kept in the relay log {id} \
         on {host} in {directory}; {what}",
        slot.confirmed
    );
    gap(codes::RELAY_LOST, checkpoint, &cause)
}

impl Run {
    /// The target knows where log may be kept beside the source, before any is. What was recorded is
    /// needed no more: a start that needs it goes no farther than [`super::plan::decide`].
    pub(super) async fn settle_relay(&self) -> Result<()> {
        let engine = &self.engine;
        let Some(relayed) = engine.source.relayed().await? else {
            return Ok(());
        };
        let home = RelayHome {
            id: relayed.id,
            host: self.owner.host.clone(),
            directory: relayed.directory,
        };
        if self.checkpoint().await?.relay.as_ref() != Some(&home) {
            engine.target.record_relay(&home).await?;
            failpoint::reached(failpoint::RELAY_RECORDED);
        }
        engine.source.permit_relay();
        Ok(())
    }
}

fn not_recorded(pipeline: &str, why: &dyn std::fmt::Display) -> String {
    tracing::warn!(
        pipeline,
        "why the slot is released could not be recorded: {why}"
    );
    "; the target could not be told why".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SourceIdentity;
    use crate::position::{Lsn, Position};

    fn log(retained_bytes: u64, safe_bytes: Option<i64>) -> LogState {
        let at = Position::PgLsn(Lsn(1));
        LogState {
            is_standby: false,
            earlier_timelines: Vec::new(),
            identity: SourceIdentity {
                system: "1".into(),
                timeline: 1,
                database: "d".into(),
            },
            head: at,
            slot: Some(Slot {
                name: "s".into(),
                database: "d".into(),
                foreign: None,
                holder: None,
                confirmed: at,
                restart: at,
                retained_bytes,
                safe_bytes,
                wal_status: "reserved".into(),
                lost: None,
            }),
            clock_us: 0,
            running: Vec::new(),
            slot_made_by: None,
            committing: Vec::new(),
            pins: Vec::new(),
            relayed: None,
            other_target: None,
        }
    }

    fn looks(budget: Option<u64>, retained: &[u64]) -> Vec<Look> {
        let mut budget = Budget::new(budget);
        let looks = retained.iter().map(|bytes| budget.look(&log(*bytes, None)));
        looks.collect()
    }

    fn over(retained_bytes: u64) -> Look {
        Look::Over(Over {
            slot: "s".into(),
            retained_bytes,
            budget_bytes: 100,
        })
    }

    #[test]
    fn each_share_is_warned_of_once_until_all_is_well() {
        use Look::{Fine, Warn};
        assert_eq!(
            looks(Some(100), &[49, 50, 70, 80, 99, 79, 81, 10, 55, 101]),
            [
                Fine,
                Warn(50),
                Fine,
                Warn(80),
                Fine,
                Fine,
                Fine,
                Fine,
                Warn(55),
                over(101)
            ]
        );
        assert_eq!(looks(None, &[1 << 40]), [Fine], "no limit, no word");
    }

    #[test]
    fn a_run_that_begins_above_the_budget_may_make_it_less() {
        let looked = looks(Some(100), &[500, 400, 500, 501]);
        assert_eq!(looked[0], Look::Warn(500));
        assert_eq!(&looked[1..], [Look::Fine, Look::Fine, over(501)]);
    }

    #[test]
    fn the_servers_own_limit_counts_too() {
        for (retained, safe, budget, percent) in [
            (90, Some(10), None, Some(90)),
            (90, Some(10), Some(1_000), Some(90)),
            (90, Some(910), Some(100), Some(90)),
            (90, Some(-5), None, Some(100)),
            (90, None, None, None),
        ] {
            let log = log(retained, safe);
            let slot = log.slot.as_ref().unwrap();
            assert_eq!(used_percent(slot, budget), percent, "{safe:?} {budget:?}");
        }
    }
}
