//! Rows in quarantine, in `tidemark.quarantine`: put aside, waited behind, applied again.
//!
//! Which changes wait is told by [`Aside`]; here it is kept beside what is committed, so that a
//! transaction that is given up leaves no trace. Changes are written with the commit they belong to,
//! and discarded by a truncate likewise, in the order in which they came.
//!
//! [`sift`] finds the rows that a target refuses, [`release`] applies them again, [`listed`] shows them.

use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::catalogue::codes;
use tidemark_core::quarantine::{Aside, Cause, Kept, Key, alone, keys_of};
use tidemark_core::schema::TableName;
use tidemark_core::target::{Applied, Origin};
use tidemark_core::{Error, Result};

use super::payload::{self, Payload};
use super::session::{Session, Step};
use super::table::lookup_key;
use crate::target::checkpoint::{from_json, json};
use crate::wire::Connection;

mod listed;
mod release;
mod sift;

pub(in crate::target) use listed::list;
pub(super) use sift::may_sift;

/// OIDs of text, int8 and bytea.
const HOLD_TYPES: [u32; 10] = [25, 25, 25, 25, 20, 25, 25, 25, 25, 17];

const HOLD: &str = "INSERT INTO tidemark.quarantine \
     (pipeline, source_schema, source_name, keys, xid, commit_position, code, sqlstate, cause, \
      payload) \
     VALUES ($1, $2, $3, $4::jsonb, $5, $6, nullif($7, ''), nullif($8, ''), nullif($9, ''), $10)";

const CLEAR: &str = "DELETE FROM tidemark.quarantine \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    committed: Aside,
    now: Aside,
    /// What the commit writes, in order.
    pending: Vec<Entry>,
    /// What it tells.
    refused: Vec<(TableName, Cause)>,
    /// Where a batch that may have to be sifted began.
    mark: Mark,
}

#[derive(Debug, Default)]
struct Mark {
    now: Aside,
    pending: usize,
    refused: usize,
}

#[derive(Debug)]
enum Entry {
    Hold(Held),
    Clear(TableName),
}

#[derive(Debug)]
struct Held {
    table: TableName,
    keys: String,
    origin: Origin,
    cause: Option<Cause>,
    payload: Payload,
}

/// Reads which rows are in quarantine.
pub(super) async fn read(connection: &mut Connection, pipeline: &str) -> Result<Quarantine> {
    let found = connection
        .query(
            "SELECT source_schema, source_name, keys::text, octet_length(payload)::int8 \
             FROM tidemark.quarantine WHERE pipeline = $1 ORDER BY sequence",
            &[Some(pipeline)],
        )
        .await?;
    let mut aside = Aside::default();
    for row in &found.rows {
        let table = TableName::new(row.get_str(0)?, row.get_str(1)?);
        let keys: Vec<Key> = from_json(row.get_str(2)?)?;
        aside.hold(&table, &keys, row.get(3)?);
    }
    Ok(Quarantine {
        committed: aside.clone(),
        now: aside,
        ..Quarantine::default()
    })
}

impl Quarantine {
    /// As committed.
    pub(super) fn all(&self) -> Vec<(TableName, Kept)> {
        self.committed.all()
    }

    /// Whether changes of a batch may have to wait.
    pub(super) fn concerns(&self, batch: &Batch) -> bool {
        self.now.concerns(batch)
    }

    /// A batch begins here.
    pub(super) fn mark(&mut self) {
        self.mark = Mark {
            now: self.now.clone(),
            pending: self.pending.len(),
            refused: self.refused.len(),
        };
    }

    /// Back to where the batch began.
    fn reset(&mut self) {
        self.now = self.mark.now.clone();
        self.pending.truncate(self.mark.pending);
        self.refused.truncate(self.mark.refused);
    }

    /// The transaction is in; tells what it changed.
    pub(super) fn committed(&mut self, applied: &mut Applied) {
        applied.quarantined = self.now.changed_since(&self.committed);
        applied.refused = std::mem::take(&mut self.refused);
        if !applied.quarantined.is_empty() {
            self.committed = self.now.clone();
        }
        self.pending.clear();
    }

    /// The transaction is given up.
    pub(super) fn rolled_back(&mut self) {
        if self.now != self.committed {
            self.now = self.committed.clone();
        }
        self.pending.clear();
        self.refused.clear();
        self.mark = Mark::default();
    }

    /// A batch without what has to wait, which is put aside; `None` where nothing has.
    pub(super) fn without_waiting(&mut self, batch: &Batch) -> Result<Option<Batch>> {
        let mut kept = Vec::with_capacity(batch.len());
        for (index, item) in batch.items().iter().enumerate() {
            match item {
                Item::Change(change) if self.waits(batch, change) => {
                    self.hold(batch, index, None)?;
                }
                Item::Change(_) => kept.push(item.clone()),
                Item::Truncate { .. } | Item::Schema { .. } => {
                    self.pass(batch, item)?;
                    kept.push(item.clone());
                }
            }
        }
        if kept.len() == batch.len() {
            return Ok(None);
        }
        let mut rest = batch.clone();
        rest.replace_items(kept);
        Ok(Some(rest))
    }

