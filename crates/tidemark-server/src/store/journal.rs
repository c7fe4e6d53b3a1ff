//! What happened: runs, events of pipelines, and who changed what.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemark_core::{Result, clock};
use utoipa::ToSchema;

use super::session::{Rows, WRITTEN_AT_ONCE};
use super::{Failed, Key, Row, Session, Store, params, pipelines};

/// How many events of a pipeline are kept.
pub(crate) const EVENTS_KEPT: i64 = 20_000;
/// The pipeline of every so manieth event forgets those beyond.
const FORGET_EVERY: i64 = 100;
/// How many runs of a pipeline are kept.
pub(crate) const RUNS_KEPT: i64 = 1_000;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// A change of state.
    Info,
    /// Unexpected, and it went on.
    Warn,
    /// A person must look.
    Error,
}

impl Level {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    pub(crate) fn of_word(word: &str) -> Option<Level> {
        [Level::Info, Level::Warn, Level::Error]
            .into_iter()
            .find(|level| level.word() == word)
    }
}

/// An event that is to be written down.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// When it happened, RFC 3339; it may be written down later.
    pub(crate) at: String,
    pub(crate) level: Level,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<String>,
    pub(crate) table: Option<String>,
    pub(crate) text: String,
    pub(crate) by: Option<String>,
}

impl Entry {
    /// One that says no more than this.
    pub(crate) fn plain(
        key: &Key,
        level: Level,
        kind: &'static str,
        text: impl Into<String>,
    ) -> Entry {
        Entry {
            key: key.clone(),
            at: clock::now(),
            level,
            kind,
            code: None,
            table: None,
            text: text.into(),
            by: None,
        }
    }
}

/// Something that happened to a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct EventRow {
    /// Increases.
    pub(crate) id: i64,
    /// Of which pipeline.
    pub(crate) pipeline: String,
    /// RFC 3339.
    pub(crate) at: String,
    /// How much it matters.
    pub(crate) level: Level,
    /// `state`, `step`, `check`, `load`, `table`, `retry`, `schema`, `new_table`, `warning`, `failed`,
    /// `verification`, `alert`, `alert_resolved`, `alert_snoozed`, `notification_failed`, `schedule`, `schedule_missed`.
    pub(crate) kind: String,
    /// Catalogue code.
    pub(crate) code: Option<String>,
    /// The table on the source.
    pub(crate) table: Option<String>,
    /// In a sentence.
    pub(crate) text: String,
    /// Who brought it about.
    pub(crate) by: Option<String>,
}

/// Where a page of a list begins and how long it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// Only what is older than this.
    pub(crate) before: Option<i64>,
    pub(crate) limit: usize,
}

/// The same of a list whose rows have no number: the newest first, those of one instant by their id.
#[derive(Clone, Debug)]
pub(crate) struct CursorInTime {
    /// Only what comes after the one of this instant and id.
    pub(crate) after: Option<(String, String)>,
    pub(crate) limit: usize,
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventsWanted {
    pub(crate) level: Option<Level>,
    pub(crate) code: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
}

/// One time that a pipeline was run.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct RunRow {
    /// Increases.
    pub(crate) id: i64,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// RFC 3339; `null` while it runs, or if the server was killed.
    pub(crate) ended_at: Option<String>,
    /// `stopped`, `completed` or `failed`.
    pub(crate) outcome: Option<String>,
    /// Catalogue code.
    pub(crate) code: Option<String>,
    /// In a sentence.
    pub(crate) reason: Option<String>,
}

/// A change that somebody made.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct AuditRow {
    /// Increases.
    pub(crate) id: i64,
    /// RFC 3339.
    pub(crate) at: String,
    /// Who: the name of a token, or `local`.
    pub(crate) who: String,
    /// From where.
    pub(crate) address: String,
    /// What was done: a method and a route.
    pub(crate) action: String,
    /// To what.
    pub(crate) object: String,
    /// What came of it.
    pub(crate) detail: String,
    /// The request.
    pub(crate) request_id: String,
}

