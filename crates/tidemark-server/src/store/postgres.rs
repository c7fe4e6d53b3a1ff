//! The store in a PostgreSQL database: for teams, and for servers of which one takes over from another.
//!
//! All of it is in the schema `tidemark_server`. Which server has it is a lease in a row of the table
//! `store` ([`super::lease`]): every transaction looks first whether the lease is still ours, and holds
//! whoever wants to take it until it has ended, so a server that slept through its end writes nothing.
//!
//! One connection, made anew when it breaks. A call has its time: what takes longer is given up, with
//! the connection, and whoever asks soon after a failure is told of that one at once. Where the answer to
//! a `COMMIT` is lost, the database is asked what became of the transaction: work that is in has worked.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};
use tidemark_postgres::config::ConnectConfig;
use tidemark_postgres::wire::{Connection, ResultSet, Role};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::migrations;
use super::session::{Failed, Kind, Row, Said, Session, Statements, Value};

/// How long a call may take, with everything that it waits for.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Pauses between attempts to reach the store: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How long it is asked afterwards what became of a commit, and how often.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// What every transaction begins with. A server that sleeps in the middle of one must not keep others
/// waiting; nothing is taken for granted that a pooler may have given to somebody else.
const BEGIN: &str = "BEGIN; SET LOCAL search_path = tidemark_server; \
     SET LOCAL idle_in_transaction_session_timeout = '4s'; SET LOCAL statement_timeout = '10s'; \
     SET LOCAL lock_timeout = '8s'; SET LOCAL synchronous_commit = on";
/// Two servers that start at once make the schema one after the other.
const ALONE: &str = "SELECT pg_catalog.pg_advisory_xact_lock(8390042714005103987)";
const MAKE: &str = "CREATE TABLE IF NOT EXISTS store (one boolean PRIMARY KEY CHECK (one), id text NOT NULL, \
     version bigint NOT NULL, generation bigint NOT NULL, holder text NOT NULL, address text NOT NULL, \
     until timestamptz NOT NULL); \
     INSERT INTO store VALUES (true, pg_catalog.md5(pg_catalog.random()::text \
     || pg_catalog.clock_timestamp()::text), 0, 0, '', '', '-infinity') ON CONFLICT DO NOTHING";

/// The connection, while there is one, and when it may be tried again.
pub(super) struct Postgres {
    config: ConnectConfig,
    open: Option<Connection>,
    failed: Option<Pause>,
    /// Under which this server writes; 0 before it has the lease.
    pub(super) generation: i64,
}

struct Pause {
    until: Instant,
    attempt: u32,
    said: String,
}

/// By what a transaction is found again. A standby that was made the primary goes on in another timeline,
/// and may have given its number to another.
struct Mark {
    transaction: String,
    timeline: String,
}

const TIMELINE: &str =
    "pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)";

impl Postgres {
    pub(super) fn new(config: ConnectConfig) -> Postgres {
        Postgres {
            config,
            open: None,
            failed: None,
            generation: 0,
        }
    }

    /// Makes the schema and what says who has it, where there is none. Refused if it is of a newer
    /// version.
    pub(super) async fn make(&mut self, deadline: Instant) -> Result<()> {
        let mut connection = self.begin(deadline).await?;
        let made = within(deadline, make(&mut connection)).await;
        self.finish(connection, deadline, made).await
    }

    /// Brings an older store to this version; whoever does has the lease.
    pub(super) async fn migrate(&mut self, steps: &[&str], deadline: Instant) -> Result<()> {
        let mut connection = self.begin(deadline).await?;
        // It takes as long as it takes, and rows are copied.
        let patient = connection.run("SET LOCAL statement_timeout = 0").await;
        patient.map_err(classify)?;
        let migrated = match self.fence(&mut connection, deadline).await {
            Ok(_) => within(deadline, migrate(&mut connection, steps)).await,
            Err(err) => Err(err),
        };
        self.finish(connection, deadline, migrated).await
    }

