//! The target's side of the contract. Object-safe, spoken to once per batch, never once per row.
//!
//! Everything that is recorded (checkpoint, unit, table state) is recorded in the same transaction
//! as the data it stands for, and every commit checks the generation.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::{Batch, SchemaChange};
use crate::checkpoint::{
    Checkpoint, CheckpointUpdate, Generation, KnownPartitions, LoadPhase, RelayHome, Release,
    SourceIdentity, TableCheckpoint, Unit,
};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::quarantine::{Cause, Chosen, Kept, Released};
use crate::schema::{SourceSchema, TableName, TypeMembers};
use crate::source::{RowFormat, RowStream, SequenceValue};
use crate::tidemark::Tidemark;
use crate::verify::View;

/// A database that receives. Shared by all tasks of a pipeline.
#[async_trait]
pub trait Target: Send + Sync {
    /// What stands in the way, each with its remedy. Changes nothing. An error only where the target
    /// cannot be asked: whoever asked knows whether to show it ([`Finding::of_error`]) or to wait.
    async fn check(&self, tables: &[TableMapping]) -> Result<Vec<Finding>>;

    /// Whether the target is the very database that was read from, so that a table could be copied
    /// onto itself. Changes nothing.
    async fn is_source(&self, _source: &SourceIdentity) -> Result<bool> {
        Ok(false)
    }

    /// Whether whoever reads the target's log can leave out what is applied here.
    fn marks(&self) -> bool {
        false
    }

