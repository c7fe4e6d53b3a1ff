//! The source's side of the contract. Object-safe, spoken to once per block, never once per row.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::checkpoint::{Chunk, SourceIdentity};
use crate::error::Result;
use crate::event::{Block, StreamTable};
use crate::finding::Finding;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::{Attribute, Column, SourceSchema, TableName, TypeMembers};
use crate::selection::Selection;
use crate::tidemark::Tidemark;
use crate::verify::View;

mod slots;

/// A database that is copied. Shared by all tasks of a pipeline; every call opens or borrows a
/// connection of its own and may be repeated.
#[async_trait]
pub trait Source: Send + Sync {
    /// What stands in the way, each with its remedy. Changes nothing. An error only where the source
    /// cannot be asked: whoever asked knows whether to show it ([`Finding::of_error`]) or to wait.
    async fn check(&self, tables: &[TableMapping], will_stream: WillStream)
    -> Result<Vec<Finding>>;

    /// The selected tables and what they need, from the catalog.
    async fn describe(&self, selection: &Selection) -> Result<SourceSchema>;

    /// Who the source is, how far its log is, and what it keeps for this pipeline.
    async fn log_state(&self) -> Result<LogState>;

    /// The same for whoever looks every other second for as long as the pipeline runs: without transactions,
    /// and with `pins` that may be of ten seconds ago, if that spares the source something.
    async fn watch_log(&self) -> Result<LogState> {
        self.log_state().await
    }

    /// Who runs the transaction of this id, in words; `None` where it has ended, or the source does not tell.
    async fn who_runs(&self, _xid: u32) -> Result<Option<String>> {
        Ok(None)
    }

    /// Makes the source announce these tables in its log (PostgreSQL: the publication). May be
    /// repeated; tables that are already announced stay. On return every transaction that is not in
    /// a snapshot taken from now on will be announced whole: transactions that were running when the
    /// announcement was changed have ended.
    async fn announce(&self, tables: &[TableName]) -> Result<()>;

    /// Those of the tables whose changes the source does not announce: now, or in some of the log that
    /// it keeps for this pipeline. Changes nothing. Where it cannot be told, a table counts as one.
    async fn unannounced(&self, tables: &[TableName], within: Within) -> Result<Vec<TableName>>;

    /// Those of the tables that are partitioned, with their partitions, all at one instant. Waits for nobody
    /// who alters one of them.
    async fn partitions(&self, tables: &[TableName]) -> Result<Vec<(TableName, Vec<Partition>)>>;

    /// Makes the source keep its log from a position on, and gives a snapshot of exactly that
    /// position: the log after it holds exactly what the snapshot has not seen.
    /// [`Keep::ForPipeline`]: durable on return, under the pipeline's name; an error if something of
    /// that name exists. [`Keep::WhileOpen`]: gone with the snapshot (used by verification).
    async fn open_log(&self, keep: Keep) -> Result<(Position, Box<dyn Snapshot>)>;

    /// A snapshot of now, with a tidemark that tells what it has seen. Touches no slot.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>>;

    /// The same for a table that is emptied or rewritten faster than a snapshot of it is read: until this
    /// is dropped nobody does. It can be read once, by one reader. Whoever wants to change the table waits
    /// for that, and everybody else behind them, so it is for small tables, and is given up by itself
    /// after some seconds in which nothing is read. An error as that of a table that is rewritten where
    /// somebody else has the table for long.
    async fn snapshot_of(&self, _table: &TableName) -> Result<Box<dyn Snapshot>> {
        self.snapshot().await
    }

    /// A view of now, to look at some rows: nothing says which position it is at. Touches no slot.
    async fn view(&self) -> Result<Box<dyn View>>;

    /// The changes that commit at or after a position, from what the source keeps for this pipeline.
    async fn changes(&self, after: Position) -> Result<Box<dyn ChangeStream>>;

    /// Reads the log that is kept for this pipeline, from a position on, while rows are loaded, and gives
    /// nothing of it out: what the source cannot decode shows while nothing rests on the load yet.
    /// Acknowledges nothing. Ends once the rows are in and it has come to the end that the log has
    /// then, or as far as it comes in a while; what is kept is free to be read on return. What passes by
    /// itself is tried again, and is an error to nobody.
    async fn read_ahead(
        &self,
        _after: Position,
        mut is_loaded: watch::Receiver<bool>,
    ) -> Result<()> {
        // Nobody who could say so any more: it is as good as over.
        drop(is_loaded.wait_for(|is_loaded| *is_loaded).await);
        Ok(())
    }

    /// Who else writes here: pipelines of ours that run now and have this database as their target.
    /// Changes nothing; empty where that cannot be seen.
    async fn fed_by(&self) -> Result<Vec<Feed>> {
        Ok(Vec::new())
    }

