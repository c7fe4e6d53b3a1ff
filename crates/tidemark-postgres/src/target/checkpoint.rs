//! What the target remembers of a pipeline, and how no zombie can write it.
//!
//! # What is kept
//! In the schema `tidemark` of the target ([`super::metadata`]):
//!
//! | table | holds |
//! |--|--|
//! | `checkpoint` | a row per pipeline: generation, owner, source identity, position, phase of the load, why the slot was released, where the relay log is |
//! | `table_state` | a row per table: names, state, known shape, constraints that both sides had ([`super::loosen`]), partitions of which nothing was in doubt |
//! | `unit` | a row per unit of loaded rows: chunk, tidemark, whether it is in |
//! | `parked` | changes put aside, in order (written by the applier) |
//! | `quarantine` | rows that could not be applied, and what waits behind them (written by the applier) |
//! | `foreign_key` | foreign keys that were dropped for a load, to be made again ([`super::existing`]) |
//! | `command`, `status` | the side door ([`super::control`]) |
//! | `version` | one row: the version of all this |
//!
//! They are written in the transaction of the data they stand for. So after a crash the target
//! itself tells what is in it, and nobody needs to be believed.
//!
//! # The fence
//! *Problem*: a run that was cut off, or stopped and woken again, still has connections. After
//! another run took over, its commits would apply changes twice. A lock does not help: a session's
//! lock says nothing about the other sessions of a zombie. Asking for the generation before a
//! commit does not help either: what was true before may not be true at the commit, and it costs a
//! round trip.
//!
//! *What we do*: every transaction that writes for a pipeline runs [`ADVANCE`]: it writes the run's own
//! generation to `written_by` of the pipeline's row. A check constraint, `generation_fence`, demands
//! `written_by = generation`. So in a zombie's transaction that statement fails, what follows is
//! refused, and its `COMMIT`, which was sent without waiting, becomes a rollback. The statement
//! takes the row's lock until the end of the transaction; taking over waits for it, so a commit is
//! either before the new generation (and seen by the new run) or refused. Another pipeline that begins
//! with a table of this one does the same to a run that has no lock ([`super::claim`]).
//!
//! ```text
//!   old run      BEGIN  rows…  ADVANCE(7) ✗ 23514   COMMIT → ROLLBACK
//!   new run   acquire: generation 8 ▲
//! ```
//!
//! The row may also be missing (deleted by hand, or the pipeline was forgotten). An `UPDATE` would
//! then write nothing and say so only after the commit is under way. Hence `INSERT … ON CONFLICT`:
//! a missing row makes it try generation -1, which the constraint refuses as well. (Constraints
//! are checked on the proposed row before conflicts are looked for, PostgreSQL 15
//! `nodeModifyTable.c`, so the proposed row carries the present generation.)

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{
    Checkpoint, CheckpointUpdate, Generation, KnownPartitions, LoadPhase, Reason, RelayHome,
    Release, SourceIdentity, TableCheckpoint, TableState, Unit,
};
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::target::{KnownTypes, LoadStart};
use tidemark_core::{Error, ErrorKind, Result};

use super::ascii::{self, Within};
use super::metadata::{self, Found};
use crate::error::{classify, server_error};
use crate::wire::{Connection, Format, Reply, ResultSet, Row, quote_literal};

/// Checks the generation and moves the position on. Parameters: pipeline, generation, position or
/// NULL to leave it.
pub(crate) const ADVANCE: &str = "INSERT INTO tidemark.checkpoint AS c \
     (pipeline, generation, written_by, position) \
     VALUES ($1::text, coalesce((SELECT generation FROM tidemark.checkpoint \
                                 WHERE pipeline = $1::text), -1), $2::int8, $3::text) \
     ON CONFLICT (pipeline) DO UPDATE SET written_by = excluded.written_by, \
     position = coalesce(excluded.position, c.position)";

const SET_STATE: &str = "INSERT INTO tidemark.table_state \
     (pipeline, source_schema, source_name, target_schema, target_name, source_id, state, reason) \
     VALUES ($1, $2, $3, $4, $5, $6::int8, $7, $8) \
     ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET \
     state = excluded.state, reason = excluded.reason";