    /// All of it or nothing, on a thread for blocking work.
    pub(super) fn transact<T>(
        &mut self,
        runtime: &Handle,
        deadline: Instant,
        work: impl FnOnce(&mut Session<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let mut connection = runtime.block_on(self.begin(deadline))?;
        let fenced = runtime.block_on(self.fence(&mut connection, deadline));
        let worked = fenced.map_err(Failed::from).and_then(|mark| {
            let done = work(&mut Session {
                statements: &mut InTransaction {
                    connection: &mut connection,
                    runtime,
                    deadline,
                },
            })?;
            Ok((mark, done))
        });
        let (mark, done) = match worked {
            Ok(worked) => worked,
            Err(Failed(err)) => {
                runtime.block_on(self.take_back(connection, deadline));
                return Err(err.into());
            }
        };
        let committed = runtime.block_on(async {
            match self.commit(connection, deadline).await {
                Err(err) if err.code() == codes::STORE_UNREACHABLE => self.settle(&mark, err).await,
                committed => committed,
            }
        });
        Ok(committed.map(|()| done)?)
    }

    /// A transaction, on the connection that there is or on a new one.
    pub(super) async fn begin(&mut self, deadline: Instant) -> Result<Connection> {
        if let Some(mut connection) = self.open.take()
            && within(deadline, connection.run(BEGIN)).await.is_ok()
        {
            return Ok(connection);
        }
        if let Some(pause) = &self.failed
            && Instant::now() < pause.until
        {
            return Err(Error::transient(
                codes::STORE_UNREACHABLE,
                pause.said.clone(),
            ));
        }
        let connecting = async {
            let mut connection = Connection::connect(&self.config, Role::Ordinary).await?;
            connection.run(BEGIN).await?;
            Ok(connection)
        };
        match within(deadline, connecting).await {
            Ok(connection) => {
                self.failed = None;
                Ok(connection)
            }
            Err(err) => {
                let attempt = self.failed.as_ref().map_or(0, |pause| pause.attempt + 1);
                let pause = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(attempt.min(8)));
                self.failed = Some(Pause {
                    until: Instant::now() + pause.min(PAUSE_MAX),
                    attempt,
                    said: err.to_string(),
                });
                Err(err)
            }
        }
    }

    /// That this server still has the store. Holds whoever would take it until the transaction ends.
    async fn fence(&self, connection: &mut Connection, deadline: Instant) -> Result<Mark> {
        let sql = format!(
            "SELECT pg_catalog.pg_current_xact_id()::text, {TIMELINE} FROM store \
             WHERE generation = {} FOR KEY SHARE",
            self.generation
        );
        let found = within(deadline, connection.query(&sql, &[])).await?;
        let Some(row) = found.rows.first() else {
            let text = "another server has taken it over";
            return Err(Error::definite(codes::STORE_TAKEN_OVER, text));
        };
        Ok(Mark {
            transaction: row.get_str(0)?.to_owned(),
            timeline: row.get_str(1)?.to_owned(),
        })
    }

    /// Commits, or takes back; keeps a connection that is still good.
    pub(super) async fn finish<T>(
        &mut self,
        connection: Connection,
        deadline: Instant,
        worked: Result<T>,
    ) -> Result<T> {
        match worked {
            Ok(done) => self.commit(connection, deadline).await.map(|()| done),
            Err(err) => {
                self.take_back(connection, deadline).await;
                Err(err)
            }
        }
    }

    async fn commit(&mut self, mut connection: Connection, deadline: Instant) -> Result<()> {
        let said = within(deadline, connection.simple("COMMIT")).await?;
        if said.first().is_none_or(|set| set.tag != "COMMIT") {
            let text = "a statement failed, and the work on the store went on";
            return Err(Error::definite(codes::INTERNAL, text));
        }
        self.open = Some(connection);
        Ok(())
    }

    async fn take_back(&mut self, mut connection: Connection, deadline: Instant) {
        if within(deadline, connection.run("ROLLBACK")).await.is_ok() {
            self.open = Some(connection);
        }
    }

    /// What became of a commit whose answer did not come: its error, unless the transaction is in.
    async fn settle(&mut self, mark: &Mark, err: Error) -> Result<()> {
        let deadline = Instant::now() + SETTLE_WITHIN;
        while Instant::now() < deadline {
            match self.became(mark, deadline).await.as_deref() {
                Ok("committed") => return Ok(()),
                // It is on its way, or the database is.
                Ok("in progress") | Err(_) => tokio::time::sleep(SETTLE_EVERY).await,
                Ok(_) => return Err(err),
            }
        }
        Err(err.context("whether it was written is not known"))
    }

    /// How a transaction stands, in PostgreSQL's words; nothing where its database cannot know.
    async fn became(&mut self, mark: &Mark, deadline: Instant) -> Result<String> {
        let mut connection = self.begin(deadline).await?;
        let sql = format!(
            "SELECT CASE WHEN {TIMELINE} = $1 \
             THEN pg_catalog.pg_xact_status($2::text::pg_catalog.xid8) END"
        );
        let of = [Some(mark.timeline.as_str()), Some(&mark.transaction)];
        let found = within(deadline, connection.query(&sql, &of)).await;
        self.take_back(connection, deadline).await;
        Ok(found?.one()?.opt_str(0)?.unwrap_or_default().to_owned())
    }
}

async fn make(connection: &mut Connection) -> Result<()> {
    connection.run(ALONE).await?;
    let sql = "SELECT pg_catalog.to_regclass('tidemark_server.store') IS NOT NULL";
    if !connection.query(sql, &[]).await?.one()?.get_bool(0)? {
        // An administrator may have made the schema, for a role that may not.
        let sql = "SELECT pg_catalog.to_regnamespace('tidemark_server') IS NOT NULL";
        if !connection.query(sql, &[]).await?.one()?.get_bool(0)? {
            connection.run("CREATE SCHEMA tidemark_server").await?;
        }
        connection.run(MAKE).await?;
    }
    let version = version(connection).await?;
    migrations::left(version, migrations::ALL).map_err(|failed| failed.0)?;
    Ok(())
}

