//! A target that has no checkpoint may be the wrong one.
//!
//! What the source keeps for the pipeline looks then like the leftover of a killed start, and removing it
//! would cost the right target every change that it has not got yet. Two things tell them apart: this run
//! has met the checkpoint before, or the source says that another target has it. A name that leads
//! elsewhere for a while (a proxy, a failover), and a file that was copied for another target, are both
//! met that way.

use crate::catalogue::codes;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::finding::{Finding, Side};
use crate::source::{LogState, Slot, Source};
use crate::target::Target;

use super::plan::{CdcStart, Mode};
use super::{Engine, Run};

impl Run {
    /// Refuses a target that had a checkpoint in an earlier attempt of this run.
    pub(super) fn refuse_forgetful(&self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        if checkpoint.is_some() || !self.lasting.has_checkpoint {
            return Ok(());
        }
        Err(Error::definite(
            codes::CHECKPOINT_MISSING,
            "the target has no checkpoint any more, or is another database than it was",
        ))
    }
}

impl Engine {
    /// The target that has the checkpoint, if this one has none and the source says so.
    pub(super) async fn other_target(
        &self,
        checkpoint: Option<&Checkpoint>,
        log: &LogState,
    ) -> Result<Option<String>> {
        other(&*self.source, &*self.target, checkpoint, log).await
    }

    /// From here on the target has the checkpoint.
    pub(super) async fn note_target(&self) -> Result<()> {
        match self.target.identity().await? {
            Some(target) => self.source.note_target(&target).await,
            None => Ok(()),
        }
    }
}

async fn other(
    source: &dyn Source,
    target: &dyn Target,
    checkpoint: Option<&Checkpoint>,
    log: &LogState,
) -> Result<Option<String>> {
    if checkpoint.is_some() || log.slot.is_none() {
        return Ok(None);
    }
    let Some(noted) = source.noted_target().await? else {
        return Ok(None);
    };
    let this = target.identity().await?;
    Ok((this.as_ref() != Some(&noted)).then_some(noted))
}

/// What a start would be refused for, said before it, by what the sides have answered. `None` too where one does
/// not answer any more, which its own check says.
pub async fn finding(
    source: &dyn Source,
    target: &dyn Target,
    (mode, start): (Mode, CdcStart),
    checkpoint: Option<&Checkpoint>,
    log: &LogState,
) -> Option<Finding> {
    let begins_where_told = mode == Mode::CdcOnly && matches!(start, CdcStart::At(_));
    if !mode.streams() || begins_where_told {
        return None;
    }
    let other = other(source, target, checkpoint, log).await;
    let refusal = refusal(log.slot.as_ref()?, &other.ok()??);
    Some(Finding::of_error(Side::Target, &refusal))
}

/// Refuses to take for a leftover what another target needs.
pub(super) fn refuse(slot: &Slot, log: &LogState) -> Result<()> {
    match &log.other_target {
        Some(other) => Err(refusal(slot, other)),
        None => Ok(()),
    }
}

fn refusal(slot: &Slot, other: &str) -> Error {
    Error::definite(
        codes::SLOT_OF_ANOTHER_TARGET,
        format!(
            "slot {} is kept for another target, {other}; this one has no checkpoint",
            slot.name
        ),
    )
}
