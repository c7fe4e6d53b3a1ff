//! Definitions, and whether they are to run.

use std::collections::BTreeSet;

use serde::Serialize;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result, clock};
use utoipa::ToSchema;

use super::session::{Rows, WRITTEN_AT_ONCE};
use super::{Failed, NewDelivery, Row, Seal, Session, Store, deliveries, params};

/// A pipeline among those of all tenants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Whose it is.
    pub(crate) tenant: String,
    /// Its name there.
    pub(crate) id: String,
}

impl Key {
    /// A key.
    pub(crate) fn new(tenant: impl Into<String>, id: impl Into<String>) -> Key {
        Key {
            tenant: tenant.into(),
            id: id.into(),
        }
    }

    fn bound(&self) -> String {
        format!("definition/{}/{}", self.tenant, self.id)
    }
}

/// What a person wants of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DesiredState {
    /// It was never started.
    Draft,
    /// It runs.
    Running,
    /// It applies nothing until resumed.
    Paused,
    /// It does not run.
    Stopped,
    /// It was a full load alone, and is done.
    Completed,
}

impl DesiredState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            DesiredState::Draft => "draft",
            DesiredState::Running => "running",
            DesiredState::Paused => "paused",
            DesiredState::Stopped => "stopped",
            DesiredState::Completed => "completed",
        }
    }

    fn of_word(word: &str) -> Option<DesiredState> {
        [
            DesiredState::Draft,
            DesiredState::Running,
            DesiredState::Paused,
            DesiredState::Stopped,
            DesiredState::Completed,
        ]
        .into_iter()
        .find(|state| state.word() == word)
    }
}

/// What is wanted, by whom, since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    /// What.
    pub(crate) state: DesiredState,
    /// Who: a name, `file` or `engine`.
    pub(crate) by: String,
    /// RFC 3339.
    pub(crate) since: String,
    /// Why, where there is more to say.
    pub(crate) reason: Option<String>,
}

impl Desired {
    /// From now on.
    pub(crate) fn now(
        state: DesiredState,
        by: impl Into<String>,
        reason: Option<String>,
    ) -> Desired {
        Desired {
            state,
            by: by.into(),
            since: clock::now(),
            reason,
        }
    }
}

/// A pipeline that is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewPipeline {
    pub(crate) key: Key,
    pub(crate) mode: String,
    /// Its text; `None` where a file has it.
    pub(crate) definition: Option<String>,
    /// The file that has it.
    pub(crate) file: Option<String>,
    pub(crate) desired: Desired,
    pub(crate) by: String,
}

/// A pipeline that is kept.
#[derive(Clone, Debug)]
pub(crate) struct PipelineRow {
    /// Which.
    pub(crate) key: Key,
    /// Its mode.
    pub(crate) mode: String,
    /// Its text; `None` where a file has it.
    pub(crate) definition: Option<String>,
    /// The file that has it.
    pub(crate) file: Option<String>,
    /// The consistent point of its first load.
    pub(crate) full_load_lsn: Option<String>,
    /// Whether people were told that the load from there is in, or need not be.
    pub(crate) load_told: bool,
    /// What is wanted of it.
    pub(crate) desired: Desired,
    /// RFC 3339.
    pub(crate) created_at: String,
    /// Who made it.
    pub(crate) created_by: String,
    /// RFC 3339.
    pub(crate) updated_at: String,
    /// Counts changes of the definition.
    pub(crate) version: i64,
}

const COLUMNS: &str = "tenant, id, mode, definition, file, full_load_lsn, desired, desired_by, \
     desired_since, desired_reason, created_at, created_by, updated_at, version, load_told";

impl Store {
    /// All pipelines of all tenants, in order.
    pub(crate) async fn pipelines(&self) -> Result<Vec<PipelineRow>> {
        self.with(|store, seal| {
            let sql = format!("SELECT {COLUMNS} FROM pipelines ORDER BY tenant, id");
            store.query(&sql, &[], |row| read(row, seal))
        })
        .await
    }

    /// One of them.
    pub(crate) async fn pipeline(&self, key: &Key) -> Result<Option<PipelineRow>> {
        let key = key.clone();
        self.with(move |store, seal| find(store, seal, &key)).await
    }

