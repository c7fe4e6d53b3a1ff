//! The schema `tidemark` on the target: its tables, its version, and how it gets from one to the next.
//!
//! [`MIGRATIONS`] is the whole history: entry *n* takes version *n* to *n + 1*. All that are missing
//! run in one transaction together with the new version number, so a target has an old version or
//! a new one and never something in between. A version above ours is refused: what a newer program
//! wrote cannot be read for sure, and there is no way back.
//!
//! What the tables mean is told in [`super::checkpoint`].

use tidemark_core::catalogue::codes;
use tidemark_core::{Context, Error, Result};

use crate::error::server_error;
use crate::wire::Connection;

/// Statements by version. An entry that was released is never edited.
const MIGRATIONS: &[&str] = &[
    // 1: what the line a row travels needs.
    "CREATE TABLE tidemark.checkpoint (
         pipeline text PRIMARY KEY,
         generation int8 NOT NULL,
         written_by int8 NOT NULL,
         system text,
         timeline int8,
         database text,
         position_type text,
         position text,
         load_position text,
         phase text,
         owner_host text,
         owner_pid int8,
         owner_since timestamptz,
         CONSTRAINT generation_fence CHECK (written_by = generation)
     ) WITH (fillfactor = 10);
     CREATE TABLE tidemark.table_state (
         pipeline text,
         source_schema text,
         source_name text,
         target_schema text NOT NULL,
         target_name text NOT NULL,
         source_id int8 NOT NULL,
         state text NOT NULL,
         reason text,
         shape jsonb,
         PRIMARY KEY (pipeline, source_schema, source_name)
     );
     CREATE TABLE tidemark.unit (
         pipeline text,
         source_schema text,
         source_name text,
         number int8,
         chunk jsonb NOT NULL,
         tidemark jsonb,
         is_loaded boolean NOT NULL,
         rows int8 NOT NULL,
         PRIMARY KEY (pipeline, source_schema, source_name, number)
     );
     CREATE TABLE tidemark.parked (
         pipeline text,
         source_schema text,
         source_name text,
         sequence int8 GENERATED ALWAYS AS IDENTITY,
         xid int8 NOT NULL,
         commit_position text NOT NULL,
         columns jsonb,
         changes int8 NOT NULL,
         payload bytea NOT NULL,
         PRIMARY KEY (pipeline, source_schema, source_name, sequence)
     );
     ALTER TABLE tidemark.parked ALTER COLUMN payload SET STORAGE EXTERNAL;
     CREATE TABLE tidemark.foreign_key (
         pipeline text,
         target_schema text,
         target_name text,
         name text,
         definition text NOT NULL,
         PRIMARY KEY (pipeline, target_schema, target_name, name)
     );",
    // 2: the side door.
    "CREATE TABLE tidemark.command (
         id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         pipeline text NOT NULL,
         command jsonb NOT NULL,
         sent_at timestamptz NOT NULL DEFAULT now(),
         answer jsonb,
         answered_at timestamptz
     );
     CREATE INDEX command_waiting ON tidemark.command (pipeline, id) WHERE answer IS NULL;
     CREATE TABLE tidemark.status (
         pipeline text PRIMARY KEY,
         generation int8 NOT NULL,
         status jsonb NOT NULL,
         reported_at timestamptz NOT NULL
     ) WITH (fillfactor = 10);",
    // 3: why a slot was released.
    "ALTER TABLE tidemark.checkpoint ADD COLUMN release jsonb;",
    // 4: rows in quarantine.
    "CREATE TABLE tidemark.quarantine (
         pipeline text,
         sequence int8 GENERATED ALWAYS AS IDENTITY,
         source_schema text NOT NULL,
         source_name text NOT NULL,
         keys jsonb NOT NULL,
         xid int8 NOT NULL,
         commit_position text NOT NULL,
         code text,
         sqlstate text,
         cause text,
         since timestamptz NOT NULL DEFAULT now(),
         payload bytea NOT NULL,
         PRIMARY KEY (pipeline, sequence)
     );
     ALTER TABLE tidemark.quarantine ALTER COLUMN payload SET STORAGE EXTERNAL;",
    // 5: where log is kept that the source was told to forget.
    "ALTER TABLE tidemark.checkpoint ADD COLUMN relay jsonb;",
    // 6: constraints that both sides had when they were last compared.
    "ALTER TABLE tidemark.table_state ADD COLUMN constraints jsonb;",
    // 7: partitions of which nothing was in doubt, and by which transaction they were all emptied.
    "ALTER TABLE tidemark.table_state ADD COLUMN partitions jsonb, ADD COLUMN emptied_by int8;",
];