    /// What of the source's log this machine keeps itself for the pipeline, so that the source may be told
    /// to forget it while the target does not keep up; `None` where nothing is to be kept. Only for the
    /// pipeline's owner: what an earlier run has left is looked at, and nobody else may use it.
    async fn relayed(&self) -> Result<Option<Relayed>> {
        Ok(None)
    }

    /// Notes beside what is kept for the pipeline which target has its checkpoint. Not an error where that
    /// cannot be written (a standby, nothing there that we made). May be repeated.
    async fn note_target(&self, _target: &str) -> Result<()> {
        Ok(())
    }

    /// What [`Source::note_target`] noted last; `None` if nothing.
    async fn noted_target(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// From here on the log may be kept on this machine: the target knows where it is.
    fn permit_relay(&self) {}

    /// The end of the log now.
    async fn head(&self) -> Result<Position>;

    /// What the catalog knows by now of a table that the log announced. It may be ahead of the log: a
    /// column that it does not have any more in this form is told from its type alone.
    async fn shape_of(&self, table: &StreamTable) -> Result<StreamedShape>;

    /// What became of the values of a column that had the one type and has the other.
    fn retyped(&self, from: ColumnType, to: ColumnType) -> Retyped;

    /// Writes a mark into the log, so that an idle source moves and latency can be measured. Gives the
    /// source's clock in it, microseconds since 1970 UTC. Not an error where the source cannot (a
    /// standby): `None`.
    async fn heartbeat(&self) -> Result<Option<i64>>;

    /// Present values of the sequences that belong to the selected tables.
    async fn sequences(&self, tables: &[TableName]) -> Result<Vec<SequenceValue>>;

    /// Ends whoever of us still reads the pipeline's log. Only for whoever has just ended their hold of the
    /// pipeline itself. May be repeated.
    async fn end_reader(&self) -> Result<()> {
        Ok(())
    }

    /// Removes the slot and nothing else, on purpose: the source keeps no log for the pipeline any more.
    /// Says what it removed. May be repeated.
    async fn release_slot(&self) -> Result<Option<String>>;

    /// Removes what this very `Source` has made for the pipeline, and nothing that was there before;
    /// says what it removed. For a start that ends before the target has recorded it. May be repeated.
    async fn take_back(&self) -> Result<Vec<String>>;

    /// Removes what was created for the pipeline and is ours by name; says what it removed. May be
    /// repeated.
    async fn release(&self) -> Result<Vec<String>>;
}

/// A partition that holds rows of a table, under whose name changes are announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its own name.
    pub name: TableName,
    /// The source's number for it.
    pub id: u32,
    /// Where its rows are: another number when all of them were removed or written anew at once.
    pub storage: u32,
    /// The transaction, by its id in the log, that wrote last what the catalog has of it; its storage with that.
    pub written_by: u32,
    /// Whether it was a table of its own before.
    pub is_attached: bool,
    /// Since when it, and what it stands below, belong to the table: another text when one of them was
    /// attached again.
    pub since: String,
    /// What the log has of its old rows, which goes by its own replica identity.
    pub logged: Logged,
}

/// What the log has of a partition's old rows, beside what its table's replica identity says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logged {
    /// All of that; or the source lets nobody update or delete them.
    #[default]
    Enough,
    /// The columns of the table's key, where its replica identity says whole rows.
    KeyAlone,
    /// Other columns than those of the table's key.
    Otherwise,
}

/// For which part of the log [`Source::unannounced`] asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// What is written from now on.
    Now,
    /// All that is kept for the pipeline.
    KeptLog,
}

/// A table as the log announced it, with what the catalog adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamedShape {
    /// The announced columns, in that order.
    pub columns: Vec<StreamedColumn>,
    /// Names and numbers of all columns that the catalog has by now.
    pub present: Vec<(String, i16)>,
    /// Names of the columns of the primary key by now; the log does not tell them where it has whole old rows.
    pub primary_key: Vec<String>,
    /// [`crate::schema::TableSchema::storage`] by now.
    pub storage: Option<i64>,
    /// [`crate::schema::TableSchema::attributes`] by now.
    pub attributes: Vec<Attribute>,
    /// [`crate::schema::TableSchema::types`] by now.
    pub types: Vec<TypeMembers>,
    /// Whether the catalog has other columns by now, or of other types: what it says of rows is not of
    /// this place of the log.
    pub is_ahead: bool,
}

/// A column as the log announced it, with what the catalog adds.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamedColumn {
    /// As the catalog has it, under the name that the log says. `number` is 0 where the catalog has no
    /// column of this name and type by now.
    pub column: Column,
    /// What rows hold in it that were there before it was added.
    pub fill: Fill,
}

