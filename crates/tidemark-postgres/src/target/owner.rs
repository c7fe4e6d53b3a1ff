//! Owning a pipeline: the lock, and what is said to whoever comes second.
//!
//! The owner holds a session's advisory lock on the target, keyed by the pipeline's name, on a
//! connection that does nothing else. It lives as long as the [`PgTarget`](super::PgTarget), and is
//! gone as soon as the server notices that the process is. The lock is a courtesy: it keeps two
//! runs from fighting. What keeps a run that lost it from writing is the fence
//! ([`super::checkpoint`]).

use std::time::Duration;

use sha2::{Digest, Sha256};
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Generation;
use tidemark_core::target::{Lease, Owner};
use tidemark_core::{Context, Error, ErrorKind, Result, failpoint};
use tokio::time::{Instant, sleep, timeout};

use super::{checkpoint, metadata};
use crate::config::ConnectConfig;
use crate::wire::{Connection, Role};

/// Lets the server notice within half a minute that the owner's machine is gone; without it a dead
/// owner keeps the lock for two hours (PostgreSQL 15, 20.3.2; no effect on Unix sockets). Refused
/// by systems that lack the option, hence on its own.
const NOTICE_DEATH: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; \
     SET tcp_keepalives_count = 3";

/// A connection that does not answer within this is taken for lost.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How long our own former session may take to end.
const FORMER_SESSION_MAX: Duration = Duration::from_secs(5);
const FORMER_SESSION_POLL: Duration = Duration::from_millis(50);

/// How long a lock that was lost is left to others, and the pause between two tries.
const TAKE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The owner's connection, while there is one.
#[derive(Debug, Default)]
pub(super) struct Lock {
    held: Option<Connection>,
    /// After an attempt that got the lock and no further, as where the target takes no writes: a session
    /// that does nothing but show whoever asks that the pipeline runs, and tries again.
    waiting: Option<Connection>,
    /// The server process of the connection that held the lock last. The server may not have
    /// noticed its end when we come back.
    former_pid: Option<u32>,
    /// The generation that the pipeline has been ours with in this run.
    generation: Option<Generation>,
    /// Whether the lock of an earlier lease was ended in this run.
    pub(super) has_ended_another: bool,
}

