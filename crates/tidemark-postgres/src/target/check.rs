//! What stands in the way on a target, each with its remedy. Nothing is changed.
//!
//! Statements are given with names as the server quotes them, so that they can be run as they are
//! printed. What is fine is told too: a person sees what was looked at.
//!
//! A start of a pipeline that has been running is checked as well. Tables that the pipeline knows
//! are then not compared with the source any more: their shape belongs to a position of the log that
//! the stream has reached, not to the source of now. What the source has by now and they lack of indexes and
//! constraints is told ([`super::lacks`]).
//!
//! - `room`: sessions that there may be
//! - `tables`: names, privileges, columns, keys, triggers of the tables that are there

use std::collections::BTreeSet;

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::finding::{Finding, Fix, Report, Side};
use tidemark_core::mapping::TableMapping;

use super::{PgTarget, Triggers};
use crate::check::reached;
use crate::wire::{Connection, Role, quote_literal};

mod room;
mod tables;

/// The oldest server that is tested.
const VERSION_MIN: u32 = 140_000;

impl PgTarget {
    /// See the module's text.
    pub async fn check_target(&self, tables: &[TableMapping]) -> Result<Vec<Finding>> {
        let mut report = Report::of(Side::Target);
        let mut connection = Connection::connect(&self.config, Role::Ordinary).await?;
        report.pass(
            codes::TARGET_UNREACHABLE,
            reached(&self.config, &connection),
        );
        check_server(&mut report, &connection);
        self.check_pooler(&mut report, &mut connection).await?;
        if connection.server_version() >= VERSION_MIN {
            check_writable(&mut report, &mut connection).await?;
            let application = self.config.application_name.as_deref();
            room::check(&mut report, &mut connection, application, self.load_workers).await?;
            let triggers = self.keep_triggers_still(&mut connection).await?;
            check_schemas(&mut report, &mut connection, tables).await?;
            check_event_triggers(&mut report, &mut connection).await?;
            let role = connection
                .query("SELECT quote_ident(current_user)", &[])
                .await?;
            let tables = tables::Tables {
                target: self,
                tables,
                role: role.one()?.get(0)?,
                triggers,
            };
            tables.check(&mut report, &mut connection).await?;
        }
        connection.close().await;
        Ok(report.into_findings())
    }

    /// Whether this is the very database that the identity names. A server that was copied file by
    /// file has the system identifier of the first one; a promoted copy has another timeline, which
    /// the checkpoint record tells soon enough for a first start.
    pub async fn is_source(&self, source: &SourceIdentity) -> Result<bool> {
        let mut session = self.session().await?;
        let sql = "SELECT system_identifier::text, current_database(), timeline_id \
                   FROM pg_control_system(), pg_control_checkpoint()";
        let set = session.query(sql, &[]).await?;
        let row = set.one()?;
        let is_source = row.get_str(0)? == source.system
            && row.get_str(1)? == source.database
            && row.get::<u32>(2)? == source.timeline;
        session.keep();
        Ok(is_source)
    }

    /// Does each of our sessions have a server process of its own?
    async fn check_pooler(&self, report: &mut Report, connection: &mut Connection) -> Result<()> {
        if !connection.is_pooled() {
            report.pass(codes::TARGET_POOLER, "no pooler in between");
        } else if self.shares_sessions(connection).await? {
            report.fail(
                codes::TARGET_POOLER,
                "a connection pooler shares sessions between clients",
                "The pipeline's lock and settings belong to a session. Without them two runs could \
                 write at once, and the target's triggers fire a second time for each row.",
                [Fix::text(
                    "give the address of the server itself in target.url, or let the pooler lend \
                     whole sessions (pool_mode = session)",
                )],
            );
        } else {
            report.warn(
                codes::TARGET_POOLER,
                "a connection pooler answers in place of the server",
                "It lends whole sessions, as the pipeline needs it; when it ends them, the pipeline \
                 connects anew.",
                [Fix::text("give the address of the server itself in target.url")],
            );
        }
        Ok(())
    }

    /// Whether a pooler gives a session away as soon as no transaction is open in it. Each of two
    /// clients is then served by the session that the other has just left.
    async fn shares_sessions(&self, one: &mut Connection) -> Result<bool> {
        let mut other = Connection::connect(&self.config, Role::Ordinary).await?;
        let mut pids = Vec::new();
        for client in [&mut *one, &mut other] {
            let answer = client.query("SELECT pg_backend_pid()", &[]).await?;
            pids.push(answer.one()?.get::<u32>(0)?);
        }
        other.close().await;
        Ok(pids[0] == pids[1])
    }
}

