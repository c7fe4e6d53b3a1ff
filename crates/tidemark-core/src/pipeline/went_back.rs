//! A source that lacks what the target has: restored from an older copy of its files.
//!
//! Its log ends before the checkpoint, and that is a gap. But the log grows, and once it has passed the
//! checkpoint nothing shows any more that what stands before it is another history: whoever starts the
//! pipeline again would skip as many bytes of it as known, and stream on. So what was seen once is
//! recorded in the target, and counts until the tables were compared with the source anew.

use super::Run;
use super::plan::{self, Start};
use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, Release};
use crate::clock;
use crate::error::{Error, Result};
use crate::source::LogState;

/// Refuses what was recorded at this very position; one of another was healed since.
pub(super) fn refuse(checkpoint: &Checkpoint) -> Result<()> {
    let recorded = checkpoint.release.as_ref();
    let is_lost = |it: &&Release| it.is_history_lost && it.position == checkpoint.position;
    match recorded.filter(is_lost) {
        None => Ok(()),
        Some(release) => Err(plan::gap(
            codes::SOURCE_WENT_BACK,
            checkpoint,
            &format!("as was seen at {}, {}", release.at, release.reason),
        )),
    }
}

impl Run {
    /// What a start means ([`plan::decide`]).
    pub(super) async fn decide(
        &self,
        checkpoint: Option<&Checkpoint>,
        log: &LogState,
    ) -> Result<Start> {
        let options = &self.engine.options;
        match plan::decide(options.mode, options.cdc_start, checkpoint, log) {
            Err(err) => Err(self.remember(checkpoint, log, err).await),
            start => start,
        }
    }

    /// Records a log that ends too early, and gives the error back. A standby may be behind for a while
    /// without having lost anything.
    async fn remember(&self, checkpoint: Option<&Checkpoint>, log: &LogState, err: Error) -> Error {
        let Some(checkpoint) = checkpoint.filter(|it| log.head < it.position) else {
            return err;
        };
        if err.code() != codes::SOURCE_WENT_BACK || log.is_standby {
            return err;
        }
        let release = Release {
            position: checkpoint.position,
            at: clock::now(),
            reason: format!(
                "the source's log ended at {}, before the checkpoint",
                log.head
            ),
            is_to_begin_anew: false,
            is_history_lost: true,
        };
        match self.engine.target.record_release(&release).await {
            Ok(()) => err,
            Err(unrecorded) => unrecorded.context(format!("record that {err}")),
        }
    }
}
