//! What the log says, as the stream hands it out.
//!
//! The log is decoded in blocks, one per large read, so that dynamic dispatch, allocation and
//! locking happen once per block and never per row. A [`Block`] owns the bytes that came from the
//! server; the values of its rows are ranges of these bytes in the source's wire form. They are
//! copied once, into the batch, together with the transformation.
//!
//! A stream gives whole transactions in commit order: [`Event::Begin`], changes, [`Event::Commit`].
//! A source that sends transactions before they are decided keeps them back itself, or, where it was
//! told that it may, gives one of them at once:
//!
//! ```text
//!   Undecided 7, changes …                              it is in progress, and nothing else comes
//!       Decided 7, Commit                               in a block of its own: it has committed
//!    or Withdrawn, …, Begin 7, changes …, Commit        as if nothing had come
//! ```

use std::sync::Arc;

use bytes::Bytes;

use crate::batch::LARGE_BYTES;
use crate::position::Position;
use crate::schema::{ReplicaIdentity, TableName};

/// What one read of the log gave, in log order.
#[derive(Debug)]
pub struct Block {
    /// What the ranges of `cells` point into.
    pub bytes: Bytes,
    /// Values of the rows, addressed by [`Row`].
    pub cells: Vec<Cell>,
    /// What happened.
    pub events: Vec<Event>,
    /// The end of the source's log when this was sent: how far there is to go.
    pub head: Position,
}

impl Block {
    /// How far the log is known with this block; `None` within a transaction.
    pub fn position(&self) -> Option<Position> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Begin(begin) => Some(begin.commit),
            Event::Commit { end } => Some(*end),
            Event::Quiet { position } => Some(*position),
            _ => None,
        })
    }

    /// The values of a row.
    pub fn row(&self, row: Row) -> &[Cell] {
        let start = row.start as usize;
        &self.cells[start..start + usize::from(row.len)]
    }

    /// The bytes of a value; empty for NULL and unchanged ones.
    pub fn value(&self, cell: Cell) -> &[u8] {
        &self.bytes[cell.start as usize..cell.start as usize + cell.len as usize]
    }

    /// The bytes of a large value without a copy. They keep the whole block, so only where they are
    /// most of it: what holds them accounts for no more than the value.
    pub fn large(&self, cell: Cell) -> Option<Bytes> {
        let len = cell.len as usize;
        let is_worth_it = len >= LARGE_BYTES && len >= self.bytes.len() / 2;
        is_worth_it.then(|| self.bytes.slice_ref(self.value(cell)))
    }
}

/// One item of the log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A transaction begins.
    Begin(Begin),
    /// A transaction that is still in progress begins: its changes come as they are made. It commits
    /// after everything that was given before.
    Undecided {
        /// The source's id of it.
        xid: u32,
    },
    /// The undecided transaction has committed; its [`Event::Commit`] follows in the same block.
    Decided(Begin),
    /// The undecided transaction is not to be applied. Should it commit, it comes again, whole.
    Withdrawn,
    /// What a table looks like from here on; comes before the first change that needs it.
    Table(Arc<StreamTable>),
    /// A row changed.
    Change(RowChange),
    /// Tables were emptied.
    Truncate(Truncate),
    /// The transaction ends; everything before `end` is complete with it.
    Commit {
        /// The position right after the commit record.
        end: Position,
    },
    /// Nothing before this position is still to come: an idle source, or other databases' log.
    Quiet {
        /// Up to where.
        position: Position,
    },
    /// A heartbeat that Tidemark wrote into the source's log.
    Heartbeat {
        /// The source's clock when it was written, microseconds since 1970 UTC.
        written_at_us: i64,
    },
}

/// The head of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The source's id of it; 0 where the source has none.
    pub xid: u32,
    /// Where its commit record starts.
    pub commit: Position,
    /// The source's clock at commit, microseconds since 1970 UTC.
    pub committed_at_us: i64,
}

/// A table as the stream describes it: names, types and identity at this point of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTable {
    /// The source's number for it, by which changes refer to it.
    pub id: u32,
    /// Its name at this point of the log.
    pub name: TableName,
    /// Columns in the order of a row's cells. Generated columns may be left out.
    pub columns: Vec<StreamColumn>,
    /// How old rows are identified, as positions in `columns`.
    pub identity: ReplicaIdentity,
}

/// A column as the stream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamColumn {
    /// Its name.
    pub name: String,
    /// The source's number for its type.
    pub type_id: u32,
    /// The type's modifier; -1 for none.
    pub type_modifier: i32,
}

/// One row's insert, update or delete.
#[derive(Clone, Copy, Debug)]
pub struct RowChange {
    /// [`StreamTable::id`].
    pub table: u32,
    /// What happened.
    pub op: Op,
    /// The old row, where the log has one. An update has it when its identity changed, or when
    /// the identity is the whole row.
    pub old: Option<OldRow>,
    /// The new row of an insert or update.
    pub new: Option<Row>,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A removed row.
    Delete,
}

/// An old row and how much of it the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRow {
    /// Only the columns of the identity are set, the others are NULL.
    Key(Row),
    /// All columns.
    Full(Row),
}

impl OldRow {
    /// The row, however much of it there is.
    pub fn row(self) -> Row {
        match self {
            OldRow::Key(row) | OldRow::Full(row) => row,
        }
    }
}

/// Where the cells of a row are in the block's (or batch's) cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// First cell.
    pub start: u32,
    /// How many.
    pub len: u16,
}

/// One value: what it is, and where its bytes are. Not comparable: two cells of one value stand in
/// different places.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// What it is.
    pub kind: CellKind,
    /// Where its bytes begin.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

impl Cell {
    /// SQL NULL.
    pub const NULL: Cell = Cell {
        kind: CellKind::Null,
        start: 0,
        len: 0,
    };
    /// A large value that the update left as it was and the log left out.
    pub const UNCHANGED: Cell = Cell {
        kind: CellKind::Unchanged,
        start: 0,
        len: 0,
    };
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellKind {
    /// SQL NULL.
    Null,
    /// Left out by the log because the update did not touch it. Never NULL, never a value.
    Unchanged,
    /// The value's text form, in the database's own words, UTF-8.
    Text,
}

/// Tables emptied by one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// [`StreamTable::id`]s.
    pub tables: Vec<u32>,
    /// `CASCADE` was given.
    pub cascade: bool,
    /// `RESTART IDENTITY` was given.
    pub restart_identity: bool,
}