    /// Which database this is, told apart from all others; `None` where it does not say.
    async fn identity(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// What the target has; `None` if the pipeline never started. Changes nothing: a target
    /// without our schema answers `None`.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>>;

    /// What is recorded of the partitions of each table that the pipeline has, partitioned or not. After
    /// [`Target::acquire`]. Changes nothing.
    async fn partitions(&self) -> Result<Vec<KnownPartitions>> {
        Ok(Vec::new())
    }

    /// Takes the pipeline over: makes or migrates our schema, takes the owner's lock for as long as
    /// this `Target` lives, raises the generation. Refused (definite) while another owner is alive,
    /// naming it. From then on every commit of an older generation fails.
    async fn acquire(&self, owner: &Owner) -> Result<Generation>;

    /// Whether [`Target::acquire`] had to end the lock of an earlier [`Lease`], whose server may still hold
    /// what it had on the source.
    fn has_ended_another(&self) -> bool {
        false
    }

    /// Keeps the owner's lock while this is polled: one that is lost with its session is taken again, and
    /// the generation stays. After [`Target::acquire`], and not while that runs. Gives why the lock is not
    /// to be had any more, as that somebody else has it, or has taken the pipeline or one of its tables over
    /// meanwhile (definite); without an end where it cannot be lost.
    /// Cancel-safe. Commits of a run that was taken over fail in any case; without the lock others would
    /// take a run that goes on for one that does not.
    async fn keep_lock(&self, _owner: &Owner) -> Error {
        std::future::pending().await
    }

    /// After [`Target::acquire`]: refuses (definite) while another pipeline, which somebody runs, has recorded
    /// one of these tables of the target as its own. Where nobody seems to run it, a run of it that is there all
    /// the same commits nothing from then on. [`Target::start_load`] and [`Target::prepare`] look again
    /// as they record tables, so that of two which come at the same moment one is refused.
    async fn claim(&self, _tables: &[&TableName]) -> Result<()> {
        Ok(())
    }

    /// Tables of the target, whoever's they are, that a crash of it empties although their rows were
    /// committed. Whether one was emptied does not show. Changes nothing.
    async fn unlogged(&self) -> Result<HashSet<TableName>> {
        Ok(HashSet::new())
    }

    /// Records where a pipeline starts, before any row is copied and any table made; what was recorded
    /// of an earlier start, parked changes included, is gone. Durable on return.
    async fn start_load(&self, start: &LoadStart) -> Result<()>;

    /// By which types rows of tables are there, as this pipeline and others of the same source have recorded
    /// it. After [`Target::start_load`]. Changes nothing.
    async fn known_types(&self) -> Result<Vec<KnownTypes>> {
        Ok(Vec::new())
    }

    /// Makes types and sequences that the tables need, where they are missing; an enumeration or
    /// composite type that is there becomes what the source's is, as far as `changes` says and `histories`
    /// allow. Gives whether one did. May be repeated.
    async fn prepare_objects(
        &self,
        schema: &SourceSchema,
        tables: &[TableMapping],
        changes: TypeChanges,
        histories: &[TypeHistory],
    ) -> Result<bool>;

    /// Gives a table that is about to be loaded anew where it is the columns that its rows will have, and
    /// empties it for that: `changes` (of names, and columns that go) first, then whatever does not fit.
    /// What cannot be changed stays, and [`Target::prepare`] refuses it. Whether the table was touched.
    /// May be repeated.
    async fn reshape(&self, mapping: &TableMapping, changes: &[SchemaChange]) -> Result<bool>;

    /// Makes the table where it is missing (columns, types, NOT NULL; keys, indexes and foreign keys
    /// later), or sees that an existing one fits and treats its rows as `existing` says. Records its
    /// units, replacing what was recorded for the table. At [`Place::Beside`] the shadow table is made
    /// anew and `existing` does not matter, but for [`Existing::Swap`], by which the target chooses the
    /// place ([`Prepared::place`]). May be repeated: what is loaded stays.
    async fn prepare(
        &self,
        mapping: &TableMapping,
        existing: Existing,
        place: Place,
        units: &[Unit],
    ) -> Result<Prepared>;

    /// A worker's connection for loading.
    async fn loader(&self) -> Result<Box<dyn Loader>>;

    /// Makes what was deferred for one table: primary key, indexes, checks, unique constraints, and
    /// statistics. May be repeated: what is there stays. Called from several tasks.
    async fn finish(&self, mapping: &TableMapping, place: Place) -> Result<()>;

    /// Makes the foreign keys among the loaded tables, last. May be repeated.
    async fn finish_foreign_keys(&self, tables: &[TableMapping]) -> Result<()>;

    /// Takes constraints off these tables (`of`) that both sides had when this was asked before and that
    /// the source does not have any more, and remembers what both have now. What only the target ever had
    /// stays. `tables` are all of the pipeline, as the source has them now. Nobody waits long for it: a
    /// table that somebody reads is left for another time, or on a refusal a transient error. May be
    /// repeated, and run beside an applier.
    async fn loosen(
        &self,
        _tables: &[TableMapping],
        _of: &[TableName],
        _occasion: Occasion,
    ) -> Result<Loosened> {
        Ok(Loosened::default())
    }

    /// What the source has by now, and loaded tables lack: indexes and constraints that nobody has made there
    /// since. Of a table that the pipeline has still to give its own nothing is said, nor of what cannot hold on
    /// the target. `tables` are all of the pipeline, as the source has them now. Changes nothing.
    async fn lacks(&self, _tables: &[TableMapping]) -> Result<Vec<Lacking>> {
        Ok(Vec::new())
    }

    /// Records how far the first load is. Durable on return.
    async fn set_phase(&self, phase: LoadPhase) -> Result<()>;

    /// Records that the source is on another timeline now, which has all that the target has. Durable on
    /// return.
    async fn follow_timeline(&self, timeline: u32) -> Result<()>;

    /// Records why the slot is about to be removed. Durable on return.
    async fn record_release(&self, release: &Release) -> Result<()>;

    /// Records where the source's log is kept beside the source. Durable on return.
    async fn record_relay(&self, relay: &RelayHome) -> Result<()>;

    /// Gives a resynced table its place: the new rows (loaded at [`Place::Beside`]) become the
    /// table, in one transaction; readers see the old rows until then.
    async fn swap(&self, mapping: &TableMapping) -> Result<()>;

    /// Sets sequences to these values. Called by a load at its end, and for a person while another
    /// process runs the pipeline: it must not be refused to an older generation. Gives those that do not
    /// take theirs, each as an error that names it (data); all others are set.
    async fn set_sequences(
        &self,
        values: &[SequenceValue],
        tables: &[TableMapping],
    ) -> Result<Vec<Error>>;

    /// The one connection that applies changes.
    async fn applier(&self) -> Result<Box<dyn Applier>>;

    /// A view of now, for verification.
    async fn view(&self) -> Result<Box<dyn View>>;

    /// The side door for commands and status, on a connection of its own.
    async fn control(&self) -> Result<Box<dyn Control>>;

    /// Removes what the pipeline keeps in our schema. The copied tables stay.
    async fn forget(&self) -> Result<()>;
}

/// For whoever wants all sequences set: an error that names each that is not
/// ([`Target::set_sequences`]).
pub fn all_set(mut refused: Vec<Error>) -> Result<()> {
    match refused.len() {
        0 => Ok(()),
        1 => Err(refused.remove(0)),
        _ => {
            let told: Vec<String> = refused.iter().map(Error::to_string).collect();
            let first = refused.remove(0);
            Err(Error::new(first.kind(), first.code(), told.join("; ")))
        }
    }
}

/// What may become of a type that the target has otherwise than the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TypeChanges {
    /// It gets what it lacks. It may be anybody's, and what it has beyond is an error.
    Additions,
    /// The same of one that rows were loaded by. What a domain demands of them may differ: it has changed
    /// since on the source, or a person has seen to it here.
    Demands,
    /// Labels and attributes get the names that they have by now. What the source has no more stays.
    Renames,
    /// Attributes that the source has no more go.
    All,
}

