//! A stop ends a run in time, whatever the run waits for.
//!
//! Most of the line hears a stop while it works: loads, pauses, the loop of the stream. But in between it
//! awaits what has to be done before it goes on: the catalog of a source on which somebody holds a table's
//! lock, foreign keys of the target, a record in a checkpoint that somebody else has locked. Nobody hears
//! requests then, and nobody knows how long it takes. So a stop also starts a clock where it is asked for,
//! outside of the line, and what the line has not brought to an end by then is dropped as it stands. That is
//! as safe as any crash: what counts is committed in the target, and what is not comes again with the next
//! run. Sessions end with what used them, and what their servers still do for them ends there too.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a stop waits for the end of a transaction that is coming in, and for a target that takes its
/// time, such as one whose table somebody has locked. What is not in by then was not committed, and
/// comes again.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// After which the line is dropped: it was to end by itself before.
pub(super) const LINE_ENDS_WITHIN: Duration = Duration::from_secs(12);

/// After which what is left to be done is dropped as well: a last look at the target, a slot to take back.
pub(super) const RUN_ENDS_WITHIN: Duration = Duration::from_secs(15);

/// When a run was told to stop.
#[derive(Clone, Debug)]
pub(super) struct StopClock(watch::Receiver<Option<Instant>>);

/// Where it is told.
#[derive(Clone, Debug)]
pub(super) struct StopAsked(watch::Sender<Option<Instant>>);

impl StopAsked {
    /// The clock of a run that nobody has told to stop.
    pub(super) fn new() -> (StopAsked, StopClock) {
        let (asked, clock) = watch::channel(None);
        (StopAsked(asked), StopClock(clock))
    }

    /// Starts the clock, unless it goes already.
    pub(super) fn start(&self) {
        self.0.send_if_modified(|asked| {
            let is_first = asked.is_none();
            asked.get_or_insert_with(Instant::now);
            is_first
        });
    }
}

impl StopClock {
    /// Returns so long after a stop was asked for. Cancel-safe.
    async fn passed(&self, limit: Duration) {
        let mut asked = self.0.clone();
        let asked = asked.wait_for(Option::is_some).await.map(|asked| *asked);
        match asked {
            Ok(Some(asked)) => sleep_until(asked + limit).await,
            // Nobody can ask any more.
            _ => pending().await,
        }
    }

    /// What comes of `work`, or `None` where it is not done so long after a stop was asked for.
    pub(super) async fn cut<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.passed(limit) => None,
        }
    }
}
