//! The source at one instant, seen by many connections.
//!
//! One session holds the snapshot (that of a new slot, or one of our own); every worker adopts it by
//! `SET TRANSACTION SNAPSHOT`, so all of them read the same rows while writers go on. The snapshot
//! lives as long as its holder (PostgreSQL 15, 9.27.5): once the holder is gone no further worker
//! can join, and [`PgSnapshot::reader`] says so with a transient error. Readers that had joined go on.
//!
//! A table is locked while a chunk of it is read, and given back by a savepoint that is rolled back. So
//! whoever empties or alters a table waits for one chunk, and the rest of the world behind them no longer
//! than that. And nobody waits for us in a circle: a session that kept one table while another of ours
//! asks for the next could stand in the way of a transaction that has the second and wants the first,
//! and the server, for which our sessions are strangers to each other, would never call it a deadlock.
//!
//! A table that is emptied again before each chunk of it can be read is another matter
//! ([`PgSnapshot::take_of`]). There one session locks it first, then takes the snapshot, and reads it
//! itself: a second session of ours would wait behind the next who wants to empty the table, and they for
//! the first. So that nobody waits long for us the server ends that session where it does nothing for a while.
//!
//! # What the rows have seen
//! [`tidemark_core::tidemark`] explains why this is told by transaction ids. `pg_current_snapshot()`
//! of a transaction that adopted the snapshot names them. `after` is a position read *after* the
//! snapshot was taken: a transaction that is visible had its commit record in the log before it left
//! the list of running ones, so every commit at or after `after` is invisible.
//!
//! On a standby `pg_current_snapshot()` names no running transaction at all: there they are kept in
//! the snapshot's list of subtransactions, which that function leaves out (seen on PostgreSQL 15; see
//! `GetSnapshotData` and `pg_current_snapshot`). Trusting it would skip transactions that the rows
//! have not seen. A slot's snapshot is built from the log and has them in the right place, so first
//! loads from a standby work; a snapshot of our own is refused there.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::TableName;
use tidemark_core::source::{RowBlock, RowFormat, RowStream, Snapshot, SnapshotReader};
use tidemark_core::tidemark::{PgSnapshot as SeenIds, Seen, Tidemark};
use tidemark_core::verify::View;
use tidemark_core::{Context as _, Error, Result};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{chunks, select};
use crate::config::ConnectConfig;
use crate::error::server_error;
use crate::shown;
use crate::view::{self, PgView};
use crate::wire::{Connection, CopyOut, Role, TransactionStatus, quote_literal, quote_qualified};

/// Settings of every session that reads rows: policies raise an error instead of hiding rows, blocks
/// are read in order, and the parallelism is ours.
const SETTINGS: &str = "SET row_security = off; SET synchronize_seqscans = off; \
    SET max_parallel_workers_per_gather = 0";

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Before a session locks a table, and back to it. A transaction that keeps the locks of all that it has
/// read also takes a place in the server's table of locks for each table and index, which thousands of
/// tables exceed (`max_locks_per_transaction`).
const SAVEPOINT: &str = "SAVEPOINT tidemark_table";
const LET_GO: &str = "ROLLBACK TO SAVEPOINT tidemark_table";

/// How long a table that somebody else has is waited for, and may be kept by us with nothing done.
const ALONE: &str =
    "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// A standby tells how far it has *replayed* a moment after a commit has become visible, so the
/// commit record of a visible transaction may lie right behind that position (after a page's
/// header). A page more is always enough, and a later `after` is never wrong.
const STANDBY_MARGIN_BYTES: u64 = 8192;

/// See the module's text.
pub struct PgSnapshot {
    instant: Arc<Instant>,
    tidemark: Tidemark,
    /// A session at the instant, for questions about it.
    desk: Arc<Mutex<Connection>>,
    /// Whether it is the only one, and reads the rows too.
    is_alone: bool,
    /// What keeps the snapshot alive, where that is not the desk itself.
    _holder: Option<Box<dyn Any + Send + Sync>>,
}

/// An instant of a source and the way to it.
#[derive(Debug)]
struct Instant {
    config: ConnectConfig,
    name: String,
}

