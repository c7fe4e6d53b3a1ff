//! From an older store to this version: forward only, in one transaction, with a copy made before.
//!
//! A step that was shipped is never changed; a new one is added at the end.

use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use super::session::Failed;

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
    "ALTER TABLE alerts ADD COLUMN notify TEXT NOT NULL DEFAULT '[]';
     CREATE TABLE deliveries (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
        notifier TEXT NOT NULL, pipeline TEXT, kind TEXT NOT NULL, letter TEXT NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL, created_us INTEGER NOT NULL,
        next_us INTEGER NOT NULL, ended_us INTEGER, code TEXT, result TEXT) STRICT;
     CREATE INDEX deliveries_of ON deliveries (tenant, notifier, state, number);",
    "CREATE TABLE schedules (
        tenant TEXT NOT NULL, pipeline TEXT NOT NULL, text TEXT NOT NULL, judged_us INTEGER NOT NULL,
        paused_by TEXT, paused_us INTEGER, PRIMARY KEY (tenant, pipeline)) STRICT;
     CREATE TABLE schedule_runs (
        tenant TEXT NOT NULL, pipeline TEXT NOT NULL, due_us INTEGER NOT NULL, state TEXT NOT NULL,
        by TEXT NOT NULL, began_us INTEGER, ended_us INTEGER, reason TEXT,
        PRIMARY KEY (tenant, pipeline, due_us)) STRICT;",
    "ALTER TABLE verifications ADD COLUMN position_type TEXT NOT NULL DEFAULT 'pg_lsn';
     ALTER TABLE verifications ADD COLUMN whole INTEGER NOT NULL DEFAULT 0;",
    "ALTER TABLE alerts ADD COLUMN snoozed_until_us INTEGER;
     ALTER TABLE alerts ADD COLUMN snoozed_by TEXT;",
    "ALTER TABLE pipelines ADD COLUMN load_told INTEGER NOT NULL DEFAULT 1;",
    "ALTER TABLE operations ADD COLUMN data TEXT;",
    "CREATE TABLE connections (
        tenant TEXT NOT NULL, name TEXT NOT NULL, keys BLOB NOT NULL, created_at TEXT NOT NULL,
        created_by TEXT NOT NULL, updated_at TEXT NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (tenant, name)) STRICT;",
    "ALTER TABLE idempotency ADD COLUMN etag TEXT;",
];

/// The steps that a store of a version has not been through yet; `None` if it is up to date.
pub(super) fn left<'a>(found: i64, steps: &'a [&'a str]) -> Result<Option<&'a [&'a str]>, Failed> {
    let known = steps.len();
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found > known {
        let text = format!("it is of version {found}, this program knows {known}");
        return Err(Error::definite(codes::STORE_NEWER, text).into());
    }
    Ok(steps.get(found..).filter(|left| !left.is_empty()))
}

/// A step as PostgreSQL has it: the same tables, texts in the order of their bytes as in SQLite.
pub(super) fn for_postgres(step: &str) -> String {
    const AS: [(&str, &str); 7] = [
        (" STRICT, WITHOUT ROWID", ""),
        (" STRICT", ""),
        (
            "INTEGER PRIMARY KEY AUTOINCREMENT",
            "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        ),
        (" INTEGER", " bigint"),
        (" REAL", " double precision"),
        (" TEXT", " text COLLATE \"C\""),
        (" BLOB", " bytea"),
    ];
    let as_is = |step: String, (from, to): &(&str, &str)| step.replace(from, to);
    AS.iter().fold(step.to_owned(), as_is)
}
