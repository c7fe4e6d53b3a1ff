//! The slot: how the source keeps its log for the pipeline, what state it is in, and its removal.
//!
//! Making one is in [`create`]: it has to wait for others. The rules for what a slot's state means
//! for a start are core's (`pipeline::plan`); here is only what the server says, in one read, with
//! positions as numbers.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::source::{Holder, Slot};
use tidemark_core::tidemark::PgSnapshot;
use tidemark_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::session::{command_refused, open_replication};
use crate::config::ConnectConfig;
use crate::wire::{Connection, Row};

pub(crate) mod create;

#[cfg(test)]
mod tests;

/// The only plugin we use: every server has it.
pub(crate) const PLUGIN: &str = "pgoutput";

/// `NAMEDATALEN - 1`.
const NAME_LEN_MAX: usize = 63;

/// How long a removal waits for a reader that is just going away.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session that is told to end may take.
const END_MAX: Duration = Duration::from_secs(5);
const DROP_PAUSE: Duration = Duration::from_millis(200);

/// Refuses names that no slot can have (`ReplicationSlotValidateName`, PostgreSQL 15).
pub fn check_name(name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(Error::definite(
        codes::SLOT_NAME,
        format!("`{name}` cannot be the name of a replication slot"),
    ))
}

/// Who the source is, and what it was before.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) identity: SourceIdentity,
    pub(crate) earlier_timelines: Vec<(u32, Position)>,
}

/// Who the source is. Needs a replication session, since only `IDENTIFY_SYSTEM` tells the present
/// timeline; a role that may not replicate gets that of the last checkpoint (which lags behind for a
/// moment after a failover, and matters only to who streams).
pub(crate) async fn identity(config: &ConnectConfig) -> Result<Identity> {
    match open_replication(config).await {
        Ok(mut connection) => {
            let sets = connection.simple("IDENTIFY_SYSTEM").await;
            let sets = sets.map_err(command_refused)?;
            let row = first_row(&sets)?;
            let identity = SourceIdentity {
                system: row.get_str(row.index("systemid")?)?.to_owned(),
                timeline: row.get(row.index("timeline")?)?,
                database: row.get_str(row.index("dbname")?)?.to_owned(),
            };
            let earlier_timelines = history(&mut connection, identity.timeline).await?;
            connection.close().await;
            Ok(Identity {
                identity,
                earlier_timelines,
            })
        }
        Err(error) if error.code() == codes::SOURCE_NO_REPLICATION => {
            let mut connection = Connection::connect(config, crate::wire::Role::Ordinary).await?;
            let sql = "SELECT system_identifier, timeline_id, current_database() \
                       FROM pg_control_system(), pg_control_checkpoint()";
            let set = connection.query(sql, &[]).await?;
            connection.close().await;
            let row = set.one()?;
            let identity = SourceIdentity {
                system: row.get_str(0)?.to_owned(),
                timeline: row.get(1)?,
                database: row.get_str(2)?.to_owned(),
            };
            Ok(Identity {
                identity,
                earlier_timelines: Vec::new(),
            })
        }
        Err(error) => Err(error),
    }
}

/// Where the timelines before this one ended; the first has no history.
async fn history(connection: &mut Connection, timeline: u32) -> Result<Vec<(u32, Position)>> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let sets = connection
        .simple(&format!("TIMELINE_HISTORY {timeline}"))
        .await;
    let sets = sets.map_err(command_refused)?;
    let row = first_row(&sets)?;
    read_history(row.get_str(row.index("content")?)?)
}

/// A line for each: its number, where it ended, why (`writeTimeLineHistory`, PostgreSQL 15).
fn read_history(content: &str) -> Result<Vec<(u32, Position)>> {
    let lines = content.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok());
        let end = words.next().map(|word| Position::parse("pg_lsn", word));
        match (timeline, end) {
            (Some(timeline), Some(Ok(end))) => Ok((timeline, end)),
            _ => Err(crate::error::protocol(
                crate::config::Side::Source,
                "a timeline's history that cannot be read",
            )),
        }
    };
    lines.map(line).collect()
}

/// The end of the log: where the next record goes, or on a standby what has been replayed.
const HEAD: &str = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                         ELSE pg_current_wal_insert_lsn() END";