const SET_SHAPE: &str = "UPDATE tidemark.table_state SET shape = $4::jsonb \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const SET_PARTITIONS: &str = "UPDATE tidemark.table_state SET partitions = $4::jsonb \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const SET_EMPTIED: &str = "UPDATE tidemark.table_state SET emptied_by = $4::int8 \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const SET_CONSTRAINTS: &str = "UPDATE tidemark.table_state SET constraints = $4::jsonb \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const PASS: &str = "UPDATE tidemark.unit SET tidemark = NULL \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3 AND tidemark IS NOT NULL";

/// Writes nothing where the unit is in already.
const RECORD_UNIT: &str = "INSERT INTO tidemark.unit AS u \
     (pipeline, source_schema, source_name, number, chunk, tidemark, is_loaded, rows) \
     VALUES ($1, $2, $3, $4::int8, $5::jsonb, $6::jsonb, $7::boolean, $8::int8) \
     ON CONFLICT (pipeline, source_schema, source_name, number) DO UPDATE SET \
     chunk = excluded.chunk, tidemark = excluded.tidemark, is_loaded = excluded.is_loaded, \
     rows = excluded.rows WHERE NOT u.is_loaded";

const FORGET_UNITS: &str = "DELETE FROM tidemark.unit \
     WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3";

const RECORD_TABLE: &str = "INSERT INTO tidemark.table_state AS t \
     (pipeline, source_schema, source_name, target_schema, target_name, source_id, state, reason, \
      shape) \
     VALUES ($1, $2, $3, $4, $5, $6::int8, $7, $8, $9::jsonb) \
     ON CONFLICT (pipeline, source_schema, source_name) DO UPDATE SET \
     target_schema = excluded.target_schema, target_name = excluded.target_name, \
     source_id = excluded.source_id, shape = coalesce(excluded.shape, t.shape)";

const START: &str = "UPDATE tidemark.checkpoint SET system = $2, timeline = $3::int8, \
     database = $4, position_type = $5, position = $6, load_position = $6, phase = $7, \
     release = NULL, relay = NULL \
     WHERE pipeline = $1";

const SET_RELAY: &str = "UPDATE tidemark.checkpoint SET relay = $2::jsonb WHERE pipeline = $1";

const SET_RELEASE: &str = "UPDATE tidemark.checkpoint SET release = $2::jsonb WHERE pipeline = $1";

const SET_TIMELINE: &str = "UPDATE tidemark.checkpoint SET timeline = $2::int8 WHERE pipeline = $1";

const SET_PHASE: &str = "UPDATE tidemark.checkpoint SET phase = $2 WHERE pipeline = $1";

/// A statement and its parameters in text form. The text is the same every time, so it may be
/// prepared once by whoever runs it often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The statement.
    pub(crate) sql: &'static str,
    /// `$1`, `$2`, …
    pub(crate) params: Vec<Option<String>>,
}

impl Write {
    fn new<const N: usize>(sql: &'static str, params: [Option<String>; N]) -> Write {
        Write {
            sql,
            params: params.into(),
        }
    }
}

/// Who writes: every transaction is written in the name of a pipeline and a generation of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    /// The pipeline's name.
    pub(crate) pipeline: String,
    /// The run's generation; 0 before [`super::PgTarget::acquire`], which no row has.
    pub(crate) generation: Generation,
}

impl Writer {
    /// The fence, moving the position on where there is one. Last in a transaction: it holds the
    /// pipeline's row until the end.
    pub(crate) fn advance(&self, position: Option<Position>) -> Write {
        Write::new(
            ADVANCE,
            [
                Some(self.pipeline.clone()),
                Some(self.generation.0.to_string()),
                position.map(|position| position.to_string()),
            ],
        )
    }

