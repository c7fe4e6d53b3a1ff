//! Rows in quarantine, in `tidemark.quarantine`: put aside, waited behind, applied again.
//!
//! Which changes wait is told by [`Aside`]; here it is kept beside what is committed, so that a
//! transaction that is given up leaves no trace. Changes are written with the commit they belong to,
//! and discarded by a truncate likewise, in the order in which they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::batch::{Batch, Change, Item};
use tidemark_core::catalogue::codes;
use tidemark_core::compact::{Segment, split};
use tidemark_core::event::{CellKind, OldRow, Op};
use tidemark_core::failpoint;
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::{
    Aside, Cause, Chosen, Kept, KeptChange, Key, OnRowError, Released, alone, keys_of,
};
use tidemark_core::schema::{TableName, TableSchema};
use tidemark_core::target::{Applied, Origin};
use tidemark_core::{Error, ErrorKind, Result};

use super::PgApplier;
use super::parked::from_hex;
use super::payload::{self, Payload};
use super::refusal;
use super::session::{Session, Step};
use super::stretch::{Ended, Pace, Work};
use super::table::lookup_key;
use super::transaction::{Stage, State};
use crate::target::checkpoint::{from_json, json};
use crate::wire::Connection;

/// OIDs of text, int8 and bytea.
const HOLD_TYPES: [u32; 10] = [25, 25, 25, 25, 20, 25, 25, 25, 25, 17];

const HOLD: &str = "INSERT INTO tidemark.quarantine \
     (pipeline, source_schema, source_name, keys, xid, commit_position, code, sqlstate, cause, \
      payload) \
     VALUES ($1, $2, $3, $4::jsonb, $5, $6, nullif($7, ''), nullif($8, ''), nullif($9, ''), $10)";

const CLEAR: &str = "DELETE FROM tidemark.quarantine \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const FORGET: &str = "DELETE FROM tidemark.quarantine \
     WHERE pipeline = $1 AND sequence = ANY ($2::int8[])";

const REFUSED_AGAIN: &str = "UPDATE tidemark.quarantine SET code = $3, sqlstate = $4, cause = $5 \
     WHERE pipeline = $1 AND sequence = $2::int8";

const READ: &str = "SELECT sequence, source_schema, source_name, keys::text, payload \
     FROM tidemark.quarantine WHERE pipeline = $1 ORDER BY sequence";

/// How often rows that wait for one another are tried.
const PASSES_MAX: usize = 10;

/// SQLSTATE classes of refusals that are about a row: data exceptions, constraints, check options of
/// views, what a trigger raises, and limits that its values exceed.
const ROW_CLASSES: [&str; 5] = ["22", "23", "44", "54", "P0"];

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

