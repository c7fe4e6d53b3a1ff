//! Changes put aside: a queue for each table in `tidemark.parked`, in the order of the log.
//!
//! They go in and out within the applier's transaction, so a change is at any time either parked or
//! applied, never both and never neither.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::batch::Batch;
use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::target::{Origin, Parked};
use tidemark_core::{Error, Result};

use super::payload::{self, Payload};
use super::session::{Session, Step};
use crate::config::Side;
use crate::error;
use crate::wire::DataRow;

/// OIDs of text, int8 and bytea.
const PARK_TYPES: [u32; 7] = [25, 25, 25, 20, 25, 20, 17];

const PARK: &str = "INSERT INTO tidemark.parked \
     (pipeline, source_schema, source_name, xid, commit_position, changes, payload) \
     VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// The oldest parts until together they are as large as asked for, one at least.
const UNPARK: &str = "WITH w AS (\
         SELECT sequence, sum(octet_length(payload)) OVER (ORDER BY sequence) \
             - octet_length(payload) AS before \
         FROM (SELECT sequence, payload FROM tidemark.parked \
               WHERE pipeline = $1 AND source_schema = $2 AND source_name = $3 \
               ORDER BY sequence LIMIT 1000) AS first) \
     DELETE FROM tidemark.parked AS p USING w \
     WHERE p.pipeline = $1 AND p.source_schema = $2 AND p.source_name = $3 \
       AND p.sequence = w.sequence AND w.before < $4::int8 \
     RETURNING p.sequence, p.xid, p.commit_position, p.payload";

/// Changes on their way into the queue.
#[derive(Debug)]
pub(super) struct Parcel {
    table: TableName,
    origin: Origin,
    changes: u64,
    payload: Payload,
}

impl Parcel {
    /// Packs a batch; all its tables must be the same one of the source.
    pub(super) fn pack(batch: &Batch, origin: Origin) -> Result<Parcel> {
        let mut tables = batch.tables().iter().map(|mapping| mapping.source());
        let Some(table) = tables.next() else {
            return Err(Error::definite(codes::INTERNAL, "nothing to park"));
        };
        if tables.any(|other| other != table) {
            return Err(Error::definite(
                codes::INTERNAL,
                "changes of several tables parked as one",
            ));
        }
        Ok(Parcel {
            table: table.clone(),
            origin,
            changes: batch.len() as u64,
            payload: payload::encode(batch, origin.commit.kind()),
        })
    }

    /// What it occupies.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Queues the statement that puts it into the queue.
    pub(super) fn send(&self, session: &mut Session, pipeline: &str) -> Result<()> {
        let commit = self.origin.commit.to_string();
        let params: [&[u8]; 6] = [
            pipeline.as_bytes(),
            self.table.schema.as_bytes(),
            self.table.name.as_bytes(),
            &i64::from(self.origin.xid).to_be_bytes(),
            commit.as_bytes(),
            &self.changes.to_be_bytes(),
        ];
        session.run_binary(PARK, &PARK_TYPES, &params, self.payload.pieces(), Step::Own)
    }
}

/// Mappings that parked changes were written for. Each stays the same one as long as it is asked
/// for, so that its table is described and its statements are prepared once.
#[derive(Debug, Default)]
pub(super) struct OldShapes {
    shapes: Vec<Arc<TableMapping>>,
}

const SHAPES_MAX: usize = 16;

impl OldShapes {
    pub(super) fn share(&mut self, mapping: TableMapping) -> Arc<TableMapping> {
        let is_same = |known: &&Arc<TableMapping>| {
            known.target == mapping.target
                && known
                    .columns
                    .iter()
                    .map(|c| &c.target)
                    .eq(mapping.columns.iter().map(|c| &c.target))
                && known.schema == mapping.schema
                && known.key == mapping.key
                && known.on_row_error == mapping.on_row_error
        };
        if let Some(known) = self.shapes.iter().find(is_same) {
            return Arc::clone(known);
        }
        if self.shapes.len() >= SHAPES_MAX {
            self.shapes.remove(0);
        }
        let shared = Arc::new(mapping);
        self.shapes.push(Arc::clone(&shared));
        shared
    }

    /// Takes the oldest parts out of the queue, in the open transaction.
    pub(super) async fn unpark(
        &mut self,
        session: &mut Session,
        pipeline: &str,
        table: &TableMapping,
        bytes_max: usize,
    ) -> Result<Option<Parked>> {
        let name = table.source();
        let size = bytes_max.to_string();
        let params = [pipeline, &name.schema, &name.name, &size];
        let statement = session.own_statement(UNPARK)?;
        let mut bind = session.bind(statement, params.len());
        for param in params {
            bind.value(Some(param.as_bytes()));
        }
        bind.execute_binary(Step::Rows)?;
        session.sync();
        let outcome = session.finish().await?;
        if let Some((_, said)) = outcome.refused {
            return Err(error::classify(Side::Target, *said));
        }
        let mut parts = Vec::new();
        for row in &outcome.rows {
            parts.push(Part::read(row).ok_or_else(|| unreadable(table))?);
        }
        parts.sort_unstable_by_key(|part| part.sequence);
        let mut batches = Vec::new();
        for part in parts {
            let share = |mapping| self.share(mapping);
            let (kind, batch) = payload::decode(&part.payload, table, share)?;
            let commit = Position::parse(&kind, &part.commit)?;
            batches.push((
                Origin {
                    xid: part.xid,
                    commit,
                },
                batch,
            ));
        }
        Ok((!batches.is_empty()).then_some(Parked { batches }))
    }
}

/// A row of the queue.
struct Part {
    sequence: i64,
    xid: u32,
    commit: String,
    payload: Bytes,
}

impl Part {
    /// Of a row in binary form: the payload is as large as it is then, and stays where it came.
    fn read(row: &DataRow) -> Option<Part> {
        let number = |i| Some(i64::from_be_bytes(row.cell(i)??.try_into().ok()?));
        Some(Part {
            sequence: number(0)?,
            xid: u32::try_from(number(1)?).ok()?,
            commit: std::str::from_utf8(row.cell(2)??).ok()?.to_owned(),
            payload: row.held_cell(3)??,
        })
    }
}

/// A bytea as the server writes it under `bytea_output = hex`, which every session of ours sets.
pub(super) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(b"\\x")?;
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() {
        bytes.collect()
    } else {
        None
    }
}

fn unreadable(table: &TableMapping) -> Error {
    Error::data(
        codes::PARKED_UNREADABLE,
        "a row of tidemark.parked is not as we write it",
    )
    .table(table.source().to_string())
}
