//! Sessions on the source: ordinary ones, lent out and taken back, and replication sessions with the
//! refusals that only those meet.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};

use crate::config::ConnectConfig;
use crate::wire::{Connection, Role};

/// Keeps one ordinary session open between uses, so that a heartbeat every few seconds is not a
/// login every few seconds.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    idle: Mutex<Option<Box<Connection>>>,
}

/// A session that is taken back by [`Borrowed::give_back`], and closed if that is not called: after
/// an error nobody knows in which state it is.
pub(crate) struct Borrowed<'a> {
    connection: Box<Connection>,
    home: &'a Sessions,
}

impl Sessions {
    /// The session that is kept, if it still lives, else a new one.
    pub(crate) async fn borrow(&self, config: &ConnectConfig) -> Result<Borrowed<'_>> {
        let idle = self.slot().take();
        if let Some(mut connection) = idle
            && is_alive(&mut connection).await
        {
            return Ok(Borrowed {
                connection,
                home: self,
            });
        }
        let connection = Box::new(Connection::connect(config, Role::Ordinary).await?);
        Ok(Borrowed {
            connection,
            home: self,
        })
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Box<Connection>>> {
        // Holds a whole session or none, whatever panicked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Borrowed<'_> {
    /// Keeps the session for the next one who asks.
    pub(crate) fn give_back(self) {
        *self.home.slot() = Some(self.connection);
    }
}

impl Deref for Borrowed<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Whether an idle session has not been ended by the server, as far as is known here.
pub(crate) async fn is_alive(connection: &mut Connection) -> bool {
    // Nothing is listened to, so waiting for a notification only ever ends with the session.
    let ended = tokio::time::timeout(Duration::ZERO, connection.notification());
    ended.await.is_err()
}

/// Opens a replication session.
pub(crate) async fn open_replication(config: &ConnectConfig) -> Result<Connection> {
    let connection = match Connection::connect(config, Role::Replication).await {
        Ok(connection) => connection,
        Err(error) => return Err(refused(config, error).await),
    };
    if connection.is_pooled() {
        let message = "source: a pooler answers in place of the server";
        return Err(Error::definite(codes::SOURCE_POOLER, message));
    }
    Ok(connection)
}

/// Tells refusals apart for which the server has but one SQLSTATE.
async fn refused(config: &ConnectConfig, error: Error) -> Error {
    match error.sqlstate_code() {
        // "must be superuser or replication role to start walsender" (PostgreSQL 15, postinit.c).
        Some("42501") => {
            let role = &config.user;
            error
                .with_code(codes::SOURCE_NO_REPLICATION)
                .first_action(format!(
                    "ALTER ROLE {} REPLICATION",
                    crate::wire::quote_ident(role)
                ))
        }
        // max_connections and max_wal_senders share `too_many_connections`.
        Some("53300") if senders_are_used_up(config).await => {
            error.with_code(codes::SOURCE_NO_FREE_SENDER)
        }
        _ => error,
    }
}

async fn senders_are_used_up(config: &ConnectConfig) -> bool {
    let Ok(mut connection) = Connection::connect(config, Role::Ordinary).await else {
        return false;
    };
    let sql = "SELECT count(*) >= current_setting('max_wal_senders')::int8 \
               FROM pg_stat_activity WHERE backend_type = 'walsender'";
    let answer = connection.query(sql, &[]).await;
    connection.close().await;
    answer.is_ok_and(|set| set.one().and_then(|row| row.get_bool(0)).unwrap_or(false))
}

/// The same error, when a replication command was taken for SQL: something between us and the
/// server has dropped the wish for replication.
pub(crate) fn command_refused(error: Error) -> Error {
    match error.sqlstate_code() {
        Some("42601") => error
            .with_kind(ErrorKind::Definite)
            .with_code(codes::SOURCE_POOLER),
        _ => error,
    }
}