    /// Whether a change has to wait behind a row in quarantine.
    fn waits(&self, batch: &Batch, change: &Change) -> bool {
        let mapping = &batch.tables()[change.table];
        if !self.now.has(mapping.source()) {
            return false;
        }
        let keys = keys_of(batch, change, &lookup_key(mapping));
        keys.is_some_and(|keys| self.now.waits(mapping.source(), &keys))
    }

    /// A truncate discards what its tables have; a change of shape cannot come before what waits.
    fn pass(&mut self, batch: &Batch, item: &Item) -> Result<()> {
        match item {
            Item::Change(_) => {}
            Item::Truncate { tables, .. } => {
                for table in tables {
                    let table = batch.tables()[*table].source();
                    if self.now.has(table) {
                        self.clear(table);
                    }
                }
            }
            Item::Schema { table, .. } => {
                let table = batch.tables()[*table].source();
                if self.now.has(table) {
                    let rows = self.now.kept(table).rows;
                    return Err(Error::data(
                        codes::QUARANTINE_IN_THE_WAY,
                        format!("its shape changes, and {rows} rows of it are in quarantine"),
                    )
                    .table(table.to_string()));
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self, table: &TableName) {
        self.now.clear(table);
        self.pending.push(Entry::Clear(table.clone()));
    }

    /// Puts a change aside, with its cause where it is itself what the target refused.
    fn hold(&mut self, batch: &Batch, item: usize, cause: Option<Cause>) -> Result<()> {
        let Item::Change(change) = &batch.items()[item] else {
            return Ok(());
        };
        let mapping = &batch.tables()[change.table];
        let table = mapping.source();
        let keys = keys_of(batch, change, &lookup_key(mapping));
        let (Some(origin), Some(keys)) = (batch.origin(item), keys) else {
            let text = "a change has to wait, and nothing tells its row or its place in the log";
            return Err(Error::data(codes::CHANGE_INCOMPLETE, text).table(table.to_string()));
        };
        let payload = payload::encode(&alone(batch, change), origin.commit.kind());
        self.now.hold(table, &keys, payload.len() as u64);
        let (bounds, kept) = (mapping.on_row_error.bounds(), self.now.kept(table));
        if kept.rows > bounds.rows_max || kept.bytes > bounds.bytes_max {
            let before = kept.rows.saturating_sub(1);
            let mut text =
                format!("{before} rows of it are in quarantine, and more would go there");
            if let Some(cause) = &cause {
                text = format!("{text}: {}", cause.text);
            }
            return Err(Error::data(codes::QUARANTINE_FULL, text).table(table.to_string()));
        }
        if let Some(cause) = &cause {
            self.refused.push((table.clone(), cause.clone()));
        }
        self.pending.push(Entry::Hold(Held {
            table: table.clone(),
            keys: json(&keys),
            origin,
            cause,
            payload,
        }));
        Ok(())
    }

    /// Whether the commit has to write anything.
    pub(super) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Queues what the commit writes.
    pub(super) fn send(&self, session: &mut Session, pipeline: &str) -> Result<()> {
        for entry in &self.pending {
            match entry {
                Entry::Clear(table) => {
                    let params = [pipeline, &table.schema, &table.name];
                    run(session, CLEAR, &params)?;
                }
                Entry::Hold(held) => held.send(session, pipeline)?,
            }
        }
        Ok(())
    }
}

impl Held {
    fn send(&self, session: &mut Session, pipeline: &str) -> Result<()> {
        let commit = self.origin.commit.to_string();
        let cause = self.cause.as_ref();
        let of = |field: fn(&Cause) -> &String| cause.map_or("", |cause| field(cause).as_str());
        let text = json(&of(|cause| &cause.text));
        let params: [&[u8]; 9] = [
            pipeline.as_bytes(),
            self.table.schema.as_bytes(),
            self.table.name.as_bytes(),
            self.keys.as_bytes(),
            &i64::from(self.origin.xid).to_be_bytes(),
            commit.as_bytes(),
            of(|cause| &cause.code).as_bytes(),
            of(|cause| &cause.sqlstate).as_bytes(),
            if cause.is_some() {
                text.as_bytes()
            } else {
                b""
            },
        ];
        session.run_binary(HOLD, &HOLD_TYPES, &params, self.payload.pieces(), Step::Own)
    }
}

fn run(session: &mut Session, sql: &'static str, params: &[&str]) -> Result<()> {
    let statement = session.own_statement(sql)?;
    let mut bind = session.bind(statement, params.len());
    for param in params {
        bind.value(Some(param.as_bytes()));
    }
    bind.execute(Step::Own, 0)
}

fn cause_of(error: &Error) -> Cause {
    Cause {
        code: error.code().to_string(),
        sqlstate: error.sqlstate_code().unwrap_or_default().to_owned(),
        text: error.to_string(),
    }
}

fn unreadable(table: &TableName) -> Error {
    Error::data(
        codes::PARKED_UNREADABLE,
        "a row of tidemark.quarantine is not as we write it",
    )
    .table(table.to_string())
}