impl Store {
    /// Writes events down; those of pipelines that are gone are left out. Nobody knows whether a try
    /// that failed is in: the one that follows says the same `batch`, and gives what is there.
    pub(crate) async fn add_events(
        &self,
        batch: String,
        entries: Vec<Entry>,
    ) -> Result<Vec<(Key, EventRow)>> {
        self.with(move |store, _| add_batch(store, &batch, entries))
            .await
    }

    /// Events of a pipeline, newest first.
    pub(crate) async fn events(
        &self,
        key: &Key,
        wanted: EventsWanted,
        page: Cursor,
    ) -> Result<Vec<EventRow>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "SELECT id, pipeline, at, level, kind, code, table_name, text, by FROM events \
                 WHERE tenant = $1 AND pipeline = $2 AND ($3 IS NULL OR id < $3) \
                 AND ($4 IS NULL OR level = $4) AND ($5 IS NULL OR code = $5) \
                 AND ($6 IS NULL OR at >= $6) AND ($7 IS NULL OR at < $7) ORDER BY id DESC LIMIT $8";
                        let level = wanted.level.map(Level::word);
            let (code, since, until) = (wanted.code, wanted.since, wanted.until);
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(
                sql,
                params![key.tenant, key.id, page.before, level, code, since, until, limit],
                EventRow::read,
            )
        })
        .await
    }

    /// A run begins.
    pub(crate) async fn begin_run(&self, key: &Key) -> Result<i64> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "INSERT INTO runs (tenant, pipeline, started_at) VALUES ($1, $2, $3) RETURNING id";
            let row = params![key.tenant, key.id, clock::now()];
            let id: i64 = store.one(sql, row, |row| row.get(0))?;
            let sql = "DELETE FROM runs WHERE tenant = $1 AND pipeline = $2 AND id <= (SELECT id FROM runs \
                 WHERE tenant = $1 AND pipeline = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)";
            store.execute(sql, params![key.tenant, key.id, RUNS_KEPT])?;
            Ok(id)
        })
        .await
    }

    /// A run has ended.
    pub(crate) async fn end_run(
        &self,
        id: i64,
        outcome: &'static str,
        code: Option<String>,
        reason: Option<String>,
    ) -> Result<()> {
        self.with(move |store, _| {
            let sql =
                "UPDATE runs SET ended_at = $2, outcome = $3, code = $4, reason = $5 WHERE id = $1";
            store.execute(sql, params![id, clock::now(), outcome, code, reason])?;
            Ok(())
        })
        .await
    }

    /// Runs of a pipeline, newest first.
    pub(crate) async fn runs(&self, key: &Key, page: Cursor) -> Result<Vec<RunRow>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "SELECT id, started_at, ended_at, outcome, code, reason FROM runs WHERE tenant = $1 \
                 AND pipeline = $2 AND ($3 IS NULL OR id < $3) ORDER BY id DESC LIMIT $4";
                        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(sql, params![key.tenant, key.id, page.before, limit], |row| {
                Ok(RunRow {
                    id: row.get(0)?,
                    started_at: row.get(1)?,
                    ended_at: row.get(2)?,
                    outcome: row.get(3)?,
                    code: row.get(4)?,
                    reason: row.get(5)?,
                })
            })
        })
        .await
    }

    /// Writes down who changed what.
    pub(crate) async fn add_audit(&self, tenant: String, row: AuditRow) -> Result<()> {
        self.with(move |store, _| {
            let sql = "INSERT INTO audit (tenant, at, who, address, action, object, detail, request_id) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let AuditRow {
                at,
                who,
                address,
                action,
                object,
                detail,
                request_id,
                ..
            } = row;
            store.execute(
                sql,
                params![tenant, at, who, address, action, object, detail, request_id],
            )?;
            Ok(())
        })
        .await
    }

    /// What was changed, newest first.
    pub(crate) async fn audit(&self, tenant: String, page: Cursor) -> Result<Vec<AuditRow>> {
        self.with(move |store, _| {
            let sql = "SELECT id, at, who, address, action, object, detail, request_id FROM audit \
                 WHERE tenant = $1 AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3";
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(sql, params![tenant, page.before, limit], |row| {
                Ok(AuditRow {
                    id: row.get(0)?,
                    at: row.get(1)?,
                    who: row.get(2)?,
                    address: row.get(3)?,
                    action: row.get(4)?,
                    object: row.get(5)?,
                    detail: row.get(6)?,
                    request_id: row.get(7)?,
                })
            })
        })
        .await
    }
}

