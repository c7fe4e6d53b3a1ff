//! What happened: runs, events of pipelines, and who changed what.

use serde::Serialize;
use tidemark_core::{Result, clock};
use utoipa::ToSchema;

use super::{Failed, Key, Session, Store, params, pipelines};

/// How many events of a pipeline are kept.
const EVENTS_KEPT: i64 = 20_000;
/// How many runs of a pipeline are kept.
const RUNS_KEPT: i64 = 1_000;

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
    /// Writes events down; those of pipelines that are gone are left out.
    pub(crate) async fn add_events(&self, entries: Vec<Entry>) -> Result<Vec<(Key, EventRow)>> {
        self.with(move |store, _| {
            let mut added = Vec::new();
            for entry in entries {
                added.extend(add_event(store, entry)?);
            }
            Ok(added)
        })
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
                |row| {
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
                },
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

/// Writes one event down, unless its pipeline is gone.
pub(super) fn add_event(
    store: &mut Session<'_>,
    entry: Entry,
) -> Result<Option<(Key, EventRow)>, Failed> {
    if !pipelines::exists(store, &entry.key)? {
        return Ok(None);
    }
    let at = entry.at.clone();
    let (tenant, pipeline) = (&entry.key.tenant, &entry.key.id);
    let sql = "INSERT INTO events (tenant, pipeline, at, level, kind, code, table_name, text, by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
    let word = entry.level.word();
    let (kind, code, table) = (entry.kind, &entry.code, &entry.table);
    let (text, by) = (&entry.text, &entry.by);
    let row = params![tenant, pipeline, at, word, kind, code, table, text, by];
    let id: i64 = store.one(sql, row, |row| row.get(0))?;
    let sql = "DELETE FROM events WHERE tenant = $1 AND pipeline = $2 AND id <= (SELECT id FROM events \
         WHERE tenant = $1 AND pipeline = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)";
    if id % 100 == 0 {
        store.execute(sql, params![tenant, pipeline, EVENTS_KEPT])?;
    }
    let row = EventRow {
        id,
        pipeline: entry.key.id.clone(),
        at,
        level: entry.level,
        kind: entry.kind.to_owned(),
        code: entry.code,
        table: entry.table,
        text: entry.text,
        by: entry.by,
    };
    Ok(Some((entry.key, row)))
}