async fn version(connection: &mut Connection) -> Result<i64> {
    let found = connection.query("SELECT version FROM store", &[]).await?;
    found.one()?.get(0)
}

async fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    let found = version(connection).await?;
    let Some(left) = migrations::left(found, steps).map_err(|failed| failed.0)? else {
        return Ok(());
    };
    if found > 0 {
        back_up(connection, found).await?;
    }
    for step in left {
        connection.run(&migrations::for_postgres(step)).await?;
    }
    let sql = format!("UPDATE store SET version = {}", steps.len());
    connection.run(&sql).await
}

/// A whole copy beside it, in a schema with the version in its name.
async fn back_up(connection: &mut Connection, version: i64) -> Result<()> {
    let copy = format!("tidemark_server_v{version}");
    let sql = format!("DROP SCHEMA IF EXISTS {copy} CASCADE; CREATE SCHEMA {copy}");
    connection.run(&sql).await?;
    let sql = "SELECT pg_catalog.quote_ident(tablename) FROM pg_catalog.pg_tables \
         WHERE schemaname = 'tidemark_server'";
    let tables = connection.query(sql, &[]).await?;
    for table in &tables.rows {
        let table = table.get_str(0)?;
        let sql = format!("CREATE TABLE {copy}.{table} AS TABLE tidemark_server.{table}");
        connection.run(&sql).await?;
    }
    Ok(())
}

/// What is on the way may take until a deadline. Errors become the store's own.
pub(super) async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let away = || {
        let text = "its database does not answer in time";
        Error::transient(codes::STORE_UNREACHABLE, text)
    };
    timeout_at(deadline, work)
        .await
        .map_or_else(|_| Err(away()), |worked| worked.map_err(classify))
}

/// The one place that knows what errors of a target mean for the store.
fn classify(err: Error) -> Error {
    let is_ours = err.code().to_string().starts_with("TM8") || err.code() == codes::INTERNAL;
    let code = match err.code() {
        _ if is_ours => return err,
        codes::TARGET_DISK_FULL => codes::STORE_FULL,
        _ if err.kind() == tidemark_core::ErrorKind::Transient => codes::STORE_UNREACHABLE,
        _ => codes::STORE_REFUSED,
    };
    err.with_code(code)
}

/// Statements of a transaction, one round trip each.
struct InTransaction<'a> {
    connection: &'a mut Connection,
    runtime: &'a Handle,
    deadline: Instant,
}

impl Statements for InTransaction<'_> {
    fn statement(&mut self, sql: &str, values: &[Value]) -> Result<Said, Failed> {
        let types: Vec<u32> = values.iter().map(|value| oid(kind(value))).collect();
        let texts: Vec<Option<String>> = values.iter().map(text).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
        let asked = self.connection.query_typed(sql, &types, &texts);
        let answered = self.runtime.block_on(within(self.deadline, asked))?;
        said(&answered).map_err(|err| classify(err).into())
    }
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Null(kind) => *kind,
        Value::Integer(_) => Kind::Integer,
        Value::Real(_) => Kind::Real,
        Value::Text(_) => Kind::Text,
        Value::Bytes(_) => Kind::Bytes,
    }
}

/// The type of a kind of value (PostgreSQL 15, `pg_type.dat`): `int8`, `float8`, `text`, `bytea`.
fn oid(kind: Kind) -> u32 {
    match kind {
        Kind::Integer => 20,
        Kind::Real => 701,
        Kind::Text => 25,
        Kind::Bytes => 17,
    }
}

fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null(_) => return None,
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        // The one sign that its texts cannot have.
        Value::Text(text) => text.replace('\0', "\u{FFFD}"),
        Value::Bytes(bytes) => format!("\\x{}", super::hex(bytes)),
    })
}

fn said(answered: &ResultSet) -> Result<Said> {
    let kinds: Vec<Kind> = answered
        .columns
        .iter()
        .map(|column| match column.type_oid {
            20 | 23 => Kind::Integer,
            701 => Kind::Real,
            17 => Kind::Bytes,
            _ => Kind::Text,
        })
        .collect();
    let cell = |row: &tidemark_postgres::wire::Row, index: usize, kind: Kind| {
        let Some(text) = row.opt_str(index)? else {
            return Ok(Value::Null(kind));
        };
        Ok(match kind {
            Kind::Integer => Value::Integer(row.get(index)?),
            Kind::Real => Value::Real(row.get(index)?),
            Kind::Text => Value::Text(text.to_owned()),
            Kind::Bytes => {
                let bytes = text.strip_prefix("\\x").and_then(super::seal::from_hex);
                let damaged = || Error::definite(codes::STORE_DAMAGED, "bytes are no digits");
                Value::Bytes(bytes.ok_or_else(damaged)?)
            }
        })
    };
    let rows = answered.rows.iter().map(|row| {
        let cells = (0..)
            .zip(&kinds)
            .map(|(index, kind)| cell(row, index, *kind));
        cells.collect::<Result<_>>().map(Row)
    });
    Ok(Said {
        rows: rows.collect::<Result<_>>()?,
        written: answered.affected(),
    })
}
