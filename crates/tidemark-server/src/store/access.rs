//! Who may come in, and answers that are given again for the same key.

use serde::Serialize;
use tidemark_core::{Result, clock};
use utoipa::ToSchema;

use super::{CursorInTime, Failed, Row, Store, params};

/// How long an answer is kept for its `Idempotency-Key`.
pub(crate) const ANSWERS_KEPT_DAYS: i64 = 1;

/// A token that is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewToken {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) role: String,
    /// SHA-256 of the token.
    pub(crate) hash: Vec<u8>,
    pub(crate) by: String,
    pub(crate) expires_at: Option<String>,
}

/// A token that is kept; the token itself is not.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct TokenRow {
    /// By which it is revoked.
    pub(crate) id: String,
    /// Whose pipelines it opens.
    pub(crate) tenant: String,
    /// For people.
    pub(crate) name: String,
    /// `viewer`, `operator` or `admin`.
    pub(crate) role: String,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// Who made it.
    pub(crate) created_by: String,
    /// RFC 3339; `null` for never.
    pub(crate) expires_at: Option<String>,
    /// RFC 3339; `null` while it counts.
    pub(crate) revoked_at: Option<String>,
}

/// What was said to a request with an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Nobody came with this key before: it is ours now.
    Never,
    /// Another request came with it.
    Other,
    /// The same request came and is being answered.
    Now,
    /// The same request was answered.
    So(KeptAnswer),
}

/// An answer that is given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptAnswer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) etag: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// To what an answer is bound that is sealed: a token may be in it.
fn bound(key: &str) -> String {
    format!("answer {key}")
}

/// So many days ago, RFC 3339.
pub(super) fn days_ago(days: i64) -> String {
    clock::rfc3339(clock::now_us() - days * 86_400 * 1_000_000)
}

const COLUMNS: &str = "id, tenant, name, role, created_at, created_by, expires_at, revoked_at";

impl Store {
    /// Keeps a token's hash.
    pub(crate) async fn add_token(&self, new: NewToken) -> Result<TokenRow> {
        self.with(move |store, _| {
            let sql = "INSERT INTO tokens (id, tenant, name, role, hash, created_at, created_by, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            let now = clock::now();
            store.execute(
                sql,
                params![
                    new.id, new.tenant, new.name, new.role, new.hash, now, new.by, new.expires_at
                ],
            )?;
            let sql = format!("SELECT {COLUMNS} FROM tokens WHERE id = $1");
            store.one(&sql, params![new.id], token)
        })
        .await
    }

    /// Every token that counts now, with its hash.
    pub(crate) async fn tokens_that_count(&self) -> Result<Vec<(Vec<u8>, TokenRow)>> {
        self.with(|store, _| {
            let sql = format!(
                "SELECT {COLUMNS}, hash FROM tokens WHERE revoked_at IS NULL \
                 AND (expires_at IS NULL OR expires_at > $1)"
            );
            store.query(&sql, params![clock::now()], |row| {
                Ok((row.get(8)?, token(row)?))
            })
        })
        .await
    }

    /// Tokens of a tenant, newest first; of all of them without one.
    pub(crate) async fn tokens(
        &self,
        tenant: Option<String>,
        page: CursorInTime,
    ) -> Result<Vec<TokenRow>> {
        self.with(move |store, _| {
            let sql = format!(
                "SELECT {COLUMNS} FROM tokens WHERE ($1 IS NULL OR tenant = $1) \
                 AND ($2 IS NULL OR created_at < $2 OR created_at = $2 AND id > $3) \
                 ORDER BY created_at DESC, id LIMIT $4"
            );
            let (at, id) = page.after.unzip();
            let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
            store.query(&sql, params![tenant, at, id, limit], token)
        })
        .await
    }

    /// Makes a token count no more. Whether there was one.
    pub(crate) async fn revoke_token(&self, tenant: Option<String>, id: String) -> Result<bool> {
        self.with(move |store, _| {
            let sql = "UPDATE tokens SET revoked_at = coalesce(revoked_at, $3) WHERE id = $1 \
                 AND ($2 IS NULL OR tenant = $2)";
            Ok(store.execute(sql, params![id, tenant, clock::now()])? > 0)
        })
        .await
    }

    /// Takes a key, or tells what became of it.
    pub(crate) async fn take_idempotency_key(
        &self,
        tenant: String,
        who: String,
        key: String,
        request: Vec<u8>,
    ) -> Result<Answered> {
        self.with(move |store, seal| {
            let sql = "DELETE FROM idempotency WHERE created_at < $1";
            store.execute(sql, params![days_ago(ANSWERS_KEPT_DAYS)])?;
            let sql = "INSERT INTO idempotency (tenant, who, key, request, created_at) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
            if store.execute(sql, params![tenant, who, key, request, clock::now()])? > 0 {
                return Ok(Answered::Never);
            }
            let sql = "SELECT request, status, location, etag, body FROM idempotency \
                 WHERE tenant = $1 AND who = $2 AND key = $3";
            store.one(sql, params![tenant, who, key], |row| {
                let known: Vec<u8> = row.get(0)?;
                let status: Option<u16> = row.get(1)?;
                Ok(match status {
                    _ if known != request => Answered::Other,
                    None => Answered::Now,
                    Some(status) => {
                        let body: Vec<u8> = row.get(4)?;
                        Answered::So(KeptAnswer {
                            status,
                            location: row.get(2)?,
                            etag: row.get(3)?,
                            // Versions before this one have not sealed it.
                            body: seal.open(&body, &bound(&key)).unwrap_or(body),
                        })
                    }
                })
            })
        })
        .await
    }

    /// Keeps the answer for a key; without one the key is free again.
    pub(crate) async fn answer_idempotency_key(
        &self,
        (tenant, who, key): (String, String, String),
        answer: Option<KeptAnswer>,
    ) -> Result<()> {
        self.with(move |store, seal| {
            if let Some(answer) = answer {
                let body = seal.seal(&answer.body, &bound(&key))?;
                let (status, location, etag) = (answer.status, answer.location, answer.etag);
                let sql = "UPDATE idempotency SET status = $4, location = $5, etag = $6, body = $7 \
                     WHERE tenant = $1 AND who = $2 AND key = $3";
                store.execute(sql, params![tenant, who, key, status, location, etag, body])?;
            } else {
                let sql = "DELETE FROM idempotency WHERE tenant = $1 AND who = $2 AND key = $3";
                store.execute(sql, params![tenant, who, key])?;
            }
            Ok(())
        })
        .await
    }

    /// Requests that a server left behind when it was killed were not answered.
    pub(crate) async fn free_idempotency_keys(&self) -> Result<()> {
        self.with(|store, _| {
            store.execute("DELETE FROM idempotency WHERE status IS NULL", &[])?;
            Ok(())
        })
        .await
    }
}

fn token(row: &Row) -> Result<TokenRow, Failed> {
    Ok(TokenRow {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        role: row.get(3)?,
        created_at: row.get(4)?,
        created_by: row.get(5)?,
        expires_at: row.get(6)?,
        revoked_at: row.get(7)?,
    })
}
