//! Connections that have a name: databases that several pipelines of a tenant use.

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result, clock};

use super::{Failed, Key, PipelineRow, Row, Seal, Session, Store, params, pipelines};

/// A connection that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRow {
    /// Whose it is, and its name there.
    pub(crate) key: Key,
    /// Its keys, as a section of a file has them. Holds secrets; sealed at rest.
    pub(crate) keys: String,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// Who made it.
    pub(crate) created_by: String,
    /// RFC 3339.
    pub(crate) updated_at: String,
    /// Counts changes.
    pub(crate) version: i64,
}

const COLUMNS: &str = "tenant, name, keys, created_at, created_by, updated_at, version";

/// To which place a sealed text is bound, so that a row copied elsewhere does not open.
fn bound(key: &Key) -> String {
    format!("connection/{}/{}", key.tenant, key.id)
}

impl Store {
    /// All connections of all tenants.
    pub(crate) async fn connections(&self) -> Result<Vec<ConnectionRow>> {
        self.with(|store, seal| {
            let sql = format!("SELECT {COLUMNS} FROM connections ORDER BY tenant, name");
            store.query(&sql, &[], |row| read(row, seal))
        })
        .await
    }

    /// Keeps a new one; `None` if there is one of this name.
    pub(crate) async fn add_connection(
        &self,
        key: Key,
        keys: String,
        by: String,
    ) -> Result<Option<ConnectionRow>> {
        self.with(move |store, seal| {
            let sealed = seal.seal(keys.as_bytes(), &bound(&key))?;
            let sql = "INSERT INTO connections (tenant, name, keys, created_at, created_by, updated_at, \
                 version) VALUES ($1, $2, $3, $4, $5, $4, 1) ON CONFLICT DO NOTHING";
            let row = params![key.tenant, key.id, sealed, clock::now(), by];
            if store.execute(sql, row)? == 0 {
                return Ok(None);
            }
            find(store, seal, &key)
        })
        .await
    }

    /// Gives it other keys, and its users another version, so that those that run begin anew with it. `None`
    /// if it changed since `version`, or is gone.
    pub(crate) async fn change_connection(
        &self,
        key: Key,
        version: i64,
        keys: String,
        users: Vec<Key>,
    ) -> Result<Option<(ConnectionRow, Vec<PipelineRow>)>> {
        self.with(move |store, seal| {
            let sealed = seal.seal(keys.as_bytes(), &bound(&key))?;
            let sql = "UPDATE connections SET keys = $4, updated_at = $5, version = version + 1 \
                 WHERE tenant = $1 AND name = $2 AND version = $3";
            let now = clock::now();
            let row = params![key.tenant, key.id, version, sealed, now];
            if store.execute(sql, row)? == 0 {
                return Ok(None);
            }
            let mut begin_anew = Vec::new();
            for user in &users {
                let sql = "UPDATE pipelines SET version = version + 1, updated_at = $3 \
                     WHERE tenant = $1 AND id = $2";
                store.execute(sql, params![user.tenant, user.id, now])?;
                begin_anew.extend(pipelines::find(store, seal, user)?);
            }
            let changed = find(store, seal, &key)?;
            Ok(changed.map(|row| (row, begin_anew)))
        })
        .await
    }

    /// Forgets it. `false` if it changed since `version`, or is gone.
    pub(crate) async fn remove_connection(&self, key: Key, version: i64) -> Result<bool> {
        self.with(move |store, _| {
            let sql = "DELETE FROM connections WHERE tenant = $1 AND name = $2 AND version = $3";
            Ok(store.execute(sql, params![key.tenant, key.id, version])? > 0)
        })
        .await
    }
}

fn find(store: &mut Session<'_>, seal: &Seal, key: &Key) -> Result<Option<ConnectionRow>, Failed> {
    let sql = format!("SELECT {COLUMNS} FROM connections WHERE tenant = $1 AND name = $2");
    store.optional(&sql, params![key.tenant, key.id], |row| read(row, seal))
}

fn read(row: &Row, seal: &Seal) -> Result<ConnectionRow, Failed> {
    let key = Key {
        tenant: row.get(0)?,
        id: row.get(1)?,
    };
    let opened = seal.open(&row.get::<Vec<u8>>(2)?, &bound(&key))?;
    let keys = String::from_utf8(opened).map_err(|_| {
        let text = format!("the connection {}", key.id);
        Error::definite(codes::STORE_DAMAGED, text)
    })?;
    Ok(ConnectionRow {
        keys,
        created_at: row.get(3)?,
        created_by: row.get(4)?,
        updated_at: row.get(5)?,
        version: row.get(6)?,
        key,
    })
}
