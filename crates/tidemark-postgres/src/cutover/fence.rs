//! The fence: a database that is read-only by default, and whose other sessions were ended.
//!
//! A default is not a lock: who sets `transaction_read_only` off can write all the same, and so can a
//! role that has a default of its own. So a fence only makes writers stop; that they have is proven
//! afterwards ([`super::silence`]).
//!
//! Sessions keep the default that they began with. They are ended, those of the pipeline itself and
//! of replication excepted, until none is left that is older than the fence.

use std::time::Duration;

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tokio::time::{Instant, sleep};

use crate::config::ConnectConfig;
use crate::wire::{Connection, Role, quote_ident};

/// How long sessions may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The database's own default, whatever roles and sessions say.
const IS_FENCED: &str = "SELECT EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d \
     ON d.oid = s.setdatabase WHERE d.datname = current_database() AND s.setrole = 0 \
     AND 'default_transaction_read_only=on' = ANY (s.setconfig))";

/// Owner of the database; may end others' sessions.
const RIGHTS: &str = "SELECT pg_has_role(d.datdba, 'USAGE'), \
     r.rolsuper OR pg_has_role('pg_signal_backend', 'USAGE'), quote_ident(d.datname), \
     quote_ident(r.rolname), pg_get_userbyid(d.datdba) \
     FROM pg_database d, pg_roles r \
     WHERE d.datname = current_database() AND r.rolname = current_user";

/// Sessions that may write: not ours, and begun before the fence. `$1` is our application name, `$2`
/// the fence's instant.
const OLDER: &str = "SELECT pid, coalesce(nullif(application_name, ''), 'a session') || ' of ' || usename \
     FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
     AND pid <> pg_backend_pid() AND application_name <> $1 AND backend_start <= $2::timestamptz";

/// What raising a fence did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// Sessions that were ended.
    pub ended: usize,
    /// Sessions that are still there, with pid, application and role.
    pub left: Vec<String>,
}

/// Whether the database is read-only by default.
pub async fn is_raised(config: &ConnectConfig) -> Result<bool> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    let is_raised = is_raised_at(&mut connection).await;
    connection.close().await;
    is_raised
}

/// The same over a connection that there is.
pub(crate) async fn is_raised_at(connection: &mut Connection) -> Result<bool> {
    let set = connection.query(IS_FENCED, &[]).await?;
    set.one()?.get_bool(0)
}

/// Why this role could not raise a fence, with the statements that let it; `None` where it could.
pub async fn obstacle(config: &ConnectConfig) -> Result<Option<String>> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    let set = connection.query(RIGHTS, &[]).await?;
    connection.close().await;
    let row = set.one()?;
    let (owns, signals) = (row.get_bool(0)?, row.get_bool(1)?);
    let (database, role, owner) = (row.get_str(2)?, row.get_str(3)?, row.get_str(4)?);
    Ok(match (owns, signals) {
        (true, true) => None,
        (false, _) => Some(format!(
            "database {database} belongs to {owner}, not to {role} \
             (GRANT {} TO {role}; GRANT pg_signal_backend TO {role})",
            quote_ident(owner)
        )),
        (true, false) => Some(format!(
            "{role} may not end other sessions (GRANT pg_signal_backend TO {role})"
        )),
    })
}

/// Makes the database read-only by default and ends the sessions that began before. May be repeated.
pub async fn raise(config: &ConnectConfig) -> Result<Raised> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    set_default(&mut connection, "SET default_transaction_read_only = on").await?;
    let now = connection
        .query("SELECT clock_timestamp()::text", &[])
        .await?;
    let since: String = now.one()?.get(0)?;
    let raised = end_older(&mut connection, config, &since).await;
    connection.close().await;
    raised
}

/// Takes the fence down. May be repeated.
pub async fn lower(config: &ConnectConfig) -> Result<()> {
    let mut connection = Connection::connect(config, Role::Ordinary).await?;
    set_default(&mut connection, "RESET default_transaction_read_only").await?;
    connection.close().await;
    Ok(())
}

/// A database that is read-only by default refuses this statement, too.
async fn set_default(connection: &mut Connection, what: &str) -> Result<()> {
    connection
        .run("SET default_transaction_read_only = off")
        .await?;
    let set = connection
        .query("SELECT quote_ident(current_database())", &[])
        .await?;
    let database: String = set.one()?.get(0)?;
    let altered = connection
        .run(&format!("ALTER DATABASE {database} {what}"))
        .await;
    altered.map_err(|error| match error.sqlstate_code() {
        Some("42501") => error.with_code(codes::CUTOVER_NO_FENCE),
        _ => error,
    })
}

async fn end_older(
    connection: &mut Connection,
    config: &ConnectConfig,
    since: &str,
) -> Result<Raised> {
    let ours = config.application_name.as_deref().unwrap_or("tidemark");
    let deadline = Instant::now() + END_WITHIN;
    let mut ended = std::collections::BTreeSet::new();
    loop {
        let set = connection.query(OLDER, &[Some(ours), Some(since)]).await?;
        let mut left = Vec::new();
        for row in &set.rows {
            let pid = row.get_str(0)?;
            let end = "SELECT pg_terminate_backend($1::int4)";
            match connection.query(end, &[Some(pid)]).await {
                Ok(_) => {
                    ended.insert(pid.to_owned());
                }
                // A superuser's session is a superuser's to end.
                Err(error) if error.sqlstate_code() == Some("42501") => {}
                Err(error) => return Err(error),
            }
            left.push(format!("pid {pid} ({})", row.get_str(1)?));
        }
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(Raised {
                ended: ended.len(),
                left,
            });
        }
        sleep(LOOK_EVERY).await;
    }
}