    /// Keeps a new one; `None` if there is one of this name.
    pub(crate) async fn add_pipeline(&self, new: NewPipeline) -> Result<Option<PipelineRow>> {
        self.with(move |store, seal| {
            let sealed = sealed(seal, &new.key, new.definition.as_deref())?;
            let now = clock::now();
            let desired = &new.desired;
            let sql = "INSERT INTO pipelines (tenant, id, mode, definition, file, desired, desired_by, \
                 desired_since, desired_reason, created_at, created_by, updated_at, version) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $10, 1) ON CONFLICT DO NOTHING";
            let added = store.execute(
                sql,
                params![
                    new.key.tenant,
                    new.key.id,
                    new.mode,
                    sealed,
                    new.file,
                    desired.state.word(),
                    desired.by,
                    desired.since,
                    desired.reason,
                    now,
                    new.by,
                ],
            )?;
            if added == 0 {
                return Ok(None);
            }
            find(store, seal, &new.key)
        })
        .await
    }

    /// Gives it another definition, or another mode where a file has it. `None` if it changed since
    /// `version`, or is gone.
    pub(crate) async fn redefine(
        &self,
        key: &Key,
        version: i64,
        mode: String,
        definition: Option<String>,
    ) -> Result<Option<PipelineRow>> {
        let key = key.clone();
        self.with(move |store, seal| {
            let sealed = sealed(seal, &key, definition.as_deref())?;
            let sql = "UPDATE pipelines SET mode = $4, definition = $5, updated_at = $6, \
                 version = version + 1 WHERE tenant = $1 AND id = $2 AND version = $3";
            let row = params![key.tenant, key.id, version, mode, sealed, clock::now()];
            if store.execute(sql, row)? == 0 {
                return Ok(None);
            }
            find(store, seal, &key)
        })
        .await
    }

    /// Its file is this one from now on. `None` if it is gone.
    pub(crate) async fn set_file(&self, key: &Key, file: String) -> Result<Option<PipelineRow>> {
        let key = key.clone();
        self.with(move |store, seal| {
            let sql = "UPDATE pipelines SET file = $3 WHERE tenant = $1 AND id = $2";
            store.execute(sql, params![key.tenant, key.id, file])?;
            find(store, seal, &key)
        })
        .await
    }

    /// Records what is wanted of it.
    pub(crate) async fn desire(&self, key: &Key, desired: Desired) -> Result<()> {
        let key = key.clone();
        self.with(move |store, _| write_desired(store, &key, desired))
            .await
    }

    /// Records the consistent point of its load, which begins at this moment or was met again.
    pub(crate) async fn set_full_load_lsn(
        &self,
        key: &Key,
        position: String,
        begins: bool,
    ) -> Result<()> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "UPDATE pipelines SET full_load_lsn = $3, \
                 load_told = CASE WHEN $4 = 1 THEN 0 ELSE load_told END \
                 WHERE tenant = $1 AND id = $2";
            store.execute(sql, params![key.tenant, key.id, position, begins])?;
            Ok(())
        })
        .await
    }

    /// Has people told that the load from there is in, once. Whether they are: `false` where its begin is not
    /// written down yet.
    pub(crate) async fn tell_load(
        &self,
        key: &Key,
        position: String,
        letters: Vec<NewDelivery>,
    ) -> Result<bool> {
        let key = key.clone();
        self.with(move |store, _| {
            let sql = "UPDATE pipelines SET load_told = 1 WHERE tenant = $1 AND id = $2 \
                 AND full_load_lsn = $3 AND load_told = 0";
            if store.execute(sql, params![key.tenant, key.id, position])? == 0 {
                // The answer of the call that did it may have been lost.
                let sql = "SELECT load_told FROM pipelines WHERE tenant = $1 AND id = $2 \
                     AND full_load_lsn = $3";
                let told =
                    store.optional(sql, params![key.tenant, key.id, position], |row| row.get(0))?;
                return Ok(told.unwrap_or(false));
            }
            for letter in &letters {
                deliveries::add(store, letter)?;
            }
            Ok(true)
        })
        .await
    }

    /// Forgets it, and all that was written down about it.
    pub(crate) async fn remove_pipeline(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.with(move |store, _| {
            let tables = [
                "runs",
                "events",
                "history",
                "verifications",
                "alerts",
                "schedules",
                "schedule_runs",
            ];
            for table in tables {
                let sql = format!("DELETE FROM {table} WHERE tenant = $1 AND pipeline = $2");
                store.execute(&sql, params![key.tenant, key.id])?;
            }
            let sql = "DELETE FROM pipelines WHERE tenant = $1 AND id = $2";
            store.execute(sql, params![key.tenant, key.id])?;
            Ok(())
        })
        .await
    }
}