impl PgSnapshot {
    /// Adopts an exported snapshot; `holder` is what must live for it to live.
    pub async fn adopt(
        config: ConnectConfig,
        name: String,
        holder: Box<dyn Any + Send + Sync>,
    ) -> Result<PgSnapshot> {
        let instant = Instant { config, name };
        let mut desk = instant.session().await?;
        let tidemark = tidemark(&mut desk).await?;
        Ok(PgSnapshot {
            instant: Arc::new(instant),
            tidemark,
            desk: Arc::new(Mutex::new(desk)),
            is_alone: false,
            _holder: Some(holder),
        })
    }

    /// A snapshot of now. Refused on a standby, see the module's text.
    pub async fn take(config: ConnectConfig) -> Result<PgSnapshot> {
        let mut desk = Connection::connect(&config, Role::Ordinary).await?;
        desk.run(&format!("{SETTINGS}; {BEGIN}")).await?;
        PgSnapshot::at(config, desk, false).await
    }

    /// See [`tidemark_core::source::Source::snapshot_of`]. A lock takes no snapshot (PostgreSQL 15, `LOCK`),
    /// and whoever had the table before has left the list of running transactions by then.
    pub async fn take_of(config: ConnectConfig, table: &TableName) -> Result<PgSnapshot> {
        let mut desk = Connection::connect(&config, Role::Ordinary).await?;
        let name = quote_qualified(&table.schema, &table.name);
        let lock = format!("LOCK TABLE {name} IN ACCESS SHARE MODE");
        let sql = format!("{SETTINGS}; {BEGIN}; {ALONE}; {lock}");
        desk.run(&sql)
            .await
            .map_err(|error| match error.sqlstate_code() {
                Some("55P03") => {
                    let message = format!("{table} is held by somebody else");
                    Error::transient(codes::TABLE_REWRITTEN, message).caused_by(error)
                }
                _ => shown::described_anew(error, table),
            })?;
        PgSnapshot::at(config, desk, true).await
    }

    async fn at(config: ConnectConfig, mut desk: Connection, is_alone: bool) -> Result<PgSnapshot> {
        let set = desk
            .query("SELECT pg_is_in_recovery(), pg_export_snapshot()", &[])
            .await
            .context(|| "export a snapshot")?;
        let row = set.one()?;
        if row.get_bool(0)? {
            return Err(Error::definite(
                codes::STANDBY_SNAPSHOT,
                "the source is a standby, which does not tell what a snapshot has seen",
            ));
        }
        let name = row.get(1)?;
        let tidemark = tidemark(&mut desk).await?;
        // A subtransaction could not have exported it.
        desk.run(SAVEPOINT).await?;
        Ok(PgSnapshot {
            instant: Arc::new(Instant { config, name }),
            tidemark,
            desk: Arc::new(Mutex::new(desk)),
            is_alone,
            _holder: None,
        })
    }
}

impl Instant {
    /// A new session at the instant, to read rows.
    async fn session(&self) -> Result<Connection> {
        let mut connection = Connection::connect(&self.config, Role::Ordinary).await?;
        connection.run(SETTINGS).await?;
        self.adopt(&mut connection).await?;
        Ok(connection)
    }

    /// Opens a transaction at the instant.
    async fn adopt(&self, connection: &mut Connection) -> Result<()> {
        let name = quote_literal(&self.name);
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {name}; \
             {SAVEPOINT}"
        );
        connection.run(&sql).await.map_err(|error| {
            let Some(said) = server_error(&error) else {
                return error;
            };
            // Its file is gone: 22023, since PostgreSQL 17 42704. Its process is: 55000 (`ImportSnapshot`).
            if !matches!(said.sqlstate.as_str(), "22023" | "42704" | "55000") {
                return error;
            }
            Error::transient(
                codes::SNAPSHOT_GONE,
                "the snapshot is gone, because the connection that held it broke",
            )
            .caused_by(said.clone())
        })
    }
}