    /// All that an update records, the fence last. Table by table in the order of their names, as whoever
    /// else writes to several of them does ([`super::loosen`]): two that meet wait for each other then, and
    /// not in a circle.
    pub(crate) fn update(&self, update: &CheckpointUpdate) -> Vec<Write> {
        let mut writes = Vec::new();
        for change in &update.states {
            let [pipeline, schema, name] = self.table(&change.table);
            writes.push(Write::new(
                SET_STATE,
                [
                    pipeline,
                    schema,
                    name,
                    Some(change.target.schema.clone()),
                    Some(change.target.name.clone()),
                    Some(change.source_id.to_string()),
                    Some(word(&change.state)),
                    change.reason.as_ref().map(reason),
                ],
            ));
        }
        for table in &update.passed {
            writes.push(Write::new(PASS, self.table(table)));
        }
        for (table, shape) in &update.shapes {
            let [pipeline, schema, name] = self.table(table);
            writes.push(Write::new(
                SET_SHAPE,
                [pipeline, schema, name, Some(json(shape))],
            ));
        }
        for (table, partitions) in &update.partitions {
            let [pipeline, schema, name] = self.table(table);
            writes.push(Write::new(
                SET_PARTITIONS,
                [pipeline, schema, name, Some(json(partitions))],
            ));
        }
        for (table, xid) in &update.emptied {
            let [pipeline, schema, name] = self.table(table);
            writes.push(Write::new(
                SET_EMPTIED,
                [pipeline, schema, name, Some(xid.to_string())],
            ));
        }
        // The first parameters of each; what is of one table stays in its order.
        writes.sort_by(|one, other| one.params[1..3].cmp(&other.params[1..3]));
        writes.push(self.advance(update.position));
        writes
    }

    /// Records one unit, whether or not it is known.
    pub(crate) fn unit(&self, table: &TableName, unit: &Unit) -> Write {
        let [pipeline, schema, name] = self.table(table);
        Write::new(
            RECORD_UNIT,
            [
                pipeline,
                schema,
                name,
                Some(unit.number.to_string()),
                Some(json(&unit.chunk)),
                unit.tidemark.as_ref().map(json),
                Some(unit.is_loaded.to_string()),
                Some(unit.rows.to_string()),
            ],
        )
    }

    /// Puts these units in the place of those that are recorded for a table.
    pub(crate) fn units(&self, table: &TableName, units: &[Unit]) -> Vec<Write> {
        let mut writes = vec![Write::new(FORGET_UNITS, self.table(table))];
        writes.extend(units.iter().map(|unit| self.unit(table, unit)));
        writes
    }

    /// Records a table; the state of one that is known stays.
    pub(crate) fn new_table(&self, table: &TableCheckpoint) -> Write {
        let [pipeline, schema, name] = self.table(&table.source);
        Write::new(
            RECORD_TABLE,
            [
                pipeline,
                schema,
                name,
                Some(table.target.schema.clone()),
                Some(table.target.name.clone()),
                Some(table.source_id.to_string()),
                Some(word(&table.state)),
                table.reason.as_ref().map(reason),
                table.shape.as_ref().map(json),
            ],
        )
    }

    /// The pipeline's start: everything that was recorded before is gone.
    pub(super) fn start(&self, start: &LoadStart) -> Vec<Write> {
        let mut writes = self.forget_tables();
        for table in &start.tables {
            writes.push(self.new_table(table));
            writes.extend(
                table
                    .units
                    .iter()
                    .map(|unit| self.unit(&table.source, unit)),
            );
        }
        let identity = &start.identity;
        writes.push(Write::new(
            START,
            [
                Some(self.pipeline.clone()),
                Some(identity.system.clone()),
                Some(identity.timeline.to_string()),
                Some(identity.database.clone()),
                Some(start.position.kind().to_owned()),
                Some(start.position.to_string()),
                Some(word(&start.phase)),
            ],
        ));
        writes.push(self.advance(None));
        writes
    }

    pub(super) fn phase(&self, phase: LoadPhase) -> Vec<Write> {
        let pipeline = Some(self.pipeline.clone());
        vec![
            Write::new(SET_PHASE, [pipeline, Some(word(&phase))]),
            self.advance(None),
        ]
    }

    pub(super) fn timeline(&self, timeline: u32) -> Vec<Write> {
        let pipeline = Some(self.pipeline.clone());
        vec![
            Write::new(SET_TIMELINE, [pipeline, Some(timeline.to_string())]),
            self.advance(None),
        ]
    }