/// What is in quarantine, for a person. An older or newer row that cannot be read is an error.
pub(in crate::target) async fn list(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Vec<KeptChange>> {
    let found = connection
        .query(
            "SELECT q.sequence, q.source_schema, q.source_name, q.keys::text, q.xid, \
                    q.commit_position, q.code, q.sqlstate, q.cause, \
                    to_char(q.since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
                    q.payload, coalesce(t.target_schema, q.source_schema), \
                    coalesce(t.target_name, q.source_name) \
             FROM tidemark.quarantine q \
             LEFT JOIN tidemark.table_state t USING (pipeline, source_schema, source_name) \
             WHERE q.pipeline = $1 ORDER BY q.sequence",
            &[Some(pipeline)],
        )
        .await?;
    let mut kept = Vec::with_capacity(found.rows.len());
    for row in &found.rows {
        let table = TableName::new(row.get_str(1)?, row.get_str(2)?);
        let payload = from_hex(row.get_str(10)?.as_bytes()).ok_or_else(|| unreadable(&table))?;
        let (_, batch) = payload::decode(&payload.into(), &any_mapping(&table), Arc::new)?;
        let Some(Item::Change(change)) = batch.items().first() else {
            return Err(unreadable(&table));
        };
        let cause = match row.opt_str(6)? {
            Some(code) => Some(Cause {
                code: code.to_owned(),
                sqlstate: row.opt_str(7)?.unwrap_or_default().to_owned(),
                text: from_json(row.opt_str(8)?.unwrap_or("\"\""))?,
            }),
            None => None,
        };
        kept.push(KeptChange {
            number: row.get(0)?,
            keys: from_json(row.get_str(3)?)?,
            op: match change.op {
                Op::Insert => "insert",
                Op::Update => "update",
                Op::Delete => "delete",
            }
            .to_owned(),
            xid: row.get(4)?,
            position: row.get_str(5)?.to_owned(),
            since: row.get_str(9)?.to_owned(),
            cause,
            row: cells(&batch, change),
            target: TableName::new(row.get_str(11)?, row.get_str(12)?).to_string(),
            table,
        });
    }
    Ok(kept)
}

/// The new row of a change, or what is known of the one that goes.
fn cells(batch: &Batch, change: &Change) -> BTreeMap<String, Option<String>> {
    let mapping = &batch.tables()[change.table];
    let Some(row) = change.new.or(change.old.map(OldRow::row)) else {
        return BTreeMap::new();
    };
    let is_key_alone = matches!((change.new, change.old), (None, Some(OldRow::Key(_))));
    let columns = mapping.columns.iter().zip(batch.row(row)).enumerate();
    columns
        .filter(|(at, _)| !is_key_alone || mapping.key.contains(at))
        .filter(|(_, (_, cell))| cell.kind != CellKind::Unchanged)
        .map(|(_, (column, cell))| {
            let text = || String::from_utf8_lossy(batch.value(*cell)).into_owned();
            let value = (cell.kind == CellKind::Text).then(text);
            (column.target.clone(), value)
        })
        .collect()
}

/// Changes describe themselves: what a table is like now does not matter for reading them.
fn any_mapping(table: &TableName) -> TableMapping {
    TableMapping {
        schema: TableSchema::bare(table.clone(), 0),
        target: table.clone(),
        columns: Vec::new(),
        key: Vec::new(),
        filter: None,
        on_row_error: OnRowError::default(),
    }
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

/// Whether a refusal is about a row, and its table's rows go aside one by one.
fn is_about_a_row(mapping: &TableMapping, batch: &Batch, item: usize, error: &Error) -> bool {
    let class = error.sqlstate_code().and_then(|state| state.get(..2));
    mapping.on_row_error.is_by_row()
        && error.kind() == ErrorKind::Data
        && error.code() != codes::FILTER_UNDECIDABLE
        && class.is_some_and(|class| ROW_CLASSES.contains(&class))
        && batch.origin(item).is_some()
}

/// Whether a refused change may go aside alone. A refused set names no change; what in it is at fault is
/// looked for.
pub(super) fn may_sift(batch: &Batch, step: Step, error: &Error) -> bool {
    let (table, item) = match step {
        Step::Change { table, item } => (table as usize, item as usize),
        Step::Set { table, .. } => (table as usize, 0),
        Step::Own | Step::Hooks | Step::Rows | Step::Sync => return false,
    };
    let mapping = &batch.tables()[table];
    is_about_a_row(mapping, batch, item, error) && !lookup_key(mapping).is_empty()
}

fn cause_of(error: &Error) -> Cause {
    Cause {
        code: error.code().to_string(),
        sqlstate: error.sqlstate_code().unwrap_or_default().to_owned(),
        text: error.to_string(),
    }
}

/// Changes that are applied before it is known that all of them are taken: what one that is refused
/// costs.
const RUN: usize = 128;

impl PgApplier {
    /// Applies a batch whose rows the target does not all take, from its beginning: in short runs one by
    /// one, so that a row that is refused costs one run, and all others of the batch are in.
    pub(super) async fn sift(&mut self, batch: &Batch, stage: Stage) -> Result<Applied> {
        let (undo, opening) = stage.undoing();
        self.session.run(undo, Step::Own)?;
        self.session.sync();
        if let Some((_, said)) = self.session.finish().await?.refused {
            return Err(refusal::of_own(*said));
        }
        self.quarantine.reset();
        for mapping in batch.tables() {
            self.known.forget(&mut self.session, &mapping.target)?;
        }
        let mut applied = Applied::default();
        let quarantine = &mut self.quarantine;
        let mut work = Work {
            session: &mut self.session,
            known: &mut self.known,
            batch,
            met: Vec::new(),
            pace: Pace::Careful,
            opening,
        };
        for segment in split(batch) {
            match &segment {
                Segment::Barrier(item) => {
                    quarantine.pass(batch, &batch.items()[*item])?;
                    if let Ended::Refused(step, said) = work.barrier(*item).await? {
                        return Err(work.refused(step, *said));
                    }
                }
                Segment::Changes(stretch) => {
                    work.meet_all(stretch).await?;
                    work.open()?;
                    let (mut from, end) = (stretch.items.start, stretch.items.end);
                    let mut to = end.min(from + RUN);
                    while from < end {
                        let before = (quarantine.now.clone(), quarantine.pending.len());
                        match sift_run(&mut work, quarantine, from, to).await? {
                            Sifted::All(conflicts) => {
                                super::transaction::count_items(
                                    &mut applied,
                                    batch,
                                    from..to,
                                    &conflicts,
                                );
                                from = to;
                            }
                            Sifted::Refused(item, error) => {
                                quarantine.now = before.0;
                                quarantine.pending.truncate(before.1);
                                if item > from {
                                    to = item;
                                    continue;
                                }
                                quarantine.hold(batch, item, Some(cause_of(&error)))?;
                                failpoint::reached(failpoint::ROW_ASIDE);
                                from = item + 1;
                            }
                        }
                        to = end.min(from + RUN);
                    }
                }
            }
        }
        work.open()?;
        self.state = State::Open(stage.after_part());
        Ok(applied)
    }

    /// Applies rows in quarantine again; see [`tidemark_core::target::Applier::release`].
    pub(super) async fn release_now(
        &mut self,
        tables: &[Arc<TableMapping>],
        chosen: &Chosen,
    ) -> Result<Released> {
        let stage = self.open_server().await?;
        self.begin_if_unbegun(stage)?;
        let mut groups = self.groups(chosen).await?;
        for table in tables {
            // Mended, most likely: met as it is now.
            self.known.forget(&mut self.session, &table.target)?;
        }
        groups.retain(|group| tables.iter().any(|table| *table.source() == group.table));
        let mut released = Released::default();
        for pass in 0.. {
            let waiting = groups.len();
            let is_last = pass + 1 == PASSES_MAX;
            let mut refused = Vec::new();
            for group in groups {
                match self.release_group(tables, &group).await? {
                    None => {
                        self.forget_group(&group)?;
                        released.rows += 1;
                    }
                    Some(cause) => refused.push((group, cause)),
                }
            }
            if refused.is_empty() || refused.len() == waiting || is_last {
                for (group, cause) in refused {
                    self.refused_again(&group, &cause)?;
                    let key = group.keys.first().cloned().unwrap_or_default();
                    released.refused.push((group.table, key, cause));
                }
                break;
            }
            groups = refused.into_iter().map(|(group, _)| group).collect();
        }
        Ok(released)
    }

    /// Discards rows in quarantine.
    pub(super) async fn discard_now(&mut self, chosen: &Chosen) -> Result<u64> {
        let stage = self.open_server().await?;
        self.begin_if_unbegun(stage)?;
        let groups = self.groups(chosen).await?;
        for group in &groups {
            self.forget_group(group)?;
        }
        Ok(groups.len() as u64)
    }

    fn begin_if_unbegun(&mut self, stage: Stage) -> Result<()> {
        if stage == Stage::Unbegun {
            self.session.run("BEGIN", Step::Own)?;
            self.state = State::Open(Stage::Begun);
        }
        Ok(())
    }

    /// Rows in quarantine that are meant, with their changes, by the first of these.
    async fn groups(&mut self, chosen: &Chosen) -> Result<Vec<Group>> {
        let found = self
            .session
            .query(READ, &[Some(self.writer.pipeline.as_str())])
            .await?;
        let mut groups: Vec<(u64, Group)> = Vec::new();
        for row in &found.rows {
            let table = TableName::new(row.get_str(1)?, row.get_str(2)?);
            let keys: Vec<Key> = from_json(row.get_str(3)?)?;
            let number = keys
                .first()
                .and_then(|key| self.quarantine.now.group(&table, key));
            let number = number.ok_or_else(|| unreadable(&table))?;
            let payload = from_hex(row.get_str(4)?.as_bytes()).ok_or_else(|| unreadable(&table))?;
            let known = groups
                .iter_mut()
                .find(|(known, group)| *known == number && group.table == table);
            let group = if let Some((_, group)) = known {
                group
            } else {
                groups.push((
                    number,
                    Group {
                        table,
                        keys: Vec::new(),
                        sequences: Vec::new(),
                        payloads: Vec::new(),
                    },
                ));
                &mut groups.last_mut().expect("just pushed").1
            };
            group.sequences.push(row.get(0)?);
            group.payloads.push(payload.into());
            for key in keys {
                if !group.keys.contains(&key) {
                    group.keys.push(key);
                }
            }
        }
        groups.retain(|(_, group)| chosen.is(&group.table, &group.keys));
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// Applies what a row's changes come to; the cause where the target refuses that.
    async fn release_group(
        &mut self,
        tables: &[Arc<TableMapping>],
        group: &Group,
    ) -> Result<Option<Cause>> {
        let mapping = tables.iter().find(|table| *table.source() == group.table);
        let mapping = mapping.ok_or_else(|| unreadable(&group.table))?;
        let mut batch = Batch::default();
        for payload in &group.payloads {
            let shapes = &mut self.old_shapes;
            let (_, one) = payload::decode(payload, mapping, |shape| shapes.share(shape))?;
            for item in one.items() {
                if let Item::Change(change) = item {
                    batch.append(&one, change);
                }
            }
        }
        let mut work = Work {
            session: &mut self.session,
            known: &mut self.known,
            batch: &batch,
            met: Vec::new(),
            pace: Pace::Net,
            opening: &["SAVEPOINT tidemark_row"],
        };
        for segment in split(&batch) {
            let Segment::Changes(stretch) = &segment else {
                continue;
            };
            if let Ended::Refused(step, said) = work.stretch(stretch).await? {
                let error = work.refused(step, *said);
                if error.kind() == ErrorKind::Transient {
                    return Err(error);
                }
                self.session
                    .run("ROLLBACK TO SAVEPOINT tidemark_row", Step::Own)?;
                self.session
                    .run("RELEASE SAVEPOINT tidemark_row", Step::Own)?;
                self.session.sync();
                if let Some((_, said)) = self.session.finish().await?.refused {
                    return Err(refusal::of_own(*said));
                }
                return Ok(Some(cause_of(&error)));
            }
        }
        self.session
            .run("RELEASE SAVEPOINT tidemark_row", Step::Own)?;
        Ok(None)
    }

    fn forget_group(&mut self, group: &Group) -> Result<()> {
        let numbers: Vec<String> = group.sequences.iter().map(i64::to_string).collect();
        let list = format!("{{{}}}", numbers.join(","));
        run(&mut self.session, FORGET, &[&self.writer.pipeline, &list])?;
        let bytes: usize = group.payloads.iter().map(Bytes::len).sum();
        let changes = group.sequences.len() as u64;
        self.quarantine
            .now
            .release(&group.table, &group.keys, changes, bytes as u64);
        Ok(())
    }

    fn refused_again(&mut self, group: &Group, cause: &Cause) -> Result<()> {
        let Some(first) = group.sequences.first() else {
            return Ok(());
        };
        let (first, text) = (first.to_string(), json(&cause.text));
        let params = [
            self.writer.pipeline.as_str(),
            &first,
            &cause.code,
            &cause.sqlstate,
            &text,
        ];
        run(&mut self.session, REFUSED_AGAIN, &params)
    }
}

/// A row in quarantine: its changes, in order.
#[derive(Debug)]
struct Group {
    table: TableName,
    keys: Vec<Key>,
    sequences: Vec<i64>,
    payloads: Vec<Bytes>,
}

enum Sifted {
    /// All are in, or wait; how many met other rows than the log implies.
    All(Vec<(u32, u64)>),
    /// The target refused this one; nothing of the run is in.
    Refused(usize, Error),
}

/// Applies items `from..to` behind a savepoint; what waits behind a row in quarantine goes there.
async fn sift_run(
    work: &mut Work<'_>,
    quarantine: &mut Quarantine,
    from: usize,
    to: usize,
) -> Result<Sifted> {
    let batch = work.batch;
    work.session.run("SAVEPOINT tidemark_run", Step::Own)?;
    for item in from..to {
        let Item::Change(change) = &batch.items()[item] else {
            continue;
        };
        if quarantine.waits(batch, change) {
            quarantine.hold(batch, item, None)?;
        } else {
            work.items(item..item + 1, |_| true).await?;
        }
    }
    work.session.sync();
    let outcome = work.session.finish().await?;
    let Some((step, said)) = outcome.refused else {
        work.session
            .run("RELEASE SAVEPOINT tidemark_run", Step::Own)?;
        return Ok(Sifted::All(work.unexpected(outcome.surprises)));
    };
    let error = work.refused(step, *said);
    let Step::Change { table, item } = step else {
        return Err(error);
    };
    let (mapping, item) = (&batch.tables()[table as usize], item as usize);
    if !is_about_a_row(mapping, batch, item, &error) || !tells_rows(work, table as usize) {
        return Err(error);
    }
    for sql in [
        "ROLLBACK TO SAVEPOINT tidemark_run",
        "RELEASE SAVEPOINT tidemark_run",
    ] {
        work.session.run(sql, Step::Own)?;
    }
    work.session.sync();
    match work.session.finish().await?.refused {
        Some((_, said)) => Err(refusal::of_own(*said)),
        None => Ok(Sifted::Refused(item, error)),
    }
}

/// Whether the text of a table's key tells its rows: equal keys are written in one way alone.
fn tells_rows(work: &Work<'_>, table: usize) -> bool {
    let Some(Some(met)) = work.met.get(table) else {
        return false;
    };
    let key = &met.table.key;
    !key.is_empty() && key.iter().all(|place| met.table.columns[*place].is_exact)
}

fn unreadable(table: &TableName) -> Error {
    Error::data(
        codes::PARKED_UNREADABLE,
        "a row of tidemark.quarantine is not as we write it",
    )
    .table(table.to_string())
}
