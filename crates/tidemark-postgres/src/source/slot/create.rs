//! Making a slot, with a snapshot of exactly the position from which it keeps the log.
//!
//! The server can only find a position from which it is able to decode once every transaction that
//! was open has ended (`SnapBuildFindSnapshot`, PostgreSQL 15): one forgotten session delays it for
//! as long as it likes, without a word. So a second session watches who is waited for, says so every
//! few seconds, and gives up in the end; the half-made slot goes with the command.
//! `statement_timeout` does not end replication commands, `lock_timeout` does, hence no session has one.
//!
//! The exported snapshot lives as long as the session that made it runs no further command
//! (PostgreSQL 15, 55.4, `CREATE_REPLICATION_SLOT`); [`ExportedSnapshot`] holds that session.

use std::pin::pin;
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::position::Lsn;
use tidemark_core::{Error, ErrorKind, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::first_row;
use crate::config::ConnectConfig;
use crate::source::blockers::{self, Blocker};
use crate::source::session::{Sessions, command_refused, is_alive, open_replication};
use crate::wire::{CancelToken, Connection, ResultSet, quote_ident};

/// How often the watcher looks, and how often at most it repeats itself.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// For the server to answer a cancelled command.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until it is dropped; on a primary since PostgreSQL 17 also on standbys that ask for it.
    Permanent,
    /// As long as the session that made it.
    Temporary,
}

/// What a new slot stands at, and the session that keeps its snapshot alive.
#[derive(Debug)]
pub struct ExportedSnapshot {
    /// The consistent point: the log after it holds exactly what the snapshot has not seen.
    pub position: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub name: String,
    session: Mutex<Connection>,
}

impl ExportedSnapshot {
    /// Whether the snapshot can still be adopted, as far as is known here: its session lives.
    pub async fn is_alive(&self) -> bool {
        is_alive(&mut *self.session.lock().await).await
    }
}

/// Makes a slot. Nothing is left behind where this fails, or the error says so.
pub(crate) async fn create(
    config: &ConnectConfig,
    sessions: &Sessions,
    name: &str,
    lifetime: Lifetime,
    patience: Duration,
) -> Result<ExportedSnapshot> {
    super::check_name(name)?;
    let mut connection = open_replication(config).await?;
    let is_standby = is_standby(&mut connection).await?;
    let sql = statement(name, lifetime, connection.server_version(), is_standby);
    let mut waiting = Waiting {
        config,
        sessions,
        slot: name,
        pid: connection.pid(),
        cancel: connection.cancel_token(),
        is_standby,
        blockers: Vec::new(),
    };
    let sets = waiting.run(&mut connection, &sql, patience).await;
    let sets = match sets {
        Ok(sets) => sets,
        Err(error) if is_standby && error.sqlstate_code() == Some("0A000") => {
            // Before PostgreSQL 16.
            return Err(error.with_code(codes::SOURCE_STANDBY));
        }
        Err(error) => return Err(explain(config, sessions, name, error).await),
    };
    let row = first_row(&sets)?;
    Ok(ExportedSnapshot {
        position: row.get(row.index("consistent_point")?)?,
        name: row.get_str(row.index("snapshot_name")?)?.to_owned(),
        session: Mutex::new(connection),
    })
}

/// Whether the server is a standby.
async fn is_standby(connection: &mut Connection) -> Result<bool> {
    // If we are killed while the server waits for others it must not make the slot for nobody. The look
    // whether we are there is armed by an SQL statement and then repeats by itself (`ProcessInterrupts`,
    // PostgreSQL 15), also in the replication command that follows.
    let sets = connection.simple("SELECT pg_is_in_recovery()").await?;
    first_row(&sets)?.get_bool(0)
}

/// The command, in the words of the server's version (the option list is known since 15).
fn statement(name: &str, lifetime: Lifetime, version: u32, is_standby: bool) -> String {
    let temporary = match lifetime {
        Lifetime::Permanent => "",
        Lifetime::Temporary => " TEMPORARY",
    };
    // A standby refuses to make failover slots, and a temporary one cannot be one.
    let has_failover = version >= 170_000 && !is_standby && lifetime == Lifetime::Permanent;
    let options = match version {
        ..150_000 => "EXPORT_SNAPSHOT",
        _ if has_failover => "(SNAPSHOT 'export', FAILOVER true)",
        _ => "(SNAPSHOT 'export')",
    };
    let (name, plugin) = (quote_ident(name), super::PLUGIN);
    format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL {plugin} {options}")
}

/// A slot that is being made.
struct Waiting<'a> {
    config: &'a ConnectConfig,
    sessions: &'a Sessions,
    slot: &'a str,
    /// The session that makes it.
    pid: u32,
    cancel: CancelToken,
    is_standby: bool,
    /// Whom it was last seen to wait for.
    blockers: Vec<Blocker>,
}