    pub(super) fn release(&self, release: &Release) -> Vec<Write> {
        let pipeline = Some(self.pipeline.clone());
        vec![
            Write::new(SET_RELEASE, [pipeline, Some(json(release))]),
            self.advance(None),
        ]
    }

    pub(super) fn relay(&self, relay: &RelayHome) -> Vec<Write> {
        let pipeline = Some(self.pipeline.clone());
        vec![
            Write::new(SET_RELAY, [pipeline, Some(json(relay))]),
            self.advance(None),
        ]
    }

    /// Records which constraints of a table both sides have, as JSON.
    pub(super) fn constraints(&self, table: &TableName, constraints: String) -> Write {
        let [pipeline, schema, name] = self.table(table);
        Write::new(SET_CONSTRAINTS, [pipeline, schema, name, Some(constraints)])
    }

    fn forget_tables(&self) -> Vec<Write> {
        [
            "DELETE FROM tidemark.unit WHERE pipeline = $1",
            "DELETE FROM tidemark.parked WHERE pipeline = $1",
            "DELETE FROM tidemark.quarantine WHERE pipeline = $1",
            "DELETE FROM tidemark.table_state WHERE pipeline = $1",
        ]
        .map(|sql| Write::new(sql, [Some(self.pipeline.clone())]))
        .into()
    }

    /// Everything of the pipeline; the fence first, since afterwards there is no row to ask.
    pub(super) fn forget(&self) -> Vec<Write> {
        let mut writes = vec![self.advance(None)];
        writes.extend(self.forget_tables());
        for sql in [
            "DELETE FROM tidemark.foreign_key WHERE pipeline = $1",
            "DELETE FROM tidemark.command WHERE pipeline = $1",
            "DELETE FROM tidemark.status WHERE pipeline = $1",
            "DELETE FROM tidemark.checkpoint WHERE pipeline = $1",
        ] {
            writes.push(Write::new(sql, [Some(self.pipeline.clone())]));
        }
        writes
    }

    fn table(&self, table: &TableName) -> [Option<String>; 3] {
        [
            Some(self.pipeline.clone()),
            Some(table.schema.clone()),
            Some(table.name.clone()),
        ]
    }
}

/// Runs the writes in a transaction of their own: one round trip.
pub(super) async fn commit(connection: &mut Connection, writes: &[Write]) -> Result<()> {
    connection.send_query("BEGIN")?;
    commit_open(connection, writes).await
}

/// Runs the writes in the open transaction (or in the one whose `BEGIN` is queued) and commits it:
/// one round trip. After an error the connection is to be dropped; nothing of the transaction is in.
pub(super) async fn commit_open(connection: &mut Connection, writes: &[Write]) -> Result<()> {
    send(connection, writes)?;
    connection.send_query("COMMIT")?;
    while connection.ready_expected() > 0 {
        connection.expect_ready().await.map_err(explain)?;
    }
    Ok(())
}

/// Runs the writes in the open transaction; gives how many rows each wrote.
pub(super) async fn run(connection: &mut Connection, writes: &[Write]) -> Result<Vec<u64>> {
    send(connection, writes)?;
    let mut counts = Vec::with_capacity(writes.len());
    loop {
        match connection.next_reply().await? {
            Reply::Ready(_) => return Ok(counts),
            Reply::Error(said) => return Err(explain(classify(connection.side(), *said))),
            reply @ Reply::Complete(_) => counts.push(reply.affected()),
            _ => {}
        }
    }
}

/// Queues the writes up to a Sync.
fn send(connection: &mut Connection, writes: &[Write]) -> Result<()> {
    for write in writes {
        connection.send_parse("", write.sql, &[])?;
        let params = write
            .params
            .iter()
            .map(|param| param.as_deref().map(str::as_bytes));
        connection.send_bind("", Format::Text, params)?;
        connection.send_execute()?;
    }
    connection.send_sync();
    Ok(())
}

/// Tells a refusal of the fence from other errors.
pub(crate) fn explain(error: Error) -> Error {
    let is_fence = server_error(&error).is_some_and(|said| {
        said.sqlstate == "23514" && said.constraint.as_deref() == Some("generation_fence")
    });
    if is_fence {
        return error
            .with_kind(ErrorKind::Definite)
            .with_code(codes::TARGET_FENCED)
            .context(FENCED);
    }
    error
}