/// What a transaction at the instant has seen.
async fn tidemark(connection: &mut Connection) -> Result<Tidemark> {
    let set = connection
        .query(
            "SELECT pg_current_snapshot(), pg_is_in_recovery(), \
                    CASE WHEN pg_is_in_recovery() \
                         THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
                         ELSE pg_current_wal_insert_lsn() END",
            &[],
        )
        .await
        .context(|| "read what the snapshot has seen")?;
    let row = set.one()?;
    let text = row.get_str(0)?;
    let seen = SeenIds::parse(text).ok_or_else(|| {
        let what = format!("the server's snapshot cannot be read: {text}");
        Error::definite(codes::INTERNAL, what)
    })?;
    let Lsn(mut after) = row.get_str(2)?.parse()?;
    if row.get_bool(1)? {
        after += STANDBY_MARGIN_BYTES;
    }
    Ok(Tidemark {
        seen: Seen::PgSnapshot(seen),
        after: Position::PgLsn(Lsn(after)),
    })
}

#[async_trait]
impl Snapshot for PgSnapshot {
    fn tidemark(&self) -> &Tidemark {
        &self.tidemark
    }

    async fn chunks(&self, mapping: &TableMapping, goal_bytes: u64) -> Result<Vec<Chunk>> {
        let mut desk = self.desk.lock().await;
        let planned = chunks::plan(&mut desk, mapping, goal_bytes).await;
        let let_go = desk.run(LET_GO).await;
        let chunks = planned.context(|| format!("plan chunks of {}", mapping.source()))?;
        let_go?;
        Ok(chunks)
    }

    async fn reader(&self) -> Result<Box<dyn SnapshotReader>> {
        if self.is_alone {
            let desk = Arc::clone(&self.desk).try_lock_owned();
            let desk = desk.map_err(|_| gone("it has one reader, which is at work"))?;
            return Ok(Box::new(PgReader {
                instant: None,
                connection: Session::Desk(desk),
            }));
        }
        let connection = Session::Own(Box::new(self.instant.session().await?));
        Ok(Box::new(PgReader {
            instant: Some(Arc::clone(&self.instant)),
            connection,
        }))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        let mut connection = Connection::connect(&self.instant.config, Role::Ordinary).await?;
        connection.run(view::SETTINGS).await?;
        self.instant.adopt(&mut connection).await?;
        Ok(Box::new(PgView::of_source(connection)))
    }
}

/// A view of now.
pub(crate) async fn view(config: &ConnectConfig) -> Result<PgView> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    let settings = view::SETTINGS;
    let sql = format!("{settings}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    connection.run(&sql).await?;
    Ok(PgView::of_source(connection))
}

/// One worker's connection.
struct PgReader {
    /// `None` where no other session can take its place.
    instant: Option<Arc<Instant>>,
    connection: Session,
}

/// A session that reads.
enum Session {
    Own(Box<Connection>),
    /// The one that has the table.
    Desk(OwnedMutexGuard<Connection>),
}

impl Deref for Session {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            Session::Own(connection) => connection,
            Session::Desk(desk) => desk,
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Connection {
        match self {
            Session::Own(connection) => connection,
            Session::Desk(desk) => desk,
        }
    }
}

fn gone(why: &str) -> Error {
    let message = format!("the snapshot cannot be read any more: {why}");
    Error::transient(codes::SNAPSHOT_GONE, message)
}

#[async_trait]
impl SnapshotReader for PgReader {
    async fn read(
        &mut self,
        mapping: &TableMapping,
        chunk: &Chunk,
        format: RowFormat,
    ) -> Result<Box<dyn RowStream + '_>> {
        let sql = select::copy_out(mapping, chunk, format)?;
        self.make_ready(chunk).await?;
        let read = match chunk {
            Chunk::Blocks {
                leaf: Some(leaf), ..
            } => leaf,
            _ => mapping.source(),
        };
        let shown = shown::must_show(&mut self.connection, read).await;
        shown.map_err(|error| shown::described_anew(error, mapping.source()))?;
        // Rows that are repaired go among others of the shape that the log had come to.
        if !matches!(chunk, Chunk::Rows { .. }) {
            shown::must_be_as_described(&mut self.connection, mapping).await?;
        }
        select::set_salts(&mut self.connection, mapping).await?;
        let from_where = select::from_where(mapping, chunk)?;
        let copy = self.connection.copy_out(&sql).await;
        let copy = copy
            .map_err(|error| shown::described_anew(error, mapping.source()))
            .context(|| format!("read {}", mapping.source()))?;
        Ok(Box::new(PgRows {
            copy,
            instant: self.instant.clone(),
            table: mapping.source().to_string(),
            from_where,
            rows: 0,
        }))
    }

    async fn let_go(&mut self) -> Result<()> {
        self.connection.run(LET_GO).await
    }
}

