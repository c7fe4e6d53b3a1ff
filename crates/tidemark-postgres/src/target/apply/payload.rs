//! How changes that are put aside are written: one byte string for a part of a source transaction.
//!
//! It describes itself. When it is read back the table may have other columns, and the mapping that
//! the pipeline has by then says nothing about old rows; so the columns and the key that the rows
//! were written for are in it. Masks and filters are applied already.
//!
//! Version 1, numbers big-endian, strings as a 32-bit length and UTF-8:
//!
//! ```text
//! 1  kind of position  mappings (u16) × mapping  items (u32) × item
//! mapping   columns (u16) × (source name, target name, type name, type u32, modifier i32)
//!           key (u16) × column u16      identity u8: 0 nothing, 1 key, 2 whole row
//! item      'C' mapping u16, op u8 (I U D), old u8 (0 none, 1 key, 2 whole) [row], new u8 [row]
//!           'T' mapping u16, restart identity u8
//!           'S' mapping u16, changes (u16) × ('A' name type fill? default? | 'D' name
//!                                             | 'N' name | 'R' from to | 'T' name type)
//! row       cells of the mapping's columns: 0 NULL, 1 unchanged, 2 text with its length u32
//! ```
//!
//! A reader takes nothing on trust: what is cut off, too long or unknown is an error.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use tidemark_core::batch::{Batch, Change, Item, LARGE_BYTES, SchemaChange};
use tidemark_core::catalogue::codes;
use tidemark_core::event::{CellKind, OldRow, Op, Row};
use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::schema::{Column, ReplicaIdentity, TableSchema};
use tidemark_core::{Error, Result};

const VERSION: u8 = 1;

/// What is written, in pieces: large values stay where they are.
#[derive(Debug, Default)]
pub(super) struct Payload {
    pieces: Vec<Bytes>,
    /// What follows them.
    out: Vec<u8>,
}

impl Payload {
    /// In order.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How long it is.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn attach(&mut self, value: Bytes) {
        self.pieces.push(std::mem::take(&mut self.out).into());
        self.pieces.push(value);
    }

    fn end(mut self) -> Payload {
        self.pieces.push(std::mem::take(&mut self.out).into());
        self
    }
}

/// Writes a batch whose items are about one table.
pub(super) fn encode(batch: &Batch, position_kind: &str) -> Payload {
    let mut payload = Payload::default();
    let out = &mut payload.out;
    out.put_u8(VERSION);
    put_text(out, position_kind);
    put_count(out, batch.tables().len());
    for mapping in batch.tables() {
        put_mapping(out, mapping);
    }
    out.put_u32(u32::try_from(batch.len()).expect("items fit where their cells do"));
    for item in batch.items() {
        put_item(&mut payload, batch, item);
    }
    payload.end()
}

fn put_mapping(out: &mut Vec<u8>, mapping: &TableMapping) {
    put_count(out, mapping.columns.len());
    for column in &mapping.columns {
        let source = &mapping.schema.columns[column.source];
        put_text(out, &source.name);
        put_text(out, &column.target);
        put_text(out, &source.type_name);
        out.put_u32(source.type_id);
        out.put_i32(source.type_modifier);
    }
    put_count(out, mapping.key.len());
    mapping.key.iter().for_each(|place| put_count(out, *place));
    out.put_u8(match mapping.schema.identity {
        ReplicaIdentity::Nothing => 0,
        ReplicaIdentity::Key(_) => 1,
        ReplicaIdentity::Full => 2,
    });
}

