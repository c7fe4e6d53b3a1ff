//! Long actions and what became of them; verifications and what they found.

use serde::Serialize;
use serde_json::Value;
use tidemark_core::{Result, clock};
use utoipa::ToSchema;

use super::access::days_ago;
use super::{Cursor, CursorInTime, Failed, Key, Row, Store, params};

/// How many of a pipeline's verifications are kept.
pub(crate) const VERIFICATIONS_KEPT: i64 = 500;
/// How long operations are kept.
const OPERATIONS_KEPT_DAYS: i64 = 30;

/// An action that takes its time.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct OperationRow {
    /// Not to be guessed.
    pub(crate) id: String,
    /// Of which pipeline.
    pub(crate) pipeline: String,
    /// The action, or `delete`.
    pub(crate) kind: String,
    /// `running`, `succeeded`, `failed` or `cancelled`.
    pub(crate) state: String,
    /// Who asked.
    pub(crate) by: String,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// RFC 3339.
    pub(crate) ended_at: Option<String>,
    /// What came of it, in a sentence.
    pub(crate) text: Option<String>,
    /// Catalogue code of what went wrong.
    pub(crate) code: Option<String>,
    /// What came of it for a program, where there is more to say; while it runs, what came so far. Of
    /// `verify` and `repair`: `result`, `identical`, `different` or `incomplete`. `null` in a list, and for
    /// whoever only looks.
    #[schema(value_type = Option<Object>)]
    pub(crate) data: Option<Value>,
}

/// What came of an action.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// In a sentence.
    pub(crate) text: String,
    /// For a program, where there is more to say.
    pub(crate) data: Option<Value>,
}

impl Done {
    /// Whether it was done and found what ought not to be: sides that differ, or were not wholly compared.
    pub(crate) fn is_negative(&self) -> bool {
        let result = self.data.as_ref().and_then(|data| data["result"].as_str());
        matches!(result, Some("different" | "incomplete"))
    }
}

impl From<String> for Done {
    fn from(text: String) -> Done {
        Done { text, data: None }
    }
}

/// A comparison of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct VerificationRow {
    /// Increases.
    pub(crate) id: i64,
    /// RFC 3339.
    pub(crate) at: String,
    /// Both sides were read here.
    pub(crate) lsn: String,
    /// Of which kind that position is.
    pub(crate) position_type: String,
    /// Whether all tables were to be compared, and not some that were named.
    pub(crate) whole: bool,
    /// `identical`, `different` or `incomplete`.
    pub(crate) result: String,
    /// `deep` or `counts`.
    pub(crate) depth: String,
    /// Rows that were compared.
    pub(crate) rows: i64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Table by table, worst first.
    #[schema(value_type = Vec<Object>)]
    pub(crate) tables: Value,
}

/// Of a comparison.
pub(super) const COLUMNS: &str =
    "id, at, lsn, result, depth, rows, seconds, tables, position_type, whole";