/// Records what is wanted of a pipeline.
pub(super) fn write_desired(
    store: &mut Session<'_>,
    key: &Key,
    desired: Desired,
) -> Result<(), Failed> {
    let sql = "UPDATE pipelines SET desired = $3, desired_by = $4, desired_since = $5, \
         desired_reason = $6 WHERE tenant = $1 AND id = $2";
    let word = desired.state.word();
    let (by, since, reason) = (desired.by, desired.since, desired.reason);
    store.execute(sql, params![key.tenant, key.id, word, by, since, reason])?;
    Ok(())
}

fn sealed(seal: &Seal, key: &Key, definition: Option<&str>) -> Result<Option<Vec<u8>>> {
    let sealed = definition.map(|text| seal.seal(text.as_bytes(), &key.bound()));
    sealed.transpose()
}

pub(super) fn find(
    store: &mut Session<'_>,
    seal: &Seal,
    key: &Key,
) -> Result<Option<PipelineRow>, Failed> {
    let sql = format!("SELECT {COLUMNS} FROM pipelines WHERE tenant = $1 AND id = $2");
    let key = params![key.tenant, key.id];
    store.optional(&sql, key, |row| read(row, seal))
}

fn read(row: &Row, seal: &Seal) -> Result<PipelineRow, Failed> {
    let key = Key {
        tenant: row.get(0)?,
        id: row.get(1)?,
    };
    let damaged =
        |what: &str| Error::definite(codes::STORE_DAMAGED, format!("{what} of {}", key.id));
    let definition = match row.get::<Option<Vec<u8>>>(3)? {
        Some(sealed) => {
            let opened = seal.open(&sealed, &key.bound())?;
            Some(String::from_utf8(opened).map_err(|_| damaged("the definition"))?)
        }
        None => None,
    };
    let word: String = row.get(6)?;
    let state = DesiredState::of_word(&word).ok_or_else(|| damaged("the desired state"))?;
    Ok(PipelineRow {
        mode: row.get(2)?,
        definition,
        file: row.get(4)?,
        full_load_lsn: row.get(5)?,
        desired: Desired {
            state,
            by: row.get(7)?,
            since: row.get(8)?,
            reason: row.get(9)?,
        },
        created_at: row.get(10)?,
        created_by: row.get(11)?,
        updated_at: row.get(12)?,
        version: row.get(13)?,
        load_told: row.get(14)?,
        key,
    })
}

/// Whether there is such a pipeline; for what is written down about it later.
pub(super) fn exists(store: &mut Session<'_>, key: &Key) -> Result<bool, Failed> {
    let sql = "SELECT 1 FROM pipelines WHERE tenant = $1 AND id = $2";
    let found = store.optional(sql, params![key.tenant, key.id], |_| Ok(()))?;
    Ok(found.is_some())
}

/// Those of these pipelines that are there.
pub(super) fn which_exist(
    store: &mut Session<'_>,
    keys: BTreeSet<Key>,
) -> Result<BTreeSet<Key>, Failed> {
    let keys: Vec<Key> = keys.into_iter().collect();
    let mut there = BTreeSet::new();
    for part in keys.chunks(WRITTEN_AT_ONCE) {
        let mut rows = Rows::default();
        for key in part {
            rows.push(params![key.tenant, key.id]);
        }
        let sql = format!(
            "SELECT tenant, id FROM pipelines WHERE (tenant, id) IN (VALUES {})",
            rows.text()
        );
        let found = store.query(&sql, &rows.values, |row| {
            Ok(Key::new(row.get::<String>(0)?, row.get::<String>(1)?))
        });
        there.extend(found?);
    }
    Ok(there)
}
