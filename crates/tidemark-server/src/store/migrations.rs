//! From an older store to this version: forward only, in one transaction, with a copy made before.
//!
//! `user_version` of the file counts the steps that it has been through. A step that was shipped is
//! never changed; a new one is added at the end.

use std::path::Path;

use rusqlite::Connection;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use super::Failed;

/// All steps, oldest first.
pub(super) const ALL: &[&str] = &[
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
     CREATE TABLE pipelines (
        tenant TEXT NOT NULL, id TEXT NOT NULL, mode TEXT NOT NULL,
        definition BLOB, file TEXT, full_load_lsn TEXT,
        desired TEXT NOT NULL, desired_by TEXT NOT NULL, desired_since TEXT NOT NULL,
        desired_reason TEXT, created_at TEXT NOT NULL, created_by TEXT NOT NULL,
        updated_at TEXT NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (tenant, id)) STRICT;
     CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, pipeline TEXT NOT NULL,
        started_at TEXT NOT NULL, ended_at TEXT, outcome TEXT, code TEXT, reason TEXT) STRICT;
     CREATE INDEX runs_of ON runs (tenant, pipeline, id);
     CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, pipeline TEXT NOT NULL,
        at TEXT NOT NULL, level TEXT NOT NULL, kind TEXT NOT NULL, code TEXT, table_name TEXT,
        text TEXT NOT NULL, by TEXT) STRICT;
     CREATE INDEX events_of ON events (tenant, pipeline, id);
     CREATE TABLE history (
        tenant TEXT NOT NULL, pipeline TEXT NOT NULL, step INTEGER NOT NULL, bucket INTEGER NOT NULL,
        gap_min INTEGER, gap_max INTEGER, gap_last INTEGER,
        latency_min REAL, latency_max REAL, latency_last REAL,
        source_last TEXT, processed_last TEXT, retained_last INTEGER,
        inserts INTEGER, updates INTEGER, deletes INTEGER, state TEXT NOT NULL,
        PRIMARY KEY (tenant, pipeline, step, bucket)) STRICT, WITHOUT ROWID;
     CREATE TABLE tokens (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE, created_at TEXT NOT NULL, created_by TEXT NOT NULL,
        expires_at TEXT, revoked_at TEXT) STRICT;
     CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, at TEXT NOT NULL,
        who TEXT NOT NULL, address TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL,
        detail TEXT NOT NULL, request_id TEXT NOT NULL) STRICT;
     CREATE INDEX audit_of ON audit (tenant, id);
     CREATE TABLE operations (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, pipeline TEXT NOT NULL, kind TEXT NOT NULL,
        state TEXT NOT NULL, by TEXT NOT NULL, created_at TEXT NOT NULL, ended_at TEXT,
        text TEXT, code TEXT) STRICT;
     CREATE TABLE verifications (
        id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, pipeline TEXT NOT NULL,
        at TEXT NOT NULL, lsn TEXT NOT NULL, result TEXT NOT NULL, depth TEXT NOT NULL,
        rows INTEGER NOT NULL, seconds REAL NOT NULL, tables TEXT NOT NULL) STRICT;
     CREATE INDEX verifications_of ON verifications (tenant, pipeline, id);
     CREATE TABLE idempotency (
        tenant TEXT NOT NULL, who TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL,
        status INTEGER, location TEXT, body BLOB, created_at TEXT NOT NULL,
        PRIMARY KEY (tenant, who, key)) STRICT;",
    "CREATE TABLE alerts (
        tenant TEXT NOT NULL, pipeline TEXT NOT NULL, rule TEXT NOT NULL, condition TEXT NOT NULL,
        severity TEXT NOT NULL, state TEXT NOT NULL, since_us INTEGER NOT NULL, fired_us INTEGER,
        over_us INTEGER, fires TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (tenant, pipeline, rule)) STRICT;",
];

/// Takes the steps that the file has not been through yet.
pub(super) fn migrate(
    connection: &mut Connection,
    file: &Path,
    steps: &[&str],
) -> Result<(), Failed> {
    let known = steps.len();
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found > known {
        let text = format!("it is of version {found}, this program knows {known}");
        return Err(Error::definite(codes::STORE_NEWER, text).into());
    }
    if found == known {
        return Ok(());
    }
    if found > 0 {
        back_up(connection, file, found)?;
    }
    let transaction = connection.transaction()?;
    for step in steps.iter().skip(found) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(
        None,
        "user_version",
        u32::try_from(known).unwrap_or(u32::MAX),
    )?;
    transaction.commit()?;
    Ok(())
}

/// A whole copy beside it, with the version in its name.
fn back_up(connection: &Connection, file: &Path, version: usize) -> Result<(), Failed> {
    let copy = file.with_extension(format!("v{version}.db"));
    let unwritable = |err: std::io::Error| {
        Error::definite(
            codes::STORE_UNWRITABLE,
            format!("{}: {err}", copy.display()),
        )
    };
    if copy.exists() {
        // Of a try that did not get to its end: the store is as it was before it.
        std::fs::remove_file(&copy).map_err(unwritable)?;
    }
    super::make_file(&copy)?;
    connection.backup("main", &copy, None::<fn(rusqlite::backup::Progress)>)?;
    Ok(())
}