/// What the source says of itself at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Now {
    pub(crate) clock_us: i64,
    pub(crate) head: Lsn,
    /// As long as this stays the same, so does [`identity`]. `None` on a standby, whose timeline may
    /// change at any time.
    pub(crate) incarnation: Option<String>,
    /// Transactions that are not visible yet.
    pub(crate) running: Vec<u64>,
    /// Those of them that may have committed; see [`COMMITTING`].
    pub(crate) committing: Vec<u64>,
}

/// Clock, end of the log and incarnation, of a `SELECT`.
fn clock_and_head() -> String {
    format!(
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8, {HEAD}, \
         CASE WHEN NOT pg_is_in_recovery() THEN pg_postmaster_start_time() END"
    )
}

/// Whose id is locked, of this database, and not by a session that waits for its client's next statement:
/// that one's commit is still to come. Looked at session by session, since a lock on an id names no
/// database; of a session that is not known, or whose kind or state is not shown, the worst is taken.
///
/// A prepared transaction has no session. Whoever commits it is busy with `COMMIT PREPARED` until it has become
/// visible, in a session of the same database (PostgreSQL 15, `FinishPreparedTransaction`): without one that
/// may be, it just lies there, as one does whose coordinator has forgotten it. A long text is cut off. The worker
/// of a subscription commits such transactions and says neither that it is busy nor with what
/// (`apply_handle_commit_prepared`).
const COMMITTING: &str = "ARRAY(SELECT l.transactionid FROM pg_locks l \
     WHERE l.locktype = 'transactionid' AND l.granted \
       AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid \
               AND (a.datname <> current_database() OR a.state LIKE 'idle in transaction%')) \
       AND NOT EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.transaction = l.transactionid \
               AND (p.database <> current_database() OR NOT EXISTS ( \
                 SELECT FROM pg_stat_activity a WHERE a.datname = current_database() \
                   AND a.pid <> pg_backend_pid() \
                   AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker') \
                   AND (a.backend_type LIKE 'logical replication%' \
                     OR coalesce(a.state, '') NOT LIKE 'idle%' \
                       AND (coalesce(a.state, '') <> 'active' OR a.query ~* 'prepared' \
                         OR a.query = '<insufficient privilege>' \
                         OR octet_length(a.query) >= (SELECT setting::int - 1 FROM pg_settings \
                                                      WHERE name = 'track_activity_query_size')))))))";

pub(crate) async fn now(connection: &mut Connection) -> Result<Now> {
    let sql = format!(
        "SELECT {}, pg_current_snapshot(), \
                ARRAY(SELECT transactionid FROM pg_locks \
                      WHERE locktype = 'transactionid' AND granted), {COMMITTING}",
        clock_and_head()
    );
    let set = connection.query(&sql, &[]).await?;
    let row = set.one()?;
    let snapshot = PgSnapshot::parse(row.get_str(3)?).ok_or_else(|| {
        crate::error::protocol(
            crate::config::Side::Source,
            "a snapshot that cannot be read",
        )
    })?;
    Ok(Now {
        clock_us: row.get(0)?,
        head: row.get(1)?,
        incarnation: row.opt_str(2)?.map(str::to_owned),
        running: ids(row.get_str(4)?, &snapshot),
        committing: ids(row.get_str(5)?, &snapshot),
    })
}

/// The same without transactions, and one slot, of whose reader only the pid is told: in one statement that
/// costs no more the more sessions there are.
pub(crate) async fn glance(connection: &mut Connection, name: &str) -> Result<(Now, Option<Slot>)> {
    let sql = format!(
        "SELECT {}, s.active_pid, NULL, NULL, NULL, {} \
         FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1",
        columns(connection.server_version()),
        clock_and_head(),
    );
    let set = connection.query(&sql, &[Some(name)]).await?;
    let row = set.one()?;
    let now = Now {
        clock_us: row.get(COLUMNS)?,
        head: row.get(COLUMNS + 1)?,
        incarnation: row.opt_str(COLUMNS + 2)?.map(str::to_owned),
        running: Vec::new(),
        committing: Vec::new(),
    };
    let is_there = row.opt_str(0)?.is_some();
    Ok((now, is_there.then(|| slot(row)).transpose()?))
}