/// The version since which the relay log's place is recorded.
pub(super) const RELAY: usize = 5;

/// The version since which a release is recorded.
pub(super) const RELEASE: usize = 3;

/// Serialises migrations of pipelines that start at the same time (an arbitrary number).
const MIGRATION_LOCK: i64 = 0x7469_6465_6d61_726b;

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No schema, or an empty one.
    Nothing,
    /// Tables of this version or an older one, whose columns are a part of this one's.
    Version(usize),
}

impl Found {
    /// Ours.
    pub(super) const CURRENT: Found = Found::Version(MIGRATIONS.len());
}

/// Looks, changes nothing. A newer version is an error.
pub(super) async fn find(connection: &mut Connection) -> Result<Found> {
    // In the catalog, which everybody may read: `to_regclass` wants USAGE on the schema.
    let there = connection
        .query(
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'tidemark' AND c.relname = 'version')",
            &[],
        )
        .await?;
    if !there.one()?.get_bool(0)? {
        return Ok(Found::Nothing);
    }
    let version = connection
        .query("SELECT version FROM tidemark.version", &[])
        .await?;
    let version: usize = version.one()?.get(0)?;
    if version > MIGRATIONS.len() {
        return Err(newer(version));
    }
    Ok(Found::Version(version))
}

/// Makes the schema where it is missing and takes it to our version.
pub(super) async fn migrate(connection: &mut Connection) -> Result<()> {
    if find(connection).await? == Found::CURRENT {
        return Ok(());
    }
    migrate_in_transaction(connection)
        .await
        .context(|| "make schema tidemark on the target")
        .map_err(|error| match server_error(&error) {
            Some(said) if said.sqlstate == "42501" => {
                error.with_code(codes::TARGET_GRANTS).first_action(
                    "GRANT CREATE ON DATABASE … TO the role, or make a schema tidemark that it owns",
                )
            }
            // A guard against changes of the schema.
            Some(said) if said.sqlstate == "P0001" => {
                error.with_code(codes::TARGET_GRANTS).first_action(
                    "let the role pass the event trigger, or ALTER EVENT TRIGGER … DISABLE while the \
                     pipeline starts",
                )
            }
            _ => error,
        })
}

async fn migrate_in_transaction(connection: &mut Connection) -> Result<()> {
    connection.run("BEGIN").await?;
    let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
    connection.run(&lock).await?;
    // Asked first: CREATE SCHEMA IF NOT EXISTS wants CREATE on the database even where the schema
    // is there (PostgreSQL 15, schemacmds.c), which a role with a schema made for it need not have.
    let there = connection
        .query(
            "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'tidemark')",
            &[],
        )
        .await?;
    if !there.one()?.get_bool(0)? {
        connection.run("CREATE SCHEMA tidemark").await?;
    }
    let from = match find(connection).await? {
        Found::Version(version) => version,
        Found::Nothing => {
            connection
                .run(
                    "CREATE TABLE tidemark.version (version int4 NOT NULL);
                     INSERT INTO tidemark.version VALUES (0)",
                )
                .await?;
            0
        }
    };
    for step in MIGRATIONS.iter().skip(from) {
        connection.run(step).await?;
    }
    let version = MIGRATIONS.len();
    connection
        .run(&format!(
            "UPDATE tidemark.version SET version = {version}; COMMIT"
        ))
        .await
}

fn newer(version: usize) -> Error {
    Error::definite(
        codes::TARGET_METADATA_NEWER,
        format!(
            "schema tidemark on the target has version {version}, this program knows up to {}",
            MIGRATIONS.len()
        ),
    )
}