/// The types by which a table's rows are on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTypes {
    /// On the source.
    pub table: TableName,
    /// On the target.
    pub target: TableName,
    /// As they were when they were last followed; each by the name that the target has for it.
    pub types: Vec<TypeMembers>,
}

/// What was recorded of a type, and of others that had its name. Names pass from one type to another; which
/// one is meant is told by the source's number alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeHistory {
    /// The type's name on the source.
    pub name: TableName,
    /// Tables that are known to rest on it under another name, by their names on the source and the target;
    /// none where some are known to do so under this one. As long as the target has it under that name, one of
    /// this name there is not it.
    pub known_otherwise_by: Vec<(TableName, TableName)>,
    /// Tables that are known to rest on another type under this name, and that one has another name on the
    /// source by now. Somebody may have given it that on the target.
    pub held_by: Vec<(TableName, TableName)>,
    /// What its members were called when they were last followed, in their order, and are called now. Several
    /// where tables know several; none of labels that are all called as they were.
    pub members: Vec<Vec<(String, Option<String>)>>,
}

/// Why the constraints of both sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It is time. A primary key stays, since rows are found by it.
    Look,
    /// The target has refused a row.
    Refusal,
}

/// What became of constraints that are gone on the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loosened {
    /// What was taken off, in words, by table.
    pub gone: Vec<(TableName, String)>,
    /// Tables that still have some, since somebody reads them.
    pub held: Vec<TableName>,
}

/// An index, a constraint or a default that the source has and a table of the target lacks; or what the
/// source does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The table, on the target.
    pub table: TableName,
    /// `index`, `foreign key`, …
    pub kind: &'static str,
    /// Its name on the source; of what belongs to a column the column's on the target.
    pub name: String,
    /// Whether it is the target that has it, and the source does not.
    pub is_surplus: bool,
    /// Makes the target as the source is; several statements are parted by `;`.
    pub sql: String,
}

/// Who runs a pipeline, for the message to whoever comes second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// The lease under which it runs pipelines, where it is one of several servers.
    pub lease: Option<Lease>,
}

/// The right to run the pipelines of a store, which one server at a time has. A later one ends the lock
/// of an earlier one: its server may be frozen, and would keep it for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// By which the store is known.
    pub store: String,
    /// Increases with each server that takes over.
    pub generation: i64,
}

/// Where a pipeline starts: a first load, or what bridges a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadStart {
    /// Where the rows come from.
    pub identity: SourceIdentity,
    /// The consistent point: position and `full_load_lsn`.
    pub position: Position,
    /// How far the load is: a first one begins, or rows are there to be reconciled.
    pub phase: LoadPhase,
    /// All tables, without units yet, but for those in which rows of an earlier load are.
    pub tables: Vec<TableCheckpoint>,
}

/// What to do with a target table that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Load if it is empty, otherwise fail with the way out.
    #[default]
    LoadIfEmpty,
    /// Fail if it exists.
    Fail,
    /// Add to it if it is empty, otherwise fail; never create.
    AppendIfEmpty,
    /// Leave a table that has rows as it is, and count it as loaded.
    SkipLoaded,
    /// Empty it.
    Truncate,
    /// Drop it and make it anew.
    Drop,
    /// Load beside it, and let the new rows take its place when all tables are in ([`Target::swap`]):
    /// readers see the old rows until then. For a full load alone, since nothing of it is resumed.
    Swap,
    /// It is ours from an earlier start: keep what the recorded units say, remove the rest.
    Resume,
}

/// Where rows are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the table itself.
    InPlace,
    /// Into a table beside it that will take its place ([`Target::swap`]).
    Beside,
}

/// What [`Target::prepare`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// In which format rows are wanted.
    pub format: RowFormat,
    /// The table had rows and is left as it is ([`Existing::SkipLoaded`]).
    pub is_skipped: bool,
    /// Units that need not be loaded again.
    pub loaded_units: Vec<u32>,
    /// Where the rows go: as asked, or with [`Existing::Swap`] beside a table that is there.
    pub place: Place,
}

/// One worker's connection for loading.
#[async_trait]
pub trait Loader: Send {
    /// Writes the rows of one unit and records the unit with its tidemark, in one transaction.
    /// `progress` is told what was written since it was told last.
    /// Durable on return. On error nothing of the unit is in, and the loader can be used again
    /// after transient errors only if [`Loader::is_usable`].
    async fn load(
        &mut self,
        mapping: &TableMapping,
        unit: &LoadUnit<'_>,
        rows: &mut dyn RowStream,
        progress: &(dyn Fn(LoadedPart) + Send + Sync),
    ) -> Result<LoadedPart>;