/// What start-up told already.
fn check_server(report: &mut Report, connection: &Connection) {
    let version = connection.parameter("server_version").unwrap_or("unknown");
    if connection.server_version() >= VERSION_MIN {
        report.pass(codes::TARGET_VERSION, format!("PostgreSQL {version}"));
    } else {
        report.fail(
            codes::TARGET_VERSION,
            format!("PostgreSQL {version} is older than 14"),
            "Statements that the target is written with are not known to it.",
            [Fix::text("use a target of PostgreSQL 14 or newer")],
        );
    }
    match connection.parameter("server_encoding") {
        Some("UTF8") => report.pass(codes::TARGET_ENCODING, "encoding UTF8"),
        other => report.warn(
            codes::TARGET_ENCODING,
            format!("encoding is {}, not UTF8", other.unwrap_or("unknown")),
            "Characters of the source that the target cannot hold are refused, never changed.",
            [Fix::text("make the target database with ENCODING 'UTF8'")],
        ),
    }
}

async fn check_writable(report: &mut Report, connection: &mut Connection) -> Result<()> {
    let answer = connection
        .query(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool, \
             quote_ident(current_database()), quote_ident(session_user), \
             (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only')",
            &[],
        )
        .await?;
    let row = answer.one()?;
    let (is_standby, is_read_only) = (row.get_bool(0)?, row.get_bool(1)?);
    let why = "Nothing can be written.";
    if is_standby {
        let fixes = [Fix::text("give the address of the primary in target.url")];
        report.fail(
            codes::TARGET_READ_ONLY,
            "the server is a standby",
            why,
            fixes,
        );
    } else if is_read_only {
        let (database, role) = (row.get_str(2)?, row.get_str(3)?);
        // What is set for a role goes before what is set for a database (PostgreSQL 15, 20.1.3).
        let whose = match row.opt_str(4)? {
            Some("user") => format!("ROLE {role}"),
            Some("database user") => format!("ROLE {role} IN DATABASE {database}"),
            _ => format!("DATABASE {database}"),
        };
        let fix = format!(
            "BEGIN READ WRITE;\nALTER {whose} SET default_transaction_read_only = off;\nCOMMIT"
        );
        report.fail(
            codes::TARGET_READ_ONLY,
            "transactions are read-only by default",
            why,
            [Fix::sql(fix)],
        );
    } else {
        report.pass(codes::TARGET_READ_ONLY, "the server takes writes");
    }
    Ok(())
}

/// Guards against changes of the schema, which only show when something is made. Those of extensions are
/// of no such kind.
async fn check_event_triggers(report: &mut Report, connection: &mut Connection) -> Result<()> {
    let answer = connection
        .query(
            "SELECT string_agg(quote_ident(evtname), ', ' ORDER BY evtname) FROM pg_event_trigger e \
             WHERE evtenabled <> 'D' AND evtevent <> 'login' AND NOT EXISTS ( \
               SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass \
                 AND d.objid = e.oid AND d.deptype = 'e')",
            &[],
        )
        .await?;
    if let Some(names) = answer.one()?.opt_str(0)? {
        report.note(
            codes::TARGET_TRIGGERS,
            format!("event triggers that may fire as schema and tables are made: {names}"),
            "One that refuses keeps the pipeline from starting, or a table from being made.",
        );
    }
    Ok(())
}

/// May schemas be made, and things within those that are there? `tidemark` is one of them.
async fn check_schemas(
    report: &mut Report,
    connection: &mut Connection,
    tables: &[TableMapping],
) -> Result<()> {
    let mut names: BTreeSet<&str> = tables.iter().map(|t| t.target.schema.as_str()).collect();
    names.insert("tidemark");
    let values: Vec<String> = names
        .iter()
        .map(|name| format!("({})", quote_literal(name)))
        .collect();
    let answer = connection
        .query(
            &format!(
                "SELECT quote_ident(w.name), n.oid IS NOT NULL, \
                   has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'), \
                   has_database_privilege(current_database(), 'CREATE'), \
                   quote_ident(current_database()), quote_ident(current_user) \
                 FROM (VALUES {}) AS w (name) LEFT JOIN pg_namespace n ON n.nspname = w.name \
                 ORDER BY 1",
                values.join(", ")
            ),
            &[],
        )
        .await?;
    let mut is_fine = true;
    for row in &answer.rows {
        let (schema, role) = (row.get_str(0)?, row.get_str(5)?);
        let (found, fixes) = if !row.get_bool(1)? && !row.get_bool(3)? {
            let database = row.get_str(4)?;
            (
                format!("the role may not make schema {schema}"),
                vec![
                    Fix::sql(format!("CREATE SCHEMA {schema} AUTHORIZATION {role}")),
                    Fix::sql(format!("GRANT CREATE ON DATABASE {database} TO {role}")),
                ],
            )
        } else if row.opt_bool(2)? == Some(false) {
            (
                format!("the role may not make tables in schema {schema}"),
                vec![Fix::sql(format!(
                    "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
                ))],
            )
        } else {
            continue;
        };
        is_fine = false;
        let why = "The pipeline keeps its checkpoint in schema tidemark, and makes tables that are missing.";
        report.fail(codes::TARGET_GRANTS, found, why, fixes);
    }
    if is_fine {
        report.pass(codes::TARGET_GRANTS, "schemas and tables may be made");
    }
    Ok(())
}
