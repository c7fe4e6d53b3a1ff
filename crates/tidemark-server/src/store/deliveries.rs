//! The outbox: what somebody is to be told, until it is there or given up, and the log of it.

use std::sync::Arc;

use serde::Serialize;
use tidemark_core::{Error, Result, clock};
use utoipa::ToSchema;

use super::{Cursor, Failed, Row, Session, Store, params};

/// How long what has ended is kept.
pub(crate) const DELIVERIES_KEPT_DAYS: i64 = 30;
/// How many are kept at most, over all.
const KEPT: i64 = 20_000;

/// Something for one notifier.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewDelivery {
    /// Not to be guessed; the receiver drops what comes twice by it.
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) notifier: String,
    pub(crate) pipeline: Option<String>,
    pub(crate) kind: &'static str,
    /// What is said, as JSON.
    pub(crate) letter: String,
    /// Why it will not go out, where that is known.
    pub(crate) failed: Option<(String, String)>,
}

/// A delivery as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct DeliveryRow {
    /// Increases.
    #[serde(skip)]
    pub(crate) number: i64,
    /// The receiver got it with the message.
    pub(crate) id: String,
    /// Who is told.
    pub(crate) notifier: String,
    /// Of which pipeline; `null` for a test.
    pub(crate) pipeline_id: Option<String>,
    /// `alert`, `alert_resolved`, `load_finished` or `test`.
    pub(crate) kind: String,
    /// `waiting`, `delivered` or `failed`.
    pub(crate) state: String,
    /// How often it was tried.
    pub(crate) attempts: i64,
    /// When it came about, RFC 3339.
    pub(crate) created_at: String,
    /// When it is tried next, RFC 3339; `null` when it has ended.
    pub(crate) next_at: Option<String>,
    /// When it was delivered or given up, RFC 3339.
    pub(crate) ended_at: Option<String>,
    /// Catalogue code of what went wrong last.
    pub(crate) code: Option<String>,
    /// What came of the last attempt.
    pub(crate) result: Option<String>,
    #[serde(skip)]
    pub(crate) created_us: i64,
    #[serde(skip)]
    pub(crate) next_us: i64,
    #[serde(skip)]
    pub(crate) letter: String,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(crate) enum Attempted {
    Delivered(String),
    /// It is tried again at this time.
    Later(Arc<Error>, i64),
    GivenUp(Arc<Error>),
}

const COLUMNS: &str = "number, id, notifier, pipeline, kind, state, attempts, created_us, next_us, \
     ended_us, code, result, letter";

