//! What a start means: a pure function of mode, checkpoint and what the source's log still has.
//!
//! This is the table "Slot rules at start", and the only place that decides it. A wrong answer here
//! is a gap, so it knows no I/O and is tested row by row. Its neighbours: [`super::run`] asks it
//! once at each start, [`super::load`] and [`super::stream`] carry the answer out.
//!
//! | checkpoint in target | slot on source | answer |
//! |--|--|--|
//! | any, full load alone | none | load at a snapshot of now |
//! | any, full load alone | ours by name | refuse: the source would keep its log for nobody |
//! | none | none | first start |
//! | none | ours by name, another pipeline made it | refuse: which |
//! | none | ours by name, nobody reads it | leftover of a killed start: remove it, first start |
//! | none | ours by name, noted for another target | refuse: the target is the wrong one |
//! | none | ours by name, somebody reads it | refuse: who |
//! | at P | confirmed ≤ P | resume at P; what committed before P is skipped |
//! | at P | confirmed > P, and this machine keeps the log between | resume at P |
//! | at P | confirmed > P | changes are missing: refuse, offer the way out |
//! | at P, loading, its slot given up | any | remove what is there, load anew with another |
//! | at P | missing, released on purpose, lost, of another source | changes are missing: refuse, with the cause and the way out |
//! | at P | any, but the source has left P's timeline before P, or its log once ended before P | the source lacks what the target has: refuse, offer the way out |

use crate::catalogue::{Code, codes};
use crate::checkpoint::{Checkpoint, LoadPhase, SourceIdentity};
use crate::error::Error;
use crate::position::Position;
use crate::source::{LogState, Slot};

use super::{anew, another_target, protection, went_back};

/// What a pipeline does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Copies the rows once.
    FullLoadOnly,
    /// Applies changes from a position on, loads nothing.
    CdcOnly,
    /// Copies the rows, then applies every change since.
    FullLoadAndCdc,
}

impl Mode {
    /// Its name in files, API and status.
    pub fn name(self) -> &'static str {
        match self {
            Mode::FullLoadOnly => "full_load_only",
            Mode::CdcOnly => "cdc_only",
            Mode::FullLoadAndCdc => "full_load_and_cdc",
        }
    }

    /// Whether it copies rows.
    pub fn loads(self) -> bool {
        self != Mode::CdcOnly
    }

    /// Whether it reads the log.
    pub fn streams(self) -> bool {
        self != Mode::FullLoadOnly
    }
}

/// What to do at this start.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Open the log, record where, load, stream.
    First {
        /// A leftover slot of a start that was killed before it recorded anything is removed first.
        leftover: Option<String>,
    },
    /// As the first, in the place of a load that is not over and whose slot is given up. That slot, or its
    /// successor that nobody has recorded, is removed first.
    Anew(Option<String>),
    /// Load at one snapshot of now; no log is opened, and nothing is resumed.
    LoadOnce,
    /// Stream from a position that an existing slot still has, loading nothing.
    FromSlot {
        /// From where.
        position: Position,
    },
    /// Go on with a load that was interrupted, at a new snapshot; then stream from the checkpoint.
    ResumeLoad,
    /// Stream from the checkpoint.
    ResumeStream {
        /// How far the slot is behind the checkpoint, in bytes: those transactions are skipped.
        slot_behind_bytes: u64,
    },
}

/// Where `cdc_only` starts when there is no checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CdcStart {
    /// At the end of the log.
    #[default]
    Now,
    /// At a position that the slot still has.
    At(Position),
}

/// Decides what a start means, or refuses it with cause and way out.
pub fn decide(
    mode: Mode,
    cdc_start: CdcStart,
    checkpoint: Option<&Checkpoint>,
    log: &LogState,
) -> Result<Start, Error> {
    if !mode.streams() {
        return match &log.slot {
            None => Ok(Start::LoadOnce),
            Some(slot) => Err(kept_for_nobody(slot)),
        };
    }
    match (checkpoint, &log.slot) {
        (None, None) => match (mode, cdc_start) {
            (Mode::CdcOnly, CdcStart::At(position)) => Err(no_slot_for(position)),
            _ => Ok(Start::First { leftover: None }),
        },
        (None, Some(slot)) => without_checkpoint(mode, cdc_start, slot, log),
        (Some(checkpoint), slot) => {
            same_source(&checkpoint.identity, &log.identity)?;
            same_history(checkpoint, log)?;
            went_back::refuse(checkpoint)?;
            if mode.loads() && anew::is_due(checkpoint) {
                return anew::start(slot.as_ref());
            }
            let Some(slot) = slot else {
                return Err(protection::without_slot(checkpoint));
            };
            with_both(checkpoint, slot, log)
        }
    }
}

fn without_checkpoint(
    mode: Mode,
    cdc_start: CdcStart,
    slot: &Slot,
    log: &LogState,
) -> Result<Start, Error> {
    usable(slot)?;
    not_held(slot)?;
    let (Mode::CdcOnly, CdcStart::At(position)) = (mode, cdc_start) else {
        if let Some(other) = &log.slot_made_by {
            let text = format!(
                "slot {} was made by the pipeline {other}: what it keeps is not for this one",
                slot.name
            );
            return Err(Error::definite(codes::SLOT_FOREIGN, text));
        }
        another_target::refuse(slot, log)?;
        return Ok(Start::First {
            leftover: Some(slot.name.clone()),
        });
    };
    if let Some(why) = &slot.lost {
        return Err(Error::definite(
            codes::SLOT_LOST,
            format!("slot {} cannot be read any more: {why}", slot.name),
        ));
    }
    if position < slot.confirmed || position > log.head {
        return Err(Error::definite(
            codes::START_OUT_OF_RANGE,
            format!(
                "the start {position} is outside of what slot {} can give: {} to {}",
                slot.name, slot.confirmed, log.head
            ),
        ));
    }
    Ok(Start::FromSlot { position })
}