/// Ids of an array's text form, as wide as those of a snapshot taken at the same time. Whoever has an
/// id holds a lock on it until after it has become visible (`CommitTransaction`, PostgreSQL 15).
fn ids(array: &str, snapshot: &PgSnapshot) -> Vec<u64> {
    let ids = array.trim_matches(['{', '}']).split(',');
    let mut ids: Vec<u64> = ids
        .filter_map(|id| id.parse().ok())
        .map(|id| snapshot.widen(id))
        .collect();
    ids.sort_unstable();
    ids
}

/// One slot by its name.
pub(crate) async fn read(connection: &mut Connection, name: &str) -> Result<Option<Slot>> {
    let mut slots = select(connection, "WHERE s.slot_name = $1", &[Some(name)]).await?;
    Ok(slots.pop())
}

/// All slots of the server, ours or not.
pub async fn list_slots(connection: &mut Connection) -> Result<Vec<Slot>> {
    select(connection, "ORDER BY s.slot_name", &[]).await
}

async fn select(
    connection: &mut Connection,
    clause: &str,
    params: &[Option<&str>],
) -> Result<Vec<Slot>> {
    let sql = format!(
        "SELECT {}, s.active_pid, a.application_name, coalesce(a.client_addr::text, 'local'), \
                to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid {clause}",
        columns(connection.server_version()),
    );
    let set = connection.query(&sql, params).await?;
    set.rows.iter().map(slot).collect()
}

/// How many columns [`slot`] reads: these, and four of the reader.
const COLUMNS: usize = 19;

/// What a slot says of itself.
fn columns(version: u32) -> String {
    let since = |major: u32, column: &'static str, before: &'static str| {
        if version >= major * 10_000 {
            column
        } else {
            before
        }
    };
    format!(
        "s.slot_name, s.plugin, s.slot_type, s.database, current_database(), s.temporary, \
         s.two_phase, s.confirmed_flush_lsn, s.restart_lsn, \
         greatest({HEAD} - s.restart_lsn, 0)::int8, s.safe_wal_size, s.wal_status, \
         {conflicting}, {invalidation}, {synced}",
        conflicting = since(16, "s.conflicting", "NULL::bool"),
        invalidation = since(17, "s.invalidation_reason", "NULL::text"),
        // A standby that was promoted keeps the word for slots that it had copied.
        synced = since(17, "s.synced AND pg_is_in_recovery()", "false"),
    )
}

fn slot(row: &Row) -> Result<Slot> {
    let text = |i: usize| row.opt_str(i).map(Option::unwrap_or_default);
    let lsn = |i: usize| row.opt::<Lsn>(i).map(Option::unwrap_or_default);
    let wal_status = text(11)?;
    Ok(Slot {
        name: row.get_str(0)?.to_owned(),
        database: text(3)?.to_owned(),
        foreign: foreign(&Kind {
            plugin: text(1)?,
            slot_type: text(2)?,
            database: text(3)?,
            our_database: text(4)?,
            is_temporary: row.get_bool(5)?,
            is_two_phase: row.get_bool(6)?,
            is_synced: row.get_bool(14)?,
        }),
        holder: match row.opt::<i32>(15)? {
            Some(pid) => Some(Holder {
                pid,
                application: text(16)?.to_owned(),
                host: text(17)?.to_owned(),
                since: text(18)?.to_owned(),
            }),
            None => None,
        },
        confirmed: Position::PgLsn(lsn(7)?),
        restart: Position::PgLsn(lsn(8)?),
        retained_bytes: row.opt(9)?.unwrap_or(0),
        safe_bytes: row.opt(10)?,
        wal_status: wal_status.to_owned(),
        lost: lost(Fate {
            wal_status,
            is_conflicting: row.opt_bool(12)?.unwrap_or(false),
            has_restart: row.opt_str(8)?.is_some(),
            reason: row.opt_str(13)?,
        }),
    })
}

/// What decides whether a slot is of the kind that we make.
struct Kind<'a> {
    plugin: &'a str,
    slot_type: &'a str,
    database: &'a str,
    our_database: &'a str,
    is_temporary: bool,
    is_two_phase: bool,
    is_synced: bool,
}