/// A batch of a kind that was written. One is written after the other, so the last one is all there is to
/// remember: which it was, and the numbers of its events.
#[derive(Serialize, Deserialize)]
pub(super) struct Batch(pub(super) String, i64, i64);

impl Batch {
    /// The last one, if there is any. A try that has not ended is waited for.
    pub(super) fn last(store: &mut Session<'_>, kind: &str) -> Result<Option<Batch>, Failed> {
        let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) \
             DO UPDATE SET value = meta.value RETURNING value";
        let last: Vec<u8> = store.one(sql, params![kind, Vec::<u8>::new()], |row| row.get(0))?;
        Ok(serde_json::from_slice(&last).ok())
    }

    /// That this one was, with these events.
    pub(super) fn remember(
        store: &mut Session<'_>,
        kind: &str,
        name: &str,
        added: &[(Key, EventRow)],
    ) -> Result<(), Failed> {
        let number = |event: Option<&(Key, EventRow)>| event.map_or(0, |(_, row)| row.id);
        let now = json!([name, number(added.first()), number(added.last())]);
        let sql = "UPDATE meta SET value = $2 WHERE name = $1";
        store.execute(sql, params![kind, now.to_string().into_bytes()])?;
        Ok(())
    }

    /// What was written with it.
    pub(super) fn events(&self, store: &mut Session<'_>) -> Result<Vec<(Key, EventRow)>, Failed> {
        let sql = "SELECT id, pipeline, at, level, kind, code, table_name, text, by, tenant FROM events \
             WHERE id BETWEEN $1 AND $2 ORDER BY id";
        store.query(sql, params![self.1, self.2], |row| {
            let event = EventRow::read(row)?;
            let tenant: String = row.get(9)?;
            Ok((Key::new(tenant, event.pipeline.clone()), event))
        })
    }
}

/// Writes a batch down, unless it is there.
fn add_batch(
    store: &mut Session<'_>,
    batch: &str,
    entries: Vec<Entry>,
) -> Result<Vec<(Key, EventRow)>, Failed> {
    let last = Batch::last(store, "events")?;
    if let Some(last) = last.filter(|last| last.0 == batch) {
        return last.events(store);
    }
    let added = add_events(store, entries)?;
    Batch::remember(store, "events", batch, &added)?;
    Ok(added)
}

/// Writes one event down, unless its pipeline is gone.
pub(super) fn add_event(
    store: &mut Session<'_>,
    entry: Entry,
) -> Result<Option<(Key, EventRow)>, Failed> {
    Ok(add_events(store, vec![entry])?.pop())
}

fn add_events(
    store: &mut Session<'_>,
    mut entries: Vec<Entry>,
) -> Result<Vec<(Key, EventRow)>, Failed> {
    let wanted: BTreeSet<Key> = entries.iter().map(|entry| entry.key.clone()).collect();
    let there = pipelines::which_exist(store, wanted)?;
    entries.retain(|entry| there.contains(&entry.key));
    let mut added = Vec::with_capacity(entries.len());
    for part in entries.chunks(WRITTEN_AT_ONCE) {
        let ids = insert(store, part)?;
        for (entry, id) in part.iter().zip(&ids) {
            added.push((entry.key.clone(), EventRow::of(entry, *id)));
        }
    }
    let grown = added.iter().filter(|(_, row)| row.id % FORGET_EVERY == 0);
    for key in grown.map(|(key, _)| key).collect::<BTreeSet<_>>() {
        let sql = "DELETE FROM events WHERE tenant = $1 AND pipeline = $2 AND id <= (SELECT id FROM events \
             WHERE tenant = $1 AND pipeline = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)";
        store.execute(sql, params![key.tenant, key.id, EVENTS_KEPT])?;
    }
    Ok(added)
}

