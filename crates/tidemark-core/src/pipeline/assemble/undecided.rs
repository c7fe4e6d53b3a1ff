//! A transaction that is taken in before it is decided, and may have to be dropped without a trace.
//!
//! It has the work for itself, and nothing that outlives the work may come of it: what a table looks
//! like stays as it was, nothing is put aside, and nobody minds a tidemark, which would ask for the
//! commit's position. Where it brings more than rows, nothing more of it is taken in, and it has to
//! come again when it has committed.

use tokio::time::Instant;

use crate::error::Result;
use crate::event::Begin;
use crate::target::Origin;

use super::{Assembler, Open, Taken, Work, protocol};

/// Whether the open transaction is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Undecided,
    /// Undecided, and it brought what must not be undone, or was refused by the target: nothing more of
    /// it is taken in.
    Refused,
}

impl Open {
    /// Where its changes come from, once that is decided.
    pub(super) fn origin(&self) -> Option<Origin> {
        (self.fate == Fate::Committed).then_some(Origin {
            xid: self.begin.xid,
            commit: self.begin.commit,
        })
    }
}

impl Assembler {
    pub(super) fn begin_undecided(&mut self, xid: u32, now: Instant) -> Result<Taken> {
        if self.has_changes() || !self.is_at_boundary() {
            return Err(protocol("an undecided transaction among others"));
        }
        let begin = Begin {
            xid,
            commit: self.assembled(),
            committed_at_us: 0,
        };
        let fate = if self.refused == Some(xid) {
            Fate::Refused
        } else {
            Fate::Undecided
        };
        self.begin(begin, fate, now);
        Ok(Taken::Yes)
    }

    pub(super) fn decide(&mut self, begin: Begin) -> Result<Taken> {
        match &mut self.open {
            Some(open) if open.fate == Fate::Undecided && open.begin.xid == begin.xid => {
                open.begin = begin;
                open.fate = Fate::Committed;
            }
            _ => return Err(protocol("a decision about another transaction")),
        }
        if self.applied.contains(begin.commit) {
            return Err(protocol("a decision about a transaction that is applied"));
        }
        Ok(Taken::Yes)
    }

    pub(super) fn withdraw(&mut self) -> Result<Taken> {
        if self.undecided().is_none() {
            return Err(protocol("a decided transaction is withdrawn"));
        }
        self.open = None;
        self.work = Work::default();
        self.has_parts = false;
        self.named.withdraw();
        Ok(Taken::Withdrawn)
    }

    /// The open transaction's id, if it is undecided.
    pub(crate) fn undecided(&self) -> Option<u32> {
        let open = self.open.as_ref()?;
        (open.fate != Fate::Committed).then_some(open.begin.xid)
    }

    /// Takes nothing more of the undecided transaction in; it is to be withdrawn.
    pub(crate) fn refuse_undecided(&mut self) {
        if let Some(open) = &mut self.open {
            open.fate = Fate::Refused;
        }
    }

    /// Whether an undecided transaction could be dropped as if it had not come, and still can.
    pub(crate) fn may_be_undecided(&self) -> bool {
        let is_plain = !self.router.minds_tidemarks() && !self.router.has_parked();
        !self.is_refused() && is_plain && self.states.is_empty() && self.shapes.is_empty()
    }

    pub(super) fn is_refused(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.fate == Fate::Refused)
    }
}