impl Store {
    /// What waits for a notifier for the longest time: its messages go out in order.
    pub(crate) async fn first_waiting(
        &self,
        tenant: String,
        notifier: String,
    ) -> Result<Option<DeliveryRow>> {
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {COLUMNS} FROM deliveries WHERE tenant = $1 AND notifier = $2 \
                 AND state = 'waiting' ORDER BY number LIMIT 1"
            );
            store.optional(&sql, params![tenant, notifier], delivery)
        })
        .await
    }

    /// Writes a delivery down that is not for the outbox: a test.
    pub(crate) async fn add_delivery(&self, new: NewDelivery) -> Result<()> {
        self.with(move |store, _| insert(store, &new, "testing"))
            .await
    }

    /// Writes down how an attempt ended. Gives the delivery as it stands then.
    pub(crate) async fn attempted(&self, id: String, attempted: Attempted) -> Result<DeliveryRow> {
        self.with(move |store, _| {
            let now = clock::now_us();
            let (state, next, ended, code, text) = match attempted {
                Attempted::Delivered(text) => ("delivered", now, Some(now), None, text),
                Attempted::Later(err, next) => {
                    let code = err.code().to_string();
                    ("waiting", next, None, Some(code), err.to_string())
                }
                Attempted::GivenUp(err) => {
                    let code = err.code().to_string();
                    ("failed", now, Some(now), Some(code), err.to_string())
                }
            };
            let sql = format!(
                "UPDATE deliveries SET state = $2, attempts = attempts + 1, next_us = $3, \
                 ended_us = $4, code = $5, result = $6 WHERE id = $1 RETURNING {COLUMNS}"
            );
            store.one(&sql, params![id, state, next, ended, code, text], delivery)
        })
        .await
    }

    /// Ends what waits for notifiers that are not there any more, and the tests that a server was
    /// killed in; forgets what is old.
    pub(crate) async fn tidy_deliveries(
        &self,
        known: Vec<(String, String)>,
        code: String,
    ) -> Result<()> {
        self.with(move |store, _| {
            let now = clock::now_us();
            let sql = "SELECT DISTINCT tenant, notifier FROM deliveries WHERE state = 'waiting'";
            let waiting = store.query(sql, &[], |row| {
                Ok((row.get::<String>(0)?, row.get::<String>(1)?))
            })?;
            for (tenant, notifier) in waiting.into_iter().filter(|name| !known.contains(name)) {
                let sql = "UPDATE deliveries SET state = 'failed', ended_us = $3, code = $4, \
                     result = $5 WHERE tenant = $1 AND notifier = $2 AND state = 'waiting'";
                let text = format!("there is no notifier `{notifier}` any more");
                store.execute(sql, params![tenant, notifier, now, code, text])?;
            }
            let sql = "UPDATE deliveries SET state = 'failed', ended_us = $1, \
                 result = 'the server ended before it was over' WHERE state = 'testing'";
            store.execute(sql, params![now])?;
            prune(store, now)
        })
        .await
    }

    /// Deliveries of a tenant, newest first.
    pub(crate) async fn deliveries(
        &self,
        tenant: String,
        notifier: Option<String>,
        page: Cursor,
    ) -> Result<Vec<DeliveryRow>> {
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {COLUMNS} FROM deliveries WHERE tenant = $1 \
                 AND ($2 IS NULL OR notifier = $2) AND ($3 IS NULL OR number < $3) \
                 ORDER BY number DESC LIMIT $4"
            );
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(
                &sql,
                params![tenant, notifier, page.before, limit],
                delivery,
            )
        })
        .await
    }

    /// How many wait, by notifier.
    pub(crate) async fn waiting_deliveries(&self, tenant: String) -> Result<Vec<(String, i64)>> {
        self.with(move |store, _| {
            let sql = "SELECT notifier, count(*) FROM deliveries WHERE tenant = $1 \
                 AND state = 'waiting' GROUP BY notifier";
            store.query(sql, params![tenant], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await
    }
}

/// Puts one into the outbox.
pub(super) fn add(store: &mut Session<'_>, new: &NewDelivery) -> Result<(), Failed> {
    insert(store, new, "waiting")
}

fn insert(store: &mut Session<'_>, new: &NewDelivery, state: &str) -> Result<(), Failed> {
    let now = clock::now_us();
    let failed = new.failed.as_ref();
    let (state, ended) = match failed {
        Some(_) => ("failed", Some(now)),
        None => (state, None),
    };
    let (code, result) = (failed.map(|it| &it.0), failed.map(|it| &it.1));
    let sql = "INSERT INTO deliveries (id, tenant, notifier, pipeline, kind, letter, state, attempts, \
         created_us, next_us, ended_us, code, result) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $8, $9, $10, $11) RETURNING number";
    let (id, tenant, notifier) = (&new.id, &new.tenant, &new.notifier);
    let (pipeline, kind, letter) = (&new.pipeline, new.kind, &new.letter);
    let row = params![
        id, tenant, notifier, pipeline, kind, letter, state, now, ended, code, result
    ];
    let number: i64 = store.one(sql, row, |row| row.get(0))?;
    if number % 100 == 0 {
        prune(store, now)?;
    }
    Ok(())
}

fn prune(store: &mut Session<'_>, now: i64) -> Result<(), Failed> {
    let old = now - DELIVERIES_KEPT_DAYS * 86_400 * 1_000_000;
    let sql = "DELETE FROM deliveries WHERE ended_us IS NOT NULL AND (ended_us < $1 OR number <= \
         (SELECT max(number) FROM deliveries) - $2)";
    store.execute(sql, params![old, KEPT])?;
    Ok(())
}

fn delivery(row: &Row) -> Result<DeliveryRow, Failed> {
    let (created_us, next_us): (i64, i64) = (row.get(7)?, row.get(8)?);
    let state: String = row.get(5)?;
    let ended: Option<i64> = row.get(9)?;
    Ok(DeliveryRow {
        number: row.get(0)?,
        id: row.get(1)?,
        notifier: row.get(2)?,
        pipeline_id: row.get(3)?,
        kind: row.get(4)?,
        attempts: row.get(6)?,
        created_at: clock::rfc3339(created_us),
        next_at: ended.is_none().then(|| clock::rfc3339(next_us)),
        ended_at: ended.map(clock::rfc3339),
        code: row.get(10)?,
        result: row.get(11)?,
        letter: row.get(12)?,
        state,
        created_us,
        next_us,
    })
}