impl PgReader {
    /// After a stream that was given up the connection is of no use; after an error its transaction
    /// is not. Either way the instant is adopted anew.
    async fn make_ready(&mut self, chunk: &Chunk) -> Result<()> {
        let is_adrift = self.connection.ready_expected() > 0;
        let is_open = self.connection.transaction_status() == TransactionStatus::Open;
        match &self.instant {
            _ if is_open && !is_adrift => {}
            Some(instant) if is_adrift => {
                self.connection = Session::Own(Box::new(instant.session().await?));
            }
            Some(instant) => {
                self.connection.run("ROLLBACK").await?;
                instant.adopt(&mut self.connection).await?;
            }
            None => return Err(gone("what was read of it was given up")),
        }
        // A key range is read through its index: a scan of the whole table for every chunk would
        // read the table as many times as it has chunks.
        let seqscan = if matches!(chunk, Chunk::Keys { .. }) {
            "off"
        } else {
            "on"
        };
        self.connection
            .run(&format!("SET LOCAL enable_seqscan = {seqscan}"))
            .await
    }
}

/// The rows of a chunk, as the server sends them.
struct PgRows<'a> {
    copy: CopyOut<'a>,
    instant: Option<Arc<Instant>>,
    table: String,
    /// For asking where a row is that cannot be read.
    from_where: String,
    /// Rows so far.
    rows: u64,
}

#[async_trait]
impl RowStream for PgRows<'_> {
    async fn next(&mut self) -> Result<Option<RowBlock>> {
        match self.copy.next_block().await {
            Ok(Some(block)) => {
                self.rows += block.rows;
                Ok(Some(RowBlock {
                    bytes: block.frames,
                    rows: block.rows,
                }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.name_the_row(error).await),
        }
    }
}

/// The server sends text in UTF-8, whatever its database has, and looks at every value on the way,
/// those of `SQL_ASCII` included, whose bytes it cannot convert (`pg_server_to_any`). 22021: not
/// valid; 22P05: no such character in UTF-8.
const NOT_UTF8: [&str; 2] = ["22021", "22P05"];

impl PgRows<'_> {
    /// Says which row it is whose text is not UTF-8: the server does not. Rows come in the order of
    /// their places, and again in the same order, since synchronized scans and parallel plans are
    /// off.
    async fn name_the_row(&self, error: Error) -> Error {
        let table = &self.table;
        let Some(said) = server_error(&error) else {
            return error.context(format!("read {table}"));
        };
        if !NOT_UTF8.contains(&said.sqlstate.as_str()) {
            return error.context(format!("read {table}"));
        }
        let place = match self.place().await {
            Ok(Some(ctid)) => format!("the row at ctid {ctid}"),
            Ok(None) | Err(_) => format!("row {} of the chunk", self.rows + 1),
        };
        Error::data(
            codes::SOURCE_TEXT_INVALID,
            format!("{table}: {place} holds text that is not valid in UTF-8"),
        )
        .table(table)
        .caused_by(said.clone())
    }

    /// The place of the row after those that came.
    async fn place(&self) -> Result<Option<String>> {
        let sql = format!(
            "SELECT ctid {} OFFSET {} LIMIT 1",
            self.from_where, self.rows
        );
        let Some(instant) = &self.instant else {
            return Ok(None);
        };
        let set = instant.session().await?.query(&sql, &[]).await?;
        set.rows.first().map_or(Ok(None), |row| row.opt(0))
    }
}
