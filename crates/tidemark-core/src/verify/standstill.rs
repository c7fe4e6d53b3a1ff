//! A standstill: one position, and one instant of either side at it.
//!
//! The target stands still only until its view is open, and whatever happens it goes on. What was read
//! counts if the hold could be released afterwards: an interruption in which the pipeline may have
//! gone on (a connection lost, a run killed and begun anew, a hold that lasted too long) ends it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use crate::catalogue::codes;
use crate::checkpoint::Checkpoint;
use crate::control::{Answer, Command, HoldAt, HoldId};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::pipeline::Commander;
use crate::position::Position;
use crate::source::{Keep, Snapshot, Source};
use crate::target::Target;

use super::View;

/// How long the target stands still, in seconds, if we are gone meanwhile; prolonged while the source
/// opens its log, which waits for transactions that have just begun there.
const HOLD_SECONDS: u32 = 5;
const PROLONG_EVERY: Duration = Duration::from_secs(1);
const LOG_OPEN_MAX: Duration = Duration::from_secs(30);

/// How long transactions that are open on the source may take to end before anything is held.
const OPEN_WAIT_MAX: Duration = Duration::from_mins(1);
const OPEN_LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whoever passes commands to the pipeline: the engine in this process, or one elsewhere.
#[async_trait]
pub trait Ask: Send + Sync {
    /// Sends a command and waits for its answer.
    async fn ask(&self, command: Command) -> Answer;

    /// Whether the pipeline runs, and so hears.
    async fn is_there(&self) -> Result<bool>;
}

#[async_trait]
impl Ask for Commander {
    async fn ask(&self, command: Command) -> Answer {
        Commander::ask(self, command).await
    }

    async fn is_there(&self) -> Result<bool> {
        Ok(self.is_heard())
    }
}

/// A position and one instant of either side at it.
pub(super) struct Standstill {
    pub(super) position: Position,
    pub(super) snapshot: Box<dyn Snapshot>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) target_view: Box<dyn View>,
}

/// Brings both sides to a position and opens them there.
pub(super) async fn standstill(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
    id: HoldId,
) -> Result<Standstill> {
    no_old_transaction(source).await?;
    let opened = while_held(source, target, pipeline, id).await;
    let released = pipeline.ask(Command::Release { id }).await;
    let opened = opened?;
    if !released.ok {
        return Err(no_hold(&released.text));
    }
    Ok(opened)
}

async fn while_held(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
    id: HoldId,
) -> Result<Standstill> {
    hold(pipeline, id, HoldAt::Here).await?;
    let opened = async {
        let opened = source.open_log(Keep::WhileOpen);
        timeout(LOG_OPEN_MAX, opened).await.map_err(|_| {
            let waited = LOG_OPEN_MAX.as_secs();
            Error::transient(
                codes::VERIFY_NO_SNAPSHOT,
                format!("the source gave no snapshot at a log position within {waited} s"),
            )
        })?
    };
    let prolonged = async {
        loop {
            sleep(PROLONG_EVERY).await;
            if let Err(err) = hold(pipeline, id, HoldAt::Still).await {
                break err;
            }
        }
    };
    let (position, snapshot) = tokio::select! {
        opened = opened => opened?,
        err = prolonged => return Err(err),
    };
    hold(pipeline, id, HoldAt::Position(position)).await?;
    failpoint::reached(failpoint::HELD);
    Ok(Standstill {
        position,
        snapshot,
        checkpoint: target.checkpoint().await?,
        target_view: target.view().await?,
    })
}

/// A log can only be opened once every transaction that was open then has ended. What is open for long
/// is waited for here, while the pipeline goes on.
async fn no_old_transaction(source: &dyn Source) -> Result<()> {
    let open = source.log_state().await?.running;
    let deadline = Instant::now() + OPEN_WAIT_MAX;
    loop {
        let running = source.log_state().await?.running;
        let Some(xid) = open.iter().find(|xid| running.contains(xid)) else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let waited = OPEN_WAIT_MAX.as_secs();
            return Err(Error::transient(
                codes::VERIFY_NO_SNAPSHOT,
                format!("transaction {xid} has been open on the source for more than {waited} s"),
            ));
        }
        sleep(OPEN_LOOK_EVERY).await;
    }
}

async fn hold(pipeline: &dyn Ask, id: HoldId, at: HoldAt) -> Result<()> {
    let answer = pipeline
        .ask(Command::Hold {
            id,
            at,
            seconds_max: HOLD_SECONDS,
        })
        .await;
    if answer.ok {
        return Ok(());
    }
    Err(no_hold(&answer.text))
}

fn no_hold(why: &str) -> Error {
    Error::transient(
        codes::VERIFY_NO_HOLD,
        format!("the pipeline does not hold: {why}"),
    )
}