/// Why a run does not write any more.
const FENCED: &str = "another run took the pipeline over, another pipeline took one of its tables over, \
                      or it was removed";

/// What the fence would say to whoever has not written yet.
pub(super) fn fenced() -> Error {
    Error::definite(codes::TARGET_FENCED, FENCED)
}

/// Reads everything at one instant; `None` where the pipeline never started.
pub(super) async fn read(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Option<Checkpoint>> {
    let release = match metadata::find(connection).await? {
        Found::Nothing => return Ok(None),
        Found::Version(metadata::RELAY..) => "release, relay",
        Found::Version(metadata::RELEASE..) => "release, NULL",
        Found::Version(_) => "NULL, NULL",
    };
    let pipeline = quote_literal(pipeline);
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SELECT system, timeline, database, position_type, position, load_position, phase,
           {release}
           FROM tidemark.checkpoint WHERE pipeline = {pipeline} AND system IS NOT NULL;
         SELECT source_schema, source_name, target_schema, target_name, source_id, state, reason,
           shape FROM tidemark.table_state WHERE pipeline = {pipeline} ORDER BY 1, 2;
         SELECT source_schema, source_name, number, chunk, tidemark, is_loaded, rows
           FROM tidemark.unit WHERE pipeline = {pipeline} ORDER BY 1, 2, 3;
         COMMIT"
    );
    let sets = connection.simple(&sql).await?;
    let [_, head, tables, units, _] = &sets[..] else {
        return Err(unreadable("its tables do not answer"));
    };
    let Some(head) = head.rows.first() else {
        return Ok(None);
    };
    let mut checkpoint = read_head(head)?;
    checkpoint.tables = read_tables(tables, units)?;
    Ok(Some(checkpoint))
}

