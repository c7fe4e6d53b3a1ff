//! Marks on applied changes, so that whoever reads the target's log can tell them from its own.
//!
//! The mark is a replication origin, `tidemark_` and the pipeline's name. The applying session alone
//! bears it: a session has an origin for itself. Our checkpoint tells the position; the origin's own
//! progress is not asked for anything.

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};

use crate::wire::{Connection, quote_ident};

/// May the role mark what it applies? Superusers may; since PostgreSQL 14 others by grant.
const MAY: &str = "SELECT has_function_privilege('pg_replication_origin_create(text)', 'EXECUTE') \
     AND has_function_privilege('pg_replication_origin_session_setup(text)', 'EXECUTE'), \
     quote_ident(current_user)";

/// The origin's name.
pub(crate) fn name(pipeline: &str) -> String {
    format!("tidemark_{pipeline}")
}

/// Whether the role may mark what it applies.
pub async fn is_permitted(connection: &mut Connection) -> Result<bool> {
    connection.query(MAY, &[]).await?.one()?.get_bool(0)
}

/// Makes the session's changes bear the pipeline's origin.
pub(super) async fn set(connection: &mut Connection, pipeline: &str) -> Result<()> {
    let name = name(pipeline);
    let make = "SELECT pg_replication_origin_create($1) \
                WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = $1)";
    for sql in [make, "SELECT pg_replication_origin_session_setup($1)"] {
        if let Err(error) = connection.query(sql, &[Some(&name)]).await {
            return Err(explain(error, connection).await);
        }
    }
    Ok(())
}

async fn explain(error: Error, connection: &mut Connection) -> Error {
    match error.sqlstate_code() {
        Some("42501") => {
            let asked = connection.query("SELECT current_user", &[]).await;
            let role = asked.and_then(|set| set.one()?.get::<String>(0));
            let role = quote_ident(&role.unwrap_or_default());
            error
                .with_kind(ErrorKind::Definite)
                .with_code(codes::TARGET_GRANTS)
                .first_action(format!(
                    "GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), \
                     pg_replication_origin_session_setup(text) TO {role}; \
                     or set target.mark_origin = false"
                ))
                .context("mark applied changes")
        }
        // A session of ours that the server has not seen end yet, or no room: both pass.
        _ => error
            .with_kind(ErrorKind::Transient)
            .context("mark applied changes"),
    }
}
