//! Whether the stream may bring a transaction before it is decided, and what an error means then.

use crate::error::{ErrorKind, Result};
use crate::source::GiveUndecided;
use crate::status::PipelineState;

use super::Stream;

impl Stream<'_> {
    /// Whether a transaction may come before it is decided: nobody waits for a boundary, and whatever is
    /// done can be undone.
    pub(super) fn may_be_undecided(&self) -> GiveUndecided {
        let is_plain = self.state == PipelineState::Streaming
            && !self.is_stopping()
            && self.holds.is_empty()
            && self.quarantine.kept.is_empty()
            && !self.resyncs.is_running()
            && self.assembler.may_be_undecided();
        if is_plain {
            GiveUndecided::Yes
        } else {
            GiveUndecided::No
        }
    }

    /// That the target refuses an undecided transaction says nothing: it may never commit. If it does,
    /// it is applied as all others are. What meets one that was refused before is about something else,
    /// and so is what became of work that the applier had before.
    pub(super) fn judge(&mut self, ended: Result<()>) -> Result<()> {
        let (Err(error), Some(xid)) = (&ended, self.assembler.undecided()) else {
            return ended;
        };
        let is_other = self.applier.has_failed_at_decided || self.lasting.refused == Some(xid);
        if error.kind() != ErrorKind::Data || is_other {
            return ended;
        }
        self.lasting.refused = Some(xid);
        ended.map_err(|error| {
            error
                .with_kind(ErrorKind::Transient)
                .context(format!("apply transaction {xid}, which is not decided"))
        })
    }
}