/// What is recorded of the partitions of each table, by a schema of our version.
pub(super) async fn partitions(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Vec<KnownPartitions>> {
    let sql = format!(
        "SELECT source_schema, source_name, partitions, emptied_by FROM tidemark.table_state \
         WHERE pipeline = {}",
        quote_literal(pipeline)
    );
    let set = connection.query(&sql, &[]).await?;
    let found = set.rows.iter().map(|row| {
        Ok(KnownPartitions {
            table: TableName::new(row.get_str(0)?, row.get_str(1)?),
            partitions: row.opt_str(2)?.map(from_json).transpose()?,
            emptied_by: row.opt(3)?,
        })
    });
    found.collect()
}

/// By which types rows of tables are there that have some, as pipelines of the same source have recorded it.
pub(super) async fn known_types(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Vec<KnownTypes>> {
    let sql = "SELECT t.source_schema, t.source_name, t.target_schema, t.target_name, t.shape -> 'types' \
         FROM tidemark.checkpoint own JOIN tidemark.checkpoint c \
              ON c.system = own.system AND c.database = own.database \
         JOIN tidemark.table_state t ON t.pipeline = c.pipeline \
         WHERE own.pipeline = $1 AND t.shape ? 'types' ORDER BY 1, 2, 3, 4";
    let set = connection.query(sql, &[Some(pipeline)]).await?;
    let known = set.rows.iter().map(|row| {
        Ok(KnownTypes {
            table: TableName::new(row.get_str(0)?, row.get_str(1)?),
            target: TableName::new(row.get_str(2)?, row.get_str(3)?),
            types: from_json(row.get_str(4)?)?,
        })
    });
    known.collect()
}

fn read_head(row: &Row) -> Result<Checkpoint> {
    let kind = row.get_str(3)?;
    let position = |i| Position::parse(kind, row.get_str(i)?);
    Ok(Checkpoint {
        identity: SourceIdentity {
            system: row.get_str(0)?.to_owned(),
            timeline: row.get(1)?,
            database: row.get_str(2)?.to_owned(),
        },
        position: position(4)?,
        load_position: position(5)?,
        phase: from_word(row.get_str(6)?)?,
        tables: Vec::new(),
        release: row.opt_str(7)?.map(from_json).transpose()?,
        relay: row.opt_str(8)?.map(from_json).transpose()?,
    })
}

fn read_tables(tables: &ResultSet, units: &ResultSet) -> Result<Vec<TableCheckpoint>> {
    let mut found = Vec::with_capacity(tables.rows.len());
    for row in &tables.rows {
        found.push(TableCheckpoint {
            source: TableName::new(row.get_str(0)?, row.get_str(1)?),
            target: TableName::new(row.get_str(2)?, row.get_str(3)?),
            source_id: row.get(4)?,
            state: from_word(row.get_str(5)?)?,
            reason: row
                .opt_str(6)?
                .map(|reason| Reason::read(&ascii::read(reason, Within::Text))),
            units: Vec::new(),
            shape: row.opt_str(7)?.map(from_json).transpose()?,
        });
    }
    // Both are ordered by table.
    let mut table = found.iter_mut().peekable();
    for row in &units.rows {
        let name = TableName::new(row.get_str(0)?, row.get_str(1)?);
        while table.next_if(|table| table.source != name).is_some() {}
        let Some(table) = table.peek_mut() else {
            return Err(unreadable("it has units of an unknown table"));
        };
        table.units.push(Unit {
            number: row.get(2)?,
            chunk: from_json(row.get_str(3)?)?,
            tidemark: row.opt_str(4)?.map(from_json).transpose()?,
            is_loaded: row.get_bool(5)?,
            rows: row.get(6)?,
        });
    }
    Ok(found)
}

/// A word of one of core's enums, as it is recorded.
fn word<T: Serialize>(value: &T) -> String {
    json(value).trim_matches('"').to_owned()
}

pub(super) fn from_word<T: DeserializeOwned>(word: &str) -> Result<T> {
    from_json(&json(&word))
}

/// As they stand in `table_state`.
pub(super) fn state_and_reason(state: TableState, why: &Reason) -> (String, String) {
    (word(&state), reason(why))
}

fn reason(reason: &Reason) -> String {
    ascii::write(&reason.to_string(), Within::Text)
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("core's types have string keys only");
    ascii::write(&json, Within::Json)
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(&ascii::read(text, Within::Json))
        .map_err(|error| unreadable("a value is not what this version writes").caused_by(error))
}

fn unreadable(what: &str) -> Error {
    Error::definite(
        codes::TARGET_METADATA_UNREADABLE,
        format!("what the target remembers of the pipeline cannot be read: {what}"),
    )
    .context("read schema tidemark")
}

#[cfg(test)]
mod tests {
    use tidemark_core::checkpoint::{KnownShape, TableState, TableStateChange};

    use super::*;

    #[test]
    fn tables_are_written_in_the_order_of_their_names() {
        let table = |name: &str| TableName::new("public", name);
        let state = |name, state| TableStateChange {
            table: table(name),
            target: table(name),
            source_id: 1,
            state,
            reason: None,
        };
        let update = CheckpointUpdate {
            states: vec![
                state("b", TableState::Resyncing),
                state("a", TableState::Paused),
                state("b", TableState::Streaming),
            ],
            passed: vec![table("c"), table("a")],
            shapes: vec![(table("a"), KnownShape::default())],
            ..CheckpointUpdate::default()
        };
        let writer = Writer {
            pipeline: "p".to_owned(),
            generation: Generation(1),
        };
        let writes = writer.update(&update);
        let (fence, writes) = writes.split_last().unwrap();
        assert_eq!(fence.sql, ADVANCE);
        let said = |write: &Write| (write.sql, write.params[2].clone().unwrap());
        let said: Vec<_> = writes.iter().map(said).collect();
        let of = |sql, name: &str| (sql, name.to_owned());
        let wanted = [
            of(SET_STATE, "a"),
            of(PASS, "a"),
            of(SET_SHAPE, "a"),
            of(SET_STATE, "b"),
            of(SET_STATE, "b"),
            of(PASS, "c"),
        ];
        assert_eq!(said, wanted);
        let last = writes[4].params[6].as_deref();
        assert!(
            last.is_some_and(|word| word.contains("streaming")),
            "{last:?}"
        );
    }
}