impl Lock {
    /// Takes the lock (or keeps it), brings our schema up to date and raises the generation.
    pub(super) async fn acquire(
        &mut self,
        config: &ConnectConfig,
        pipeline: &str,
        owner: &Owner,
    ) -> Result<Generation> {
        // What a session may do it was told when it began.
        self.waiting = None;
        let mut connection = match self.take_alive().await {
            Some(connection) => connection,
            None => self.take_lock(config, pipeline, owner).await?,
        };
        self.former_pid = Some(connection.pid());
        match self.begin(&mut connection, pipeline, owner).await {
            Ok(generation) => {
                self.generation = Some(generation);
                self.held = Some(connection);
                Ok(generation)
            }
            Err(error) => {
                if error.kind() == ErrorKind::Transient
                    && answers(&mut connection, "ROLLBACK").await
                {
                    self.waiting = Some(connection);
                }
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        connection: &mut Connection,
        pipeline: &str,
        owner: &Owner,
    ) -> Result<Generation> {
        metadata::migrate(connection).await?;
        failpoint::reached(failpoint::SCHEMA_MADE);
        raise_generation(connection, pipeline, owner, self.generation.is_none()).await
    }

    /// Waits until the lock is lost and takes it again, time after time; gives why that cannot be, or that
    /// the pipeline is not this run's any more although it can. Cancel-safe.
    pub(super) async fn keep(
        &mut self,
        config: &ConnectConfig,
        pipeline: &str,
        owner: &Owner,
    ) -> Error {
        loop {
            if let Some(connection) = &mut self.held {
                let broken = broken(connection).await;
                self.held = None;
                tracing::warn!(
                    pipeline,
                    code = %codes::TARGET_LOCK_LOST,
                    error = %broken,
                    "the session that holds the pipeline's lock has ended; the lock is taken again"
                );
            }
            // Whoever ended it on purpose, to have the lock, has it by then.
            sleep(TAKE_AGAIN_AFTER).await;
            match self.take_again(config, pipeline, owner).await {
                Ok(connection) => self.held = Some(connection),
                Err(error) if error.kind() == ErrorKind::Transient => {
                    tracing::debug!(pipeline, %error, "the lock is not taken yet");
                }
                Err(error) => return error,
            }
        }
    }

    /// Takes the lock for the generation that the run has.
    async fn take_again(
        &mut self,
        config: &ConnectConfig,
        pipeline: &str,
        owner: &Owner,
    ) -> Result<Connection> {
        let mut connection = self.take_lock(config, pipeline, owner).await?;
        self.former_pid = Some(connection.pid());
        let generation = self.generation.map(|generation| generation.0.to_string());
        // Waits for whoever fences this run off at this moment ([`super::claim`]).
        let sql = "SELECT FROM tidemark.checkpoint \
                   WHERE pipeline = $1 AND generation = $2::int8 FOR SHARE";
        let params = [Some(pipeline), generation.as_deref()];
        let ours = connection.query(sql, &params).await?;
        match ours.rows.as_slice() {
            [] => Err(checkpoint::fenced()),
            _ => Ok(connection),
        }
    }

    async fn take_alive(&mut self) -> Option<Connection> {
        let mut connection = self.held.take()?;
        answers(&mut connection, "SELECT 1")
            .await
            .then_some(connection)
    }

    async fn take_lock(
        &mut self,
        config: &ConnectConfig,
        pipeline: &str,
        owner: &Owner,
    ) -> Result<Connection> {
        let mut connection = Connection::connect(config, Role::Ordinary).await?;
        if let Err(error) = connection.run(NOTICE_DEATH).await {
            tracing::debug!("the server does not take keepalive settings: {error}");
        }
        let deadline = Instant::now() + FORMER_SESSION_MAX;
        while !try_lock(&mut connection, pipeline).await? {
            let holder = holder(&mut connection, pipeline).await?;
            let is_ours = holder.is_some() && holder == self.former_pid;
            let is_over = match (holder, &owner.lease) {
                (Some(pid), Some(lease)) => is_earlier(&mut connection, pid, lease).await?,
                _ => false,
            };
            self.has_ended_another |= is_over;
            if let Some(pid) = holder
                && (!(is_ours || is_over) || Instant::now() > deadline)
            {
                return Err(refusal(&mut connection, pipeline, pid).await?);
            }
            if let Some(pid) = holder {
                let pid = pid.to_string();
                connection
                    .query("SELECT pg_terminate_backend($1::int4)", &[Some(&pid)])
                    .await?;
                sleep(FORMER_SESSION_POLL).await;
            }
        }
        if let Some(lease) = &owner.lease {
            let name = format!("{LEASE}{} {}", lease.store, lease.generation);
            let sql = "SELECT set_config('application_name', $1, false)";
            connection.query(sql, &[Some(&name)]).await?;
        }
        Ok(connection)
    }
}

/// Waits until the connection breaks. Cancel-safe.
async fn broken(connection: &mut Connection) -> Error {
    loop {
        if let Err(error) = connection.notification().await {
            return error;
        }
    }
}

/// What the session of a lock is named, before the store and the generation of its lease.
const LEASE: &str = "tidemark lease ";

/// Whether a session has the lock under an earlier lease of the same store.
async fn is_earlier(connection: &mut Connection, pid: u32, lease: &Lease) -> Result<bool> {
    let pid = pid.to_string();
    let sql = "SELECT application_name FROM pg_stat_activity WHERE pid = $1::int4";
    let found = connection.query(sql, &[Some(&pid)]).await?;
    let Some(row) = found.rows.first() else {
        return Ok(false);
    };
    let name = row.opt_str(0)?.unwrap_or_default();
    let Some((store, generation)) = name
        .strip_prefix(LEASE)
        .and_then(|rest| rest.split_once(' '))
    else {
        return Ok(false);
    };
    let is_before = generation
        .parse()
        .is_ok_and(|generation: i64| generation < lease.generation);
    Ok(store == lease.store && is_before)
}

/// The number of a pipeline's lock.
pub(super) fn lock_key(pipeline: &str) -> i64 {
    key_of(&format!("tidemark pipeline {pipeline}"))
}

/// The number of a lock: the first 64 bits of a hash of what it is for.
pub(super) fn key_of(what: &str) -> i64 {
    let hash = Sha256::digest(what.as_bytes());
    let first = hash.first_chunk().expect("a SHA-256 hash has 32 bytes");
    i64::from_be_bytes(*first)
}

async fn try_lock(connection: &mut Connection, pipeline: &str) -> Result<bool> {
    let key = lock_key(pipeline).to_string();
    let answer = connection
        .query("SELECT pg_try_advisory_lock($1::int8)", &[Some(&key)])
        .await?;
    answer.one()?.get_bool(0)
}

/// The server process that holds the pipeline's lock. The key's halves are `classid` and `objid`
/// (PostgreSQL 15, 54.13 `pg_locks`).
pub(crate) async fn holder(connection: &mut Connection, pipeline: &str) -> Result<Option<u32>> {
    let key = lock_key(pipeline).to_string();
    let answer = connection
        .query(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND (classid::int8 << 32) | objid::int8 = $1::int8",
            &[Some(&key)],
        )
        .await?;
    answer.rows.first().map(|row| row.get(0)).transpose()
}

/// Whether the session is there, and does this.
async fn answers(connection: &mut Connection, sql: &str) -> bool {
    let answer = timeout(ANSWER_MAX, connection.run(sql)).await;
    matches!(answer, Ok(Ok(())))
}

/// Who holds the lock, as far as it is recorded.
async fn refusal(connection: &mut Connection, pipeline: &str, pid: u32) -> Result<Error> {
    let unknown = || {
        Error::definite(
            codes::TARGET_OWNED,
            format!("{pipeline} is owned by an unknown process (session {pid} of the target)"),
        )
    };
    if metadata::find(connection).await? != metadata::Found::CURRENT {
        return Ok(unknown());
    }
    let answer = connection
        .query(
            "SELECT c.owner_host, c.owner_pid, \
             round(extract(epoch FROM clock_timestamp() \
                   - greatest(s.reported_at, c.owner_since)))::int8 \
             FROM tidemark.checkpoint c LEFT JOIN tidemark.status s USING (pipeline) \
             WHERE c.pipeline = $1 AND c.owner_host IS NOT NULL",
            &[Some(pipeline)],
        )
        .await?;
    let Some(row) = answer.rows.first() else {
        return Ok(unknown());
    };
    let (host, process) = (row.get_str(0)?, row.get_str(1)?);
    let seconds: i64 = row.get(2)?;
    Ok(Error::definite(
        codes::TARGET_OWNED,
        format!(
            "{pipeline} is owned by {host} pid {process}, last seen {} s ago",
            seconds.max(0)
        ),
    ))
}

/// Raises the generation and records the owner. Waits for a commit of the former generation that
/// is under way. Commands that were sent to an earlier run are answered: who is told by a host and a
/// process id alone may be another one, as in a container, where each process has the number 1.
async fn raise_generation(
    connection: &mut Connection,
    pipeline: &str,
    owner: &Owner,
    is_first: bool,
) -> Result<Generation> {
    connection.run("BEGIN").await?;
    let pid = owner.pid.to_string();
    let raised = connection
        .query(
            "INSERT INTO tidemark.checkpoint AS c \
             (pipeline, generation, written_by, owner_host, owner_pid, owner_since) \
             VALUES ($1, 1, 1, $2, $3::int8, now()) \
             ON CONFLICT (pipeline) DO UPDATE SET generation = c.generation + 1, \
             written_by = c.generation + 1, owner_host = excluded.owner_host, \
             owner_pid = excluded.owner_pid, owner_since = excluded.owner_since \
             RETURNING generation",
            &[Some(pipeline), Some(&owner.host), Some(&pid)],
        )
        .await
        .context(|| "raise the pipeline's generation")?;
    let generation = Generation(raised.one()?.get(0)?);
    if is_first {
        connection
            .query(
                "UPDATE tidemark.command SET answered_at = now(), answer = jsonb_build_object(\
                 'ok', false, 'text', 'the run that it was sent to has ended', 'code', null) \
                 WHERE pipeline = $1 AND answer IS NULL",
                &[Some(pipeline)],
            )
            .await?;
    }
    connection.run("COMMIT").await?;
    Ok(generation)
}