impl Store {
    /// An operation begins, and those that were over long ago are forgotten.
    pub(crate) async fn begin_operation(
        &self,
        key: &Key,
        id: String,
        kind: &'static str,
        by: String,
    ) -> Result<()> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "INSERT INTO operations (id, tenant, pipeline, kind, state, by, created_at) \
                 VALUES ($1, $2, $3, $4, 'running', $5, $6)";
            store.execute(sql, params![id, key.tenant, key.id, kind, by, clock::now()])?;
            let sql = "DELETE FROM operations WHERE created_at < $1 AND state <> 'running'";
            store.execute(sql, params![days_ago(OPERATIONS_KEPT_DAYS)])?;
            Ok(())
        })
        .await
    }

    /// An operation has ended.
    pub(crate) async fn end_operation(
        &self,
        id: String,
        ended: std::result::Result<Done, tidemark_core::Error>,
    ) -> Result<()> {
        self.with(move |store, _| {
            let (state, text, code, data) = match ended {
                Ok(done) => ("succeeded", done.text, None, done.data),
                Err(err) => {
                    let code = err.code().to_string();
                    ("failed", err.to_string(), Some(code), None)
                }
            };
            let sql = "UPDATE operations SET state = $2, ended_at = $3, text = $4, code = $5, \
                 data = coalesce($6, data) WHERE id = $1";
            let data = data.map(|data| data.to_string());
            store.execute(sql, params![id, state, clock::now(), text, code, data])?;
            Ok(())
        })
        .await
    }

    /// What an operation that goes on has come to so far.
    pub(crate) async fn tell_operation(&self, id: String, data: Value) -> Result<()> {
        self.with(move |store, _| {
            let sql = "UPDATE operations SET data = $2 WHERE id = $1 AND state = 'running'";
            store.execute(sql, params![id, data.to_string()])?;
            Ok(())
        })
        .await
    }

    /// An operation was ended by a person.
    pub(crate) async fn cancel_operation(&self, id: String, text: String) -> Result<()> {
        self.with(move |store, _| {
            let sql = "UPDATE operations SET state = 'cancelled', ended_at = $2, text = $3 \
                 WHERE id = $1 AND state = 'running'";
            store.execute(sql, params![id, clock::now(), text])?;
            Ok(())
        })
        .await
    }

    /// Operations of a pipeline, newest first.
    pub(crate) async fn operations(
        &self,
        key: &Key,
        page: CursorInTime,
    ) -> Result<Vec<OperationRow>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "SELECT id, pipeline, kind, state, by, created_at, ended_at, text, code \
                 FROM operations WHERE tenant = $1 AND pipeline = $2 \
                 AND ($3 IS NULL OR created_at < $3 OR created_at = $3 AND id > $4) \
                 ORDER BY created_at DESC, id LIMIT $5";
            let (at, id) = page.after.unzip();
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(sql, params![key.tenant, key.id, at, id, limit], operation)
        })
        .await
    }

    /// Operations that a server left behind when it was killed have no end of their own.
    pub(crate) async fn end_operations_left_behind(&self) -> Result<()> {
        self.with(|store, _| {
            let sql = "UPDATE operations SET state = 'failed', ended_at = $1, \
                 text = CASE kind WHEN 'cutover' THEN 'the server ended before it was over; the source may \
                 refuse writes until: tidemark cutover ' || pipeline || ' --abort' \
                 ELSE 'the server ended before it was over' END WHERE state = 'running'";
            store.execute(sql, params![clock::now()])?;
            Ok(())
        })
        .await
    }

    /// One operation.
    pub(crate) async fn operation(
        &self,
        tenant: String,
        id: String,
    ) -> Result<Option<OperationRow>> {
        self.with(move |store, _| {
            let sql = "SELECT id, pipeline, kind, state, by, created_at, ended_at, text, code, data \
                 FROM operations WHERE tenant = $1 AND id = $2";
            store.optional(sql, params![tenant, id], |row| {
                let data: Option<String> = row.get(9)?;
                let data = data.and_then(|data| serde_json::from_str(&data).ok());
                Ok(OperationRow {
                    data,
                    ..operation(row)?
                })
            })
        })
        .await
    }

    /// Keeps what a comparison found, and gives its number.
    pub(crate) async fn add_verification(&self, key: &Key, row: VerificationRow) -> Result<i64> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "INSERT INTO verifications (tenant, pipeline, at, lsn, result, depth, rows, seconds, \
                 tables, position_type, whole) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
                 RETURNING id";
            let (tables, position_type) = (row.tables.to_string(), &row.position_type);
            let row = params![
                key.tenant, key.id, row.at, row.lsn, row.result, row.depth, row.rows, row.seconds,
                tables, position_type, row.whole
            ];
            let id: i64 = store.one(sql, row, |row| row.get(0))?;
            let sql = "DELETE FROM verifications WHERE tenant = $1 AND pipeline = $2 AND id <= (SELECT id \
                 FROM verifications WHERE tenant = $1 AND pipeline = $2 ORDER BY id DESC LIMIT 1 OFFSET $3)";
            store.execute(sql, params![key.tenant, key.id, VERIFICATIONS_KEPT])?;
            Ok(id)
        })
        .await
    }

    /// Comparisons of a pipeline, newest first; `only` one of them.
    pub(crate) async fn verifications(
        &self,
        key: &Key,
        only: Option<i64>,
        page: Cursor,
    ) -> Result<Vec<VerificationRow>> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {COLUMNS} FROM verifications WHERE tenant = $1 AND pipeline = $2 \
                 AND ($3 IS NULL OR id < $3) AND ($4 IS NULL OR id = $4) ORDER BY id DESC LIMIT $5"
            );
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            let row = params![key.tenant, key.id, page.before, only, limit];
            store.query(&sql, row, verification)
        })
        .await
    }
}

fn operation(row: &Row) -> Result<OperationRow, Failed> {
    Ok(OperationRow {
        id: row.get(0)?,
        pipeline: row.get(1)?,
        kind: row.get(2)?,
        state: row.get(3)?,
        by: row.get(4)?,
        created_at: row.get(5)?,
        ended_at: row.get(6)?,
        text: row.get(7)?,
        code: row.get(8)?,
        data: None,
    })
}

pub(super) fn verification(row: &Row) -> Result<VerificationRow, Failed> {
    let tables: String = row.get(7)?;
    Ok(VerificationRow {
        id: row.get(0)?,
        at: row.get(1)?,
        lsn: row.get(2)?,
        result: row.get(3)?,
        depth: row.get(4)?,
        rows: row.get(5)?,
        seconds: row.get(6)?,
        tables: serde_json::from_str(&tables).unwrap_or(Value::Null),
        position_type: row.get(8)?,
        whole: row.get(9)?,
    })
}