    /// Whether another unit can be loaded over the same connection.
    fn is_usable(&self) -> bool;
}

/// What a [`Loader`] needs to know of a unit.
#[derive(Clone, Debug)]
pub struct LoadUnit<'a> {
    /// The unit; its chunk says which rows are replaced where they are already there (a repair).
    pub unit: &'a Unit,
    /// What its rows have seen.
    pub tidemark: &'a Tidemark,
    /// The format of the rows.
    pub format: RowFormat,
    /// Into which table.
    pub place: Place,
    /// Whether rows of the chunk may already be there and are removed first (repair of a range).
    pub replace: Replace,
}

/// Whether a unit's old rows are removed in the same transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// There are none.
    Nothing,
    /// Those of the chunk's key range.
    Range,
}

/// Rows and bytes that were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadedPart {
    /// Rows.
    pub rows: u64,
    /// Bytes of the row format.
    pub bytes: u64,
}

/// Applies batches, one target transaction at a time. Used by one task.
///
/// `begin`, then `apply` once or (a source transaction larger than a batch) several times, then
/// `commit`. An implementation may keep back what it can and send all at `commit`. After any error
/// the transaction is gone, nothing of it is in the target, and the applier answers `begin` again
/// unless the error was transient (then the pipeline takes a new applier and starts from the
/// checkpoint).
#[async_trait]
pub trait Applier: Send {
    /// Opens a transaction.
    async fn begin(&mut self) -> Result<()>;

    /// Applies a batch within it. A change that the target refuses is a data error that names the
    /// table ([`crate::Error::table_name`]), unless its row goes aside
    /// ([`crate::quarantine::OnRowError::QuarantineRow`]): then it is kept within the transaction, with
    /// its position, key and cause, and everything else of the batch is applied. Changes that have to
    /// wait behind a row in quarantine ([`crate::quarantine::Aside`]) are kept likewise, whatever the
    /// policy; a truncate discards what its tables have there.
    async fn apply(&mut self, batch: &Batch) -> Result<Applied>;

    /// Puts changes of a table aside, in order, within the transaction.
    async fn park(&mut self, batch: &Batch, origin: Origin) -> Result<()>;

    /// Commits data and checkpoint together. On return it is visible to readers; whether it is
    /// durable is told by [`Applier::durable`]. An error of the kind transient leaves it open
    /// whether the commit happened: the checkpoint in the target decides.
    async fn commit(&mut self, update: &CheckpointUpdate) -> Result<Applied>;

    /// Gives the transaction up.
    async fn rollback(&mut self) -> Result<()>;

    /// The highest committed position that survives a crash of the target.
    fn durable(&self) -> Option<Position>;

    /// Makes everything committed durable now, and raises [`Applier::durable`] accordingly. Called
    /// when there is nothing else to do.
    async fn flush(&mut self) -> Result<()>;

    /// What tables have in quarantine, as far as it is committed.
    fn quarantined(&self) -> Vec<(TableName, Kept)> {
        Vec::new()
    }

    /// Applies rows in quarantine again, in the open transaction: each as what its changes come to.
    /// Those that are refused again stay, with the new cause. Of tables that are not among `tables`
    /// nothing is applied.
    async fn release(&mut self, tables: &[Arc<TableMapping>], chosen: &Chosen) -> Result<Released>;

    /// Discards rows in quarantine, in the open transaction; how many.
    async fn discard(&mut self, chosen: &Chosen) -> Result<u64>;

    /// Parked changes of a table in order, at most about `bytes_max` of them, for replay with
    /// [`Applier::apply`]; in the open transaction they are removed from the queue. `None` when the
    /// queue is empty.
    async fn unpark(&mut self, table: &TableMapping, bytes_max: usize) -> Result<Option<Parked>>;
}

/// Where parked changes come from: needed to ask their tidemark later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The transaction's id on the source.
    pub xid: u32,
    /// Where it committed.
    pub commit: Position,
}

/// Parked changes of one table, taken from the queue.
#[derive(Debug)]
pub struct Parked {
    /// One batch for each source transaction, in order.
    pub batches: Vec<(Origin, Batch)>,
}

/// What applying did, beyond what the log asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// By table: changes that met another target row than the log implies (an insert that found
    /// one, an update or delete that found none). Somebody else wrote to the target.
    pub conflicts: Vec<(TableName, u64)>,
    /// By table: what is in quarantine now, where the transaction changed that.
    pub quarantined: Vec<(TableName, Kept)>,
    /// Rows that went into quarantine, for a person: table and cause.
    pub refused: Vec<(TableName, Cause)>,
}
