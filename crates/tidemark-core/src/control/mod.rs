//! The side door: commands to a pipeline that runs elsewhere, and the status it reports.
//!
//! Both travel through rows in the target, so `tidemark pause NAME` needs no server and no port.
//! Nothing here is on the line a row travels.

pub mod anew;
pub mod door;

use std::hash::{BuildHasher, RandomState};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Chunk;
use crate::error::Result;
use crate::position::Position;
use crate::quarantine::{Chosen, KeptChange};
use crate::schema::TableName;
use crate::status::Status;

/// The engine's end of the side door, on a connection of its own.
#[async_trait]
pub trait Control: Send {
    /// Commands that are waiting, oldest first. They stay until answered.
    async fn commands(&mut self) -> Result<Vec<(CommandId, Command)>>;

    /// Waits until a command may have been sent since [`Control::commands`] was called last, where the system
    /// tells; a word of it can be lost, and where it does not tell this waits for ever. Cancel-safe.
    async fn called(&mut self) -> Result<()>;

    /// Says what became of a command.
    async fn answer(&mut self, id: CommandId, answer: &Answer) -> Result<()>;

    /// Leaves the status for whoever asks.
    async fn report(&mut self, status: &Status) -> Result<()>;

    /// Puts a command in the queue (the caller's end) and gives its number.
    async fn send(&mut self, command: &Command) -> Result<CommandId>;

    /// What became of a command; `None` while nothing has.
    async fn answer_to(&mut self, id: CommandId) -> Result<Option<Answer>>;

    /// The last reported status and its age in seconds; `None` if there never was one.
    async fn last_status(&mut self) -> Result<Option<(Status, f64)>>;

    /// What is in quarantine, in order, whoever runs the pipeline.
    async fn quarantined(&mut self) -> Result<Vec<KeptChange>>;

    /// Who owns the pipeline now, as told by the lock on the target: host, pid. `None` if nobody
    /// runs it.
    async fn owner(&mut self) -> Result<Option<crate::target::Owner>>;

    /// For how many seconds the target's server has been up, where it tells: who had the lock before has it
    /// again only after a while.
    async fn up_for(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// A command's number in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandId(pub i64);

/// What a person can ask of a running pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Apply nothing more until resumed; of some tables only, if any are named.
    Pause {
        /// Tables on the source; empty for the whole pipeline.
        tables: Vec<TableName>,
    },
    /// Go on.
    Resume {
        /// Tables on the source; empty for the whole pipeline.
        tables: Vec<TableName>,
    },
    /// Finish the batch, write the checkpoint, end.
    Stop,
    /// Copy tables anew while the others stream.
    Resync {
        /// Tables on the source; empty for all.
        tables: Vec<TableName>,
        /// How.
        strategy: ResyncStrategy,
    },
    /// Compare tables with the source as it is now and copy anew only what differs, while the others
    /// stream.
    Reconcile {
        /// Tables on the source; empty for all.
        tables: Vec<TableName>,
    },
    /// Copy only these ranges of a table anew.
    Repair {
        /// The table on the source.
        table: TableName,
        /// Key ranges.
        chunks: Vec<Chunk>,
    },
    /// Stand still: commit nothing more, until [`Command::Release`] or for at most `seconds_max`.
    /// Answered with the position once the target stands there. Several may hold at once.
    Hold {
        /// Who holds.
        id: HoldId,
        /// Where to stand.
        at: HoldAt,
        /// How long to stand there at most: whoever asked may be gone.
        seconds_max: u32,
    },
    /// Apply rows in quarantine again. Tables that are set aside go on with what was kept of them, where
    /// they are named or all are meant, and no single row is.
    Retry(Chosen),
    /// Go on with tables that are set aside; rows that the target refuses go aside one by one.
    Skip {
        /// Tables on the source.
        tables: Vec<TableName>,
    },
    /// Discard rows in quarantine.
    Discard(Chosen),
    /// Ends a hold. Refused if it had ended before: whoever relied on it must not.
    Release {
        /// Who held.
        id: HoldId,
    },
}

/// Where a pipeline is to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldAt {
    /// Here, at the next boundary between transactions: begins a hold.
    Here,
    /// Where it stands: prolongs a hold. Refused if it has ended.
    Still,
    /// At a position that was made while it stood still, and so cannot have been passed: moves a hold
    /// on. Refused if it has ended.
    Position(Position),
}

/// By which a hold is told from others'. Not guessed, and not met again after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HoldId(pub u64);

impl HoldId {
    /// One that nobody else has.
    pub fn random() -> HoldId {
        HoldId(RandomState::new().hash_one(()))
    }
}

/// How a table is copied anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResyncStrategy {
    /// Beside the old table, then rename: readers see the old rows until the switch.
    Swap,
    /// Empty the table first.
    Truncate,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// In a sentence: what happened, or why not.
    pub text: String,
    /// Catalogue code of the refusal.
    pub code: Option<String>,
}
