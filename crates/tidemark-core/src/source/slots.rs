//! What may be done with a slot of a source: nobody's is taken from under its reader, and one of another
//! name serves only where it still has everything.

use crate::catalogue::codes;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::position::Position;

use super::Slot;

impl Slot {
    /// Whether it may be dropped for a pipeline whose slot is `own`. One of another name is somebody's who
    /// says so: `claimed` is its name once more.
    pub fn may_be_dropped(&self, pipeline: &str, own: &str, claimed: Option<&str>) -> Result<()> {
        self.is_free()?;
        let name = self.name.as_str();
        if name == own || claimed == Some(name) {
            return Ok(());
        }
        let text = format!(
            "slot {name} is not {pipeline}'s own ({own}); add --i-own {name} to say that it is yours"
        );
        Err(Error::definite(codes::CLI_CONSENT, text))
    }

    /// Where a pipeline whose slot is `own` would go on if it took this one: it has to be of our kind, not
    /// lost, not read by others, and not past the checkpoint.
    pub fn adoption(&self, own: &str, checkpoint: Option<&Checkpoint>) -> Result<Position> {
        let name = self.name.as_str();
        if let Some(why) = self.foreign.as_ref().or(self.lost.as_ref()) {
            let text = format!("slot {name} cannot be adopted: {why}");
            return Err(Error::definite(codes::SLOT_FOREIGN, text));
        }
        if name != own {
            self.is_free()?;
        }
        match checkpoint {
            Some(checkpoint) if self.confirmed > checkpoint.position => {
                let text = format!(
                    "slot {name} has moved to {}, past the checkpoint {}: the changes between are gone",
                    self.confirmed, checkpoint.position
                );
                Err(Error::definite(codes::SLOT_AHEAD, text))
            }
            Some(checkpoint) => Ok(checkpoint.position),
            None => Ok(self.confirmed),
        }
    }

    /// Nobody reads it.
    fn is_free(&self) -> Result<()> {
        let Some(holder) = &self.holder else {
            return Ok(());
        };
        let text = format!(
            "slot {} is read by pid {} ({} from {}) since {}",
            self.name, holder.pid, holder.application, holder.host, holder.since
        );
        Err(Error::definite(codes::SLOT_ACTIVE, text).first_action("stop its reader first"))
    }
}