/// Why a slot cannot be one of ours, if so.
fn foreign(kind: &Kind<'_>) -> Option<String> {
    if kind.slot_type != "logical" {
        Some(format!("it is {}, not logical", kind.slot_type))
    } else if kind.plugin != PLUGIN {
        Some(format!("its plugin is {}, not {PLUGIN}", kind.plugin))
    } else if kind.database != kind.our_database {
        Some(format!("it belongs to the database {}", kind.database))
    } else if kind.is_temporary {
        Some("it is temporary".to_owned())
    } else if kind.is_two_phase {
        Some("it sends prepared transactions (two_phase)".to_owned())
    } else if kind.is_synced {
        Some("it is a copy of a slot on the primary (synced)".to_owned())
    } else {
        None
    }
}

/// What a server tells about the end of a slot.
#[derive(Clone, Copy, Debug)]
struct Fate<'a> {
    wal_status: &'a str,
    /// Known since PostgreSQL 16, which says so of every slot that it has given up.
    is_conflicting: bool,
    /// Taken away from a slot whose log was removed.
    has_restart: bool,
    /// Known since PostgreSQL 17.
    reason: Option<&'a str>,
}

/// Why a slot can never be read again, if so.
fn lost(fate: Fate<'_>) -> Option<String> {
    let is_lost = fate.wal_status == "lost";
    let why = match fate.reason {
        Some("rows_removed") => "rows of the catalog that it needs were removed (rows_removed)",
        Some("wal_level_insufficient") => {
            "wal_level was lowered meanwhile (wal_level_insufficient)"
        }
        Some("idle_timeout") => "nobody read it for too long (idle_replication_slot_timeout)",
        Some("wal_removed") => "the log it needs was removed (max_slot_wal_keep_size)",
        Some(other) => other,
        None if is_lost && fate.is_conflicting && fate.has_restart => {
            "it conflicted with recovery on the standby"
        }
        None if is_lost => "the log it needs was removed (max_slot_wal_keep_size)",
        None => return None,
    };
    Some(why.to_owned())
}

/// Removes a slot of ours; says whether there was one. One that somebody reads is waited for a
/// little: it may be our own connection that is just being given up.
pub(crate) async fn drop_ours(connection: &mut Connection, name: &str) -> Result<bool> {
    let deadline = Instant::now() + DROP_TIMEOUT;
    loop {
        let Some(slot) = read(connection, name).await? else {
            return Ok(false);
        };
        if let Some(why) = slot.foreign {
            let message = format!("slot {name} is not ours: {why}");
            return Err(Error::definite(codes::SLOT_FOREIGN, message));
        }
        let Some(holder) = slot.holder else {
            match drop_inactive(connection, name).await {
                Err(error) if error.sqlstate_code() == Some(IN_USE) => continue,
                result => return result.map(|()| true),
            }
        };
        if Instant::now() >= deadline {
            return Err(held(name, &holder));
        }
        tokio::time::sleep(DROP_PAUSE).await;
    }
}

/// Ends a session of ours that reads the slot, and waits until it is gone.
pub(crate) async fn end_reader(connection: &mut Connection, name: &str) -> Result<()> {
    let deadline = Instant::now() + END_MAX;
    while let Some(holder) = read(connection, name).await?.and_then(|slot| slot.holder) {
        if !holder.application.starts_with("tidemark") || Instant::now() >= deadline {
            return Err(held(name, &holder));
        }
        let pid = holder.pid.to_string();
        let sql = "SELECT pg_terminate_backend($1::int4)";
        connection.query(sql, &[Some(&pid)]).await?;
        tokio::time::sleep(DROP_PAUSE).await;
    }
    Ok(())
}

/// `object_in_use`.
pub(crate) const IN_USE: &str = "55006";

async fn drop_inactive(connection: &mut Connection, name: &str) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot($1)";
    connection.query(sql, &[Some(name)]).await.map(drop)
}

/// Somebody else reads the slot.
fn held(name: &str, holder: &Holder) -> Error {
    let Holder {
        pid,
        application,
        host,
        since,
    } = holder;
    let message =
        format!("slot {name} is read by pid {pid} ({application} from {host}, since {since})");
    Error::new(ErrorKind::Transient, codes::SLOT_ACTIVE, message)
        .first_action(format!("end it: SELECT pg_terminate_backend({pid})"))
}

pub(crate) fn first_row(sets: &[crate::wire::ResultSet]) -> Result<&Row> {
    let set = sets.first().ok_or_else(|| {
        crate::error::protocol(crate::config::Side::Source, "no answer to a command")
    })?;
    set.one()
}