/// What rows hold in a column that was added after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// NULL, unless they were rewritten since.
    Null,
    /// All of them this, text form; `None` for NULL (PostgreSQL: `attmissingval`).
    Constant(Option<String>),
    /// Only the rows themselves tell.
    InRows,
}

/// A column's type, by the source's number, and its modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The source's number for it.
    pub id: u32,
    /// -1 for none.
    pub modifier: i32,
}

/// What became of the values of a column whose type was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retyped {
    /// They stayed as they were: every value of the one type is one of the other.
    Kept,
    /// They were written anew, and every one of them has a place in the new type.
    Widened,
    /// They were written anew, whatever became of them.
    Changed,
}

/// Whether a check is for a pipeline that reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillStream {
    /// Log prerequisites matter.
    Yes,
    /// Full load only.
    No,
}

/// How long the source keeps the log that [`Source::open_log`] opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until the pipeline is removed.
    ForPipeline,
    /// Until the snapshot is dropped.
    WhileOpen,
}

/// What the source says about itself and about the log it keeps for the pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct LogState {
    /// Who it is.
    pub identity: SourceIdentity,
    /// Timelines that its log has been on before, and where each ended; empty where that is not known.
    pub earlier_timelines: Vec<(u32, Position)>,
    /// The end of its log.
    pub head: Position,
    /// Whether it replays the log of another, and so may be behind where it has been.
    pub is_standby: bool,
    /// What it keeps for this pipeline, by name.
    pub slot: Option<Slot>,
    /// Another pipeline, of which the source tells that it made the slot; told where the slot may be removed.
    pub slot_made_by: Option<String>,
    /// The source's clock, microseconds since 1970 UTC.
    pub clock_us: i64,
    /// Transactions that have an id and have not become visible (PostgreSQL: those whose lock on
    /// their own id is held, which `pg_current_snapshot()` tells only as far as they are below its
    /// `xmax`); empty where snapshots are positions.
    pub running: Vec<u64>,
    /// Those of them whose commit may be in the log all the same. Not so of those of other databases, nor
    /// of one whose session waited for its client's next statement.
    pub committing: Vec<u64>,
    /// What keeps the source from clearing up behind itself, oldest first, a few of them.
    pub pins: Vec<Pin>,
    /// What this machine keeps of the log.
    pub relayed: Option<Box<Relayed>>,
    /// The target that has the pipeline's checkpoint, where that was noted and is another than the one
    /// that is asked.
    pub other_target: Option<String>,
}

/// What this machine keeps of the source's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// Tells its directory from another of the same name.
    pub id: String,
    /// Where it is.
    pub directory: String,
    /// Everything that commits from the one on and before the other is in it; `None`: nothing is.
    pub range: Option<(Position, Position)>,
    /// How much that is.
    pub bytes: u64,
    /// How much it may be.
    pub bytes_max: u64,
    /// Whether the source's log is being read into it.
    pub is_reading: bool,
    /// Why some of it is of no use.
    pub damage: Option<String>,
    /// Why nothing more is kept, if that is so although it were needed.
    #[serde(default)]
    pub stopped: Option<String>,
}

/// Something on the source that is old: until it ends, old versions of rows stay, and where it has
/// written, the log does too (a slot needs all of a transaction). What the source hides from our role
/// is not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What it is.
    pub kind: PinKind,
    /// Application and role, name of the prepared transaction, or name of the slot.
    pub name: String,
    /// Process on the source; a prepared transaction has none.
    pub pid: Option<i32>,
    /// For how many transactions of the source it has been there.
    pub age_transactions: i64,
    /// For how long, where that is known.
    pub open_seconds: Option<i64>,
    /// Whether the log is kept from its beginning on.
    pub holds_log: bool,
}

/// Kinds of [`Pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// An open transaction.
    Transaction,
    /// A transaction that was prepared and not yet decided.
    Prepared,
    /// A slot, ours or another.
    Slot,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (self.kind, self.pid) {
            (PinKind::Prepared, _) => write!(f, "prepared transaction \"{name}\"")?,
            (PinKind::Slot, _) => write!(f, "slot {name}")?,
            (PinKind::Transaction, Some(pid)) => write!(f, "pid {pid} ({name})")?,
            (PinKind::Transaction, None) => write!(f, "a transaction ({name})")?,
        }
        match self.open_seconds {
            Some(seconds) => write!(f, ", open for {seconds} s"),
            None => write!(f, ", {} transactions old", self.age_transactions),
        }
    }
}

/// What the source keeps for the pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The database it belongs to.
    pub database: String,
    /// What decodes it, and whether it is of the kind that we make; `Some(why)` if it is not.
    pub foreign: Option<String>,
    /// Who reads it now.
    pub holder: Option<Holder>,
    /// The source may forget everything before this, and has been told so.
    pub confirmed: Position,
    /// The oldest log it keeps.
    pub restart: Position,
    /// Bytes of log kept because of it.
    pub retained_bytes: u64,
    /// Bytes that may still be written before it is lost; `None` where there is no limit.
    pub safe_bytes: Option<i64>,
    /// The server's word for its state: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// Why it can never be read again, if so.
    pub lost: Option<String>,
}

