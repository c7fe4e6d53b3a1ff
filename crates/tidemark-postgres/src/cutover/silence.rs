//! Whether anybody writes, told by the log itself.
//!
//! The end of the log says little: checkpoints, vacuum, other databases and our own heartbeats move it.
//! What counts is whether it holds a change of a published table. A temporary slot of the watching
//! session decodes it, through the pipeline's own publication; and a transaction that is still open,
//! or prepared, might bring one, so there must be none in this database either.
//!
//! Between two looks of which the second found neither, nothing was written: the first look's
//! position, the second's, and everything between are one and the same state of the tables.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::schema::TableName;
use tidemark_core::{Error, Result};
use tokio::time::{Instant, sleep};

use crate::config::ConnectConfig;
use crate::wire::{Connection, Role, quote_ident};

/// What was inserted is written to disk within three rounds of the WAL writer, 200 ms each, unless
/// nothing more is to be written: the end may lie behind a page's head that is not there yet.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
const WRITTEN_LOOK_EVERY: Duration = Duration::from_millis(20);

/// Enough to know that it is not silent.
const CHANGES_MAX: &str = "10000";

/// Insert, update, delete, truncate (PostgreSQL 15, 55.9); and the tables, which are described before
/// their first change, by number.
const CHANGES: &str = "SELECT n.nspname, c.relname, change.changes FROM ( \
       SELECT CASE get_byte(data, 0) WHEN 82 \
              THEN ('x' || encode(substr(data, 2, 4), 'hex'))::bit(32)::int8 END AS described, \
              count(*) FILTER (WHERE get_byte(data, 0) IN (73, 85, 68, 84)) AS changes \
       FROM pg_logical_slot_get_binary_changes($1, NULL, $3::int4, 'proto_version', '1', \
                                               'publication_names', $2) \
       GROUP BY 1) change \
     LEFT JOIN pg_class c ON c.oid::int8 = change.described \
     LEFT JOIN pg_namespace n ON n.oid = c.relnamespace";

/// Transactions of this database that have written or may have.
const OPEN: &str = "SELECT 'pid ' || a.pid || ' (' || coalesce(nullif(a.application_name, ''), 'a session') \
            || ' of ' || coalesce(a.usename, 'nobody') || ')' \
     FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
     WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted \
       AND a.datname = current_database() AND a.pid <> pg_backend_pid() \
     UNION SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts \
     WHERE database = current_database()";

/// A session that watches the log of a source.
#[derive(Debug)]
pub struct Silence {
    connection: Connection,
    slot: String,
    publication: String,
}

/// What was seen since the look before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Everything that had committed when this look began lies before this.
    pub position: Position,
    /// Changes of published tables; not all are counted where there are many.
    pub changes: u64,
    /// The tables, as far as they were announced since the watch began.
    pub tables: Vec<TableName>,
    /// Transactions that are open.
    pub open: Vec<String>,
}

impl Seen {
    /// Whether nothing was written, nor can be by what has begun.
    pub fn is_silent(&self) -> bool {
        self.changes == 0 && self.open.is_empty()
    }
}

impl Silence {
    /// Begins to watch, as soon as transactions that are open now have ended. Nothing is left on the
    /// source when this is dropped.
    pub async fn watch(
        config: &ConnectConfig,
        slot: &str,
        publication: &str,
        patience: Duration,
    ) -> Result<Silence> {
        let mut connection = Connection::connect(config, Role::Ordinary).await?;
        let salt = RandomState::new().build_hasher().finish() & u64::from(u32::MAX);
        // 63 characters at most, and only ASCII in a slot's name.
        let slot = format!("{slot:.50}_c_{salt:08x}");
        connection
            .run(&format!("SET statement_timeout = {}", patience.as_millis()))
            .await?;
        let made = connection
            .query(
                "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)",
                &[Some(&slot)],
            )
            .await;
        if let Err(error) = made {
            return Err(match error.sqlstate_code() {
                // Cancelled while it waited for transactions that are open.
                Some("57014") => {
                    let open = open(&mut connection).await?;
                    Error::definite(
                        codes::CUTOVER_NOT_SILENT,
                        format!("open: {}", open.join(", ")),
                    )
                }
                Some("53400") => error.with_code(codes::SOURCE_NO_FREE_SLOT),
                _ => error,
            });
        }
        connection.run("SET statement_timeout = 0").await?;
        Ok(Silence {
            connection,
            slot,
            publication: quote_ident(publication),
        })
    }

    /// What was written since the last look, or since the watch began.
    pub async fn look(&mut self) -> Result<Seen> {
        let open = open(&mut self.connection).await?;
        let position = self.written_end().await?;
        let params = [
            Some(self.slot.as_str()),
            Some(self.publication.as_str()),
            Some(CHANGES_MAX),
        ];
        let set = self.connection.query(CHANGES, &params).await?;
        let (mut changes, mut tables) = (0, BTreeSet::new());
        for row in &set.rows {
            changes += row.get::<u64>(2)?;
            if let (Some(schema), Some(table)) = (row.opt_str(0)?, row.opt_str(1)?) {
                tables.insert(TableName::new(schema, table));
            }
        }
        Ok(Seen {
            position: Position::PgLsn(position),
            changes,
            tables: tables.into_iter().collect(),
            open,
        })
    }

    /// The end of the log, once all before it can be decoded: what committed without waiting for the
    /// disk is seen by readers before.
    async fn written_end(&mut self) -> Result<Lsn> {
        let end = self
            .connection
            .query("SELECT pg_current_wal_insert_lsn()", &[])
            .await?;
        let end: Lsn = end.one()?.get(0)?;
        let deadline = Instant::now() + WRITTEN_WITHIN;
        loop {
            let written = self
                .connection
                .query("SELECT pg_current_wal_flush_lsn()", &[])
                .await?;
            if written.one()?.get::<Lsn>(0)? >= end || Instant::now() >= deadline {
                return Ok(end);
            }
            sleep(WRITTEN_LOOK_EVERY).await;
        }
    }
}

/// Transactions that are open in this database, named for a person.
async fn open(connection: &mut Connection) -> Result<Vec<String>> {
    let set = connection.query(OPEN, &[]).await?;
    set.rows.iter().map(|row| row.get(0)).collect()
}