fn put_item(payload: &mut Payload, batch: &Batch, item: &Item) {
    let out = &mut payload.out;
    match item {
        Item::Change(change) => {
            out.put_u8(b'C');
            put_count(out, change.table);
            out.put_u8(match change.op {
                Op::Insert => b'I',
                Op::Update => b'U',
                Op::Delete => b'D',
            });
            match change.old {
                None => out.put_u8(0),
                Some(OldRow::Key(_)) => out.put_u8(1),
                Some(OldRow::Full(_)) => out.put_u8(2),
            }
            if let Some(old) = change.old {
                put_row(payload, batch, old.row());
            }
            payload.out.put_u8(u8::from(change.new.is_some()));
            if let Some(new) = change.new {
                put_row(payload, batch, new);
            }
        }
        Item::Truncate {
            tables,
            restart_identity,
        } => {
            out.put_u8(b'T');
            put_count(out, tables.first().copied().unwrap_or(0));
            out.put_u8(u8::from(*restart_identity));
        }
        Item::Schema { table, changes } => {
            out.put_u8(b'S');
            put_count(out, *table);
            put_count(out, changes.len());
            for change in changes {
                put_schema_change(out, change);
            }
        }
    }
}

fn put_schema_change(out: &mut Vec<u8>, change: &SchemaChange) {
    match change {
        SchemaChange::AddColumn {
            name,
            type_name,
            fill,
            default,
        } => {
            out.put_u8(b'A');
            put_text(out, name);
            put_text(out, type_name);
            put_optional(out, fill.as_deref());
            put_optional(out, default.as_deref());
        }
        SchemaChange::DropColumn { name } => {
            out.put_u8(b'D');
            put_text(out, name);
        }
        SchemaChange::DropNotNull { name } => {
            out.put_u8(b'N');
            put_text(out, name);
        }
        SchemaChange::RenameColumn { from, to } => {
            out.put_u8(b'R');
            put_text(out, from);
            put_text(out, to);
        }
        SchemaChange::AlterType { name, type_name } => {
            out.put_u8(b'T');
            put_text(out, name);
            put_text(out, type_name);
        }
    }
}