/// Who reads a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id on the source.
    pub pid: i32,
    /// Application name.
    pub application: String,
    /// Client address.
    pub host: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A sequence and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    /// Its name on the source.
    pub name: TableName,
    /// The table and column that own it, if any.
    pub owner: Option<(TableName, String)>,
    /// Last value given out.
    pub last_value: i64,
    /// Whether `last_value` was given out already.
    pub is_called: bool,
    /// From one value to the next; negative where it descends.
    pub increment: i64,
    /// The lowest and the highest value that it gives out.
    pub bounds: (i64, i64),
}

impl SequenceValue {
    /// The same sequence when `steps` values more have been given out; as it is where it has not so
    /// many.
    #[must_use]
    pub fn ahead(&self, steps: u32) -> SequenceValue {
        let (min, max) = self.bounds;
        let ahead = self
            .increment
            .checked_mul(i64::from(steps))
            .and_then(|distance| self.last_value.checked_add(distance))
            .filter(|value| steps > 0 && (min..=max).contains(value));
        match ahead {
            Some(last_value) => SequenceValue {
                last_value,
                is_called: true,
                ..self.clone()
            },
            None => self.clone(),
        }
    }
}

/// The source at one instant. Shared by all workers of a load. Dropping it ends it.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// What rows read here have seen.
    fn tidemark(&self) -> &Tidemark;

    /// Cuts a table into chunks of about `goal_bytes`, by statistics, without scanning it.
    async fn chunks(&self, mapping: &TableMapping, goal_bytes: u64) -> Result<Vec<Chunk>>;

    /// A connection of its own that sees the same instant; one for each worker.
    async fn reader(&self) -> Result<Box<dyn SnapshotReader>>;

    /// A view of the same instant, for verification.
    async fn view(&self) -> Result<Box<dyn View>>;
}

/// One worker's connection to a snapshot.
#[async_trait]
pub trait SnapshotReader: Send {
    /// Starts to read the rows of a chunk, mapped (columns, filter, masks), in the given format.
    async fn read(
        &mut self,
        mapping: &TableMapping,
        chunk: &Chunk,
        format: RowFormat,
    ) -> Result<Box<dyn RowStream + '_>>;

    /// Gives back what locks the table that was read, so that nobody waits for a reader that waits itself.
    async fn let_go(&mut self) -> Result<()>;
}

/// Rows on their way from a snapshot to the target.
#[async_trait]
pub trait RowStream: Send {
    /// The next block, `None` after the last. Dropping the stream before that gives the rest up.
    async fn next(&mut self) -> Result<Option<RowBlock>>;
}

/// Many rows in a row format, unread.
#[derive(Debug)]
pub struct RowBlock {
    /// The bytes. Blocks of one stream put end to end are the whole; a row may span blocks.
    pub bytes: Bytes,
    /// Rows that end in it.
    pub rows: u64,
}

/// How the bytes of a [`RowBlock`] are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// `CopyData` messages of PostgreSQL's protocol that carry binary COPY, cut anywhere.
    PgCopyBinary,
    /// The same, carrying text COPY.
    PgCopyText,
}

/// What [`ChangeStream::give_undecided`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUndecided {
    /// A transaction may come while it is in progress.
    Yes,
    /// Transactions come once they have committed.
    No,
}

/// The log after a position.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next block of events; waits for it. Cancel-safe: a dropped call loses nothing. Called
    /// from one task. While nobody calls it the stream keeps the source's connection alive by itself.
    async fn next(&mut self) -> Result<Block>;

    /// Whether a transaction may be given before it is decided ([`Event::Undecided`]); at first it may
    /// not. One that is being given when it may no longer is withdrawn next, whatever the source
    /// says meanwhile. Returns at once.
    ///
    /// [`Event::Undecided`]: crate::event::Event::Undecided
    fn give_undecided(&mut self, give: GiveUndecided);

    /// Tells the source that it may forget what committed before `position`. Given only positions
    /// that a durable checkpoint covers. Returns at once; the source is told soon.
    fn acknowledge(&mut self, position: Position);

    /// Ends the stream politely, the last acknowledgement sent.
    async fn close(self: Box<Self>) -> Result<()>;
}

/// A pipeline that writes into a database that is a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Its name.
    pub pipeline: String,
    /// Where it reads.
    pub source: SourceIdentity,
    /// The tables that it writes to.
    pub tables: Vec<TableName>,
    /// Whether the stream leaves out what it writes: it marks that, and it leaves out what others mark.
    pub is_left_out: bool,
}