fn with_both(checkpoint: &Checkpoint, slot: &Slot, log: &LogState) -> Result<Start, Error> {
    usable(slot)?;
    if let Some(why) = &slot.lost {
        return Err(gap(
            codes::SLOT_LOST,
            checkpoint,
            &format!(
                "slot {} cannot be read any more (wal_status {}): {why}",
                slot.name, slot.wal_status
            ),
        ));
    }
    let relayed = log.relayed.as_ref();
    if !relayed.is_some_and(|relayed| relayed.is_reading) {
        not_held(slot)?;
    }
    let position = checkpoint.position;
    let is_relayed = relayed
        .and_then(|relayed| relayed.range)
        .is_some_and(|(from, to)| from <= position && slot.confirmed <= to);
    if slot.confirmed > position && !is_relayed {
        if let Some(home) = &checkpoint.relay {
            return Err(protection::not_here(checkpoint, home, slot, log));
        }
        let missing = slot.confirmed.bytes_since(position).unwrap_or_default();
        return Err(gap(
            codes::SLOT_AHEAD,
            checkpoint,
            &format!(
                "slot {} was advanced to {}, {missing} bytes of log past the checkpoint",
                slot.name, slot.confirmed
            ),
        ));
    }
    if log.head < position {
        return Err(gap(
            codes::SOURCE_WENT_BACK,
            checkpoint,
            &format!(
                "the source's log ends at {}, before the checkpoint",
                log.head
            ),
        ));
    }
    Ok(match checkpoint.phase {
        LoadPhase::Loading => Start::ResumeLoad,
        LoadPhase::Finishing | LoadPhase::Loaded => Start::ResumeStream {
            slot_behind_bytes: position.bytes_since(slot.confirmed).unwrap_or_default(),
        },
    })
}

fn same_source(ours: &SourceIdentity, theirs: &SourceIdentity) -> Result<(), Error> {
    let difference = if ours.system != theirs.system {
        format!(
            "system identifier {} instead of {}",
            theirs.system, ours.system
        )
    } else if ours.database != theirs.database {
        format!("database {} instead of {}", theirs.database, ours.database)
    } else if theirs.timeline < ours.timeline {
        format!(
            "timeline {} after timeline {}",
            theirs.timeline, ours.timeline
        )
    } else {
        return Ok(());
    };
    Err(Error::definite(
        codes::OTHER_SOURCE,
        format!("this is not the source that the target was loaded from: {difference}"),
    ))
}

/// A standby that took over may have lacked what the target has by then, and have gone on past that.
fn same_history(checkpoint: &Checkpoint, log: &LogState) -> Result<(), Error> {
    let ours = checkpoint.identity.timeline;
    if log.identity.timeline == ours || log.earlier_timelines.is_empty() {
        return Ok(());
    }
    let mut earlier = log.earlier_timelines.iter();
    let why = match earlier.find(|(timeline, _)| *timeline == ours) {
        Some((_, end)) if checkpoint.position <= *end => return Ok(()),
        Some((_, end)) => {
            format!("the source left timeline {ours} at {end}, before the checkpoint")
        }
        None => format!("the source was never on timeline {ours}"),
    };
    Err(gap(codes::SOURCE_WENT_BACK, checkpoint, &why))
}

pub(super) fn usable(slot: &Slot) -> Result<(), Error> {
    match &slot.foreign {
        None => Ok(()),
        Some(why) => Err(Error::definite(
            codes::SLOT_FOREIGN,
            format!("slot {} is not one that Tidemark can use: {why}", slot.name),
        )),
    }
}

/// A slot that somebody reads may be let go soon (an old walsender that has not noticed that its
/// client is gone), so this is worth trying again; it is never dropped.
pub(super) fn not_held(slot: &Slot) -> Result<(), Error> {
    match &slot.holder {
        None => Ok(()),
        Some(holder) => Err(Error::transient(
            codes::SLOT_ACTIVE,
            format!(
                "slot {} is read by pid {} ({} from {}) since {}",
                slot.name, holder.pid, holder.application, holder.host, holder.since
            ),
        )),
    }
}

/// A full load alone writes a checkpoint that no stream can go on from, and reads no log: what the
/// slot keeps would be kept for ever.
fn kept_for_nobody(slot: &Slot) -> Error {
    Error::definite(
        codes::SLOT_EXISTS,
        format!(
            "slot {} keeps the log from {} on for this pipeline, and a full load alone reads none",
            slot.name, slot.confirmed
        ),
    )
    .first_action("if nothing is to follow the log any more: tidemark slots drop NAME")
}

fn no_slot_for(position: Position) -> Error {
    Error::definite(
        codes::START_OUT_OF_RANGE,
        format!("there is no slot on the source that still has the log from {position} on"),
    )
}

pub(super) fn gap(code: Code, checkpoint: &Checkpoint, cause: &str) -> Error {
    Error::definite(
        code,
        format!(
            "changes after {} may be missing: {cause}",
            checkpoint.position
        ),
    )
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