impl Waiting<'_> {
    async fn run(
        &mut self,
        connection: &mut Connection,
        sql: &str,
        patience: Duration,
    ) -> Result<Vec<ResultSet>> {
        let mut creating = pin!(connection.simple(sql));
        let deadline = Instant::now() + patience;
        let mut said_at = None;
        loop {
            let next_look = deadline.min(Instant::now() + LOOK_INTERVAL);
            if let Ok(result) = tokio::time::timeout_at(next_look, &mut creating).await {
                return result;
            }
            let before = self.look().await;
            if Instant::now() >= deadline {
                break;
            }
            let is_news = before != self.who();
            if is_news || said_at.is_none_or(|at: Instant| at.elapsed() >= REPEAT_INTERVAL) {
                tracing::info!("slot {} waits for {}", self.slot, self.what());
                said_at = Some(Instant::now());
            }
        }
        self.cancel.cancel().await?;
        match timeout(CANCEL_TIMEOUT, &mut creating).await {
            // Made after all, in the last moment.
            Ok(Ok(sets)) => Ok(sets),
            _ => Err(self.gave_up(patience).await),
        }
    }

    /// Sees whom the session waits for; gives whom it waited for before. That it cannot be seen is no
    /// reason to give up.
    async fn look(&mut self) -> Vec<(Option<i32>, String)> {
        let before = self.who();
        let pid = self.pid;
        let seen = async {
            let mut watcher = self.sessions.borrow(self.config).await?;
            let seen = blockers::of_session(&mut watcher, pid).await?;
            watcher.give_back();
            Ok::<_, Error>(seen)
        };
        match seen.await {
            // Between two waits the last one named is the better answer.
            Ok(seen) if seen.is_empty() => {}
            Ok(seen) => self.blockers = seen,
            Err(error) => tracing::debug!(%error, "cannot see whom slot {} waits for", self.slot),
        }
        before
    }

    fn who(&self) -> Vec<(Option<i32>, String)> {
        let owned = |(pid, id): (Option<i32>, &str)| (pid, id.to_owned());
        self.blockers
            .iter()
            .map(|blocker| owned(blocker.key()))
            .collect()
    }

    fn what(&self) -> String {
        match (self.blockers.is_empty(), self.is_standby) {
            (false, _) => blockers::list(&self.blockers),
            (true, true) => "the primary to log which transactions are running \
                             (SELECT pg_log_standby_snapshot() on the primary hurries it)"
                .to_owned(),
            (true, false) => "transactions that were open to end".to_owned(),
        }
    }

    /// The half-made slot goes with the cancelled command; where it does not, we say so.
    async fn gave_up(&self, patience: Duration) -> Error {
        let seconds = patience.as_secs();
        let mut message = format!(
            "slot {} was not ready after {seconds} s: it waits for {}",
            self.slot,
            self.what()
        );
        let removed = async {
            let mut watcher = self.sessions.borrow(self.config).await?;
            super::drop_ours(&mut watcher, self.slot).await?;
            watcher.give_back();
            Ok::<_, Error>(())
        };
        if let Err(error) = removed.await {
            message = format!("{message}; the half-made slot is still there: {error}");
        }
        let error = Error::new(ErrorKind::Definite, codes::SLOT_WAITS, message);
        match blockers::first_action(&self.blockers) {
            Some(action) => error.first_action(action),
            None => error,
        }
    }
}

/// Gives refusals of the command the entry that helps.
async fn explain(config: &ConnectConfig, sessions: &Sessions, name: &str, error: Error) -> Error {
    let definite = |error: Error, code| error.with_kind(ErrorKind::Definite).with_code(code);
    let error = match error.sqlstate_code() {
        Some("42710") => definite(error, codes::SLOT_EXISTS),
        // "all replication slots are in use"
        Some("53400") => definite(error, codes::SOURCE_NO_FREE_SLOT),
        // "logical decoding requires wal_level >= logical", among others
        Some("55000") if !is_logical(config, sessions).await => {
            definite(error, codes::SOURCE_WAL_LEVEL)
        }
        _ => command_refused(error),
    };
    error.context(format!("make slot {name}"))
}

/// Whether `wal_level` is what we need; yes where nobody can tell.
pub(crate) async fn is_logical(config: &ConnectConfig, sessions: &Sessions) -> bool {
    let asked = async {
        let mut connection = sessions.borrow(config).await?;
        let set = connection.query("SHOW wal_level", &[]).await?;
        connection.give_back();
        Ok::<_, Error>(set.one()?.get_str(0)? == "logical")
    };
    asked.await.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_in_the_words_of_the_version() {
        use Lifetime::{Permanent, Temporary};
        for (lifetime, version, is_standby, expected) in [
            (
                Permanent,
                140_005,
                false,
                "\"s\" LOGICAL pgoutput EXPORT_SNAPSHOT",
            ),
            (
                Temporary,
                140_005,
                false,
                "\"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
            ),
            (
                Permanent,
                160_000,
                false,
                "\"s\" LOGICAL pgoutput (SNAPSHOT 'export')",
            ),
            (
                Permanent,
                170_000,
                false,
                "\"s\" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)",
            ),
            (
                Permanent,
                170_000,
                true,
                "\"s\" LOGICAL pgoutput (SNAPSHOT 'export')",
            ),
            (
                Temporary,
                180_000,
                false,
                "\"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')",
            ),
        ] {
            let sql = statement("s", lifetime, version, is_standby);
            assert_eq!(sql, format!("CREATE_REPLICATION_SLOT {expected}"));
        }
    }
}