/// Writes events in one statement, and gives their numbers, which increase in the order of the rows.
fn insert(store: &mut Session<'_>, entries: &[Entry]) -> Result<Vec<i64>, Failed> {
    let mut rows = Rows::default();
    for entry in entries {
        rows.push(params![
            entry.key.tenant,
            entry.key.id,
            entry.at,
            entry.level.word(),
            entry.kind,
            entry.code,
            entry.table,
            entry.text,
            entry.by
        ]);
    }
    let sql = format!(
        "INSERT INTO events (tenant, pipeline, at, level, kind, code, table_name, text, by) \
         VALUES {} RETURNING id",
        rows.text()
    );
    let mut ids = store.query(&sql, &rows.values, |row| row.get::<i64>(0))?;
    // SQLite does not say in which order it returns what it has inserted in that of the rows.
    ids.sort_unstable();
    Ok(ids)
}

impl EventRow {
    fn read(row: &Row) -> Result<EventRow, Failed> {
        let level: String = row.get(3)?;
        Ok(EventRow {
            id: row.get(0)?,
            pipeline: row.get(1)?,
            at: row.get(2)?,
            level: Level::of_word(&level).unwrap_or(Level::Error),
            kind: row.get(4)?,
            code: row.get(5)?,
            table: row.get(6)?,
            text: row.get(7)?,
            by: row.get(8)?,
        })
    }

    fn of(entry: &Entry, id: i64) -> EventRow {
        EventRow {
            id,
            pipeline: entry.key.id.clone(),
            at: entry.at.clone(),
            level: entry.level,
            kind: entry.kind.to_owned(),
            code: entry.code.clone(),
            table: entry.table.clone(),
            text: entry.text.clone(),
            by: entry.by.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::session::{Said, Statements, Value};
    use crate::store::{FILE, testing};

    /// Counts what goes to the store and back: in PostgreSQL each is a way over the network.
    struct Counting<'a>(&'a Connection, usize);

    impl Statements for Counting<'_> {
        fn statement(&mut self, sql: &str, values: &[Value]) -> Result<Said, Failed> {
            self.1 += 1;
            let mut inner = self.0;
            inner.statement(sql, values)
        }
    }

    #[tokio::test]
    async fn events_of_many_pipelines_are_written_with_few_statements() {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<Key> = (0..40)
            .map(|n| Key::new("default", format!("p{n}")))
            .collect();
        let store = Store::open(directory.path(), testing::seal('a')).unwrap();
        for key in &keys {
            let new = testing::new_pipeline(&key.tenant, &key.id);
            store.add_pipeline(new).await.unwrap().unwrap();
        }
        drop(store);
        let file = Connection::open(directory.path().join(FILE)).unwrap();
        let mut counting = Counting(&file, 0);
        let session = &mut Session {
            statements: &mut counting,
        };
        let entry = |n: usize| Entry::plain(&keys[n % 40], Level::Info, "step", n.to_string());
        let added = add_events(session, (0..240).map(entry).collect());
        let Ok(added) = added else {
            panic!("the store refuses them");
        };
        let texts: Vec<String> = added.iter().map(|(_, row)| row.text.clone()).collect();
        let expected: Vec<String> = (0..240).map(|n| n.to_string()).collect();
        assert_eq!(texts, expected);
        // Which pipelines are there, the rows in five parts, and what two of them forget.
        assert!(counting.1 <= 8, "{} statements", counting.1);
    }
}