fn put_row(payload: &mut Payload, batch: &Batch, row: Row) {
    for cell in batch.row(row) {
        let out = &mut payload.out;
        match cell.kind {
            CellKind::Null => out.put_u8(0),
            CellKind::Unchanged => out.put_u8(1),
            CellKind::Text => {
                out.put_u8(2);
                out.put_u32(cell.len);
                match batch.large(*cell) {
                    Some(large) => payload.attach(large.clone()),
                    None => out.put_slice(batch.value(*cell)),
                }
            }
        }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u16(u16::try_from(count).expect("columns and mappings of one table are few"));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("names and defaults are short"));
    out.put_slice(text.as_bytes());
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_u8(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

/// Reads a batch back, and the kind of position that it came with; large values stay in `bytes`. `now`
/// is the table's mapping at present. `share` gives the same mapping for all that are equal, so that the
/// applier knows the table again.
pub(super) fn decode(
    bytes: &Bytes,
    now: &TableMapping,
    mut share: impl FnMut(TableMapping) -> Arc<TableMapping>,
) -> Result<(String, Batch)> {
    let mut reader = Reader {
        whole: bytes,
        rest: bytes,
    };
    let found = reader.payload(now, &mut share);
    found.ok_or_else(|| {
        Error::data(
            codes::PARKED_UNREADABLE,
            "parked changes are not of a known form",
        )
        .table(now.source().to_string())
    })
}

struct Reader<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn payload(
        &mut self,
        now: &TableMapping,
        share: &mut dyn FnMut(TableMapping) -> Arc<TableMapping>,
    ) -> Option<(String, Batch)> {
        if self.byte()? != VERSION {
            return None;
        }
        let kind = self.text()?;
        let mut batch = Batch::default();
        let mut mappings = Vec::new();
        for _ in 0..self.count()? {
            let mapping = share(self.mapping(now)?);
            mappings.push((batch.table(&mapping), mapping.columns.len()));
        }
        for _ in 0..self.number()? {
            self.item(&mut batch, &mappings)?;
        }
        self.rest.is_empty().then_some((kind, batch))
    }

    /// The mapping the rows were written for, in the present one's place.
    fn mapping(&mut self, now: &TableMapping) -> Option<TableMapping> {
        let (mut schema_columns, mut columns) = (Vec::new(), Vec::new());
        for source in 0..self.count()? {
            let name = self.text()?;
            let target = self.text()?;
            columns.push(ColumnMapping {
                source,
                target,
                mask: None,
                target_type: TargetType::default(),
            });
            let column = Column::bare(name, self.text()?, self.number()?);
            schema_columns.push(Column {
                type_modifier: self.number()?.cast_signed(),
                ..column
            });
        }
        let mut key = Vec::new();
        for _ in 0..self.count()? {
            key.push(self.count().filter(|place| *place < columns.len())?);
        }
        let identity = match self.byte()? {
            0 => ReplicaIdentity::Nothing,
            1 => ReplicaIdentity::Key(key.clone()),
            2 => ReplicaIdentity::Full,
            _ => return None,
        };
        Some(TableMapping {
            schema: TableSchema {
                columns: schema_columns,
                identity,
                ..now.schema.clone()
            },
            target: now.target.clone(),
            columns,
            key,
            filter: now.filter.clone(),
            on_row_error: now.on_row_error,
        })
    }

    fn item(&mut self, batch: &mut Batch, mappings: &[(usize, usize)]) -> Option<()> {
        let tag = self.byte()?;
        let (table, column_count) = *mappings.get(self.count()?)?;
        let item = match tag {
            b'C' => {
                let op = match self.byte()? {
                    b'I' => Op::Insert,
                    b'U' => Op::Update,
                    b'D' => Op::Delete,
                    _ => return None,
                };
                let old = match self.byte()? {
                    0 => None,
                    1 => Some(OldRow::Key(self.row(batch, column_count)?)),
                    2 => Some(OldRow::Full(self.row(batch, column_count)?)),
                    _ => return None,
                };
                let new = if self.flag()? {
                    Some(self.row(batch, column_count)?)
                } else {
                    None
                };
                Item::Change(Change {
                    table,
                    op,
                    old,
                    new,
                })
            }
            b'T' => Item::Truncate {
                tables: vec![table],
                restart_identity: self.flag()?,
            },
            b'S' => {
                let count = self.count()?;
                let changes = (0..count).map(|_| self.schema_change());
                Item::Schema {
                    table,
                    changes: changes.collect::<Option<_>>()?,
                }
            }
            _ => return None,
        };
        batch.push(item);
        Some(())
    }

    fn schema_change(&mut self) -> Option<SchemaChange> {
        Some(match self.byte()? {
            b'A' => SchemaChange::AddColumn {
                name: self.text()?,
                type_name: self.text()?,
                fill: if self.flag()? {
                    Some(self.text()?)
                } else {
                    None
                },
                default: if self.flag()? {
                    Some(self.text()?)
                } else {
                    None
                },
            },
            b'D' => SchemaChange::DropColumn { name: self.text()? },
            b'N' => SchemaChange::DropNotNull { name: self.text()? },
            b'R' => SchemaChange::RenameColumn {
                from: self.text()?,
                to: self.text()?,
            },
            b'T' => SchemaChange::AlterType {
                name: self.text()?,
                type_name: self.text()?,
            },
            _ => return None,
        })
    }

    fn row(&mut self, batch: &mut Batch, column_count: usize) -> Option<Row> {
        let begin = batch.begin_row();
        for _ in 0..column_count {
            match self.byte()? {
                0 => batch.push_cell(CellKind::Null, &[]),
                1 => batch.push_cell(CellKind::Unchanged, &[]),
                2 => {
                    let len = self.number()? as usize;
                    let value = self.bytes(len)?;
                    if len >= LARGE_BYTES {
                        batch.push_large(self.whole.slice_ref(value));
                    } else {
                        batch.push_cell(CellKind::Text, value);
                    }
                }
                _ => return None,
            }
        }
        Some(batch.end_row(begin))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn count(&mut self) -> Option<usize> {
        let bytes = self.bytes(2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    }

    fn number(&mut self) -> Option<u32> {
        let bytes = self.bytes(4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.number()? as usize;
        String::from_utf8(self.bytes(len)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests;
